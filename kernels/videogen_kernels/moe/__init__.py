"""Token-choice mixture of experts: routing, and the dropless computation of the chosen experts.

The router's scores are sigmoids; a bias that balances the load takes part in the choice and not in the weight
(DeepSeek-V3, arXiv 2412.19437, section 2.1.2). No token is ever dropped and nothing depends on what else is in the
batch. The outputs of a token's experts are added in the order of its choice, without atomics, forward and backward.

Backends: "reference" is PyTorch, for `experts` a loop over them; "grouped_mm" sorts the tokens by expert and does all experts
in one `torch.nn.functional.grouped_mm` per weight; "native" moves and activates rows in compiled C++ (see
`videogen_kernels.native`) between one product per expert and weight; "triton" does gather, SwiGLU and scatter inside its
grouped products (`kernel.py`). "auto" takes, of those that can run, "triton" for CUDA tensors, "native" for CPU ones,
"grouped_mm", "reference".

Shapes: T tokens, D width, E experts, H hidden width of an expert, k chosen experts, M = T * k routed tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import announce, check_backend, choose_native, choose_triton
from videogen_kernels.moe.native import experts_native, route_native, router_logits_native, swiglu_native
from videogen_kernels.moe.reference import (
    experts_grouped,
    experts_loop,
    load_balancing_loss_reference,
    route_reference,
    router_z_loss_reference,
    swiglu_reference,
    tokens_per_expert_reference,
)
from videogen_kernels.native import runnable

__all__ = ["experts", "load_balancing_loss", "route", "router_logits", "router_z_loss", "swiglu", "tokens_per_expert"]

Backend = Literal["auto", "reference", "grouped_mm", "native", "triton"]
SimpleBackend = Literal["auto", "reference", "native"]
SwiGLUBackend = Literal["auto", "reference", "native", "triton"]


def router_logits(x: Tensor, weight: Tensor, backend: SimpleBackend = "auto") -> Tensor:
    """`x weight^T`, computed in float32 whatever autocast says: a rounded score would choose another expert.

    Args:
        x: [T, D].
        weight: [E, D] float32 or float64.

    Returns:
        [T, E] in the dtype of `weight`.

    Raises:
        ValueError: widths that differ.
    """
    check_backend("moe.router_logits", backend, ("reference", "native"))
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"`weight` must be [E, D] for an `x` [T, D], got {list(weight.shape)} for an `x` of {list(x.shape)}."
        )
    can_run = weight.dtype == torch.float32 and runnable(x, weight)
    native = choose_native("moe.router_logits", backend, can_run)
    announce("moe.router_logits", "native" if native else "reference")
    if native:
        return router_logits_native(x, weight)
    with torch.autocast(x.device.type, enabled=False):
        return torch.nn.functional.linear(x.to(weight.dtype), weight)


def route(
    router_logits: Tensor, bias: Tensor | None, top_k: int, backend: SimpleBackend = "auto"
) -> tuple[Tensor, Tensor]:
    """Chooses `top_k` experts for every token.

    Args:
        router_logits: [T, E], made float32 if it is not.
        bias: [E] float32, added to the sigmoid scores for the choice only; None = no bias.
        top_k: experts per token, 1..E.

    Returns:
        `expert_indices` [T, k] int64, best first (of equal scores any, but always the same on one machine), and
        `expert_weights` [T, k] float32: the scores without the bias, divided by their sum.

    Raises:
        ValueError: `top_k` outside 1..E, or shapes that do not agree.
    """
    check_backend("moe.route", backend, ("reference", "native"))
    if router_logits.ndim != 2:
        raise ValueError(f"`router_logits` must be [T, E], got {list(router_logits.shape)}.")
    num_experts = router_logits.shape[1]
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"`top_k` must lie in 1..{num_experts} (the number of experts), got {top_k}.")
    if bias is not None and bias.shape != (num_experts,):
        raise ValueError(f"`bias` must be [E] = [{num_experts}], got {list(bias.shape)}.")
    native = choose_native("moe.route", backend, runnable(router_logits))
    announce("moe.route", "native" if native else "reference")
    return (route_native if native else route_reference)(router_logits, bias, top_k)


def experts(
    x: Tensor,
    w_in: Tensor,
    w_out: Tensor,
    expert_indices: Tensor,
    expert_weights: Tensor,
    backend: Backend = "auto",
) -> Tensor:
    """The weighted sum of each token's chosen SwiGLU experts, `(silu(x w_gate) * (x w_up)) w_out`.

    Args:
        x: [T, D], at least one token.
        w_in: [E, D, 2H], the gate's half first.
        w_out: [E, H, D].
        expert_indices: [T, k] int64, each in 0..E-1 (not checked: on a device that would wait for it).
        expert_weights: [T, k].
        backend: see the package.

    Returns:
        [T, D] in the dtype of `x`. Under autocast the products are taken in autocast's dtype. An expert without tokens
        contributes nothing and gets a gradient of 0.

    Raises:
        ValueError: shapes that do not agree, zero tokens, or a backend that cannot run.
        TypeError: indices that are not int64, or anything else that is not of a floating dtype.
    """
    check_backend("moe.experts", backend, ("reference", "grouped_mm", "native", "triton"))
    if w_in.ndim != 3 or 0 in w_in.shape:
        raise ValueError(f"`w_in` must be [E, D, 2H] with at least one expert, got {list(w_in.shape)}.")
    num_experts, width, double_hidden = w_in.shape
    if x.ndim != 2 or x.shape[1] != width or x.shape[0] == 0:
        raise ValueError(
            f"`x` must be [T, D] with at least one token and D = {width} as in `w_in`, got {list(x.shape)}; flatten batch "
            "and tokens into one axis."
        )
    if w_out.shape != (num_experts, double_hidden // 2, width) or double_hidden % 2:
        raise ValueError(
            f"`w_out` must be [E, H, D] for a `w_in` [E, D, 2H] of {list(w_in.shape)}, got {list(w_out.shape)}."
        )
    if expert_indices.ndim != 2 or expert_indices.shape[0] != x.shape[0]:
        raise ValueError(f"`expert_indices` must be [T, k] with T = {x.shape[0]}, got {list(expert_indices.shape)}.")
    if expert_weights.shape != expert_indices.shape:
        raise ValueError(
            f"`expert_weights` must have the shape of `expert_indices` {list(expert_indices.shape)}, got "
            f"{list(expert_weights.shape)}."
        )
    if expert_indices.dtype != torch.int64:
        raise TypeError(f"`expert_indices` must be int64, got {expert_indices.dtype}; convert it with .long().")
    for name, tensor in (("x", x), ("w_in", w_in), ("w_out", w_out), ("expert_weights", expert_weights)):
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"`{name}` must be of a floating dtype, got {tensor.dtype}; convert it with .float().")
    device_type = x.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
    # The grouped product wants rows that are multiples of 16 bytes and has no float64.
    aligned = all(n * dtype.itemsize % 16 == 0 for n in (width, double_hidden // 2))
    groupable = dtype != torch.float64 and aligned
    if backend == "grouped_mm" and not groupable:
        raise ValueError(
            f"`backend` 'grouped_mm' needs a 16- or 32-bit dtype and rows that are multiples of 16 bytes, got {dtype} with "
            f"widths {width} and {double_hidden // 2}; use 'reference'."
        )
    on_native = runnable(x) and dtype in (torch.float32, torch.bfloat16)
    unsupported = None if dtype != torch.float64 else f"needs float32, bfloat16 or float16, got {dtype}"
    if choose_triton("moe.experts", backend, (x, w_in, w_out, expert_indices, expert_weights), unsupported):
        from videogen_kernels.moe.kernel import experts_triton

        chosen, function = "triton", experts_triton
    elif choose_native("moe.experts", backend, on_native):
        chosen, function = "native", experts_native
    elif backend == "reference" or not groupable:
        chosen, function = "reference", experts_loop
    else:
        chosen, function = "grouped_mm", experts_grouped
    announce("moe.experts", chosen)
    with torch.autocast(device_type, enabled=False):
        out = function(x.to(dtype), w_in.to(dtype), w_out.to(dtype), expert_indices, expert_weights)
    return out.to(x.dtype)


def swiglu(hidden: Tensor, backend: SwiGLUBackend = "auto") -> Tensor:
    """`silu(gate) * up` for the two halves of the last axis: [..., 2H] -> [..., H] (Shazeer 2020, arXiv 2002.05202).

    Raises:
        ValueError: a last axis of odd length, or a backend that cannot run.
    """
    check_backend("moe.swiglu", backend, ("reference", "native", "triton"))
    if hidden.ndim == 0 or hidden.shape[-1] % 2:
        raise ValueError(f"`hidden` must be [..., 2H], got {list(hidden.shape)}; pass gate and up side by side.")
    if choose_triton("moe.swiglu", backend, (hidden,), None if hidden.numel() else "needs at least one token"):
        announce("moe.swiglu", "triton")
        from videogen_kernels.moe.kernel import swiglu_triton

        return swiglu_triton(hidden)
    native = choose_native("moe.swiglu", backend, runnable(hidden))
    announce("moe.swiglu", "native" if native else "reference")
    return (swiglu_native if native else swiglu_reference)(hidden)


def tokens_per_expert(expert_indices: Tensor, num_experts: int) -> Tensor:
    """How many tokens chose each expert: [T, k] int64 -> [E] int64."""
    return tokens_per_expert_reference(expert_indices, num_experts)


def load_balancing_loss(router_logits: Tensor, expert_indices: Tensor) -> Tensor:
    """`E * sum_e f_e p_e` (Fedus et al. 2021, arXiv 2101.03961, eq. 4) with normalised sigmoid scores as p.

    Args:
        router_logits: [T, E].
        expert_indices: [T, k].

    Returns:
        scalar float32; 1.0 when scores and choices are uniform, up to E when one expert takes all.
    """
    return load_balancing_loss_reference(router_logits, expert_indices)


def router_z_loss(router_logits: Tensor) -> Tensor:
    """Mean square of the log-sum-exp of the logits [T, E] (Zoph et al. 2022, arXiv 2202.08906, eq. 5): scalar float32."""
    return router_z_loss_reference(router_logits)
