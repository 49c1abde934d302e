"""Softmax attention by xformers and by PyTorch's flex attention.

Both know which keys a query sees from something smaller than a mask of L x S: xformers from the lengths of packed sequences,
flex attention from a table of blocks of 128 x 128 tokens.

Shapes: B batch, L query tokens, S key tokens, N heads, K key width, V value width, n latent frames.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

#: Tokens of a block of flex attention.
_BLOCK = 128

_HAS_XFORMERS = find_spec("xformers") is not None


def xformers_refusal(query: Tensor) -> str | None:
    """Why xformers cannot take this query; None = it can."""
    if not _HAS_XFORMERS:
        return "needs the package xformers, which is not installed (pip install 'videogen-moe[cuda]')"
    if not query.is_cuda:
        return f"needs tensors on a CUDA device, got {query.device}"
    if query.dtype == torch.float64:
        return "needs float32, bfloat16 or float16, got torch.float64"
    return None


def packed_keys(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Visible keys one after another, and the xformers mask that keeps the items of the batch apart.

    Returns:
        query [1, B * L, N, K], key and value [1, visible keys, N, ...], and the `BlockDiagonalMask`.
    """
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    batch, length = query.shape[:2]
    mask = BlockDiagonalMask.from_seqlens([length] * batch, key_mask.sum(1).tolist())
    return query.flatten(0, 1)[None], key[key_mask][None], value[key_mask][None], mask


def attention_xformers(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    if key_mask is None:
        return memory_efficient_attention(query, key, value)
    out = memory_efficient_attention(*packed_keys(query, key, value, key_mask))
    out = out.view(*query.shape[:3], value.shape[-1])
    return out.masked_fill(~key_mask.any(1)[:, None, None, None], 0)


def attention_flex(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    if key_mask is None:
        return _flex(query, key, value, None)
    blocks = -(-query.shape[1] // _BLOCK)
    padded = torch.nn.functional.pad(key_mask, (0, -key_mask.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    some, whole = (t[:, None, None].expand(-1, 1, blocks, -1) for t in (padded.any(2), padded.all(2)))

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return key_mask[b, k]

    out = _flex(query, key, value, _block_mask(some, whole, visible, (query.shape[1], key.shape[1])))
    return out.masked_fill(~key_mask.any(1)[:, None, None, None], 0)


def windowed_attention_flex(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """`visible` [n, n], of frames; a block sees a block if any of their frames do."""
    length = query.shape[1]
    visible = visible.to(query.device)
    per_frame = length // len(visible)
    start = torch.arange(0, length, _BLOCK, device=query.device)
    first, last = start // per_frame, (start + _BLOCK - 1).clamp(max=length - 1) // per_frame + 1  # frames of a block
    sums = torch.nn.functional.pad(visible.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    count = sums[last[:, None], last] - sums[first[:, None], last] - sums[last[:, None], first]
    count = count + sums[first[:, None], first]  # visible pairs of frames, for each pair of blocks
    size = last - first

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible[q // per_frame, k // per_frame]

    some, whole = count > 0, count == size[:, None] * size
    mask = _block_mask(some[None, None], whole[None, None], sees, (length, length))
    out = _flex(query, key, value, mask)
    blind = ~visible.any(1).repeat_interleave(per_frame)
    return out.masked_fill(blind[None, :, None, None], 0)


def _block_mask(some: Tensor, whole: Tensor, mask: Callable[..., Tensor], lengths: tuple[int, int]) -> Any:
    """From which blocks [B, 1, query blocks, key blocks] have some visible pairs, and which have nothing else."""
    from torch.nn.attention.flex_attention import BlockMask

    def ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
        return chosen.sum(-1).to(torch.int32), places.to(torch.int32)

    return BlockMask.from_kv_blocks(
        *ordered(some & ~whole), *ordered(whole), BLOCK_SIZE=_BLOCK, mask_mod=mask, seq_lengths=lengths
    )


def _flex(query: Tensor, key: Tensor, value: Tensor, block_mask: Any) -> Tensor:
    if not torch.is_grad_enabled():  # it refuses leaves that ask for gradients, even here
        query, key, value = query.detach(), key.detach(), value.detach()
    heads_first = (t.transpose(1, 2) for t in (query, key, value))
    # Compiled it is one kernel; as it comes it writes the scores out, which is for tests on a CPU.
    function = _compiled() if query.is_cuda else _plain()
    with torch.autocast(query.device.type, enabled=False):
        return function(*heads_first, block_mask=block_mask).transpose(1, 2)


def _plain() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_plain())
