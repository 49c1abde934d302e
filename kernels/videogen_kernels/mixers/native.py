"""The mixers through the compiled CPU operators. Nothing but the inputs is kept for backward, which recomputes the rest.

Shapes: B batch, L query tokens, S key tokens, N heads, K width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videogen_kernels.native import call, suffix
from videogen_kernels.rotary.reference import table_stride


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


def attention_native(
    queries: Tensor,
    key_value: Tensor | None,
    norm_query: Tensor,
    norm_key: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    gate: Tensor | None,
    key_mask: Tensor | None,
    visible: Tensor | None,
    eps: float,
) -> Tensor:
    """Self-attention of `queries` [B, L, 3, N, K], or with `key_value` [B, S, 2, N, K] cross-attention of [B, L, N, K]."""
    return _Attention.apply(queries, key_value, norm_query, norm_key, cos, sin, gate, key_mask, visible, eps)


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
        ctx.sizes = (batch, *grid, heads, width, table_stride(cos), float(eps))
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
        grad_norms = torch.zeros(3, width, dtype=torch.float32, device=qkvg.device)
        grad_filters = torch.zeros(heads, 9, width, dtype=torch.float32, device=qkvg.device)
        call(
            f"linear_mixer_backward_{suffix(qkvg)}",
            *(grads[0].contiguous(), *saved, grad_qkvg, grad_gate, *grad_norms, grad_filters, *ctx.sizes),
        )
        grad_conv = grad_filters.transpose(1, 2).reshape(heads * width, 1, 3, 3)
        weights = [g.to(dtype) for g, dtype in zip((*grad_norms, grad_conv), ctx.dtypes, strict=True)]
        return grad_qkvg, grad_gate, *weights, None, None, None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        key_value: Tensor | None,
        norm_query: Tensor,
        norm_key: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        gate: Tensor | None,
        key_mask: Tensor | None,
        visible: Tensor | None,
        eps: float,
    ) -> Tensor:
        batch, length = queries.shape[:2]
        heads, width = queries.shape[-2:]
        queries = queries.contiguous()
        key_value = None if key_value is None else key_value.contiguous()
        gate = None if gate is None else gate.contiguous()
        weights = [t.float().contiguous() for t in (norm_query, norm_key)]
        tables = [None if t is None else t.float().contiguous() for t in (cos, sin)]
        masks = [None if t is None else t.contiguous() for t in (key_mask, visible)]
        # From shapes: the stride of an axis of one means nothing.
        rows = tuple(math.prod(t.shape[2:]) for t in (queries, queries if key_value is None else key_value))
        num_keys = length if key_value is None else key_value.shape[1]
        frames = 1 if visible is None else visible.shape[0]
        ctx.sizes = (batch, length, num_keys, heads, width, *rows, frames, table_stride(cos), float(eps))
        ctx.dtypes = norm_query.dtype, norm_key.dtype
        ctx.save_for_backward(queries, key_value, gate, *weights, *tables, *masks)
        out = queries.new_empty(batch, length, heads * width)
        parts = _query_key_value(queries, key_value)
        call(f"softmax_mixer_forward_{suffix(out)}", *parts, gate, *weights, *tables, *masks, out, *ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, key_value, gate, *rest = ctx.saved_tensors
        grad_queries = torch.empty_like(queries)
        grad_key_value = None if key_value is None else torch.empty_like(key_value)
        grad_gate = None if gate is None else torch.empty_like(gate)
        grad_norms = torch.zeros(2, queries.shape[-1], dtype=torch.float32, device=queries.device)
        parts, grad_parts = _query_key_value(queries, key_value), _query_key_value(grad_queries, grad_key_value)
        call(
            f"softmax_mixer_backward_{suffix(queries)}",
            *(grads[0].contiguous(), *parts, gate, *rest, *grad_parts, grad_gate, *grad_norms, *ctx.sizes),
        )
        weights = [g.to(dtype) for g, dtype in zip(grad_norms, ctx.dtypes, strict=True)]
        return grad_queries, grad_key_value, *weights, None, None, grad_gate, None, None, None


def _query_key_value(queries: Tensor, key_value: Tensor | None) -> tuple[Tensor, ...]:
    """Views whose first elements are where query, key and value start."""
    return queries.unbind(2) if key_value is None else (queries, *key_value.unbind(2))
