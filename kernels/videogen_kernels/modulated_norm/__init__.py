"""RMS norm with a scale and a shift per latent frame, and the gated residual that closes a branch.

Timestep and camera differ from latent frame to latent frame, so scale, shift and gate are [B, n, D]; they are expanded
over the tokens of their frame inside the operator and never exist as [B, L, D].

Backends: "reference" is PyTorch, "native" one pass of compiled C++ (see `videogen_kernels.native`); "auto" takes it where it
can run.

Shapes: B batch, n latent frames, L = n * tokens_per_frame tokens, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import check_backend, choose_native
from videogen_kernels.modulated_norm.native import gated_residual_native, modulated_norm_native, rms_norm_native
from videogen_kernels.modulated_norm.reference import gated_residual_reference, modulated_norm_reference
from videogen_kernels.native import runnable

__all__ = ["gated_residual", "modulated_norm", "rms_norm"]

Backend = Literal["auto", "reference", "native"]


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

    Returns:
        [B, L, D].

    Raises:
        ValueError: L is not a multiple of n, or widths differ.
    """
    check_backend("modulated_norm", backend, ("reference", "native"))
    _check_frames("scale", x, scale)
    _check_frames("shift", x, shift)
    dtype = dtype or x.dtype
    can_run = dtype in (torch.float32, torch.bfloat16) and runnable(x, scale, shift, weight)
    function = modulated_norm_native if choose_native("modulated_norm", backend, can_run) else modulated_norm_reference
    return function(x, scale, shift, weight, eps, dtype)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, dtype: torch.dtype | None = None, backend: Backend = "auto"
) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last axis, computed in float32.

    Args:
        x: [..., D].
        weight: [D].
        eps: added to the mean square.
        dtype: of the result; None = that of `x`.

    Returns:
        The shape of `x`.

    Raises:
        ValueError: widths differ.
    """
    check_backend("rms_norm", backend, ("reference", "native"))
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"`weight` must be [D] = {list(x.shape[-1:])}, got {list(weight.shape)}.")
    dtype = dtype or x.dtype
    can_run = dtype in (torch.float32, torch.bfloat16) and runnable(x, weight)
    if choose_native("rms_norm", backend, can_run):
        return rms_norm_native(x, weight, eps, dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.nn.functional.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(dtype)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, backend: Backend = "auto") -> Tensor:
    """`x + gate * branch`, the frame of a token deciding its gate.

    Args:
        x: [B, L, D], the residual stream.
        branch: [B, L, D].
        gate: [B, n, D].

    Returns:
        [B, L, D] in the dtype of `x`.

    Raises:
        ValueError: L is not a multiple of n, or widths differ.
    """
    check_backend("gated_residual", backend, ("reference", "native"))
    _check_frames("gate", x, gate)
    native = choose_native("gated_residual", backend, runnable(x, branch, gate))
    return (gated_residual_native if native else gated_residual_reference)(x, branch, gate)


def _check_frames(name: str, x: Tensor, per_frame: Tensor) -> None:
    same = per_frame.ndim == 3 and per_frame.shape[0] == x.shape[0] and per_frame.shape[2] == x.shape[2]
    if not same or per_frame.shape[1] == 0 or x.shape[1] % per_frame.shape[1]:
        raise ValueError(
            f"`{name}` must be [B, n, D] with L a multiple of n, got {list(per_frame.shape)} for an `x` [B, L, D] of "
            f"{list(x.shape)}."
        )
