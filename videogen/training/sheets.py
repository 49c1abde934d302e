"""Sample sheets: what the averaged weights draw for fixed prompts, as one PNG, while the run goes on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from videogen.conditioning.camera import camera_vectors, parse_camera
from videogen.conditioning.frames import build_frames
from videogen.data.folder import read_captions
from videogen.data.stage import caption, rungs, sample_spec
from videogen.diffusion.sampling import denoise
from videogen.training.config import TrainConfig

NUM_SHOWN = 5
NUM_PROMPTS = 6


def default_prompts(config: TrainConfig) -> tuple[str, ...]:
    """Prompts for the sheets when the run names none: what Stage may show, or captions of the folder's first videos."""
    data = config.data
    if data.source == "folder":
        return tuple(entry["caption"] for entry in read_captions(data.path, data.captions)[:NUM_PROMPTS])
    chooser = random.Random(0)
    specs = [sample_spec(chooser, rungs()[data.rung], "any") for _ in range(NUM_PROMPTS)]
    return tuple(caption(spec, chooser, style="bracket") for spec in specs)


@torch.no_grad()
def draw_samples(
    config: TrainConfig,
    transformer: Any,
    text_encoder: Any,
    text_tokenizer: Any,
    vae: Any,
    latent_size: tuple[int, int, int, int],
    prompts: Sequence[str],
) -> Tensor:
    """Videos for `prompts`, `[P, 3, F, H, W]` in -1..1; prompt i always starts from the same noise.

    Args:
        latent_size: `(C, f, h, w)` of a clip.
        prompts: camera moves may be given in words or in brackets.
    """
    device = next(transformer.parameters()).device
    channels, num_latent_frames, height, width = latent_size
    plans = [parse_camera(prompt) for prompt in prompts]
    data = config.data
    camera = torch.stack(
        [camera_vectors(plan.segments, data.num_frames, vae.config.scale_factor_temporal) for plan in plans]
    )
    frames = build_frames(
        num_latent_frames,
        (channels, height, width),
        batch_size=len(prompts),
        fps=data.fps,
        scale_factor_temporal=vae.config.scale_factor_temporal,
        camera=camera,
        device=device,
    )
    texts = [plan.prompt_without_brackets for plan in plans] + [""] * len(plans)
    ids, mask = text_tokenizer(texts, max_length=config.text.max_length)
    embeds = text_encoder(ids.to(device), mask.to(device))
    latents = denoise(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=config.flow.shift),
        frames,
        embeds[: len(plans)],
        mask[: len(plans)].to(device),
        generators=[torch.Generator().manual_seed(i) for i in range(len(plans))],
        num_inference_steps=config.log.sample_steps,
        guidance_scale=config.log.sample_guidance_scale,
        negative_prompt_embeds=embeds[len(plans) :],
        negative_prompt_attention_mask=mask[len(plans) :].to(device),
    )
    param = next(vae.parameters())
    return vae.decode(vae.denormalize(latents.to(param.device)).to(param.dtype)).sample.float().cpu()


def write_sheet(video: Tensor, path: Path, captions: Sequence[str] = ()) -> None:
    """A grid as PNG: one row per video `[P, 3, F, H, W]` (-1..1), frames evenly spaced in time."""
    num_frames = video.shape[2]
    shown = sorted({round(i * (num_frames - 1) / (NUM_SHOWN - 1)) for i in range(NUM_SHOWN)})
    frames = ((video[:, :, shown].clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    rows = []
    for i, row in enumerate(frames):
        picture = np.concatenate(list(row), axis=1)
        if i < len(captions):
            strip = np.full((14, picture.shape[1], 3), 255, np.uint8)
            text = captions[i].encode("ascii", "replace").decode()
            cv2.putText(strip, text, (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
            picture = np.concatenate([strip, picture])
        rows.append(picture)
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
