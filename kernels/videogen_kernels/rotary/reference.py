"""Head norms and rotary positions in plain PyTorch, float32 inside.

The norms carry their own backward: what autograd would derive reads and writes the activations twice as often, and on a CPU
these passes, not the matrix products, are what a small model waits for.

Shapes: B batch, L tokens, N heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def head_norm_reference(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return _HeadNorm.apply(x, weight, eps, dtype)


def gated_head_norm_reference(x: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return _GatedHeadNorm.apply(x, weight, gate, eps, dtype)


def rotary_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A product of complex numbers: one pass over the data, and one in backward."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(1, 2)  # [B, N, L, K]
    if wide.stride(-1) != 1:
        wide = wide.contiguous()
    angles = torch.complex(cos, sin)  # [L, K/2] or [B, L, K/2]
    angles = angles if angles.ndim == 2 else angles[:, None]
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * angles  # [B, N, L, K/2]
    return torch.view_as_real(turned).flatten(-2).transpose(1, 2).to(x.dtype)


def table_stride(table: Tensor | None) -> int:
    """Elements from one item's contiguous table to the next one's; 0 where the batch shares one, or there is none."""
    return 0 if table is None or table.ndim == 2 else table.shape[1] * table.shape[2]


def norm_rotary_reference(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return rotary_reference(head_norm_reference(x, weight, eps, wide), cos, sin).to(dtype)


def norm_rotary_positive_reference(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, floor: float, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    normed = head_norm_reference(x, weight, eps, wide)
    return rotary_reference(normed, cos, sin).to(dtype), (F.relu(normed) + floor).to(dtype)


def _rstd(wide: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last axis, kept as an axis of 1."""
    return torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1]).add_(eps).rsqrt_()


def _norm_backward(grad: Tensor, normed: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `normed * weight` with `normed = x * rstd`: to x, and to the weight. `grad` is float32."""
    width = normed.shape[-1]
    product = (grad * normed).view(-1, width)  # [rows, K]
    with torch.autocast(grad.device.type, enabled=False):
        inner = (product @ weight[:, None]).view(rstd.shape)
    grad_x = (grad * weight).addcmul_(normed, inner, value=-1.0 / width).mul_(rstd)
    return grad_x, product.sum(0)


class _HeadNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide_dtype = torch.promote_types(x.dtype, torch.float32)
        heads = x.transpose(1, 2)
        normed = torch.empty(heads.shape, dtype=wide_dtype, device=x.device).copy_(heads)  # [B, N, L, K]
        rstd = _rstd(normed, eps)
        normed.mul_(rstd)
        ctx.save_for_backward(normed, rstd, weight)
        ctx.dtype = x.dtype
        return (normed * weight).to(dtype).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        normed, rstd, weight = ctx.saved_tensors
        grad = grads[0].transpose(1, 2).to(normed.dtype)
        grad_x, grad_weight = _norm_backward(grad.contiguous(), normed, rstd, weight.to(normed.dtype))
        return grad_x.transpose(1, 2).to(ctx.dtype), grad_weight.to(weight.dtype), None, None


class _GatedHeadNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide_dtype = torch.promote_types(x.dtype, torch.float32)
        normed = torch.empty(x.shape, dtype=wide_dtype, device=x.device).copy_(x)  # [B, L, N, K]
        rstd = _rstd(normed, eps)
        normed.mul_(rstd)
        opened = torch.empty(x.shape, dtype=wide_dtype, device=x.device).copy_(gate).sigmoid_()
        ctx.save_for_backward(normed, rstd, weight, opened)
        ctx.dtypes = x.dtype, gate.dtype
        return (normed * weight).mul_(opened).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        normed, rstd, weight, opened = ctx.saved_tensors
        x_dtype, gate_dtype = ctx.dtypes
        wide_weight = weight.to(normed.dtype)
        grad = (grads[0] * opened).contiguous()  # to normed * weight
        # d sigmoid = sigmoid (1 - sigmoid)
        grad_gate = (grad * normed).mul_(wide_weight).mul_(1 - opened)
        grad_x, grad_weight = _norm_backward(grad, normed, rstd, wide_weight)
        return grad_x.to(x_dtype), grad_weight.to(weight.dtype), grad_gate.to(gate_dtype), None, None
