"""Norms of attention heads and rotary positions.

qk-norm is an RMS norm over each head of queries and keys (Dehghani et al. 2023, arXiv 2302.05442, with RMS for layer
norm). Rotary positions are those of Su et al. 2021, arXiv 2104.09864: the pair (2i, 2i + 1) turns by angle i. The tables
decide what a position means: for video, some pairs turn with time, some with y and some with x.

Shapes: B batch, L tokens, N heads, K width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import check_backend
from videogen_kernels.rotary.reference import gated_head_norm_reference, head_norm_reference, rotary_reference

__all__ = ["gated_head_norm", "head_norm", "rotary"]

Backend = Literal["auto", "reference"]


def head_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None, backend: Backend = "auto"
) -> Tensor:
    """RMS norm over the width of each head (qk-norm), computed in float32.

    Args:
        x: [B, L, N, K].
        weight: [K], shared by the heads.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.

    Returns:
        [B, L, N, K]; in memory the tokens of one head follow each other, as attention's products want them.

    Raises:
        ValueError: shapes that do not agree.
    """
    check_backend("head_norm", backend, ("reference",))
    _check_heads(x, weight)
    return head_norm_reference(x, weight, eps, dtype or x.dtype)


def gated_head_norm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`head_norm(x) * sigmoid(gate)`, what follows linear attention.

    Args:
        x: [B, L, N, K].
        weight: [K], shared by the heads.
        gate: [B, L, N, K], before the sigmoid.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.

    Returns:
        [B, L, N, K], contiguous.

    Raises:
        ValueError: shapes that do not agree.
    """
    check_backend("gated_head_norm", backend, ("reference",))
    _check_heads(x, weight)
    if gate.shape != x.shape:
        raise ValueError(f"`gate` must have the shape of `x` {list(x.shape)}, got {list(gate.shape)}.")
    return gated_head_norm_reference(x, weight, gate, eps, dtype or x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, backend: Backend = "auto") -> Tensor:
    """Turns every pair of `x` by its angle.

    Args:
        x: [B, L, N, K], K even.
        cos: [L, K/2], cosines of the angles, float32.
        sin: [L, K/2], sines.

    Returns:
        [B, L, N, K] in the dtype of `x` (computed in float32) and its order in memory.

    Raises:
        ValueError: odd K, or tables of another length or width than `x`.
    """
    check_backend("rotary", backend, ("reference",))
    if x.ndim != 4 or x.shape[3] % 2 or cos.shape != (x.shape[1], x.shape[3] // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"`cos` and `sin` must be [L, K/2] for an `x` of [B, L, N, K] with K even, got {list(cos.shape)} and "
            f"{list(sin.shape)} for {list(x.shape)}."
        )
    return rotary_reference(x, cos, sin)


def _check_heads(x: Tensor, weight: Tensor) -> None:
    if x.ndim != 4 or weight.shape != x.shape[3:]:
        raise ValueError(
            f"`weight` must be [K] for an `x` of [B, L, N, K], got {list(weight.shape)} for {list(x.shape)}."
        )
