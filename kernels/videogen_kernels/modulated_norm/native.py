"""Modulated RMS norm and gated residual through the compiled CPU operators: one pass forward, one backward.

Shapes: B batch, n frames, T tokens of a frame, L = n * T, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videogen_kernels.native import call, suffix


def modulated_norm_native(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    factor = 1 + scale if weight is None else weight * (1 + scale)
    return _ModulatedNorm.apply(x, factor, shift, eps, dtype)


def rms_norm_native(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`x` [..., D] as one frame without a shift."""
    return _ModulatedNorm.apply(x.reshape(1, -1, x.shape[-1]), weight[None, None], None, eps, dtype).view(x.shape)


def gated_residual_native(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return _GatedResidual.apply(x, branch, gate)


def _per_frame(tensor: Tensor) -> Tensor:
    """[B, n, D] as float32 whose frames lie `stride(1)` apart throughout, as a slice of the modulation does."""
    tensor = tensor.float()
    even = tensor.stride(2) == 1 and (tensor.shape[0] == 1 or tensor.stride(0) == tensor.shape[1] * tensor.stride(1))
    return tensor if even else tensor.clone(memory_format=torch.contiguous_format)  # of one frame, too


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, shift: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
        batch, length, width = x.shape
        frames = factor.shape[0] * factor.shape[1]
        x, wide = x.contiguous(), _per_frame(factor)
        offset = None if shift is None else _per_frame(shift)
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        rstd = torch.empty(batch, length, dtype=torch.float32, device=x.device)
        sizes = frames, batch * length // frames, width
        call(
            f"modulated_norm_forward_{suffix(x, out)}",
            *(
                x,
                wide,
                wide.stride(1),
                offset,
                0 if offset is None else offset.stride(1),
                out,
                rstd,
                *sizes,
                float(eps),
            ),
        )
        ctx.save_for_backward(x, wide, rstd)
        ctx.sizes = sizes
        ctx.dtypes = factor.dtype, None if shift is None else shift.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        x, factor, rstd = ctx.saved_tensors
        factor_dtype, shift_dtype = ctx.dtypes
        grad = grads[0].contiguous()
        grad_x = torch.empty_like(x)
        grad_factor, grad_shift = (torch.empty(factor.shape, dtype=torch.float32, device=x.device) for _ in range(2))
        call(
            f"modulated_norm_backward_{suffix(x, grad)}",
            *(grad, x, factor, factor.stride(1), rstd, grad_x, grad_factor, grad_shift, *ctx.sizes),
        )
        return (
            grad_x,
            grad_factor.to(factor_dtype),
            None if shift_dtype is None else grad_shift.to(shift_dtype),
            None,
            None,
        )


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        batch, length, width = x.shape
        frames = batch * gate.shape[1]
        ctx.sizes = frames, batch * length // frames, width
        ctx.dtype = gate.dtype
        x, branch, gate = x.contiguous(), branch.contiguous(), _per_frame(gate)
        ctx.save_for_backward(branch, gate)
        out = torch.empty_like(x)
        call(f"gated_residual_forward_{suffix(x, branch)}", x, branch, gate, gate.stride(1), out, *ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        branch, gate = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_branch = torch.empty_like(branch)
        grad_gate = torch.empty(gate.shape, dtype=torch.float32, device=gate.device)
        call(
            f"gated_residual_backward_{suffix(grad, branch)}",
            *(grad, branch, gate, gate.stride(1), grad_branch, grad_gate, *ctx.sizes),
        )
        return grad, grad_branch, grad_gate.to(ctx.dtype)
