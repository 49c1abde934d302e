"""Where made frames follow given ones: no step in colour between them."""

from __future__ import annotations

import torch
from torch import Tensor

FADE_SECONDS = 0.75
"""Time constant with which made frames come back to their own colour."""

LARGEST_STEP = 16 / 127.5
"""The most that is taken out, 16 of 255 levels: what differs more is another picture, and a wash of its colour helps nobody."""


def without_colour_step(made: Tensor, before: Tensor, fps: float) -> Tensor:
    """Takes the step in mean colour out of the first made frame, and gives it back little by little.

    What a network makes after a given picture is brighter or duller than that by a few of 255 levels. From one frame to the next
    that is a cut; spread over a second, it is not seen.

    Args:
        made: [B, 3, F, H, W] in -1..1.
        before: [B, 3, H, W], the frame that is shown before them.
        fps: Frames per second.

    Returns:
        [B, 3, F, H, W], changed by at most the step and `LARGEST_STEP`, in -1..1.
    """
    step = (before.mean((2, 3)) - made[:, :, 0].mean((2, 3))).clamp(-LARGEST_STEP, LARGEST_STEP)  # [B, 3]
    times = torch.arange(made.shape[2], device=made.device) / fps
    fade = torch.exp(-times / FADE_SECONDS)[:, None, None]
    return (made + step[:, :, None, None, None] * fade).clamp(-1, 1)
