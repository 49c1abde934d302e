"""The mixers through the compiled CPU operators. Nothing but the inputs is kept for backward, which recomputes the rest.

Shapes: B batch, L query tokens, S key tokens, N heads, K width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videogen_kernels.native import call, suffix


def linear_mixer_native(
    qkvg: Tensor,
    gate: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    norm_out: Tensor,
    conv: Tensor,
    cos: Tensor,
    sin: Tensor,
    grid: tuple[int, int, int],
    eps: float,
) -> Tensor:
    return _LinearMixer.apply(qkvg, gate, norm_query, norm_key, norm_out, conv, cos, sin, grid, eps)


def softmax_mixer_native(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    gate: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    key_mask: Tensor | None,
    visible: Tensor | None,
    eps: float,
) -> Tensor:
    return _SoftmaxMixer.apply(
        _heads_together(query),
        *_same_rows(_heads_together(key), _heads_together(value)),
        norm_query,
        norm_key,
        gate,
        cos,
        sin,
        key_mask,
        visible,
        eps,
    )


def _heads_together(x: Tensor) -> Tensor:
    """[B, L, N, K] with the heads of a token next to each other and tokens evenly spaced, as slices of a projection are."""
    batch, length, heads, width = x.shape
    even = x.stride(3) == 1 and (heads == 1 or x.stride(2) == width)
    even = even and (batch == 1 or x.stride(0) == length * x.stride(1))
    return x if even else x.contiguous()


def _same_rows(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return (key, value) if key.stride(1) == value.stride(1) else (key.contiguous(), value.contiguous())


def _empty_like_rows(x: Tensor, row: int) -> Tensor:
    """A gradient of `x` whose tokens lie `row` elements apart; what lies between them is not used."""
    batch, length, heads, width = x.shape
    return x.new_empty(batch, length, row)[..., : heads * width].unflatten(-1, (heads, width))


class _LinearMixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkvg: Tensor,
        gate: Tensor,
        norm_query: Tensor,
        norm_key: Tensor,
        norm_out: Tensor,
        conv: Tensor,
        cos: Tensor,
        sin: Tensor,
        grid: tuple[int, int, int],
        eps: float,
    ) -> Tensor:
        batch, length, _, heads, width = qkvg.shape
        inputs = [t.contiguous() for t in (qkvg, gate)]
        inputs += [t.float().contiguous() for t in (norm_query, norm_key, norm_out, cos, sin)]
        filters = conv.view(heads, width, 9).transpose(1, 2).float().contiguous()  # [N, 9, K]
        ctx.sizes = (batch, *grid, heads, width, float(eps))
        ctx.dtypes = [t.dtype for t in (norm_query, norm_key, norm_out, conv)]
        ctx.save_for_backward(*inputs, filters)
        out = qkvg.new_empty(batch, length, heads * width)
        call(f"linear_mixer_forward_{suffix(out)}", *inputs, filters, out, *ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        qkvg, gate = saved[:2]
        heads, width = qkvg.shape[3:]
        grad_qkvg, grad_gate = torch.empty_like(qkvg), torch.empty_like(gate)
        grad_norms = torch.zeros(3, width)
        grad_filters = torch.zeros(heads, 9, width)
        call(
            f"linear_mixer_backward_{suffix(qkvg)}",
            *(grads[0].contiguous(), *saved, grad_qkvg, grad_gate, *grad_norms, grad_filters, *ctx.sizes),
        )
        grad_conv = grad_filters.transpose(1, 2).reshape(heads * width, 1, 3, 3)
        weights = [g.to(dtype) for g, dtype in zip((*grad_norms, grad_conv), ctx.dtypes, strict=True)]
        return grad_qkvg, grad_gate, *weights, None, None, None, None


class _SoftmaxMixer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        norm_query: Tensor,
        norm_key: Tensor,
        gate: Tensor | None,
        cos: Tensor | None,
        sin: Tensor | None,
        key_mask: Tensor | None,
        visible: Tensor | None,
        eps: float,
    ) -> Tensor:
        batch, length, heads, width = query.shape
        gate = None if gate is None else gate.contiguous()
        weights = [t.float().contiguous() for t in (norm_query, norm_key)]
        tables = [None if t is None else t.float().contiguous() for t in (cos, sin)]
        masks = [None if t is None else t.to(torch.bool).contiguous() for t in (key_mask, visible)]
        frames = 1 if visible is None else visible.shape[0]
        ctx.sizes = (batch, length, key.shape[1], heads, width, query.stride(1), key.stride(1), frames, float(eps))
        ctx.dtypes = norm_query.dtype, norm_key.dtype
        ctx.save_for_backward(query, key, value, gate, *weights, *tables, *masks)
        out = query.new_empty(batch, length, heads * width)
        call(
            f"softmax_mixer_forward_{suffix(query)}",
            query,
            key,
            value,
            gate,
            *weights,
            *tables,
            *masks,
            out,
            *ctx.sizes,
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        query, key, value, gate = saved[:4]
        grad_query = _empty_like_rows(query, query.stride(1))
        grad_key, grad_value = (_empty_like_rows(t, key.stride(1)) for t in (key, value))
        grad_gate = None if gate is None else torch.empty_like(gate)
        grad_norms = torch.zeros(2, query.shape[-1])
        call(
            f"softmax_mixer_backward_{suffix(query)}",
            *(grads[0].contiguous(), *saved, grad_query, grad_key, grad_value, grad_gate, *grad_norms, *ctx.sizes),
        )
        weights = [g.to(dtype) for g, dtype in zip(grad_norms, ctx.dtypes, strict=True)]
        return grad_query, grad_key, grad_value, *weights, grad_gate, None, None, None, None, None
