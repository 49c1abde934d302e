"""Softmax attention: full, with a key mask (cross-attention to text of varying length), and windowed in latent frames.

Backends:

- "reference" writes the score matrix out (on CPU and short sequences the quickest in a training step: the backward of
  PyTorch's fused attention takes 2 to 4 times as long there);
- "sdpa" is `torch.nn.functional.scaled_dot_product_attention`;
- "xformers" packs the visible keys of a batch one after another, so that masked ones cost nothing; CUDA only, and with a mask it
  waits for the device to count them; no windows;
- "flex" is `torch.nn.attention.flex_attention`, which skips blocks of 128 x 128 tokens that see nothing; on CUDA tensors it is
  compiled on first use, on a CPU it writes the scores out, has no backward pass, and is there for tests.

"auto" takes "reference" on CPU for up to 512 x 512 scores per head, else "sdpa".

Shapes: B batch, L query tokens, S key tokens, N heads, K key width, V value width, n latent frames.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.attention.fused import (
    attention_flex,
    attention_xformers,
    windowed_attention_flex,
    xformers_refusal,
)
from videogen_kernels.attention.reference import (
    attention_reference,
    attention_sdpa,
    windowed_attention_reference,
)
from videogen_kernels.backends import announce, check_backend

__all__ = ["attention", "windowed_attention"]

Backend = Literal["auto", "reference", "sdpa", "xformers", "flex"]
WindowedBackend = Literal["auto", "reference", "sdpa", "flex"]

#: Scores per head up to which writing the score matrix out is quicker on a CPU.
_MAX_EXPLICIT_SCORES = 512 * 512

_FUNCTIONS = {
    "reference": attention_reference,
    "sdpa": attention_sdpa,
    "xformers": attention_xformers,
    "flex": attention_flex,
}


def attention(
    query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None, backend: Backend = "auto"
) -> Tensor:
    """Softmax attention of every query to every key that the mask allows, scaled by 1/sqrt(K).

    Args:
        query: [B, L, N, K].
        key: [B, S, N, K].
        value: [B, S, N, V].
        key_mask: [B, S] bool, True = visible; None = all. A row with nothing visible gives 0.
        backend: see the package.

    Returns:
        [B, L, N, V] in the dtype of `value`; the softmax is taken in float32.

    Raises:
        ValueError: shapes that do not agree, zero tokens, a mask that is not boolean, or a backend that cannot run.
        TypeError: tensors of different or of integer dtypes.
    """
    check_backend("attention", backend, tuple(_FUNCTIONS))
    _check(query, key, value)
    if key_mask is not None and (key_mask.shape != key.shape[:2] or key_mask.dtype != torch.bool):
        raise ValueError(
            f"`key_mask` must be [B, S] = {list(key.shape[:2])} and boolean, got {list(key_mask.shape)} of "
            f"{key_mask.dtype}; make it with `.bool()`, True = visible."
        )
    if backend == "auto":
        short = query.shape[1] * key.shape[1] <= _MAX_EXPLICIT_SCORES
        backend = "reference" if query.device.type == "cpu" and short else "sdpa"
    if backend == "xformers" and (reason := xformers_refusal(query)) is not None:
        raise ValueError(f"`backend` 'xformers' of attention {reason}; use 'auto'.")
    if backend == "flex":
        _check_flex("attention", query, key, value)
    announce("attention", backend)
    return _FUNCTIONS[backend](query, key, value, key_mask)


def windowed_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, backend: WindowedBackend = "auto"
) -> Tensor:
    """Softmax attention in which whole latent frames see, or do not see, whole latent frames.

    The cost of a query frame is that of the frames it sees, so a window keeps the cost per token flat. The mask exists
    per frame only, never per token.

    Args:
        query: [B, L, N, K], the tokens of n frames one after another, equally many each.
        key: [B, L, N, K].
        value: [B, L, N, V].
        visible: [n, n] bool, row = query frame, column = key frame: a band for the window, and columns of True for what is
            always visible (a first frame, guides, references). A frame that sees nothing gives 0.
        backend: "flex" takes all frames at once; else each set of frames that see the same ones is a call of `attention`
            with this backend.

    Returns:
        [B, L, N, V].

    Raises:
        ValueError: shapes that do not agree, zero tokens or frames, L not a multiple of n, a `visible` that is not boolean, or
            a backend that cannot run.
        TypeError: tensors of different or of integer dtypes.
    """
    check_backend("windowed_attention", backend, ("reference", "sdpa", "flex"))
    _check(query, key, value)
    square = visible.ndim == 2 and visible.shape[0] == visible.shape[1] > 0
    if not square or query.shape[1] % visible.shape[0] or visible.dtype != torch.bool:
        raise ValueError(
            f"`visible` must be [n, n] and boolean with L a multiple of n, got {list(visible.shape)} of {visible.dtype} for "
            f"L = {query.shape[1]}; make one row and one column per latent frame."
        )
    if key.shape[1] != query.shape[1]:
        raise ValueError(f"`key` must have the {query.shape[1]} tokens of `query`, got {key.shape[1]}.")
    if backend == "flex":
        _check_flex("windowed_attention", query, key, value)
    announce("windowed_attention", "flex" if backend == "flex" else "calls of attention")
    if backend == "flex":
        return windowed_attention_flex(query, key, value, visible)
    return windowed_attention_reference(query, key, value, visible, lambda q, k, v: attention(q, k, v, backend=backend))


def _check_flex(name: str, *tensors: Tensor) -> None:
    learnt = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if learnt and tensors[0].device.type == "cpu":
        raise ValueError(f"`backend` 'flex' of {name} has no backward pass on a CPU; use 'auto', or torch.no_grad().")


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.ndim != 4 or 0 in query.shape:
        raise ValueError(f"`query` must be [B, L, N, K] with at least one token, got {list(query.shape)}.")
    batch, _, heads, width = query.shape
    if key.ndim != 4 or (key.shape[0], key.shape[2], key.shape[3]) != (batch, heads, width) or key.shape[1] == 0:
        raise ValueError(f"`key` must be [B, S, N, K] with B, N, K of `query` and S >= 1, got {list(key.shape)}.")
    if value.ndim != 4 or value.shape[:3] != key.shape[:3] or value.shape[3] == 0:
        raise ValueError(f"`value` must be [B, S, N, V] with B, S, N of `key` and V >= 1, got {list(value.shape)}.")
    if not query.dtype.is_floating_point:
        raise TypeError(f"`query` must be of a floating dtype, got {query.dtype}; convert it with .float().")
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise TypeError(f"`{name}` must have the dtype of `query` {query.dtype}, got {tensor.dtype}; convert it.")
