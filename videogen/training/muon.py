"""Muon: momentum whose matrix updates are orthogonalised, batched over equal shapes and over expert stacks.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/) with the scale of Liu et al. 2025 (arXiv:2502.16982,
eq. 4): an update has the root mean square of an AdamW update, so both optimisers share one learning rate.
`torch.optim.Muon` takes 2-D parameters only; here a 3-D parameter `[E, rows, columns]` is a stack of E matrices (the
experts of a layer), each orthogonalised on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videogen.data.device import bfloat16_pays

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of the iteration: they maximise the slope at zero and leave singular values near 1."""

ADAMW_NAMES = (
    "embed",
    "norm",
    "router",
    "head",
    "table",
    "modulation",
    "bias",
    "proj_out",
    "proj_in",
    "patch",
    "position",
)
"""A matrix whose name contains one of these is no hidden matrix and goes to AdamW."""


def orthogonalize(matrices: Tensor, num_steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end within about 0.7 to 1.2.

    Args:
        matrices: `[M, rows, columns]`; a zero matrix stays zero.
        num_steps: Newton-Schulz iterations.
        dtype: of the matrix products; None = bfloat16, which is enough, where it is faster than float32.

    Returns:
        `[M, rows, columns]` in `dtype`.
    """
    if dtype is None:
        dtype = torch.bfloat16 if bfloat16_pays(matrices.device.type) else torch.float32
    a, b, c = NEWTON_SCHULZ
    transpose = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if transpose else matrices
    # Contiguous: products of transposed stacks cost a fifth more on a CPU.
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(dtype).contiguous()
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if transpose else x


class Muon(torch.optim.Optimizer):
    """Muon for 2-D parameters and for stacks of matrices `[E, rows, columns]`.

    Args:
        params: parameters of 2 or 3 dimensions.
        lr: shared with AdamW, see the module.
        momentum: Nesterov momentum.
        weight_decay: decoupled.
        num_steps: Newton-Schulz iterations.

    Raises:
        ValueError: a parameter has another number of dimensions.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        num_steps: int = 5,
    ):
        params = list(params)
        for param in params:
            if param.ndim not in (2, 3):
                raise ValueError(f"`params` must be matrices or stacks of matrices, got the shape {list(param.shape)}.")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "num_steps": num_steps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    self.state[param]["momentum"] = torch.zeros_like(param)
            grads = [param.grad for param in params]
            momenta = [self.state[param]["momentum"] for param in params]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(grads, momenta, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])

            for param, update in zip(params, self._updates(list(nesterov), group["num_steps"]), strict=True):
                rows, columns = param.shape[-2:]
                param.add_(update, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)
        return loss

    @staticmethod
    def _updates(momenta: list[Tensor], num_steps: int) -> list[Tensor]:
        """Orthogonalised momenta. Processes of a data-parallel run share the work and end with equal results."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        costs = [momentum.numel() * min(momentum.shape[-2:]) for momentum in momenta]
        loads, mine = [0] * world, []
        for index in sorted(range(len(momenta)), key=lambda i: -costs[i]):
            owner = loads.index(min(loads))
            loads[owner] += costs[index]
            if owner == rank:
                mine.append(index)

        by_shape: dict[tuple[int, int], list[int]] = {}
        for index in mine:
            rows, columns = momenta[index].shape[-2:]
            by_shape.setdefault((rows, columns), []).append(index)
        flat = momenta[0].new_zeros(sum(momentum.numel() for momentum in momenta))
        updates = [
            part.view_as(momentum)
            for part, momentum in zip(flat.split([m.numel() for m in momenta]), momenta, strict=True)
        ]
        for (rows, columns), members in by_shape.items():
            stacked = torch.cat([momenta[i].reshape(-1, rows, columns) for i in members])
            chunks = orthogonalize(stacked, num_steps).split([momenta[i].numel() // (rows * columns) for i in members])
            for i, chunk in zip(members, chunks, strict=True):
                updates[i].copy_(chunk.view_as(updates[i]))
        if world > 1:
            dist.all_reduce(flat)
        return updates


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for (Muon, AdamW with weight decay, AdamW without), each in the order of `named_parameters`.

    Muon takes hidden matrices and expert stacks. Embeddings, convolutions, the router, the first projection and the
    head go to AdamW; vectors, norms, biases and tables go there without weight decay.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        special = id(param) in embeddings or any(word in name for word in ADAMW_NAMES)
        if param.ndim in (2, 3) and not special and min(param.shape[-2:]) > 1:
            hidden.append(param)
        elif param.ndim >= 2 and not any(word in name for word in ("norm", "modulation", "table", "bias", "embed")):
            decayed.append(param)
        else:
            plain.append(param)
    return hidden, decayed, plain
