"""The denoising loop that the pipelines and the trainer's sample sheets share.

Euler steps along the straight path (`FlowMatchEulerDiscreteScheduler` of diffusers), guidance with its common
corrections, and known latents put back bit for bit before and after every step.

Shapes: `B` videos, `C` latent channels, `n` frames of the sequence, `f` of them the video's, `S` text tokens, `T`
width of the text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from videogen.conditioning.frames import FrameSequence

Guidance = Literal["standard", "cfg_zero"]
StepCallback = Callable[[int, float, Tensor], None]
"""Called after each step with (step index, sigma reached, latents [B, C, n, h, w]); may raise to cancel, may not
change the latents."""


def sampling_sigmas(num_inference_steps: int) -> list[float]:
    """Noise levels 1 to 1/steps, evenly spaced, before the scheduler's shift; it appends the final 0."""
    if num_inference_steps < 1:
        raise ValueError(f"`num_inference_steps` must be at least 1, got {num_inference_steps}.")
    return [1.0 - i / num_inference_steps for i in range(num_inference_steps)]


def initial_noise(frames: FrameSequence, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise `[B, C, n, h, w]` float32: only the video's frames draw from the generators, one per video.

    The numbers do not depend on guides and references, so the same seed with another reference starts from the same
    noise.
    """
    batch, channels, _, height, width = frames.latents.shape
    if len(generators) != batch:
        raise ValueError(f"`generators` must hold one generator per video ({batch}), got {len(generators)}.")
    noise = torch.zeros(frames.latents.shape, dtype=torch.float32, device=frames.latents.device)
    for i, generator in enumerate(generators):
        draw = torch.randn(
            channels,
            frames.num_video_frames,
            height,
            width,
            generator=generator,
            device=generator.device,
            dtype=torch.float32,
        )
        noise[i, :, : frames.num_video_frames] = draw.to(noise.device)
    return noise


def guide(
    conditional: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    known: Tensor,
    method: Guidance = "standard",
    guidance_rescale: float = 0.0,
) -> Tensor:
    """Classifier-free guidance of a velocity, `[B, C, n, h, w]` float32; statistics over unknown frames only.

    Args:
        conditional, unconditional: velocities with and without the text.
        guidance_scale: 1.0 = off.
        known: `[n]` bool.
        method: "cfg_zero" first scales the unconditional velocity to fit the conditional one best (Fan et al. 2025,
            arXiv:2503.18886, eq. 8; without its zero-init step, which costs an evaluation when steps are few).
        guidance_rescale: 0..1, how far to bring the standard deviation back to the conditional one's (Lin et al. 2023,
            arXiv:2305.08891, sec. 3.4).
    """
    unknown = ~known
    if method == "cfg_zero":
        cond, uncond = conditional[:, :, unknown].flatten(1), unconditional[:, :, unknown].flatten(1)
        scale = (cond * uncond).sum(1) / uncond.square().sum(1).clamp_min(1e-8)  # [B]
        unconditional = unconditional * scale.view(-1, 1, 1, 1, 1)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale > 0:
        std = conditional[:, :, unknown].flatten(1).std(1)
        guided_std = guided[:, :, unknown].flatten(1).std(1).clamp_min(1e-8)
        factor = guidance_rescale * std / guided_std + (1 - guidance_rescale)
        guided = guided * factor.view(-1, 1, 1, 1, 1)
    return guided


@torch.no_grad()
def denoise(
    transformer: torch.nn.Module,
    scheduler: Any,
    frames: FrameSequence,
    prompt_embeds: Tensor,
    prompt_attention_mask: Tensor,
    *,
    generators: Sequence[torch.Generator],
    num_inference_steps: int = 20,
    sigmas: Sequence[float] | None = None,
    guidance_scale: float = 1.0,
    negative_prompt_embeds: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    guidance_method: Guidance = "standard",
    guidance_rescale: float = 0.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    noise: Tensor | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Turn noise into the latents of a video.

    Args:
        transformer: a `VideoTransformer`.
        scheduler: diffusers' `FlowMatchEulerDiscreteScheduler`; its `shift` is applied.
        frames: what is known, see `videogen.conditioning.frames`.
        prompt_embeds: `[B, S, T]`.
        prompt_attention_mask: `[B, S]` bool.
        generators: one per video.
        num_inference_steps: used when `sigmas` is None.
        sigmas: own noise levels before the shift, decreasing, first to last step.
        guidance_scale: 1.0 = off (one forward per step; otherwise two, run as one batch). The branch that is guided away
            from has neither the prompt nor the camera nor references: how well a subject is kept is guided, too.
        negative_prompt_embeds, negative_prompt_attention_mask: `[B, S', T]`, `[B, S']`; needed when guidance is on
            (the empty prompt's, usually).
        guidance_method, guidance_rescale: see `guide`.
        guidance_interval: lowest and highest noise level at which to guide; elsewhere a step is one forward
            (Kynkäänniemi et al. 2024, arXiv:2404.07724).
        noise: `[B, C, f, h, w]`, start from this instead of drawing from the generators.
        callback: see `StepCallback`.

    Returns:
        normalised latents of the video, `[B, C, f, h, w]` float32; known frames bit-equal to `frames.latents`.

    Raises:
        ValueError: guidance without negative embeddings, or no unknown frame.
        FloatingPointError: the result is not finite.
    """
    if bool(frames.known.all()):
        raise ValueError("`frames` must have at least one unknown frame, got only known ones.")
    use_guidance = guidance_scale != 1.0
    asked = _Branch(frames, prompt_embeds, prompt_attention_mask.bool())
    if use_guidance:
        if negative_prompt_embeds is None or negative_prompt_attention_mask is None:
            raise ValueError("`negative_prompt_embeds` and their mask are needed when `guidance_scale` is not 1.0.")
        negative = _Branch(
            frames.unconditional(),
            negative_prompt_embeds.expand(frames.batch_size, -1, -1),
            negative_prompt_attention_mask.bool().expand(frames.batch_size, -1),
        )
        both = None if frames.num_references else _stack(asked, negative)

    device = frames.latents.device
    schedule = list(sigmas) if sigmas is not None else sampling_sigmas(num_inference_steps)
    scheduler.set_timesteps(sigmas=schedule, device=device)
    if noise is None:
        latents = initial_noise(frames, generators)
    else:
        latents = frames.latents.float()
        if noise.shape != frames.video(latents).shape:
            raise ValueError(
                f"`noise` must have the shape {list(frames.video(latents).shape)}, got {list(noise.shape)}."
            )
        latents = torch.cat([noise.to(latents), latents[:, :, frames.num_video_frames :]], 2)
    latents = frames.keep_known(latents)
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i].to(device)
        guided = use_guidance and guidance_interval[0] <= float(sigma) <= guidance_interval[1]
        if not guided:
            velocity = asked.velocity(transformer, latents, sigma)
        else:
            if both is not None:
                cond, uncond = both.velocity(transformer, torch.cat([latents, latents]), sigma).chunk(2)
            else:
                cond, uncond = (branch.velocity(transformer, latents, sigma) for branch in (asked, negative))
            velocity = guide(cond, uncond, guidance_scale, frames.known, guidance_method, guidance_rescale)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        latents = frames.keep_known(latents)
        if callback is not None:
            callback(i, float(scheduler.sigmas[i + 1]), latents)
    result = frames.video(latents)
    if not bool(torch.isfinite(result).all()):
        raise FloatingPointError("the latents are not finite: the weights are damaged or the guidance is too strong.")
    return result


@dataclass(frozen=True)
class _Branch:
    """What one branch of guidance is told: frames, text `[B, S, T]` and its mask `[B, S]` bool."""

    frames: FrameSequence
    embeds: Tensor
    mask: Tensor

    def velocity(self, transformer: torch.nn.Module, latents: Tensor, sigma: Tensor) -> Tensor:
        """`[B, C, n, h, w]` float32 for `latents` of that shape; 0 for references that the branch does not have."""
        frames = self.frames
        count = frames.latents.shape[2]
        velocity = transformer(
            latents[:, :, :count],
            frames.frame_timesteps(sigma.float().expand(len(latents))),
            self.embeds,
            self.mask,
            frames.times,
            frames.kinds,
            frames.camera,
            return_dict=False,
        )
        velocity = (velocity[0] if isinstance(velocity, tuple) else velocity).float()
        return torch.nn.functional.pad(velocity, (0, 0, 0, 0, 0, latents.shape[2] - count))


def _stack(branch: _Branch, other: _Branch) -> _Branch:
    """Two branches with the same known frames as one batch, the texts padded to one length."""
    length = max(branch.embeds.shape[1], other.embeds.shape[1])
    rows, masks = [], []
    for one in (branch, other):
        missing = length - one.embeds.shape[1]
        rows.append(torch.nn.functional.pad(one.embeds, (0, 0, 0, missing)))
        masks.append(torch.nn.functional.pad(one.mask, (0, missing)))
    camera = torch.cat([branch.frames.camera, other.frames.camera])
    frames = replace(branch.frames.repeat(2), camera=camera)
    return _Branch(frames, torch.cat(rows), torch.cat(masks))
