"""The chosen experts in Triton: grouped products over sorted tokens, with gather, SwiGLU and scatter inside the products.

Choices are sorted by expert, as an index alone: the first product gathers its rows from the tokens and ends in SwiGLU, the
second scatters its rows to the place of the choice. A last pass adds the k rows of each token in the order of choice; no
step uses atomics, so results are the same on every run. Backward goes the same way; only `x w_in` is kept for it.

The expert of a tile is found on the device from the ends of the experts' rows, so nothing waits for the host and the grid
depends on shapes only: one tile per expert more than full tiles would need.

Shapes: T tokens, D width, E experts, H hidden width of an expert, k chosen experts, M = T * k routed tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from videogen_kernels.triton_runtime import autotune, dot_precision, on_device, sigmoid

__all__ = ["experts_triton", "swiglu_triton"]

#: Hidden columns of a tile where partial sums are written per tile: the same for all configurations.
_COLUMNS = 64

_PRODUCT = [
    ({"BM": 64, "BN": 64, "BC": 32}, 4, 3),
    ({"BM": 64, "BN": 64, "BC": 64}, 4, 4),
    ({"BM": 128, "BN": 64, "BC": 64}, 4, 4),
    ({"BM": 128, "BN": 128, "BC": 32}, 8, 4),
    ({"BM": 128, "BN": 128, "BC": 64}, 8, 3),
]
_TWO_PRODUCTS = [
    ({"BM": 64, "BN": 64, "BC": 32}, 4, 3),
    ({"BM": 128, "BN": 64, "BC": 32}, 4, 4),
    ({"BM": 128, "BN": 64, "BC": 64}, 8, 3),
    ({"BM": 128, "BN": 128, "BC": 64}, 8, 3),
]
_COLUMN_PRODUCT = [
    ({"BM": 64, "BN": _COLUMNS, "BC": 32}, 4, 3),
    ({"BM": 128, "BN": _COLUMNS, "BC": 32}, 4, 4),
    ({"BM": 128, "BN": _COLUMNS, "BC": 64}, 4, 3),
    ({"BM": 128, "BN": _COLUMNS, "BC": 64}, 8, 3),
]
_WEIGHT_PRODUCT = [
    ({"BP": 64, "BN": 64, "BM": 32}, 4, 3),
    ({"BP": 64, "BN": 128, "BM": 64}, 4, 3),
    ({"BP": 128, "BN": 128, "BM": 32}, 8, 4),
    ({"BP": 128, "BN": 128, "BM": 64}, 8, 3),
]


@triton.jit
def _place(pid, num_tiles, num_columns, GROUP: tl.constexpr):
    """Tile and column of a program: all columns of a few tiles first, so that rows and weights stay in cache."""
    per_group = GROUP * num_columns
    first = pid // per_group * GROUP
    size = tl.minimum(num_tiles - first, GROUP)
    return first + pid % per_group % size, pid % per_group // size


@triton.jit
def _expert_of(tile, ends_ptr, E: tl.constexpr, BE: tl.constexpr, BM: tl.constexpr):
    """Expert, first row and end of a tile of BM rows; expert E for the tiles that are not needed."""
    experts = tl.arange(0, BE)
    ends = tl.load(ends_ptr + experts, mask=experts < E, other=0)
    starts = tl.load(ends_ptr + experts - 1, mask=(experts > 0) & (experts < E), other=0)
    tiles = tl.where(experts < E, (ends - starts + BM - 1) // BM, 0)
    last = tl.cumsum(tiles, 0)
    expert = tl.sum((last <= tile).to(tl.int32), 0)
    ours = experts == expert
    first = tl.sum(tl.where(ours, starts + (tile - (last - tiles)) * BM, 0), 0)
    return tl.minimum(expert, E), first, tl.sum(tl.where(ours, ends, 0), 0)


@autotune(_TWO_PRODUCTS, key=["D", "H", "E"])
@triton.jit
def _hidden(
    x_ptr,  # [T, D]
    w_ptr,  # [E, D, 2H]
    order_ptr, ends_ptr,
    hidden_ptr,  # [M, 2H]
    acted_ptr,  # [M, H]
    num_choices,
    D: tl.constexpr, H: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, TOP_K: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """silu(x w_gate) * (x w_up) of the tokens of each expert."""
    tile, column = _place(tl.program_id(0), tl.cdiv(num_choices, BM) + E, tl.cdiv(H, BN), 8)
    expert, first, end = _expert_of(tile, ends_ptr, E, BE, BM)
    if expert < E:
        rows = (first + tl.arange(0, BM)).to(tl.int64)
        inside = rows < end
        tokens = tl.load(order_ptr + rows, mask=inside, other=0).to(tl.int64) // TOP_K
        ns = column * BN + tl.arange(0, BN)
        cs = tl.arange(0, BC)
        x = x_ptr + tokens[:, None] * D + cs[None, :]
        w = w_ptr + expert.to(tl.int64) * (2 * D * H) + cs[:, None] * (2 * H) + ns[None, :]
        gate = tl.zeros([BM, BN], dtype=tl.float32)
        up = tl.zeros([BM, BN], dtype=tl.float32)
        for c in range(0, D, BC):
            a = tl.load(x + c, mask=inside[:, None] & (c + cs < D)[None, :], other=0.0)
            mask = (c + cs < D)[:, None] & (ns < H)[None, :]
            gate = tl.dot(a, tl.load(w + c * (2 * H), mask=mask, other=0.0), gate, input_precision=PRECISION)
            up = tl.dot(a, tl.load(w + c * (2 * H) + H, mask=mask, other=0.0), up, input_precision=PRECISION)
        mask = inside[:, None] & (ns < H)[None, :]
        acted = gate * sigmoid(gate) * up
        tl.store(acted_ptr + rows[:, None] * H + ns[None, :], acted.to(acted_ptr.dtype.element_ty), mask=mask)
        if SAVE:
            hidden = hidden_ptr + rows[:, None] * (2 * H) + ns[None, :]
            tl.store(hidden, gate.to(hidden_ptr.dtype.element_ty), mask=mask)
            tl.store(hidden + H, up.to(hidden_ptr.dtype.element_ty), mask=mask)


@autotune(_PRODUCT, key=["C", "WIDTH", "E", "TRANSPOSED"])
@triton.jit
def _scatter_product(
    a_ptr,  # [M, C], rows sorted by expert
    w_ptr,  # [E, C, WIDTH], or with TRANSPOSED [E, WIDTH, C]
    order_ptr, ends_ptr,
    out_ptr,  # [M, WIDTH], rows in the order of tokens and choices
    num_choices,
    C: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Rows times the weight of their expert, each put where its choice is."""
    tile, column = _place(tl.program_id(0), tl.cdiv(num_choices, BM) + E, tl.cdiv(WIDTH, BN), 8)
    expert, first, end = _expert_of(tile, ends_ptr, E, BE, BM)
    if expert < E:
        rows = (first + tl.arange(0, BM)).to(tl.int64)
        inside = rows < end
        places = tl.load(order_ptr + rows, mask=inside, other=0).to(tl.int64)
        ns = column * BN + tl.arange(0, BN)
        cs = tl.arange(0, BC)
        w_expert = w_ptr + expert.to(tl.int64) * (C * WIDTH)
        total = tl.zeros([BM, BN], dtype=tl.float32)
        for c in range(0, C, BC):
            a = tl.load(
                a_ptr + rows[:, None] * C + (c + cs)[None, :],
                mask=inside[:, None] & (c + cs < C)[None, :],
                other=0.0,
            )
            if TRANSPOSED:
                w = tl.load(
                    w_expert + ns[:, None] * C + (c + cs)[None, :],
                    mask=(ns < WIDTH)[:, None] & (c + cs < C)[None, :],
                    other=0.0,
                )
                total = tl.dot(a, tl.trans(w), total, input_precision=PRECISION)
            else:
                w = tl.load(
                    w_expert + (c + cs)[:, None] * WIDTH + ns[None, :],
                    mask=(c + cs < C)[:, None] & (ns < WIDTH)[None, :],
                    other=0.0,
                )
                total = tl.dot(a, w, total, input_precision=PRECISION)
        tl.store(
            out_ptr + places[:, None] * WIDTH + ns[None, :],
            total.to(out_ptr.dtype.element_ty),
            mask=inside[:, None] & (ns < WIDTH)[None, :],
        )


@autotune([({"BT": 16, "BN": 128}, 4, 2), ({"BT": 4, "BN": 512}, 4, 2), ({"BT": 8, "BN": 256}, 4, 3)], key=["D"])
@triton.jit
def _combine(
    rows_ptr,  # [T, k, D]
    weights_ptr,  # [T, k] float32
    out_ptr,  # [T, D]
    num_tokens,
    D: tl.constexpr, TOP_K: tl.constexpr, WEIGHTED: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The rows of a token, weighted, added in the order of choice."""
    tokens = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    ns = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = tokens < num_tokens
    mask = inside[:, None] & (ns < D)[None, :]
    total = tl.zeros([BT, BN], dtype=tl.float32)
    for choice in tl.static_range(TOP_K):
        part = tl.load(rows_ptr + (tokens * TOP_K + choice)[:, None] * D + ns[None, :], mask=mask, other=0.0)
        if WEIGHTED:
            weight = tl.load(weights_ptr + tokens * TOP_K + choice, mask=inside, other=0.0)
            total += part.to(tl.float32) * weight[:, None]
        else:
            total += part.to(tl.float32)
    tl.store(out_ptr + tokens[:, None] * D + ns[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@autotune(_COLUMN_PRODUCT, key=["D", "H", "E"])
@triton.jit
def _grad_hidden(
    grad_ptr,  # [T, D]
    w_ptr,  # [E, H, D]
    hidden_ptr,  # [M, 2H]
    weights_ptr,  # [T, k] float32
    order_ptr, ends_ptr,
    grad_hidden_ptr,  # [M, 2H]
    scaled_ptr,  # [M, H], the activations times their weight
    partial_ptr,  # [blocks of H, T, k] float32, parts of the gradient of the weights
    num_choices,
    D: tl.constexpr, H: tl.constexpr, E: tl.constexpr, BE: tl.constexpr, TOP_K: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of the output, through the second product and SwiGLU."""
    tile, column = _place(tl.program_id(0), tl.cdiv(num_choices, BM) + E, tl.cdiv(H, BN), 8)
    expert, first, end = _expert_of(tile, ends_ptr, E, BE, BM)
    if expert < E:
        rows = (first + tl.arange(0, BM)).to(tl.int64)
        inside = rows < end
        places = tl.load(order_ptr + rows, mask=inside, other=0).to(tl.int64)
        ns = column * BN + tl.arange(0, BN)
        cs = tl.arange(0, BC)
        g = grad_ptr + (places // TOP_K)[:, None] * D + cs[None, :]
        w = w_ptr + expert.to(tl.int64) * (H * D) + ns[:, None] * D + cs[None, :]
        grad = tl.zeros([BM, BN], dtype=tl.float32)
        for c in range(0, D, BC):
            a = tl.load(g + c, mask=inside[:, None] & (c + cs < D)[None, :], other=0.0)
            b = tl.load(w + c, mask=(ns < H)[:, None] & (c + cs < D)[None, :], other=0.0)
            grad = tl.dot(a, tl.trans(b), grad, input_precision=PRECISION)
        mask = inside[:, None] & (ns < H)[None, :]
        place = rows[:, None] * (2 * H) + ns[None, :]
        gate = tl.load(hidden_ptr + place, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(hidden_ptr + place + H, mask=mask, other=0.0).to(tl.float32)
        weight = tl.load(weights_ptr + places, mask=inside, other=0.0)[:, None]
        opened = sigmoid(gate)
        acted = gate * opened * up
        tl.store(partial_ptr + column.to(tl.int64) * num_choices + places, tl.sum(grad * acted, 1), mask=inside)
        scaled = (acted * weight).to(scaled_ptr.dtype.element_ty)
        tl.store(scaled_ptr + rows[:, None] * H + ns[None, :], scaled, mask=mask)
        grad *= weight
        grad_gate = grad * up * opened * (1.0 + gate * (1.0 - opened))
        tl.store(grad_hidden_ptr + place, grad_gate.to(grad_hidden_ptr.dtype.element_ty), mask=mask)
        grad_up = grad * gate * opened
        tl.store(grad_hidden_ptr + place + H, grad_up.to(grad_hidden_ptr.dtype.element_ty), mask=mask)


@autotune(_WEIGHT_PRODUCT, key=["P", "N", "E", "GATHER_A"])
@triton.jit
def _grad_weight(
    a_ptr,  # [M, P], or with GATHER_A [T, P]
    b_ptr,  # [M, N], or without GATHER_A [T, N]
    order_ptr, ends_ptr,
    out_ptr,  # [E, P, N]
    P: tl.constexpr, N: tl.constexpr, E: tl.constexpr, TOP_K: tl.constexpr, GATHER_A: tl.constexpr,
    PRECISION: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """a^T b over the rows of each expert; one of the two is gathered from the tokens. An expert without rows gets 0."""
    expert = tl.program_id(1)
    columns = tl.cdiv(N, BN)
    ps = tl.program_id(0) // columns * BP + tl.arange(0, BP)
    ns = tl.program_id(0) % columns * BN + tl.arange(0, BN)
    start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends_ptr + expert)
    total = tl.zeros([BP, BN], dtype=tl.float32)
    for first in range(start, end, BM):
        rows = (first + tl.arange(0, BM)).to(tl.int64)
        inside = rows < end
        tokens = tl.load(order_ptr + rows, mask=inside, other=0).to(tl.int64) // TOP_K
        a_rows = tokens if GATHER_A else rows
        b_rows = rows if GATHER_A else tokens
        a = tl.load(a_ptr + a_rows[:, None] * P + ps[None, :], mask=inside[:, None] & (ps < P)[None, :], other=0.0)
        b = tl.load(b_ptr + b_rows[:, None] * N + ns[None, :], mask=inside[:, None] & (ns < N)[None, :], other=0.0)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    out = out_ptr + expert.to(tl.int64) * (P * N) + ps.to(tl.int64)[:, None] * N + ns[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=(ps < P)[:, None] & (ns < N)[None, :])


@triton.jit
def _swiglu(hidden_ptr, out_ptr, count, H, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    place = index // H * (2 * H) + index % H
    gate = tl.load(hidden_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(hidden_ptr + place + H, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + index, (gate * sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(grad_ptr, hidden_ptr, out_ptr, count, H, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    place = index // H * (2 * H) + index % H
    grad = tl.load(grad_ptr + index, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(hidden_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(hidden_ptr + place + H, mask=inside, other=0.0).to(tl.float32)
    opened = sigmoid(gate)
    grad_gate = grad * up * opened * (1.0 + gate * (1.0 - opened))
    tl.store(out_ptr + place, grad_gate.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(out_ptr + place + H, (grad * gate * opened).to(out_ptr.dtype.element_ty), mask=inside)


# ---- launches ----------------------------------------------------------------------------------------------------------


def _sort(expert_indices: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The choices [M] in the order of their experts, and where each expert's rows end [E], both int32."""
    experts, order = torch.sort(expert_indices.flatten(), stable=True)
    bins = torch.arange(num_experts, device=experts.device, dtype=experts.dtype)
    return order.to(torch.int32), torch.searchsorted(experts, bins, right=True).to(torch.int32)


def _tiles(num_choices: int, num_experts: int, columns: int) -> Any:
    return lambda sizes: ((triton.cdiv(num_choices, sizes["BM"]) + num_experts) * triton.cdiv(columns, sizes["BN"]),)


def _scatter(a: Tensor, w: Tensor, order: Tensor, ends: Tensor, transposed: bool, precision: str) -> Tensor:
    num_experts = w.shape[0]
    width = w.shape[1 if transposed else 2]
    out = a.new_empty(a.shape[0], width)
    _scatter_product[_tiles(a.shape[0], num_experts, width)](
        *(a, w, order, ends, out, a.shape[0]),
        C=a.shape[1],
        WIDTH=width,
        E=num_experts,
        BE=triton.next_power_of_2(num_experts),
        TRANSPOSED=transposed,
        PRECISION=precision,
    )
    return out


def _sum_choices(rows: Tensor, weights: Tensor | None, top_k: int) -> Tensor:
    num_tokens, width = rows.shape[0] // top_k, rows.shape[1]
    out = rows.new_empty(num_tokens, width)
    _combine[lambda sizes: (triton.cdiv(num_tokens, sizes["BT"]), triton.cdiv(width, sizes["BN"]))](
        *(rows, weights, out, num_tokens), D=width, TOP_K=top_k, WEIGHTED=weights is not None
    )
    return out


def _sum_rows(a: Tensor, b: Tensor, order: Tensor, ends: Tensor, top_k: int, gather_a: bool, precision: str) -> Tensor:
    num_experts, height, width = len(ends), a.shape[1], b.shape[1]
    out = a.new_empty(num_experts, height, width)
    _grad_weight[lambda sizes: (triton.cdiv(height, sizes["BP"]) * triton.cdiv(width, sizes["BN"]), num_experts)](
        *(a, b, order, ends, out),
        P=height,
        N=width,
        E=num_experts,
        TOP_K=top_k,
        GATHER_A=gather_a,
        PRECISION=precision,
    )
    return out


@torch.library.custom_op(
    "videogen::experts",
    mutates_args=(),
    schema="(Tensor x, Tensor w_in, Tensor w_out, Tensor expert_indices, Tensor expert_weights, bool save) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
def _forward(
    x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns out [T, D], `x w_in` [M, 2H] (empty without `save`), the sorted choices [M] and the experts' ends [E]."""
    num_experts, width, double_hidden = w_in.shape
    top_k = expert_indices.shape[1]
    x, w_in, w_out = x.contiguous(), w_in.contiguous(), w_out.contiguous()
    order, ends = _sort(expert_indices, num_experts)
    num_choices, half = len(order), double_hidden // 2
    hidden = x.new_empty(num_choices if save else 0, double_hidden)
    acted = x.new_empty(num_choices, half)
    precision = dot_precision(x)
    with on_device(x):
        _hidden[_tiles(num_choices, num_experts, half)](
            *(x, w_in, order, ends, hidden, acted, num_choices),
            D=width,
            H=half,
            E=num_experts,
            BE=triton.next_power_of_2(num_experts),
            TOP_K=top_k,
            SAVE=save,
            PRECISION=precision,
        )
        rows = _scatter(acted, w_out, order, ends, False, precision)
        out = _sum_choices(rows, expert_weights.to(torch.float32).contiguous(), top_k)
    return out, hidden, order, ends


@_forward.register_fake
def _(
    x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_choices = expert_indices.numel()
    return (
        x.new_empty(x.shape),
        x.new_empty(num_choices if save else 0, w_in.shape[2]),
        x.new_empty(num_choices, dtype=torch.int32),
        x.new_empty(w_in.shape[0], dtype=torch.int32),
    )


@torch.library.custom_op(
    "videogen::experts_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor w_in, Tensor w_out, Tensor expert_weights, Tensor hidden, Tensor order, "
    "Tensor ends) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor,
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_weights: Tensor,
    hidden: Tensor,
    order: Tensor,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, w_in, w_out and the weights."""
    num_experts, half, width = w_out.shape
    top_k, num_choices = expert_weights.shape[1], len(order)
    grad, x, w_in, w_out = (t.contiguous() for t in (grad, x, w_in, w_out))
    weights = expert_weights.to(torch.float32).contiguous()
    grad_hidden, scaled = torch.empty_like(hidden), hidden.new_empty(num_choices, half)
    partial = weights.new_empty(triton.cdiv(half, _COLUMNS), *weights.shape)
    precision = dot_precision(x)
    with on_device(x):
        _grad_hidden[_tiles(num_choices, num_experts, half)](
            *(grad, w_out, hidden, weights, order, ends, grad_hidden, scaled, partial, num_choices),
            D=width,
            H=half,
            E=num_experts,
            BE=triton.next_power_of_2(num_experts),
            TOP_K=top_k,
            PRECISION=precision,
        )
        grad_x = _sum_choices(_scatter(grad_hidden, w_in, order, ends, True, precision), None, top_k)
        grad_w_in = _sum_rows(x, grad_hidden, order, ends, top_k, True, precision)
        grad_w_out = _sum_rows(scaled, grad, order, ends, top_k, False, precision)
    return grad_x, grad_w_in, grad_w_out, partial.sum(0).to(expert_weights.dtype)


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_weights: Tensor,
    hidden: Tensor,
    order: Tensor,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, w_in, w_out, expert_weights))  # type: ignore[return-value]


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, w_in, w_out, _, expert_weights, _ = inputs
    _, hidden, order, ends = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, w_in, w_out, expert_weights, hidden, order, ends)


def _apply_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    grads = torch.ops.videogen.experts_backward(grad, *ctx.saved_tensors)
    return *grads[:3], None, grads[3], None


_forward.register_autograd(_apply_backward, setup_context=_setup_context)


def experts_triton(x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor) -> Tensor:
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w_in, w_out, expert_weights))
    return torch.ops.videogen.experts(x, w_in, w_out, expert_indices, expert_weights, save)[0]


@torch.library.custom_op("videogen::swiglu", mutates_args=(), schema="(Tensor hidden) -> Tensor")
def _swiglu_forward(hidden: Tensor) -> Tensor:
    hidden = hidden.contiguous()
    half = hidden.shape[-1] // 2
    out = hidden.new_empty(*hidden.shape[:-1], half)
    with on_device(hidden):
        _swiglu[(triton.cdiv(out.numel(), 1024),)](hidden, out, out.numel(), half, BLOCK=1024)
    return out


@_swiglu_forward.register_fake
def _(hidden: Tensor) -> Tensor:
    return hidden.new_empty(*hidden.shape[:-1], hidden.shape[-1] // 2)


@torch.library.custom_op("videogen::swiglu_backward", mutates_args=(), schema="(Tensor grad, Tensor hidden) -> Tensor")
def _swiglu_gradient(grad: Tensor, hidden: Tensor) -> Tensor:
    grad, hidden = grad.contiguous(), hidden.contiguous()
    out = torch.empty_like(hidden)
    with on_device(hidden):
        _swiglu_backward[(triton.cdiv(grad.numel(), 1024),)](
            grad, hidden, out, grad.numel(), grad.shape[-1], BLOCK=1024
        )
    return out


@_swiglu_gradient.register_fake
def _(grad: Tensor, hidden: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape)


_swiglu_forward.register_autograd(
    lambda ctx, grad: torch.ops.videogen.swiglu_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def swiglu_triton(hidden: Tensor) -> Tensor:
    return torch.ops.videogen.swiglu(hidden)
