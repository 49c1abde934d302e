"""Mixture of experts in plain PyTorch: a loop over experts, and a sorted grouped product.

Shapes: T tokens, D width, E experts, H hidden width of an expert, k chosen experts, M = T * k routed tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def route_reference(router_logits: Tensor, bias: Tensor | None, top_k: int) -> tuple[Tensor, Tensor]:
    scores = torch.sigmoid(router_logits.to(torch.promote_types(router_logits.dtype, torch.float32)))
    choice = scores.detach() if bias is None else scores.detach() + bias
    expert_indices = choice.topk(top_k, dim=-1).indices  # [T, k]
    # A product with the one-hot choice instead of a gather: its backward needs no scatter.
    chosen = expert_indices[..., None] == torch.arange(scores.shape[1], device=scores.device)  # [T, k, E]
    weights = (scores[:, None] * chosen).sum(-1)
    # The sum of sigmoids can underflow only for logits below -80.
    return expert_indices, weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)


def tokens_per_expert_reference(expert_indices: Tensor, num_experts: int) -> Tensor:
    return (expert_indices.flatten()[:, None] == torch.arange(num_experts, device=expert_indices.device)).sum(0)


def experts_loop(x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor) -> Tensor:
    """Expert after expert over its own tokens; choice after choice in the sum."""
    num_choices = expert_indices.shape[1]
    parts = [x.new_zeros(x.shape) for _ in range(num_choices)]
    for expert in range(w_in.shape[0]):
        for choice in range(num_choices):
            rows = (expert_indices[:, choice] == expert).nonzero()[:, 0]
            parts[choice] = parts[choice].index_copy(0, rows, swiglu_reference(x[rows] @ w_in[expert]) @ w_out[expert])
    out = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    for choice in range(num_choices):
        out = out + parts[choice] * expert_weights[:, choice, None]
    return out.to(x.dtype)


def experts_grouped(x: Tensor, w_in: Tensor, w_out: Tensor, expert_indices: Tensor, expert_weights: Tensor) -> Tensor:
    """Tokens sorted by expert, then one grouped matrix product per weight."""
    num_tokens, num_choices = expert_indices.shape
    flat = expert_indices.flatten()
    order = torch.sort(flat, stable=True).indices  # [M], routed token at each sorted place
    # [T, k], sorted place of each choice
    place = torch.empty_like(order).scatter(0, order, torch.arange(order.shape[0], device=x.device))
    place = place.view(num_tokens, num_choices)
    offsets = tokens_per_expert_reference(expert_indices, w_in.shape[0]).cumsum(0).to(torch.int32)  # [E]
    routed = _Dispatch.apply(x, order // num_choices, place)  # [M, D]
    # PyTorch's own operator tells torch.compile that it takes bfloat16 only.
    product = torch.ops.videogen.grouped_mm if torch.compiler.is_compiling() else _grouped_mm
    hidden = swiglu_reference(product(routed, w_in, offsets))  # [M, H]
    outputs = product(hidden, w_out, offsets)  # [M, D]
    return _Combine.apply(outputs, expert_weights, order, place)


def _grouped_mm(rows: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Rows [M, D] sorted by expert, times the weight [E, D, N] of their expert: [M, N]."""
    return F.grouped_mm(rows, weight, offs=offsets)


_compiled_grouped_mm = torch.library.custom_op(
    "videogen::grouped_mm",
    _grouped_mm,
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor offsets) -> Tensor",
)
_compiled_grouped_mm.register_fake(lambda rows, weight, offsets: rows.new_empty(rows.shape[0], weight.shape[2]))


@torch.library.custom_op(
    "videogen::grouped_mm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor rows, Tensor weight, Tensor offsets) -> (Tensor, Tensor)",
)
def _grouped_mm_backward(grad: Tensor, rows: Tensor, weight: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    grad_rows = F.grouped_mm(grad, weight.transpose(1, 2), offs=offsets)
    return grad_rows, F.grouped_mm(rows.contiguous().T, grad, offs=offsets)


@_grouped_mm_backward.register_fake
def _(grad: Tensor, rows: Tensor, weight: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), weight.new_empty(weight.shape)


_compiled_grouped_mm.register_autograd(
    lambda ctx, grad: (*torch.ops.videogen.grouped_mm_backward(grad, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def swiglu_reference(hidden: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler fuses by itself, and takes no `out=`
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _SwiGLU.apply(hidden)


class _SwiGLU(torch.autograd.Function):
    """silu of the first half times the second; backward writes both halves of the gradient in place."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        gate, up = hidden.chunk(2, dim=-1)
        out = torch.empty_like(hidden)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grads[0], F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return out


class _Dispatch(torch.autograd.Function):
    """[T, D] -> [M, D] copies of the tokens in sorted order; backward gathers and adds in the order of choice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        grad = grads[0]
        wide = torch.promote_types(grad.dtype, torch.float32)
        out = grad[place[:, 0]].to(wide)
        for choice in range(1, place.shape[1]):
            out = out + grad[place[:, choice]]
        return out.to(grad.dtype), None, None


class _Combine(torch.autograd.Function):
    """[M, D] sorted outputs -> [T, D], weighted, added in the order of choice; backward is a gather too."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, expert_weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(outputs, expert_weights, order, place)
        wide = torch.promote_types(outputs.dtype, torch.float32)
        out = outputs[place[:, 0]].to(wide) * expert_weights[:, 0, None]
        for choice in range(1, place.shape[1]):
            out = out + outputs[place[:, choice]] * expert_weights[:, choice, None]
        return out.to(outputs.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        outputs, expert_weights, order, place = ctx.saved_tensors
        wide = torch.promote_types(outputs.dtype, torch.float32)
        grad = grads[0]
        token = order // place.shape[1]  # [M]
        grad_outputs = (grad[token].to(wide) * expert_weights.flatten()[order][:, None]).to(outputs.dtype)
        grad_weights = torch.stack(
            [(grad.to(wide) * outputs[place[:, choice]]).sum(-1) for choice in range(place.shape[1])], dim=1
        )
        return grad_outputs, grad_weights.to(expert_weights.dtype), None, None


def load_balancing_loss_reference(router_logits: Tensor, expert_indices: Tensor) -> Tensor:
    num_experts = router_logits.shape[1]
    scores = torch.sigmoid(router_logits.float())
    share = (scores / scores.sum(-1, keepdim=True)).mean(0)  # [E]
    load = tokens_per_expert_reference(expert_indices, num_experts) / expert_indices.numel()
    return num_experts * (share * load).sum()


def router_z_loss_reference(router_logits: Tensor) -> Tensor:
    return torch.logsumexp(router_logits.float(), dim=-1).square().mean()
