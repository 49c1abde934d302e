"""Endless training clips for the tokenizer: all of Stage, mostly with unnamed actors, so that it learns to code pictures, not actors."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from videogen.data.stage.actors import UNNAMED
from videogen.data.stage.render import render_with_truth
from videogen.data.stage.textures import Cast
from videogen.data.stage.vocabulary import ClipSpec, rungs, sample_spec


def draw_clips(
    seed: int, step: int, batch_size: int, rung: str = "rung4", num_unnamed: int = 0, unnamed_share: float = 0.7
) -> list[ClipSpec]:
    """What the clips of (seed, step) show, the same on every machine. Strangers are never drawn.

    Args:
        seed: Of the run.
        step: Of training.
        batch_size: Number of clips.
        rung: Which vocabulary scenes, motions, cameras and named actors come from.
        num_unnamed: How many unnamed actors there are.
        unnamed_share: Share of the clips that are played by unnamed actors, if there are any.
    """
    generator = random.Random(f"stage-clips:{seed}:{step}")
    specs = [sample_spec(generator, rungs()[rung], split="any") for _ in range(batch_size)]
    for index, spec in enumerate(specs):
        if num_unnamed and generator.random() < unnamed_share:
            actors = [replace(actor, name=f"{UNNAMED}{generator.randrange(num_unnamed)}") for actor in spec.actors]
            specs[index] = replace(spec, actors=tuple(actors))
    return specs


def stage_clips(
    seed: int,
    step: int,
    batch_size: int,
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    rung: str = "rung4",
    cast: Cast | None = None,
    unnamed_share: float = 0.7,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """The clips of `draw_clips`, rendered.

    Args:
        seed: Of the run.
        step: Of training.
        batch_size: Number of clips B.
        num_frames: Frames per clip.
        height: Pixels.
        width: Pixels.
        fps: Frames per second.
        rung: See `draw_clips`.
        cast: Who plays; `None` for named actors only.
        unnamed_share: See `draw_clips`.
        device: Where to render.

    Returns:
        Video [B, 3, F, H, W] in -1..1 and actor boxes [B, 2, F, 4] in pixels (NaN where there is none), on `device`.
    """
    num_unnamed = 0 if cast is None else cast.num_unnamed
    specs = draw_clips(seed, step, batch_size, rung, num_unnamed, unnamed_share)
    clip = render_with_truth(specs, num_frames, height, width, fps, device, cast)
    return clip.video, clip.boxes
