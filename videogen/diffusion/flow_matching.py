"""Rectified flow matching: the straight path from data to noise and its loss.

`x_t = (1 - sigma) * sample + sigma * noise` and the network's target is the velocity `noise - sample` (Liu et al. 2022,
arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747). Frames that are known keep their clean latent at sigma 0 and
take no part in the loss.

Shapes: `B` batch, `C` latent channels, `n` frames of a `FrameSequence`, `h w` latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_sigmas(
    batch_size: int,
    generator: torch.Generator | None = None,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    tail: float = 0.05,
    shift: float = 1.0,
) -> Tensor:
    """Noise levels for a batch, `[B]` float32 within (0, 1).

    Logit-normal (Esser et al. 2024, arXiv:2403.03206) with a share `tail` drawn uniformly, so that no level is ever
    starved. Stratified: item i draws from the i-th of B equal slices of the distribution (in random order), which takes
    most of the variance out of the loss.

    Args:
        mean, std: of the normal variable before the sigmoid.
        tail: share of uniform draws, 0 to 1.
        shift: applied after sampling, see `shift_sigmas`.
    """
    order = torch.randperm(batch_size, generator=generator)
    uniform = (order + torch.rand(batch_size, generator=generator, dtype=torch.float64)) / batch_size
    in_tail = uniform < tail
    normal = ((uniform - tail) / (1.0 - tail)).clamp(1e-6, 1 - 1e-6) if tail < 1 else uniform
    sigmas = torch.where(in_tail, uniform / max(tail, 1e-9), torch.sigmoid(mean + std * torch.special.ndtri(normal)))
    return shift_sigmas(sigmas.clamp(5e-3, 1 - 1e-4), shift).float()


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1 (shift > 1) as longer sequences need: `shift * s / (1 + (shift - 1) * s)`."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def add_noise(sample: Tensor, noise: Tensor, sigmas: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Noise the unknown frames.

    Args:
        sample: `[B, C, n, h, w]`, clean latents of all frames.
        noise: same shape, standard normal.
        sigmas: `[B]`, 0..1.
        known: `[n]` bool.

    Returns:
        `x_t` (known frames bit-equal to `sample`) and `timestep [B, n]` (0 where known).
    """
    sigma = sigmas.to(sample.dtype).view(-1, 1, 1, 1, 1)
    noisy = torch.lerp(sample, noise, sigma)
    return torch.where(known[:, None, None], sample, noisy), sigmas[:, None] * (~known).to(sigmas.dtype)


def velocity_target(sample: Tensor, noise: Tensor, sigmas: Tensor | None = None, min_sigma: float = 0.0) -> Tensor:
    """`noise - sample`, the derivative of the path with respect to sigma, `[B, C, n, h, w]`.

    A network that predicts the clean latent and divides by `max(sigma, min_sigma)` can only reach
    `(x_t - sample) / max(sigma, min_sigma)`; given `sigmas [B]` and `min_sigma`, that is returned (the same above it).
    """
    target = noise - sample
    if sigmas is None or min_sigma <= 0:
        return target
    return target * (sigmas / sigmas.clamp_min(min_sigma)).to(sample.dtype).view(-1, 1, 1, 1, 1)


def flow_matching_loss(
    velocity: Tensor,
    target: Tensor,
    known: Tensor,
    contrastive_weight: float = 0.0,
    temporal_weight: float = 0.0,
    num_video_frames: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the velocity over unknown frames.

    With `temporal_weight` the error's change from one later video frame to the next is punished, too. The best answer
    stays the same (a quadratic form has its minimum at the mean); what is left unsaid about the whole clip cancels, so
    that movement and a steady look weigh more in the gradient.

    Args:
        velocity: `[B, C, n, h, w]`, the network's output.
        target: same shape, `noise - sample`.
        known: `[n]` bool; these frames are left out entirely. With none unknown the loss is NaN.
        contrastive_weight: weight of the distance to another item's target, which is pushed up (Stoica et al. 2025,
            arXiv:2506.05350, eq. 5); 0.05 in the paper, 0 = off. Has no effect with B = 1.
        temporal_weight: of the squared change between neighbours, 0 = off. Has no effect with less than two unknown video
            frames after the first.
        num_video_frames: f, how many of the n frames are the video's; needed with `temporal_weight`. Its first frame
            (an image latent) has no neighbour.

    Returns:
        the scalar loss and the plain squared error per item `[B]` (detached, float32).
    """
    # Frames are masked, not picked out: that would make the host wait for the device to learn how many there are.
    unknown = ~known[:, None, None]  # [n, 1, 1]
    share = unknown.float().mean()

    def error(wanted: Tensor) -> Tensor:
        return torch.where(unknown, velocity.float() - wanted.float(), 0.0)

    own = error(target)
    per_item = own.square().flatten(1).mean(1) / share
    loss = per_item.mean()
    if contrastive_weight > 0 and len(velocity) > 1:
        loss = loss - contrastive_weight * error(target.roll(1, 0)).square().mean() / share
    if temporal_weight > 0:
        assert num_video_frames is not None, "`temporal_weight` needs `num_video_frames`"
        if num_video_frames > 2:
            change = own[:, :, 1:num_video_frames].diff(dim=2)
            both = unknown[2:num_video_frames] & unknown[1 : num_video_frames - 1]  # neighbours, [f - 2, 1, 1]
            change = torch.where(both, change, 0.0).square().mean()
            loss = loss + temporal_weight * change / both.float().mean().clamp_min(1 / len(both))
    return loss, per_item.detach()
