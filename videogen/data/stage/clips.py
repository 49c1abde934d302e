"""Endless training clips for the tokenizer: all of Stage, mostly with unnamed actors, so that it learns to code pictures, not actors."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from videogen.data.stage.actors import load_sprite
from videogen.data.stage.render import render_with_truth
from videogen.data.stage.vocabulary import rungs, sample_spec


def premultiply(sprite: np.ndarray) -> Tensor:
    """uint8 RGBA [T, H, W, 4] (or [H, W, 4]) to what the renderer takes: premultiplied float RGBA [T, 4, H, W] in 0..1."""
    picture = torch.from_numpy(np.array(sprite if sprite.ndim == 4 else sprite[None])).float().div_(255)
    picture[..., :3] *= picture[..., 3:]
    return picture.permute(0, 3, 1, 2).contiguous()


def stage_clips(
    seed: int,
    step: int,
    batch_size: int,
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    rung: str = "rung4",
    unnamed: Sequence[np.ndarray] | np.ndarray | None = None,
    unnamed_share: float = 0.7,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Clips drawn from (seed, step), the same on every machine.

    Args:
        seed: Of the run.
        step: Of training.
        batch_size: Number of clips B.
        num_frames: Frames per clip.
        height: Pixels.
        width: Pixels.
        fps: Frames per second.
        rung: Which vocabulary the scenes, motions and cameras come from.
        unnamed: Further sprites, uint8 RGBA [h, w, 4] each; `None` uses named actors only. Strangers are never used.
        unnamed_share: Share of the clips whose actors are unnamed.
        device: Where to render.

    Returns:
        Video [B, 3, F, H, W] in -1..1 and actor boxes [B, 2, F, 4] in pixels (NaN where there is none).
    """
    generator = random.Random(f"stage-clips:{seed}:{step}")
    specs = [sample_spec(generator, rungs()[rung], split="any") for _ in range(batch_size)]
    sprites = []
    for spec in specs:
        if unnamed is not None and len(unnamed) > 0 and generator.random() < unnamed_share:
            sprites.append([premultiply(unnamed[generator.randrange(len(unnamed))]) for _ in spec.actors])
        else:
            sprites.append([premultiply(load_sprite(actor.name)) for actor in spec.actors])
    clip = render_with_truth(specs, num_frames, height, width, fps, device, sprites)
    return clip.video, clip.boxes
