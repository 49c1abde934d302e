"""Norms of attention heads and rotary positions, alone and fused.

qk-norm is an RMS norm over each head of queries and keys (Dehghani et al. 2023, arXiv 2302.05442, with RMS for layer
norm). Rotary positions are those of Su et al. 2021, arXiv 2104.09864: the pair (2i, 2i + 1) turns by angle i. The tables
decide what a position means: for video, some pairs turn with time, some with y and some with x.

Backends: "reference" is PyTorch; "triton" does each function in one pass (`kernel.py`). "auto" takes "triton" for CUDA tensors
where it can run.

Shapes: B batch, L tokens, N heads, K width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import announce, check_backend, choose_triton
from videogen_kernels.rotary.reference import (
    gated_head_norm_reference,
    head_norm_reference,
    norm_rotary_positive_reference,
    norm_rotary_reference,
    rotary_reference,
)

__all__ = ["gated_head_norm", "head_norm", "norm_rotary", "norm_rotary_positive", "rotary"]

Backend = Literal["auto", "reference", "triton"]

#: Widest head that the Triton kernels take.
_MAX_TRITON_WIDTH = 4096


def head_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None, backend: Backend = "auto"
) -> Tensor:
    """RMS norm over the width of each head (qk-norm), computed in float32.

    Args:
        x: [B, L, N, K], at least one token.
        weight: [K], shared by the heads.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.
        backend: see the package.

    Returns:
        [B, L, N, K]; in memory the tokens of one head follow each other, as attention's products want them.

    Raises:
        ValueError: shapes that do not agree, zero tokens, or a backend that cannot run.
        TypeError: an `x` that is not of a floating dtype.
    """
    _check_heads(x, weight)
    if _on_triton("head_norm", backend, x, weight, dtype):
        from videogen_kernels.rotary.kernel import norm_rotary_triton

        return norm_rotary_triton(x, weight, None, None, eps, None, dtype or x.dtype)[0]
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
        x: [B, L, N, K], at least one token.
        weight: [K], shared by the heads.
        gate: [B, L, N, K], before the sigmoid.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.
        backend: see the package.

    Returns:
        [B, L, N, K], contiguous.

    Raises:
        ValueError: shapes that do not agree, zero tokens, or a backend that cannot run.
        TypeError: an `x` or `gate` that is not of a floating dtype.
    """
    _check_heads(x, weight)
    if gate.shape != x.shape:
        raise ValueError(f"`gate` must have the shape of `x` {list(x.shape)}, got {list(gate.shape)}.")
    if not gate.dtype.is_floating_point:
        raise TypeError(f"`gate` must be of a floating dtype, got {gate.dtype}; convert it with .float().")
    if _on_triton("gated_head_norm", backend, x, weight, dtype, gate):
        from videogen_kernels.rotary.kernel import gated_head_norm_triton

        return gated_head_norm_triton(x, weight, gate, eps, dtype or x.dtype)
    return gated_head_norm_reference(x, weight, gate, eps, dtype or x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, backend: Backend = "auto") -> Tensor:
    """Turns every pair of `x` by its angle.

    Args:
        x: [B, L, N, K], K even, at least one token.
        cos: [L, K/2], or [B, L, K/2] where items differ; cosines of the angles, float32; no gradient goes to the tables.
        sin: likewise, sines.
        backend: see the package.

    Returns:
        [B, L, N, K] in the dtype of `x` (computed in float32).

    Raises:
        ValueError: odd K, tables of another length or width than `x`, zero tokens, or a backend that cannot run.
        TypeError: an `x` that is not of a floating dtype.
    """
    _check_x(x)
    check_tables(cos, sin, x.shape[0], x.shape[1], x.shape[3])
    if _on_triton("rotary", backend, x, None, None, cos, sin):
        from videogen_kernels.rotary.kernel import norm_rotary_triton

        return norm_rotary_triton(x, None, cos, sin, 0.0, None, x.dtype)[0]
    return rotary_reference(x, cos, sin)


def norm_rotary(
    x: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`rotary(head_norm(x))`, what queries and keys of softmax attention go through; float32 in between.

    Args:
        x: [B, L, N, K], K even, at least one token.
        weight: [K], shared by the heads.
        cos: [L, K/2], or [B, L, K/2] where items differ; cosines of the angles, float32; no gradient goes to the tables.
        sin: likewise, sines.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.
        backend: see the package.

    Returns:
        [B, L, N, K]; in memory the tokens of one head follow each other.

    Raises:
        ValueError, TypeError: as `head_norm` and `rotary`.
    """
    _check_heads(x, weight)
    check_tables(cos, sin, x.shape[0], x.shape[1], x.shape[3])
    if _on_triton("norm_rotary", backend, x, weight, dtype, cos, sin):
        from videogen_kernels.rotary.kernel import norm_rotary_triton

        return norm_rotary_triton(x, weight, cos, sin, eps, None, dtype or x.dtype)[0]
    return norm_rotary_reference(x, weight, cos, sin, eps, dtype or x.dtype)


def norm_rotary_positive(
    x: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    floor: float,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """`norm_rotary(x)` and `relu(head_norm(x)) + floor`: numerator and denominator side of linear attention.

    Args:
        floor: >= 0, keeps the denominator off 0.
        x, weight, cos, sin, eps, dtype, backend: as `norm_rotary`.

    Returns:
        two [B, L, N, K]; in memory the tokens of one head follow each other.

    Raises:
        ValueError, TypeError: as `norm_rotary`.
    """
    _check_heads(x, weight)
    check_tables(cos, sin, x.shape[0], x.shape[1], x.shape[3])
    if floor < 0:
        raise ValueError(f"`floor` must be at least 0, got {floor}; a negative denominator turns signs around.")
    if _on_triton("norm_rotary_positive", backend, x, weight, dtype, cos, sin):
        from videogen_kernels.rotary.kernel import norm_rotary_triton

        return norm_rotary_triton(x, weight, cos, sin, eps, floor, dtype or x.dtype)
    return norm_rotary_positive_reference(x, weight, cos, sin, floor, eps, dtype or x.dtype)


def _on_triton(
    op: str, backend: str, x: Tensor, weight: Tensor | None, dtype: torch.dtype | None, *others: Tensor
) -> bool:
    check_backend(op, backend, ("reference", "triton"))
    unsupported = None
    if x.shape[3] > _MAX_TRITON_WIDTH:
        unsupported = f"needs K of at most {_MAX_TRITON_WIDTH}, got {x.shape[3]}"
    elif dtype == torch.float64:
        unsupported = "needs a `dtype` of at most 32 bits, got torch.float64"
    chosen = choose_triton(op, backend, (x, weight, *others), unsupported)
    announce(op, "triton" if chosen else "reference")
    return chosen


def _check_x(x: Tensor) -> None:
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"`x` must be [B, L, N, K] with at least one token, got {list(x.shape)}.")
    if not x.dtype.is_floating_point:
        raise TypeError(f"`x` must be of a floating dtype, got {x.dtype}; convert it with .float().")


def _check_heads(x: Tensor, weight: Tensor) -> None:
    _check_x(x)
    if weight.shape != x.shape[3:]:
        raise ValueError(
            f"`weight` must be [K] for an `x` of [B, L, N, K], got {list(weight.shape)} for {list(x.shape)}."
        )


def check_tables(cos: Tensor, sin: Tensor, batch: int, length: int, width: int) -> None:
    """Raises ValueError unless both are [L, K/2] or [B, L, K/2], with K even."""
    shared = (length, width // 2)
    if width % 2 or sin.shape != cos.shape or cos.shape not in (shared, (batch, *shared)):
        raise ValueError(
            f"`cos` and `sin` must be [L, K/2] = {list(shared)} or [B, L, K/2] = {[batch, *shared]} with K even, got "
            f"{list(cos.shape)} and {list(sin.shape)} for K = {width}."
        )
