"""What a run writes down: JSON lines, a progress line, a plot."""

from __future__ import annotations

import json
import math
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

QUARTERS = 4


class LossMeter:
    """Averages losses per task and per quarter of the noise range between two reports."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._added: list[tuple[str, Tensor, Tensor]] = []

    def add(self, task: str, per_item: Tensor, sigmas: Tensor) -> None:
        """Losses and noise levels of a micro-batch, `[B]` each, on any device: they are read when the means are asked for."""
        self._added.append((task, per_item, sigmas))

    def means(self) -> dict[str, float]:
        values: dict[str, list[float]] = defaultdict(list)
        for task, per_item, sigmas in self._added:
            for loss, sigma in zip(per_item.tolist(), sigmas.tolist(), strict=True):
                values[f"loss_{task}"].append(loss)
                values[f"loss_quarter_{min(QUARTERS - 1, int(sigma * QUARTERS)) + 1}"].append(loss)
        return {key: sum(values[key]) / len(values[key]) for key in sorted(values)}


class MetricsFile:
    """JSON lines that survive a crash: on resume, lines after the checkpoint are cut off.

    Args:
        path: of the file.
        step: the step resumed from; 0 starts afresh.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = []
        if path.is_file() and step > 0:
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        lines.append(line)
                except (json.JSONDecodeError, KeyError):
                    continue  # the line that was being written when the run was killed
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


class Progress:
    """Clips per second over the recent past, and the time left."""

    def __init__(self, step: int, last_step: int):
        self.last_step = last_step
        self.start = self.mark = time.monotonic()
        self.mark_step = step
        self.clips = 0

    def report(self, step: int) -> tuple[float, float]:
        """(clips per second, seconds left) since the last report."""
        now = time.monotonic()
        elapsed = max(now - self.mark, 1e-9)
        rate, per_step = self.clips / elapsed, elapsed / max(1, step - self.mark_step)
        self.mark, self.mark_step, self.clips = now, step, 0
        return rate, per_step * max(0, self.last_step - step)


def duration(seconds: float) -> str:
    """Seconds as `1h02m` or `3m20s`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


VIDEO_PLOTS: dict[str, tuple[str, ...]] = {
    "loss": (r"loss", r"loss_(?!quarter).*", r"validation_loss"),
    "loss by quarter of the noise range": (r".*quarter_\d",),
    "gradient norm and learning rate (x 1000)": ("grad_norm", "lr"),
    "expert load: least and most over mean": ("expert_load_min", "expert_load_max"),
}
TOKENIZER_PLOTS: dict[str, tuple[str, ...]] = {
    "loss and its parts": ("loss", "l1", "mse", "bands", "penalty", "smoothness"),
    "PSNR in dB": ("psnr_.*",),
    "gradient norm and learning rate (x 1000)": ("gradient_norm", "learning_rate"),
    "clips per second": ("clips_per_second",),
}
"""Title of a plot -> patterns of the numbers it shows."""


def plot_metrics(records: list[dict[str, Any]], path: Path, plots: dict[str, tuple[str, ...]]) -> None:
    """A run's numbers over its steps, as a PNG of four plots.

    Args:
        records: lines of the metrics file.
        path: to write.
        plots: `VIDEO_PLOTS` or `TOKENIZER_PLOTS`.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'videogen-moe[train]'") from error
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8))
    names = sorted({key for record in records for key, value in record.items() if isinstance(value, float)})
    for axis, (title, patterns) in zip(axes.flat, plots.items(), strict=True):
        for key in names:
            if not any(re.fullmatch(pattern, key) for pattern in patterns):
                continue
            points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
            scale = 1000 if key in ("lr", "learning_rate") else 1
            axis.plot([x for x, _ in points], [y * scale for _, y in points], label=key, linewidth=1)
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
