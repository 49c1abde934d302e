"""Softmax attention in plain PyTorch. Shapes: B batch, L query tokens, S key tokens, N heads, K key width, V value width."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_reference(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """The score matrix written out; products in the dtype of the inputs, softmax in float32."""
    with torch.autocast(query.device.type, enabled=False):
        # Scaling the query rounds nothing when K is a power of four, and spares a pass over the scores.
        q = (query * query.shape[-1] ** -0.5).transpose(1, 2)  # [B, N, L, K]
        scores = q @ key.permute(0, 2, 3, 1)  # [B, N, L, S]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if key_mask is None:
            weights = torch.softmax(scores, dim=-1)
        else:
            mask = key_mask[:, None, None, :]
            # A finite floor and a product instead of -inf: a row with nothing visible gives 0, not NaN.
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            weights = torch.softmax(scores, dim=-1) * mask
        return (weights.to(value.dtype) @ value.transpose(1, 2)).transpose(1, 2)  # [B, L, N, V]


def attention_sdpa(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """PyTorch's fused attention, with rows that see nothing set to 0."""
    mask = None if key_mask is None else key_mask[:, None, None, :]
    with torch.autocast(query.device.type, enabled=False):
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        ).transpose(1, 2)
    if key_mask is not None:
        out = out.masked_fill(~key_mask.any(1)[:, None, None, None], 0)
    return out


def windowed_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """One call of `attend` for every set of query frames that see the same key frames."""
    num_frames = visible.shape[0]
    q, k, v = (t.unflatten(1, (num_frames, -1)) for t in (query, key, value))  # [B, n, L/n, N, K]
    groups: dict[tuple[bool, ...], list[int]] = {}
    for frame, row in enumerate(visible.tolist()):
        groups.setdefault(tuple(row), []).append(frame)
    out = [v.new_zeros(q.shape[0], *v.shape[2:])] * num_frames
    for row, frames in groups.items():
        seen = [i for i, flag in enumerate(row) if flag]
        if not seen:
            continue
        result = attend(q[:, frames].flatten(1, 2), k[:, seen].flatten(1, 2), v[:, seen].flatten(1, 2))
        for frame, part in zip(frames, result.unflatten(1, (len(frames), -1)).unbind(1), strict=True):
            out[frame] = part
    return torch.cat(out, dim=1)  # [B, L, N, V]
