"""Softmax attention: full, with a key mask (cross-attention to text), and windowed at the level of latent frames.

Backends: "reference" writes the score matrix out (on CPU and short sequences the quickest in a training step: the
backward of PyTorch's fused attention takes 2 to 4 times as long there), "sdpa" is
`torch.nn.functional.scaled_dot_product_attention`. "auto" takes the first on CPU for up to 512 x 512 scores per head,
else the second.

Shapes: B batch, L query tokens, S key tokens, N heads, K key width, V value width, n latent frames.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from videogen_kernels.attention.reference import (
    attention_reference,
    attention_sdpa,
    windowed_attention_reference,
)
from videogen_kernels.backends import check_backend

__all__ = ["attention", "windowed_attention"]

Backend = Literal["auto", "reference", "sdpa"]

#: Scores per head up to which writing the score matrix out is quicker on a CPU.
_MAX_EXPLICIT_SCORES = 512 * 512


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
    """
    check_backend("attention", backend, ("reference", "sdpa"))
    _check_shapes(query, key, value)
    if key_mask is not None and (key_mask.shape != key.shape[:2] or key_mask.dtype.is_floating_point):
        raise ValueError(
            f"`key_mask` must be [B, S] = {list(key.shape[:2])} and boolean, got {list(key_mask.shape)} of "
            f"{key_mask.dtype}."
        )
    if backend == "auto":
        short = query.shape[1] * key.shape[1] <= _MAX_EXPLICIT_SCORES
        backend = "reference" if query.device.type == "cpu" and short else "sdpa"
    function = attention_reference if backend == "reference" else attention_sdpa
    return function(query, key, value, key_mask)


def windowed_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, backend: Backend = "auto") -> Tensor:
    """Softmax attention in which whole latent frames see, or do not see, whole latent frames.

    The cost of a query frame is that of the frames it sees, so a window keeps the cost per token flat. The mask exists
    per frame only, never per token.

    Args:
        query: [B, L, N, K], the tokens of n frames one after another, equally many each.
        key: [B, L, N, K].
        value: [B, L, N, V].
        visible: [n, n] bool, row = query frame, column = key frame. A frame that sees nothing gives 0.
        backend: how each group of frames is computed, as in `attention`.

    Returns:
        [B, L, N, V].

    Raises:
        ValueError: shapes that do not agree, or L not a multiple of n.
    """
    check_backend("windowed_attention", backend, ("reference", "sdpa"))
    _check_shapes(query, key, value)
    if visible.ndim != 2 or visible.shape[0] != visible.shape[1] or query.shape[1] % visible.shape[0]:
        raise ValueError(
            f"`visible` must be [n, n] with L a multiple of n, got {list(visible.shape)} for L = {query.shape[1]}."
        )
    if key.shape[1] != query.shape[1]:
        raise ValueError(f"`key` must have the {query.shape[1]} tokens of `query`, got {key.shape[1]}.")
    return windowed_attention_reference(query, key, value, visible, lambda q, k, v: attention(q, k, v, backend=backend))


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.ndim != 4 or 0 in query.shape:
        raise ValueError(f"`query` must be [B, L, N, K] with at least one token, got {list(query.shape)}.")
    batch, _, heads, width = query.shape
    if key.ndim != 4 or (key.shape[0], key.shape[2], key.shape[3]) != (batch, heads, width) or key.shape[1] == 0:
        raise ValueError(f"`key` must be [B, S, N, K] with B, N, K of `query` and S >= 1, got {list(key.shape)}.")
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(f"`value` must be [B, S, N, V] with B, S, N of `key`, got {list(value.shape)}.")
