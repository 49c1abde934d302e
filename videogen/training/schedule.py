"""Learning rates: warm-up and decay by steps, and time boxes for a run that ends by the clock, its rate falling to zero there."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist


def lr_scale(
    step: int, warmup_steps: int = 0, decay_start: int | None = None, decay_steps: int = 1, final_ratio: float = 0.0
) -> float:
    """Factor on the learning rate of optimiser step `step` (from 0): linear warm-up, constant, linear decay.

    Args:
        step: number of the step.
        warmup_steps: the last of these is the first with the whole rate.
        decay_start: first step of the decay; `None` for no decay.
        decay_steps: the last of these has `final_ratio`, and so has every step after.
        final_ratio: of the whole rate.
    """
    scale = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if decay_start is not None and step >= decay_start:
        scale *= 1.0 - (1.0 - final_ratio) * min(1.0, (step + 1 - decay_start) / decay_steps)
    return scale


class TimeBox:
    """How long a call of a trainer may take, and when its learning rate falls.

    The clock starts with the first call of `start`, or the first look at it. In a data-parallel run the processes stop at the
    same step, with the same rates.

    Args:
        max_minutes: until the run must stop; infinite for no limit.
        decay_minutes: over the last so many minutes the learning rate falls linearly to 0; 0 for not at all.
        spent_minutes: what the run had in earlier calls.
        more_minutes: what it will have in later ones; the decay ends after those. A run that is cut into calls then has the
            learning rates of one that is not.

    Raises:
        ValueError: a time below 0 or not a number, or a decay longer than the whole run.
    """

    def __init__(
        self,
        max_minutes: float = math.inf,
        decay_minutes: float = 0.0,
        spent_minutes: float = 0.0,
        more_minutes: float = 0.0,
    ):
        if not max_minutes >= 0:
            raise ValueError(f"`max_minutes` must be at least 0, got {max_minutes:g}.")
        for name, value in (("spent_minutes", spent_minutes), ("more_minutes", more_minutes)):
            if not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be at least 0 and finite, got {value:g}.")
        whole = spent_minutes + max_minutes + more_minutes
        if not 0 <= decay_minutes < math.inf or decay_minutes > whole + 1e-6:  # sums are rounded
            raise ValueError(
                f"`decay_minutes` must be at least 0 and at most `max_minutes`, got {decay_minutes:g} and {whole:g}."
            )
        if decay_minutes and math.isinf(max_minutes):
            raise ValueError("`decay_minutes` needs `max_minutes`: the decay ends with the time.")
        self.max_minutes, self.decay_minutes, self.more_minutes = max_minutes, decay_minutes, more_minutes
        self._start: float | None = None

    def start(self) -> TimeBox:
        """Starts the clock if it does not run yet."""
        if self._start is None:
            self._start = time.monotonic()
        return self

    @property
    def minutes(self) -> float:
        """Since the start."""
        self.start()
        assert self._start is not None
        return (time.monotonic() - self._start) / 60

    @property
    def minutes_left(self) -> float:
        """Of this call; not below 0."""
        return max(0.0, self.max_minutes - self.minutes)

    def scale(self) -> float:
        """Factor on the learning rate now: 1 before the decay, 0 at its end."""
        if not self.decay_minutes:
            return 1.0
        return max(0.0, min(1.0, (self.max_minutes + self.more_minutes - self.minutes) / self.decay_minutes))

    def look(self, stop: bool = False, device: torch.device | None = None) -> tuple[float, bool]:
        """`scale()`, and whether to stop: the time is up, or `stop` holds on any process.

        Args:
            stop: this process wants to (a signal came).
            device: on which processes talk; not needed by one alone.
        """
        scale, stop = self.scale(), stop or self.minutes >= self.max_minutes
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return scale, stop
        # The smallest scale and the earliest stop count on every process.
        shared = torch.tensor([-scale, float(stop)], dtype=torch.float64, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        scale, stop = -float(shared[0]), bool(shared[1])
        return scale, stop
