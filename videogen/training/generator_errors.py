"""What a generator's latents look like, to train a decoder on: true latents noised and denoised again by a trained transformer.

A decoder that has seen true latents only takes a generator's small errors for detail: seams between tokens and specks that stand still
while the picture moves. Given (what the transformer makes of a clip's latents, the clip's pixels) it learns to leave them out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import Field, model_validator
from torch import Tensor

from videogen.conditioning.frames import build_frames
from videogen.diffusion.sampling import denoise
from videogen.training.config import Section


class GeneratorConfig(Section):
    """Where errors come from.

    Attributes:
        weights: folder of a model that was trained on this tokenizer's latents (with `transformer/`, `text_encoder/`,
            `tokenizer/`).
        share: of the batches of whole clips whose latents it goes over.
        max_sigma: largest noise level it starts from; from higher ones it tells another story than the clip's.
        steps: denoising steps.
        fps: frames per second of the clips; None = as the `vocabulary.json` beside the weights has it, or 12 without one.
    """

    weights: str
    share: float = Field(0.5, ge=0, le=1)
    max_sigma: float = Field(0.45, gt=0, lt=1)
    steps: int = Field(3, ge=1)
    fps: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self):
        if not (Path(self.weights) / "transformer" / "config.json").is_file():
            raise ValueError(f"`weights` must be a folder of exported weights, {self.weights!r} has no transformer/.")
        return self


class GeneratorErrors:
    """Sends latents through a transformer, without a prompt.

    Args:
        config: see `GeneratorConfig`.
        vae: the tokenizer, whose statistics are those that the transformer was trained with.
        device: of both.

    Raises:
        ValueError: the transformer was trained on latents with another number of channels.
    """

    def __init__(self, config: GeneratorConfig, vae: Any, device: torch.device):
        from videogen.models.text_encoder import TextEncoder
        from videogen.models.text_tokenizer import BytePairTokenizer
        from videogen.models.transformer import VideoTransformer

        self.config, self.vae = config, vae
        folder = Path(config.weights)
        self.fps = _trained_fps(folder) if config.fps is None else config.fps
        self.transformer = VideoTransformer.from_pretrained(str(folder / "transformer")).float().to(device).eval()
        channels = vae.config.latent_channels
        if self.transformer.config.latent_channels != channels:
            raise ValueError(
                f"`weights` must be trained on latents of {channels} channels, {config.weights!r} has "
                f"{self.transformer.config.latent_channels}."
            )
        text_encoder = TextEncoder.from_pretrained(str(folder / "text_encoder")).float().to(device).eval()
        ids, mask = BytePairTokenizer.from_pretrained(str(folder / "tokenizer"))([""])
        with torch.no_grad():
            self.embeds, self.mask = text_encoder(ids.to(device), mask.to(device)), mask.to(device)
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    @torch.no_grad()
    def __call__(self, latents: Tensor, generator: torch.Generator | None) -> Tensor:
        """Raw latents `[B, C, f, h, w]` of whole clips -> the same with a generator's errors, or as they are."""
        chosen, level = torch.rand(2, generator=generator, device=latents.device).tolist()
        if chosen >= self.config.share:
            return latents
        sigma = 0.02 + (self.config.max_sigma - 0.02) * level
        clean = self.vae.normalize(latents.float())
        gauss = torch.randn(clean.shape, generator=generator, device=latents.device)
        batch, channels, num_frames, height, width = clean.shape
        frames = build_frames(
            num_frames,
            (channels, height, width),
            batch_size=batch,
            fps=self.fps,
            scale_factor_temporal=self.vae.config.scale_factor_temporal,
            device=clean.device,
        )
        made = denoise(
            self.transformer,
            self.scheduler,
            frames,
            self.embeds.expand(batch, -1, -1),
            self.mask.expand(batch, -1),
            generators=(),
            sigmas=[sigma * (1 - step / self.config.steps) for step in range(self.config.steps)],
            noise=torch.lerp(clean, gauss, sigma),
        )
        return self.vae.denormalize(made).to(latents.dtype)


def _trained_fps(folder: Path) -> float:
    path = folder / "vocabulary.json"
    rates = json.loads(path.read_text(encoding="utf-8")).get("fps") if path.is_file() else None
    return float(rates[0]) if rates else 12.0
