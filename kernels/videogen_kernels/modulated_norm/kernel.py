"""Modulated RMS norm and gated residual in Triton: one pass forward, one backward, sums over tokens in a fixed order.

A program takes some of the tokens of one frame and reads the frame's modulation once. The gradients of the modulation are
partial sums per program, added up afterwards. Nothing is kept for backward but the inputs.

Shapes: R = B * n frames, T tokens of a frame, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videogen_kernels.triton_runtime import autotune, on_device

__all__ = ["gated_residual_triton", "modulated_norm_triton", "rms_norm_triton"]

#: Programs to aim for, and elements that one holds at a time.
_PROGRAMS, _ELEMENTS = 1024, 4096

_WARPS: list[tuple[dict[str, int], int, int]] = [({}, 4, 1), ({}, 8, 1), ({}, 16, 1)]


@autotune(_WARPS, key=["D"])
@triton.jit
def _norm(
    x_ptr,  # [R, T, D]
    factor_ptr,  # [R, D] float32
    shift_ptr,
    out_ptr,
    tokens, per_program, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < D
    factor = tl.load(factor_ptr + frame * D + columns, mask=valid, other=0.0)
    if HAS_SHIFT:
        shift = tl.load(shift_ptr + frame * D + columns, mask=valid, other=0.0)
    start = tl.program_id(1) * per_program
    for first in range(start, tl.minimum(start + per_program, tokens), ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < tl.minimum(start + per_program, tokens))[:, None] & valid[None, :]
        place = (frame * tokens + rows)[:, None] * D + columns[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
        out = x * rstd[:, None] * factor[None, :]
        if HAS_SHIFT:
            out += shift[None, :]
        tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@autotune(_WARPS, key=["D"])
@triton.jit
def _norm_backward(
    grad_ptr, x_ptr, factor_ptr, grad_x_ptr,
    partial_ptr,  # [1 or 2, R, programs, D] float32: of factor, of shift
    tokens, per_program, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < D
    factor = tl.load(factor_ptr + frame * D + columns, mask=valid, other=0.0)
    grad_factor = tl.zeros([BLOCK], dtype=tl.float32)
    grad_shift = tl.zeros([BLOCK], dtype=tl.float32)
    start = tl.program_id(1) * per_program
    for first in range(start, tl.minimum(start + per_program, tokens), ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < tl.minimum(start + per_program, tokens))[:, None] & valid[None, :]
        place = (frame * tokens + rows)[:, None] * D + columns[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
        normed = x * rstd[:, None]
        grad_factor += tl.sum(grad * normed, 0)
        if HAS_SHIFT:
            grad_shift += tl.sum(grad, 0)
        grad *= factor[None, :]
        inner = tl.sum(grad * normed, 1) / D
        grad_x = (grad - normed * inner[:, None]) * rstd[:, None]
        tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
    partial = partial_ptr + (frame * tl.num_programs(1) + tl.program_id(1)) * D + columns
    tl.store(partial, grad_factor, mask=valid)
    if HAS_SHIFT:
        tl.store(partial + tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * D, grad_shift, mask=valid)


@autotune(_WARPS, key=["D"])
@triton.jit
def _residual(
    x_ptr, branch_ptr, gate_ptr, out_ptr, tokens, per_program,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < D
    gate = tl.load(gate_ptr + frame * D + columns, mask=valid, other=0.0)
    start = tl.program_id(1) * per_program
    for first in range(start, tl.minimum(start + per_program, tokens), ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < tl.minimum(start + per_program, tokens))[:, None] & valid[None, :]
        place = (frame * tokens + rows)[:, None] * D + columns[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + place, (x + gate[None, :] * branch).to(out_ptr.dtype.element_ty), mask=mask)


@autotune(_WARPS, key=["D"])
@triton.jit
def _residual_backward(
    grad_ptr, branch_ptr, gate_ptr, grad_branch_ptr,
    partial_ptr,  # [R, programs, D] float32
    tokens, per_program,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    frame = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    valid = columns < D
    gate = tl.load(gate_ptr + frame * D + columns, mask=valid, other=0.0)
    grad_gate = tl.zeros([BLOCK], dtype=tl.float32)
    start = tl.program_id(1) * per_program
    for first in range(start, tl.minimum(start + per_program, tokens), ROWS):
        rows = first + tl.arange(0, ROWS)
        mask = (rows < tl.minimum(start + per_program, tokens))[:, None] & valid[None, :]
        place = (frame * tokens + rows)[:, None] * D + columns[None, :]
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad_gate += tl.sum(grad * branch, 0)
        tl.store(grad_branch_ptr + place, (grad * gate[None, :]).to(grad_branch_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + (frame * tl.num_programs(1) + tl.program_id(1)) * D + columns, grad_gate, mask=valid)


# ---- launches ----------------------------------------------------------------------------------------------------------


def _split(x: Tensor, frames: int) -> tuple[tuple[int, int], tuple[int, int], dict[str, int]]:
    """Grid, (tokens of a frame, tokens of a program) and sizes for `x` [..., D] in so many frames."""
    width = x.shape[-1]
    tokens = x.numel() // width // frames
    block = triton.next_power_of_2(width)
    rows = max(1, _ELEMENTS // block)
    programs = max(1, min(triton.cdiv(_PROGRAMS, frames), triton.cdiv(tokens, rows)))
    per_program = triton.cdiv(triton.cdiv(tokens, programs), rows) * rows
    grid = frames, triton.cdiv(tokens, per_program)
    return grid, (tokens, per_program), {"D": width, "BLOCK": block, "ROWS": rows}


def _per_frame(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.float32).contiguous()


@torch.library.custom_op(
    "videogen::modulated_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor factor, Tensor? shift, float eps, ScalarType dtype) -> Tensor",
)
def _norm_forward(x: Tensor, factor: Tensor, shift: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    x = x.contiguous()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    grid, counts, sizes = _split(x, factor.shape[0] * factor.shape[1])
    with on_device(x):
        _norm[grid](
            *(x, _per_frame(factor), _per_frame(shift), out, *counts, eps), **sizes, HAS_SHIFT=shift is not None
        )
    return out


@_norm_forward.register_fake
def _(x: Tensor, factor: Tensor, shift: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)


@torch.library.custom_op(
    "videogen::modulated_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor factor, Tensor? shift, float eps) -> (Tensor, Tensor, Tensor)",
)
def _norm_gradient(
    grad: Tensor, x: Tensor, factor: Tensor, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, factor and shift, the last empty where there is none."""
    grad, x = grad.contiguous(), x.contiguous()
    has_shift = shift is not None
    grid, counts, sizes = _split(x, factor.shape[0] * factor.shape[1])
    grad_x = torch.empty_like(x)
    partial = torch.empty(1 + has_shift, *grid, x.shape[-1], dtype=torch.float32, device=x.device)
    with on_device(x):
        _norm_backward[grid](
            *(grad, x, _per_frame(factor), grad_x, partial, *counts, eps), **sizes, HAS_SHIFT=has_shift
        )
    sums = partial.sum(2)
    grad_shift = x.new_empty(0) if shift is None else sums[1].view(shift.shape).to(shift.dtype, copy=True)
    return grad_x, sums[0].view(factor.shape).to(factor.dtype, copy=True), grad_shift


@_norm_gradient.register_fake
def _(grad: Tensor, x: Tensor, factor: Tensor, shift: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    grad_shift = x.new_empty(0) if shift is None else shift.new_empty(shift.shape)
    return x.new_empty(x.shape), factor.new_empty(factor.shape), grad_shift


def _norm_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, factor, shift, eps, _ = inputs
    ctx.eps = eps
    ctx.save_for_backward(x, factor, shift)


def _norm_apply_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, factor, shift = ctx.saved_tensors
    grad_x, grad_factor, grad_shift = torch.ops.videogen.modulated_norm_backward(grad, x, factor, shift, ctx.eps)
    return grad_x, grad_factor, None if shift is None else grad_shift, None, None


_norm_forward.register_autograd(_norm_apply_backward, setup_context=_norm_setup)


@torch.library.custom_op(
    "videogen::gated_residual", mutates_args=(), schema="(Tensor x, Tensor branch, Tensor gate) -> Tensor"
)
def _residual_forward(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    x, branch = x.contiguous(), branch.contiguous()
    out = torch.empty_like(x)
    grid, counts, sizes = _split(x, gate.shape[0] * gate.shape[1])
    with on_device(x):
        _residual[grid](x, branch, _per_frame(gate), out, *counts, **sizes)
    return out


@_residual_forward.register_fake
def _(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "videogen::gated_residual_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor branch, Tensor gate) -> (Tensor, Tensor)",
)
def _residual_gradient(grad: Tensor, branch: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of branch and gate; that of x is `grad` itself."""
    grad, branch = grad.contiguous(), branch.contiguous()
    grid, counts, sizes = _split(branch, gate.shape[0] * gate.shape[1])
    grad_branch = torch.empty_like(branch)
    partial = torch.empty(*grid, branch.shape[-1], dtype=torch.float32, device=branch.device)
    with on_device(branch):
        _residual_backward[grid](grad, branch, _per_frame(gate), grad_branch, partial, *counts, **sizes)
    return grad_branch, partial.sum(1).view(gate.shape).to(gate.dtype)


@_residual_gradient.register_fake
def _(grad: Tensor, branch: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return branch.new_empty(branch.shape), gate.new_empty(gate.shape)


_residual_forward.register_autograd(
    lambda ctx, grad: (grad, *torch.ops.videogen.gated_residual_backward(grad, *ctx.saved_tensors)),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:]),
)


def modulated_norm_triton(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    factor = 1 + scale if weight is None else weight * (1 + scale)
    return torch.ops.videogen.modulated_norm(x, factor, shift, eps, dtype)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`x` [..., D] as one frame without a shift."""
    return torch.ops.videogen.modulated_norm(x, weight[None, None], None, eps, dtype)


def gated_residual_triton(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return torch.ops.videogen.gated_residual(x, branch, gate)
