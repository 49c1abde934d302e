"""What a pipeline gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image

Frames = np.ndarray | torch.Tensor | list[list[Image.Image]]


class GenerationCancelled(RuntimeError):
    """Raised within one step after `pipeline.interrupt = True`."""


@dataclass
class VideoPipelineOutput(BaseOutput):
    """Generated videos and everything needed to repeat and to judge them.

    Attributes:
        frames: "np": float32 [B, F, H, W, 3] in 0..1; "pt": the same as [B, F, 3, H, W]; "pil": B lists of F pictures;
            "latent": normalised latents [B, C, f, h, w].
        seeds: one per video; ``seed=seeds[i]`` with one video makes video i again.
        fps: frames per second.
        num_frames: F.
        output_type: which kind `frames` is.
        camera: per video, the commands in sequence; empty where none was given or vectors were passed.
        adjusted: what was used otherwise than asked for, one sentence each.
        warnings: what may disappoint, one sentence each: words the model does not know, a dark or frozen clip.
        conditioning: pictures as the model saw them, by argument name ("image", "last_image", "keyframe 0.5",
            "subject 1").
        settings: every number as it was used, ready for JSON.
    """

    frames: Frames
    seeds: list[int] = field(default_factory=list)
    fps: float = 0.0
    num_frames: int = 0
    output_type: str = "np"
    camera: list[tuple[tuple[str, ...], ...]] = field(default_factory=list)
    adjusted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    conditioning: dict[str, Image.Image] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def uint8(self) -> np.ndarray:
        """The frames as uint8 [B, F, H, W, 3], what a video file is written from.

        Raises:
            ValueError: the output type is "latent".
        """
        if self.output_type == "latent":
            raise ValueError("`output_type` must be 'np', 'pt' or 'pil' to have pictures, got 'latent'.")
        return frames_to_uint8(self.frames)


def convert_frames(video: torch.Tensor, output_type: str) -> Frames:
    """`video` [B, 3, F, H, W] in -1..1 as "np", "pt" or "pil" (see `VideoPipelineOutput.frames`)."""
    unit = ((video.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(0, 2, 1, 3, 4)  # [B, F, 3, H, W]
    if output_type == "pt":
        return unit.contiguous()
    array = unit.permute(0, 1, 3, 4, 2).contiguous().numpy()
    if output_type == "np":
        return array
    assert output_type == "pil"
    return [[Image.fromarray(frame) for frame in clip] for clip in frames_to_uint8(array)]


def frames_to_uint8(frames: Frames) -> np.ndarray:
    """Frames of any output type but "latent" as uint8 [B, F, H, W, 3]."""
    if isinstance(frames, list):
        return np.stack([np.stack([np.asarray(picture) for picture in clip]) for clip in frames])
    if isinstance(frames, torch.Tensor):
        frames = frames.permute(0, 1, 3, 4, 2).numpy()
    return np.round(frames * 255.0).astype(np.uint8)
