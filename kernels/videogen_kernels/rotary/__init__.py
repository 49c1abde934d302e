"""Rotary positions, optionally after a per-head RMS norm (qk-norm), in one operator.

Su et al. 2021, arXiv 2104.09864; pairs are (i, i + K/2), not (2i, 2i + 1), which is the faster layout to load. The tables
decide what the positions mean: for video, some pairs turn with time, some with y and some with x.

Shapes: B batch, L tokens, N heads, K key width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from videogen_kernels.backends import check_backend
from videogen_kernels.rotary.reference import head_norm_reference, rotary_reference

__all__ = ["head_norm", "rotary"]

Backend = Literal["auto", "reference"]


def head_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, backend: Backend = "auto") -> Tensor:
    """RMS norm over the width of each head (qk-norm), computed in float32.

    Args:
        x: [B, L, N, K].
        weight: [K], shared by the heads.
        eps: added to the mean square.

    Returns:
        [B, L, N, K] in the dtype of `x`.
    """
    check_backend("head_norm", backend, ("reference",))
    return head_norm_reference(x, weight, eps)


def rotary(
    x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor | None = None, eps: float = 1e-6, backend: Backend = "auto"
) -> Tensor:
    """Turns every pair of `x` by its angle; normalises each head first if `weight` is given.

    Args:
        x: [B, L, N, K], K even.
        cos: [L, K/2], cosines of the angles, float32.
        sin: [L, K/2], sines.
        weight: [K], weight of the head norm; None = no norm.
        eps: of the norm.

    Returns:
        [B, L, N, K] in the dtype of `x`.

    Raises:
        ValueError: odd K, or tables of another length or width than `x`.
    """
    check_backend("rotary", backend, ("reference",))
    length, width = x.shape[1], x.shape[3]
    if width % 2 or cos.shape != (length, width // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"`cos` and `sin` must be [L, K/2] for an `x` of [B, L, N, K] with K even, got {list(cos.shape)} and "
            f"{list(sin.shape)} for {list(x.shape)}."
        )
    return rotary_reference(x, cos, sin, weight, eps)
