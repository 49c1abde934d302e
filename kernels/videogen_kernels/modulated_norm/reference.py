"""Modulated RMS norm and gated residual in plain PyTorch, float32 inside, each with its own backward (fewer passes over
the activations than autograd would make). Shapes: B batch, n frames, T tokens of a frame, L = n * T, D width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def modulated_norm_reference(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """With a weight: `normed * weight * (1 + scale)` is the same as a scale of `weight * (1 + scale) - 1`."""
    factor = 1 + scale if weight is None else weight * (1 + scale)
    return _ModulatedNorm.apply(x, factor, shift, eps, dtype)


def gated_residual_reference(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return _GatedResidual.apply(x, branch, gate)


class _ModulatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, shift: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        frames = x.unflatten(1, (factor.shape[1], -1))  # [B, n, T, D]
        wide = frames.to(torch.promote_types(x.dtype, torch.float32))
        rstd = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        factor = factor[:, :, None].to(wide.dtype)  # [B, n, 1, D]
        ctx.save_for_backward(x, rstd, factor)
        ctx.dtypes = factor.dtype, shift.dtype
        return torch.addcmul(shift[:, :, None].to(wide.dtype), wide * rstd, factor).to(dtype).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, rstd, factor = ctx.saved_tensors
        factor_dtype, shift_dtype = ctx.dtypes
        normed = x.unflatten(1, (factor.shape[1], -1)) * rstd  # [B, n, T, D], float32
        grad = grads[0].unflatten(1, (factor.shape[1], -1)).to(normed.dtype)
        product = grad * normed
        grad_factor = product.sum(2)
        with torch.autocast(x.device.type, enabled=False):
            inner = product @ factor.transpose(2, 3)  # [B, n, T, 1]
        grad_x = (grad * factor).addcmul_(normed, inner, value=-1.0 / x.shape[-1]).mul_(rstd)
        return (
            grad_x.to(x.dtype).flatten(1, 2),
            grad_factor.to(factor_dtype),
            grad.sum(2).to(shift_dtype),
            None,
            None,
        )


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(branch, gate)
        frames = (gate.shape[1], -1)
        wide = torch.promote_types(x.dtype, torch.float32)
        update = branch.unflatten(1, frames).to(wide) * gate[:, :, None]  # [B, n, T, D]
        return update.add_(x.unflatten(1, frames)).to(x.dtype).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        branch, gate = ctx.saved_tensors
        grad = grads[0].unflatten(1, (gate.shape[1], -1))  # [B, n, T, D]
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
        grad_gate = (wide * branch.unflatten(1, (gate.shape[1], -1))).sum(2)
        grad_branch = (wide * gate[:, :, None]).to(branch.dtype).flatten(1, 2)
        return grads[0], grad_branch, grad_gate.to(gate.dtype)
