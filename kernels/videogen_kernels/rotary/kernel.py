"""Norms of heads and rotary positions in Triton, fused: one pass forward, one backward.

A program takes some rows (a row is one head of one token) after others and holds a row as its even and its odd entries, the
two members of each rotated pair. The gradient of the weight is a partial sum per program, added up afterwards.

Shapes: B batch, L tokens, N heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videogen_kernels.rotary.reference import table_stride
from videogen_kernels.triton_runtime import on_device, sigmoid

__all__ = ["gated_head_norm_triton", "norm_rotary_triton"]

#: Most programs that one launch has; each goes over rows so many apart.
_MAX_PROGRAMS = 2048


@triton.jit
def _rotate_kernel(
    x_ptr, weight_ptr,
    cos_ptr,  # [L, K / 2] or [B, L, K / 2] float32
    sin_ptr,
    out_ptr,
    positive_ptr,  # floor plus the positive part of what is rotated
    count, length, t_sb, eps, floor,  # t_sb: of the tables, 0 = one for all
    x_sb, x_sl, x_sn, o_sb, o_sl, o_sn,
    N: tl.constexpr, K: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr, POSITIVE: tl.constexpr,
):  # fmt: skip
    pairs = tl.arange(0, HALF)
    even, odd = 2 * pairs, 2 * pairs + 1
    if NORM:
        weight_even = tl.load(weight_ptr + even, mask=even < K, other=0.0).to(tl.float32)
        weight_odd = tl.load(weight_ptr + odd, mask=odd < K, other=0.0).to(tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = rows < count
        token = rows // N
        position = token % length
        source = (token // length * x_sb + position * x_sl + rows % N * x_sn)[:, None]
        target = (token // length * o_sb + position * o_sl + rows % N * o_sn)[:, None]
        mask_even = inside[:, None] & (even < K)[None, :]
        mask_odd = inside[:, None] & (odd < K)[None, :]
        a = tl.load(x_ptr + source + even[None, :], mask=mask_even, other=0.0).to(tl.float32)
        b = tl.load(x_ptr + source + odd[None, :], mask=mask_odd, other=0.0).to(tl.float32)
        if NORM:
            rstd = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / K + eps)
            a *= rstd[:, None] * weight_even[None, :]
            b *= rstd[:, None] * weight_odd[None, :]
        if POSITIVE:
            dtype = positive_ptr.dtype.element_ty
            tl.store(positive_ptr + target + even[None, :], (tl.maximum(a, 0.0) + floor).to(dtype), mask=mask_even)
            tl.store(positive_ptr + target + odd[None, :], (tl.maximum(b, 0.0) + floor).to(dtype), mask=mask_odd)
        if TURN:
            angle = (token // length * t_sb + position * (K // 2))[:, None] + pairs[None, :]
            cos = tl.load(cos_ptr + angle, mask=mask_odd, other=0.0)
            sin = tl.load(sin_ptr + angle, mask=mask_odd, other=0.0)
            turned = a * cos - b * sin
            b = a * sin + b * cos
            a = turned
        tl.store(out_ptr + target + even[None, :], a.to(out_ptr.dtype.element_ty), mask=mask_even)
        tl.store(out_ptr + target + odd[None, :], b.to(out_ptr.dtype.element_ty), mask=mask_odd)


@triton.jit
def _rotate_backward(
    grad_ptr, grad_positive_ptr, x_ptr, weight_ptr, cos_ptr, sin_ptr,
    grad_x_ptr,
    partial_ptr,  # [programs, K] float32
    count, length, t_sb, eps,
    g_sb, g_sl, g_sn, p_sb, p_sl, p_sn, x_sb, x_sl, x_sn, o_sb, o_sl, o_sn,
    N: tl.constexpr, K: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr, POSITIVE: tl.constexpr,
):  # fmt: skip
    pairs = tl.arange(0, HALF)
    even, odd = 2 * pairs, 2 * pairs + 1
    if NORM:
        weight_even = tl.load(weight_ptr + even, mask=even < K, other=0.0).to(tl.float32)
        weight_odd = tl.load(weight_ptr + odd, mask=odd < K, other=0.0).to(tl.float32)
        sum_even = tl.zeros([HALF], dtype=tl.float32)
        sum_odd = tl.zeros([HALF], dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = rows < count
        token = rows // N
        position = token % length
        batch = token // length
        head = rows % N
        mask_even = inside[:, None] & (even < K)[None, :]
        mask_odd = inside[:, None] & (odd < K)[None, :]
        place = (batch * g_sb + position * g_sl + head * g_sn)[:, None]
        grad_a = tl.load(grad_ptr + place + even[None, :], mask=mask_even, other=0.0).to(tl.float32)
        grad_b = tl.load(grad_ptr + place + odd[None, :], mask=mask_odd, other=0.0).to(tl.float32)
        if TURN:
            angle = (batch * t_sb + position * (K // 2))[:, None] + pairs[None, :]
            cos = tl.load(cos_ptr + angle, mask=mask_odd, other=0.0)
            sin = tl.load(sin_ptr + angle, mask=mask_odd, other=0.0)
            turned = grad_a * cos + grad_b * sin
            grad_b = grad_b * cos - grad_a * sin
            grad_a = turned
        if NORM:
            place = (batch * x_sb + position * x_sl + head * x_sn)[:, None]
            a = tl.load(x_ptr + place + even[None, :], mask=mask_even, other=0.0).to(tl.float32)
            b = tl.load(x_ptr + place + odd[None, :], mask=mask_odd, other=0.0).to(tl.float32)
            rstd = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / K + eps)
            a *= rstd[:, None]
            b *= rstd[:, None]
            if POSITIVE:
                place = (batch * p_sb + position * p_sl + head * p_sn)[:, None]
                more_a = tl.load(grad_positive_ptr + place + even[None, :], mask=mask_even, other=0.0).to(tl.float32)
                more_b = tl.load(grad_positive_ptr + place + odd[None, :], mask=mask_odd, other=0.0).to(tl.float32)
                grad_a += tl.where(a * weight_even[None, :] > 0, more_a, 0.0)
                grad_b += tl.where(b * weight_odd[None, :] > 0, more_b, 0.0)
            sum_even += tl.sum(grad_a * a, 0)
            sum_odd += tl.sum(grad_b * b, 0)
            grad_a *= weight_even[None, :]
            grad_b *= weight_odd[None, :]
            inner = (tl.sum(grad_a * a, 1) + tl.sum(grad_b * b, 1)) / K
            grad_a = (grad_a - a * inner[:, None]) * rstd[:, None]
            grad_b = (grad_b - b * inner[:, None]) * rstd[:, None]
        place = (batch * o_sb + position * o_sl + head * o_sn)[:, None]
        tl.store(grad_x_ptr + place + even[None, :], grad_a.to(grad_x_ptr.dtype.element_ty), mask=mask_even)
        tl.store(grad_x_ptr + place + odd[None, :], grad_b.to(grad_x_ptr.dtype.element_ty), mask=mask_odd)
    if NORM:
        partial = partial_ptr + tl.program_id(0) * K
        tl.store(partial + even, sum_even, mask=even < K)
        tl.store(partial + odd, sum_odd, mask=odd < K)


@triton.jit
def _gated_kernel(
    x_ptr, weight_ptr, gate_ptr,
    out_ptr,  # [B * L * N, K]
    count, length, eps, x_sb, x_sl, x_sn, g_sb, g_sl, g_sn,
    N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    ks = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + ks, mask=ks < K, other=0.0).to(tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)
        mask = (rows < count)[:, None] & (ks < K)[None, :]
        batch, position, head = rows // N // length, rows // N % length, rows % N
        place = (batch * x_sb + position * x_sl + head * x_sn)[:, None] + ks[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        place = (batch * g_sb + position * g_sl + head * g_sn)[:, None] + ks[None, :]
        opened = sigmoid(tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32))
        rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / K + eps)
        out = x * rstd[:, None] * weight[None, :] * opened
        tl.store(out_ptr + rows[:, None] * K + ks[None, :], out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _gated_backward(
    grad_ptr, x_ptr, weight_ptr, gate_ptr,
    grad_x_ptr, grad_gate_ptr,  # [B * L * N, K]
    partial_ptr,  # [programs, K] float32
    count, length, eps, d_sb, d_sl, d_sn, x_sb, x_sl, x_sn, g_sb, g_sl, g_sn,
    N: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    ks = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + ks, mask=ks < K, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        rows = (first + tl.arange(0, ROWS)).to(tl.int64)
        mask = (rows < count)[:, None] & (ks < K)[None, :]
        batch, position, head = rows // N // length, rows // N % length, rows % N
        place = (batch * d_sb + position * d_sl + head * d_sn)[:, None] + ks[None, :]
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        place = (batch * x_sb + position * x_sl + head * x_sn)[:, None] + ks[None, :]
        normed = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        place = (batch * g_sb + position * g_sl + head * g_sn)[:, None] + ks[None, :]
        opened = sigmoid(tl.load(gate_ptr + place, mask=mask, other=0.0).to(tl.float32))
        rstd = 1.0 / tl.sqrt(tl.sum(normed * normed, 1) / K + eps)
        normed *= rstd[:, None]
        grad *= opened
        total += tl.sum(grad * normed, 0)
        grad *= weight[None, :]
        grad_gate = grad * normed * (1.0 - opened)
        inner = tl.sum(grad * normed, 1) / K
        grad_x = (grad - normed * inner[:, None]) * rstd[:, None]
        place = rows[:, None] * K + ks[None, :]
        tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_gate_ptr + place, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + tl.program_id(0) * K + ks, total, mask=ks < K)


# ---- launches ----------------------------------------------------------------------------------------------------------


def _sizes(x: Tensor, elements: int) -> tuple[int, int, int]:
    """Programs, rows, and rows that a program holds at once."""
    count = x.numel() // x.shape[-1]
    rows = max(1, elements // triton.next_power_of_2(x.shape[-1]))
    return min(_MAX_PROGRAMS, triton.cdiv(count, rows)), count, rows


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1), tensor.stride(2))


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, copied if the entries of its last axis are not neighbours."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _table(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.float32).contiguous()


def _head_major(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Empty, of the shape of `x` [B, L, N, K]; in memory the tokens of one head follow each other."""
    batch, length, heads, width = x.shape
    return torch.empty(batch, heads, length, width, dtype=dtype, device=x.device).transpose(1, 2)


@torch.library.custom_op(
    "videogen::norm_rotary",
    mutates_args=(),
    schema="(Tensor x, Tensor? weight, Tensor? cos, Tensor? sin, float eps, float? floor, ScalarType dtype) -> "
    "(Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    floor: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Norm (with a weight), then rotation (with tables); the second result, empty without `floor`, is the norm's positive
    part plus `floor`, not rotated."""
    x = _rows(x)
    out = _head_major(x, dtype)
    positive = x.new_empty(0, dtype=dtype) if floor is None else _head_major(x, dtype)
    programs, count, rows = _sizes(x, 4096)
    heads, width = x.shape[2:]
    with on_device(x):
        _rotate_kernel[(programs,)](
            *(x, weight, _table(cos), _table(sin), out, positive, count, x.shape[1]),
            *(table_stride(cos), eps, floor or 0.0),
            *(*_strides(x), *_strides(out)),
            N=heads,
            K=width,
            HALF=triton.next_power_of_2(triton.cdiv(width, 2)),
            ROWS=rows,
            NORM=weight is not None,
            TURN=cos is not None,
            POSITIVE=floor is not None,
        )
    return out, positive


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    floor: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return _head_major(x, dtype), x.new_empty(0, dtype=dtype) if floor is None else _head_major(x, dtype)


@torch.library.custom_op(
    "videogen::norm_rotary_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor? grad_positive, Tensor x, Tensor? weight, Tensor? cos, Tensor? sin, float eps) -> "
    "(Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    grad_positive: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight, the last empty where there is none."""
    grad, x = _rows(grad), _rows(x)
    grad_positive = None if grad_positive is None else _rows(grad_positive)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs, count, rows = _sizes(x, 2048)
    heads, width = x.shape[2:]
    partial = torch.empty(programs if weight is not None else 0, width, dtype=torch.float32, device=x.device)
    with on_device(x):
        _rotate_backward[(programs,)](
            *(grad, grad_positive, x, weight, _table(cos), _table(sin), grad_x, partial, count, x.shape[1]),
            *(table_stride(cos), eps),
            *(*_strides(grad), *_strides(grad_positive), *_strides(x), *_strides(grad_x)),
            N=heads,
            K=width,
            HALF=triton.next_power_of_2(triton.cdiv(width, 2)),
            ROWS=rows,
            NORM=weight is not None,
            TURN=cos is not None,
            POSITIVE=grad_positive is not None,
        )
    return grad_x, x.new_empty(0) if weight is None else partial.sum(0).to(weight.dtype)


@_backward.register_fake
def _(
    grad: Tensor,
    grad_positive: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return grad_x, x.new_empty(0) if weight is None else weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, cos, sin, ctx.eps, floor, _ = inputs
    ctx.has_positive = floor is not None
    ctx.save_for_backward(x, weight, cos, sin)


def _apply_backward(ctx: Any, grad: Tensor, grad_positive: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, cos, sin = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.videogen.norm_rotary_backward(
        grad, grad_positive if ctx.has_positive else None, x, weight, cos, sin, ctx.eps
    )
    return grad_x, None if weight is None else grad_weight, None, None, None, None, None


_forward.register_autograd(_apply_backward, setup_context=_setup_context)


@torch.library.custom_op(
    "videogen::gated_head_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor gate, float eps, ScalarType dtype) -> Tensor",
)
def _gated_forward(x: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    x, gate = _rows(x), _rows(gate)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    programs, count, rows = _sizes(x, 4096)
    with on_device(x):
        _gated_kernel[(programs,)](
            *(x, weight, gate, out, count, x.shape[1], eps, *_strides(x), *_strides(gate)),
            N=x.shape[2],
            K=x.shape[3],
            BLOCK=triton.next_power_of_2(x.shape[3]),
            ROWS=rows,
        )
    return out


@_gated_forward.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)


@torch.library.custom_op(
    "videogen::gated_head_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor gate, float eps) -> (Tensor, Tensor, Tensor)",
)
def _gated_gradient(grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and gate."""
    grad, x, gate = _rows(grad), _rows(x), _rows(gate)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_gate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    programs, count, rows = _sizes(x, 2048)
    partial = torch.empty(programs, x.shape[3], dtype=torch.float32, device=x.device)
    with on_device(x):
        _gated_backward[(programs,)](
            *(grad, x, weight, gate, grad_x, grad_gate, partial, count, x.shape[1], eps),
            *(*_strides(grad), *_strides(x), *_strides(gate)),
            N=x.shape[2],
            K=x.shape[3],
            BLOCK=triton.next_power_of_2(x.shape[3]),
            ROWS=rows,
        )
    return grad_x, partial.sum(0).to(weight.dtype), grad_gate


@_gated_gradient.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, gate: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    empty = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, weight, gate)]
    return empty[0], empty[1], empty[2]


def _gated_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.eps, _ = inputs
    ctx.save_for_backward(*tensors)


_gated_forward.register_autograd(
    lambda ctx, grad: (
        *torch.ops.videogen.gated_head_norm_backward(grad, *ctx.saved_tensors, ctx.eps),
        None,
        None,
    ),
    setup_context=_gated_setup,
)


def norm_rotary_triton(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    eps: float,
    floor: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Without a weight only the rotation, without tables only the norm; see `_forward`."""
    return torch.ops.videogen.norm_rotary(x, weight, cos, sin, eps, floor, dtype)


def gated_head_norm_triton(x: Tensor, weight: Tensor, gate: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return torch.ops.videogen.gated_head_norm(x, weight, gate, eps, dtype)
