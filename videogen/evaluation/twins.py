"""Twins of a transformer, compared: the same data and steps with other operators, on the same validation clips and noise.

    python -m videogen.evaluation.twins runs/twins --base shipped --json twins.json --markdown twins.md

A run's folder is called `NAME-SEED`; runs of one name differ in their seed only. Where a run holds `stage.json` (of `videogen evaluate
stage`), its verdicts stand in the table, too. Costs are of one thread, models in turn, so that a busy machine slows all alike.

Shapes: `N` validation clips, `Q` noise levels.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from videogen.diffusion.flow_matching import add_noise, velocity_target
from videogen.evaluation.statistics import clustered_interval, wilson
from videogen.models.text_encoder import TextEncoder
from videogen.models.text_tokenizer import BytePairTokenizer
from videogen.models.transformer import MIN_SIGMA, VideoTransformer
from videogen.planning.counts import transformer_active
from videogen.training.batches import Batch, BatchMaker, tokenize
from videogen.training.config import TrainConfig, load_config
from videogen.training.latent_cache import LatentCache
from videogen.training.trainer import load_vae

LEVELS = 8
"""Noise levels of every clip, evenly spaced."""

TIMED_CLIPS, TIMED_RUNS = 8, 7
_ATTRIBUTES = ("actor", "scene", "light", "motion", "camera", "all")


@dataclass(frozen=True)
class Twin:
    """What is known of one kind of network.

    Attributes:
        name: of its runs.
        parameters, active: of the transformer; active = that take part in one token.
        losses: mean validation loss of each run.
        difference, low, high: of the loss to the base's, paired by clip and seed, with the 95 % interval over clips; 0 for the base. Runs with other seeds
            differ by more than it says.
        forward, step: seconds of an evaluation and of a forward and backward pass of `TIMED_CLIPS` clips, one thread.
        right: share of clips with everything right by attribute, over all runs that were judged, with interval: (share, low, high, n).
    """

    name: str
    parameters: int
    active: int
    losses: tuple[float, ...]
    difference: float
    low: float
    high: float
    forward: float
    step: float
    right: dict[str, tuple[float, float, float, int]]


def find_runs(folder: Path) -> dict[str, dict[int, Path]]:
    """Finished runs by name and seed.

    Raises:
        ValueError: none is there.
    """
    runs: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name, _, seed = path.name.rpartition("-")
        if name and seed.isdecimal() and (path / "weights" / "transformer" / "config.json").is_file():
            runs.setdefault(name, {})[int(seed)] = path
    if not runs:
        raise ValueError(f"`runs` must be a folder of finished runs called NAME-SEED, {str(folder)!r} holds none.")
    return runs


class Ground:
    """What all runs are measured on: the validation clips of one of them, with one noise for each level.

    Args:
        config: of any of the runs; they share data.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        scale = load_vae(config.tokenizer).config.scale_factor_temporal
        maker = BatchMaker(config.model_copy(update={"seed": 0}), LatentCache(config.data), scale)
        self.batch: Batch = maker.validation_batch()
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randn(LEVELS, *self.batch.sample.shape[1:], generator=generator)

    def losses(self, run: Path) -> np.ndarray:
        """Squared error of the velocity `[N, Q]` of a run's weights."""
        return squared_errors(*load_weights(run), self.batch, self.noise, self.config)

    def calls(self, run: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """An evaluation and a forward and backward pass of a run's network on the first clips."""
        transformer, text_encoder, text_tokenizer = load_weights(run)
        ids, mask = tokenize(text_tokenizer, self.batch.captions[:TIMED_CLIPS], self.config)
        frames, sample = self.batch.frames, self.batch.sample[:TIMED_CLIPS]
        with torch.no_grad():
            embeds = text_encoder(ids, mask)
        timestep = torch.full((len(sample), sample.shape[2]), 0.5)

        def evaluate() -> torch.Tensor:
            return transformer(
                sample,
                timestep,
                embeds,
                mask,
                frames.times,
                frames.kinds,
                frames.camera[:TIMED_CLIPS],
                return_dict=False,
            )[0]

        def step() -> None:
            transformer.zero_grad(set_to_none=True)
            evaluate().square().mean().backward()

        return torch.no_grad()(evaluate), step


@torch.no_grad()
def squared_errors(
    transformer: Any, text_encoder: Any, text_tokenizer: Any, batch: Batch, noise: torch.Tensor, config: TrainConfig
) -> np.ndarray:
    """Squared error of the velocity `[N, Q]` on the clips of a batch at Q evenly spaced noise levels.

    Args:
        transformer, text_encoder: what is measured.
        text_tokenizer: of the text encoder.
        batch: N clips, none of whose frames is known.
        noise: `[Q, C, n, h, w]`, the same for every clip.
        config: of the run; says how long a text may be.
    """
    ids, mask = tokenize(text_tokenizer, batch.captions, config)
    embeds = text_encoder(ids, mask)
    frames, sample = batch.frames, batch.sample
    found = torch.empty(len(sample), len(noise))
    for level in range(len(noise)):
        sigmas = torch.full((len(sample),), (level + 0.5) / len(noise))
        same = noise[level].expand_as(sample)
        noisy, timestep = add_noise(sample, same, sigmas, frames.known)
        target = velocity_target(sample, same, sigmas, MIN_SIGMA)
        for start in range(0, len(sample), 32):
            part = slice(start, start + 32)
            velocity = transformer(
                noisy[part],
                timestep[part],
                embeds[part],
                mask[part],
                frames.times,
                frames.kinds,
                frames.camera[part],
                return_dict=False,
            )[0]
            found[part, level] = (velocity - target[part]).square().flatten(1).mean(1)
    return found.numpy()


def load_weights(run: Path) -> tuple[Any, Any, Any]:
    """Transformer, text encoder (both float32) and text tokenizer of a run."""
    folder = run / "weights"
    transformer = VideoTransformer.from_pretrained(str(folder / "transformer")).float().eval()
    text_encoder = TextEncoder.from_pretrained(str(folder / "text_encoder")).float().eval()
    return transformer, text_encoder, BytePairTokenizer.from_pretrained(str(folder / "tokenizer"))


def time_in_turn(calls: Mapping[str, Callable[[], Any]], runs: int = TIMED_RUNS) -> dict[str, float]:
    """Median seconds of each, all of them once before any is called again; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def paired_difference(losses: Mapping[int, np.ndarray], base: Mapping[int, np.ndarray]) -> tuple[float, float, float]:
    """Mean difference to `base` over the seeds that both have, and its 95 % interval over clips.

    Args:
        losses, base: seed -> `[N, Q]`.

    Raises:
        ValueError: no seed in common.
    """
    seeds = sorted(set(losses) & set(base))
    if not seeds:
        raise ValueError(f"`losses` must share a seed with `base`, got {sorted(losses)} and {sorted(base)}.")
    by_clip = np.stack([(losses[seed] - base[seed]).mean(1) for seed in seeds], 1)  # [N, seeds]
    interval = clustered_interval(by_clip.tolist())
    assert interval.low is not None and interval.high is not None
    return interval.mean, interval.low, interval.high


def read_verdicts(runs: Sequence[Path]) -> dict[str, tuple[float, float, float, int]]:
    """Shares that were right over all runs with a `stage.json`, with Wilson's interval."""
    found = [json.loads((run / "stage.json").read_text("utf-8")) for run in runs if (run / "stage.json").is_file()]
    shares = {}
    for attribute in _ATTRIBUTES:
        entries = [report[attribute] for report in found if attribute in report]
        n = sum(entry["n"] for entry in entries)
        if n:
            right = round(sum(entry["accuracy"] * entry["n"] for entry in entries))
            shares[attribute] = (right / n, *wilson(right, n), n)
    return shares


def compare(folder: Path, base: str, say: Callable[[str], None] = print) -> list[Twin]:
    """Measures every run of a folder; the base comes first.

    Raises:
        ValueError: no runs, or none of the base.
    """
    runs = find_runs(folder)
    if base not in runs:
        raise ValueError(f"`base` must be one of {', '.join(runs)}, got {base!r}.")
    names = [base, *(name for name in runs if name != base)]
    ground = Ground(load_config(next(iter(runs[base].values())) / "config.yaml"))
    losses: dict[str, dict[int, np.ndarray]] = {}
    for name in names:
        losses[name] = {seed: ground.losses(run) for seed, run in runs[name].items()}
        say(f"{name}: " + ", ".join(f"{loss.mean():.4f}" for loss in losses[name].values()))
    both = {name: ground.calls(next(iter(runs[name].values()))) for name in names}
    forward = time_in_turn({name: calls[0] for name, calls in both.items()})
    step = time_in_turn({name: calls[1] for name, calls in both.items()})
    twins = []
    for name in names:
        difference, low, high = (0.0, 0.0, 0.0) if name == base else paired_difference(losses[name], losses[base])
        transformer = load_weights(next(iter(runs[name].values())))[0]
        twins.append(
            Twin(
                name,
                sum(parameter.numel() for parameter in transformer.parameters()),
                transformer_active(transformer.config),
                tuple(float(loss.mean()) for loss in losses[name].values()),
                difference,
                low,
                high,
                forward[name],
                step[name],
                read_verdicts(list(runs[name].values())),
            )
        )
    return twins


def markdown(twins: Sequence[Twin]) -> str:
    """The table; costs are relative to the first one's. The interval tells how sure a difference is of these runs, not of others with further seeds."""
    judged = [attribute for attribute in _ATTRIBUTES if any(attribute in twin.right for twin in twins)]
    difference = "mean difference (95 % interval over clips, not over runs)"
    head = ["", "parameters, M", "active, M", "loss of each seed", difference, "evaluation", "training step", *judged]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for twin in twins:
        difference = "" if twin is twins[0] else f"{twin.difference:+.4f} ({twin.low:+.4f} .. {twin.high:+.4f})"
        cells = [
            f"`{twin.name}`",
            f"{twin.parameters / 1e6:.2f}",
            f"{twin.active / 1e6:.2f}",
            ", ".join(f"{loss:.4f}" for loss in twin.losses),
            difference,
            f"{twin.forward / twins[0].forward:.2f}x",
            f"{twin.step / twins[0].step:.2f}x",
        ]
        for attribute in judged:
            share, low, high, _ = twin.right.get(attribute, (float("nan"),) * 3 + (0,))
            cells.append(f"{100 * share:.0f} ({100 * low:.0f} .. {100 * high:.0f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of runs called NAME-SEED")
    parser.add_argument("--base", default="shipped", help="the name that all others are compared with")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--markdown", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    twins = compare(arguments.runs, arguments.base)
    table = markdown(twins)
    print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(twin) for twin in twins], indent=1) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
