"""An exponential moving average of the weights, kept in float32 beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averages a module's parameters; the decay grows with the step (Karras et al. 2024, arXiv:2312.02696, eq. 3).

    Early in a run the average reaches back over a fixed *share* of the steps, so the untrained weights leave it
    quickly; later it is capped.

    Args:
        model: whose trainable parameters are averaged.
        max_decay: cap, 0 to 1.
        power: gamma; 6.94 averages over roughly the last 10 % of the run.
    """

    def __init__(self, model: nn.Module, max_decay: float = 0.9995, power: float = 6.94):
        self.max_decay = max_decay
        self.power = power
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        self.names = [name for name, _ in named]
        self.live: list[Tensor] = [param for _, param in named]
        self.average = [param.detach().float().clone() for param in self.live]

    def decay(self, step: int) -> float:
        """Decay applied after `step` steps (1-based)."""
        return min(self.max_decay, (1 - 1 / (step + 1)) ** (self.power + 1))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the live weights after optimiser step `step` (1-based)."""
        torch._foreach_lerp_(self.average, [param.detach() for param in self.live], 1 - self.decay(step))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within the context the model carries the averaged weights; the live ones come back bit-exactly."""
        saved = [param.detach().clone() for param in self.live]
        torch._foreach_copy_(self.live, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.live, saved)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in zip(self.names, self.average, strict=True):
            tensor.copy_(state[name])
