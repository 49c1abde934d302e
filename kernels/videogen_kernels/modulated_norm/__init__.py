"""RMS norm with a scale and a shift per latent frame, and the gated residual that closes a branch.

Timestep and camera differ from latent frame to latent frame, so scale, shift and gate are [B, n, D]; they are expanded
over the tokens of their frame inside the operator and never exist as [B, L, D].

Backends: "reference" is PyTorch, "native" one pass of compiled C++ (see `videogen_kernels.native`), "triton" one pass on a
GPU (`kernel.py`). "auto" takes "triton" for CUDA tensors and "native" for CPU ones, where they can run.

Shapes: B batch, n latent frames, L = n * tokens_per_frame tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import announce, check_backend, choose_native, choose_triton
from videogen_kernels.modulated_norm.native import gated_residual_native, modulated_norm_native, rms_norm_native
from videogen_kernels.modulated_norm.reference import gated_residual_reference, modulated_norm_reference
from videogen_kernels.native import runnable

__all__ = ["gated_residual", "modulated_norm", "rms_norm"]

Backend = Literal["auto", "reference", "native", "triton"]

#: Widest row that the Triton kernels hold at once.
_MAX_TRITON_WIDTH = 16384


def modulated_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`rms_norm(x) * weight * (1 + scale) + shift`, the frame of a token deciding its scale and shift.

    Args:
        x: [B, L, D], the tokens of n frames one after another, equally many each.
        scale: [B, n, D], 0 = unchanged.
        shift: [B, n, D].
        weight: [D]; None = 1.
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.
        backend: see the package.

    Returns:
        [B, L, D].

    Raises:
        ValueError: L is not a multiple of n, shapes that differ, zero tokens, or a backend that cannot run.
        TypeError: an `x` that is not of a floating dtype.
    """
    check_backend("modulated_norm", backend, ("reference", "native", "triton"))
    _check_x(x, "[B, L, D]")
    _check_frames("scale", x, scale)
    if shift.shape != scale.shape:
        raise ValueError(f"`shift` must have the shape of `scale` {list(scale.shape)}, got {list(shift.shape)}.")
    if weight is not None:
        _check_weight(x, weight)
    dtype = dtype or x.dtype
    if choose_triton("modulated_norm", backend, (x, scale, shift, weight), _unsupported(x, dtype)):
        announce("modulated_norm", "triton")
        from videogen_kernels.modulated_norm.kernel import modulated_norm_triton

        return modulated_norm_triton(x, scale, shift, weight, eps, dtype)
    can_run = dtype in (torch.float32, torch.bfloat16) and runnable(x, scale, shift, weight)
    native = choose_native("modulated_norm", backend, can_run)
    announce("modulated_norm", "native" if native else "reference")
    return (modulated_norm_native if native else modulated_norm_reference)(x, scale, shift, weight, eps, dtype)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None, backend: Backend = "auto"
) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, computed in float32.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.
        backend: see the package.

    Returns:
        The shape of `x`.

    Raises:
        ValueError: widths differ, nothing to norm, or a backend that cannot run.
        TypeError: an `x` that is not of a floating dtype.
    """
    check_backend("rms_norm", backend, ("reference", "native", "triton"))
    _check_x(x, "[..., D]")
    _check_weight(x, weight)
    dtype = dtype or x.dtype
    if choose_triton("rms_norm", backend, (x, weight), _unsupported(x, dtype)):
        announce("rms_norm", "triton")
        from videogen_kernels.modulated_norm.kernel import rms_norm_triton

        return rms_norm_triton(x, weight, eps, dtype)
    can_run = dtype in (torch.float32, torch.bfloat16) and runnable(x, weight)
    native = choose_native("rms_norm", backend, can_run)
    announce("rms_norm", "native" if native else "reference")
    if native:
        return rms_norm_native(x, weight, eps, dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.nn.functional.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(dtype)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, backend: Backend = "auto") -> Tensor:
    """`x + gate * branch`, the frame of a token deciding its gate.

    Args:
        x: [B, L, D], the residual stream.
        branch: [B, L, D].
        gate: [B, n, D].
        backend: see the package.

    Returns:
        [B, L, D] in the dtype of `x`.

    Raises:
        ValueError: L is not a multiple of n, shapes that differ, zero tokens, or a backend that cannot run.
        TypeError: an `x` that is not of a floating dtype.
    """
    check_backend("gated_residual", backend, ("reference", "native", "triton"))
    _check_x(x, "[B, L, D]")
    _check_frames("gate", x, gate)
    if branch.shape != x.shape:
        raise ValueError(f"`branch` must have the shape of `x` {list(x.shape)}, got {list(branch.shape)}.")
    if choose_triton("gated_residual", backend, (x, branch, gate), _unsupported(x, x.dtype)):
        announce("gated_residual", "triton")
        from videogen_kernels.modulated_norm.kernel import gated_residual_triton

        return gated_residual_triton(x, branch, gate)
    native = choose_native("gated_residual", backend, runnable(x, branch, gate))
    announce("gated_residual", "native" if native else "reference")
    return (gated_residual_native if native else gated_residual_reference)(x, branch, gate)


def _unsupported(x: Tensor, dtype: torch.dtype) -> str | None:
    """What the Triton kernels cannot do about these arguments."""
    if x.shape[-1] > _MAX_TRITON_WIDTH:
        return f"needs D of at most {_MAX_TRITON_WIDTH}, got {x.shape[-1]}"
    return "needs a `dtype` of at most 32 bits, got torch.float64" if dtype == torch.float64 else None


def _check_x(x: Tensor, layout: str) -> None:
    if x.ndim != (3 if layout == "[B, L, D]" else max(x.ndim, 1)) or 0 in x.shape:
        raise ValueError(f"`x` must be {layout} with at least one token, got {list(x.shape)}.")
    if not x.dtype.is_floating_point:
        raise TypeError(f"`x` must be of a floating dtype, got {x.dtype}; convert it with .float().")


def _check_weight(x: Tensor, weight: Tensor) -> None:
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"`weight` must be [D] = {list(x.shape[-1:])}, got {list(weight.shape)}.")


def _check_frames(name: str, x: Tensor, per_frame: Tensor) -> None:
    same = per_frame.ndim == 3 and per_frame.shape[0] == x.shape[0] and per_frame.shape[2] == x.shape[2]
    if not same or per_frame.shape[1] == 0 or x.shape[1] % per_frame.shape[1]:
        raise ValueError(
            f"`{name}` must be [B, n, D] with L a multiple of n, got {list(per_frame.shape)} for an `x` [B, L, D] of "
            f"{list(x.shape)}."
        )
