"""Routing, SwiGLU and the chosen experts through the compiled CPU operators; the products stay with PyTorch.

Shapes: T tokens, D width, E experts, H hidden width of an expert, k chosen experts, M = T * k routed tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videogen_kernels.native import call, suffix


def route_native(router_logits: Tensor, bias: Tensor | None, top_k: int) -> tuple[Tensor, Tensor]:
    return _Route.apply(router_logits.float(), bias, top_k)


def router_logits_native(x: Tensor, weight: Tensor) -> Tensor:
    return _RouterLogits.apply(x, weight)


def swiglu_native(hidden: Tensor) -> Tensor:
    return _SwiGLU.apply(hidden)


def experts_native(x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor) -> Tensor:
    return _Experts.apply(x, w_in, w_out, expert_indices, expert_weights)


#: Rows of an expert are padded with zeros to a multiple of this: PyTorch's CPU products compile code for every new shape,
#: which takes longer than the product itself.
_BLOCK = 64


class _RouterLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        logits = weight.new_empty(x.shape[0], weight.shape[0])
        call(f"router_forward_{suffix(x)}", x, weight, logits, *x.shape, weight.shape[0])
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        call(
            f"router_backward_{suffix(x)}",
            *(grads[0].contiguous(), x, weight, grad_x, grad_weight, *x.shape, weight.shape[0]),
        )
        return grad_x, grad_weight


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor | None, top_k: int) -> tuple[Tensor, Tensor]:
        logits = logits.contiguous()
        num_tokens, num_experts = logits.shape
        indices = torch.empty(num_tokens, top_k, dtype=torch.int64, device=logits.device)
        weights = torch.empty(num_tokens, top_k, dtype=torch.float32, device=logits.device)
        bias = None if bias is None else bias.float().contiguous()
        call("route_forward_f", logits, bias, indices, weights, num_tokens, num_experts, top_k)
        ctx.save_for_backward(logits, indices, weights)
        ctx.mark_non_differentiable(indices)
        return indices, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, indices, weights = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        call(
            "route_backward_f",
            *(grads[1].contiguous(), logits, indices, weights, grad_logits, *logits.shape, indices.shape[1]),
        )
        return grad_logits, None, None


def _swiglu(hidden: Tensor) -> Tensor:
    half = hidden.shape[-1] // 2
    out = hidden.new_empty(*hidden.shape[:-1], half)
    call(f"swiglu_forward_{suffix(hidden)}", hidden, out, out.numel() // max(half, 1), half)
    return out


def _swiglu_backward(grad: Tensor, hidden: Tensor) -> Tensor:
    out = torch.empty_like(hidden)
    half = hidden.shape[-1] // 2
    call(f"swiglu_backward_{suffix(hidden)}", grad, hidden, out, grad.numel() // max(half, 1), half)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        hidden = hidden.contiguous()
        ctx.save_for_backward(hidden)
        return _swiglu(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        return _swiglu_backward(grads[0].contiguous(), hidden)


class _Experts(torch.autograd.Function):
    """Rows sorted by expert, two products per expert, rows weighted and added in the order of choice."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor
    ) -> Tensor:
        num_tokens, top_k = expert_indices.shape
        num_experts, width, double_hidden = w_in.shape
        x, expert_indices = x.contiguous(), expert_indices.contiguous()
        weights = expert_weights.float().contiguous()
        place = torch.empty_like(expert_indices)
        ends = torch.empty(num_experts, dtype=torch.int64, device=x.device)
        call(
            "sort_choices_f",
            expert_indices,
            place,
            ends,
            place.numel(),
            num_experts,
            _BLOCK if place.numel() > _BLOCK else 1,
        )
        counts = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
        letter = suffix(x)

        routed = x.new_zeros(sum(counts), width)
        call(f"dispatch_{letter}", x, place, routed, num_tokens, top_k, width)
        hidden = x.new_empty(sum(counts), double_hidden)
        for rows, w, result in zip(routed.split(counts), w_in, hidden.split(counts), strict=True):
            torch.mm(rows, w, out=result)
        acted = _swiglu(hidden)
        outputs = torch.empty_like(routed)
        for rows, w, result in zip(acted.split(counts), w_out, outputs.split(counts), strict=True):
            torch.mm(rows, w, out=result)
        out = torch.empty_like(x)
        call(f"combine_{letter}", outputs, weights, place, out, num_tokens, top_k, width)
        ctx.save_for_backward(w_in, w_out, weights, place, routed, hidden, acted, outputs)
        ctx.counts, ctx.weights_dtype = counts, expert_weights.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, Tensor]:
        w_in, w_out, weights, place, routed, hidden, acted, outputs = ctx.saved_tensors
        grad = grads[0].contiguous()
        sizes = (*place.shape, routed.shape[1])
        letter = suffix(routed)
        grad_outputs, grad_weights = torch.zeros_like(outputs), torch.empty_like(weights)
        call(f"combine_backward_{letter}", grad, outputs, weights, place, grad_outputs, grad_weights, *sizes)

        grad_acted, grad_routed = torch.empty_like(acted), torch.empty_like(routed)
        grad_w_in, grad_w_out = torch.zeros_like(w_in), torch.zeros_like(w_out)
        by_expert = [t.split(ctx.counts) for t in (grad_outputs, acted, grad_acted)]
        for expert, (grad_rows, rows, result) in enumerate(zip(*by_expert, strict=True)):
            torch.mm(grad_rows, w_out[expert].T, out=result)
            torch.mm(rows.T, grad_rows, out=grad_w_out[expert])
        grad_hidden = _swiglu_backward(grad_acted, hidden)
        by_expert = [t.split(ctx.counts) for t in (grad_hidden, routed, grad_routed)]
        for expert, (grad_rows, rows, result) in enumerate(zip(*by_expert, strict=True)):
            torch.mm(grad_rows, w_in[expert].T, out=result)
            torch.mm(rows.T, grad_rows, out=grad_w_in[expert])
        grad_x = grad.new_empty(sizes[0], sizes[2])
        call(f"combine_{letter}", grad_routed, None, place, grad_x, *sizes)
        return grad_x, grad_w_in, grad_w_out, None, grad_weights.to(ctx.weights_dtype)
