"""Losses of the video tokenizer.

Shapes: B batch; F, H, W pixel frames, height, width; C latent channels; f, h, w latent frames, height, width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer3d.haar import PATCH, haar_forward, repeat_first


def reconstruction_loss(
    sample: Tensor, video: Tensor, weight: Tensor | None = None, mse_weight: float = 1.0, band_weight: float = 0.5
) -> dict[str, Tensor]:
    """How far a reconstruction is from its video.

    Args:
        sample: [B, 3, 1 + 4k, H, W], not clamped.
        video: same shape, -1..1.
        weight: [B, 1, F, H, W] importance of a pixel, mean about 1; `None` for equal.
        mse_weight: of the squared error (what PSNR measures).
        band_weight: of the absolute error of Haar bands, mean excluded: edges and motion at 2 and 4 pixels or frames.

    Returns:
        `total` and its unweighted parts `l1`, `mse`, `bands`, all scalar float32.
    """
    error = sample.float() - video.float()
    bands = haar_forward(repeat_first(error, PATCH - 1), low_gain=0.0)
    if weight is None:
        l1, mse = error.abs().mean(), error.square().mean()
    else:
        l1, mse = (error.abs() * weight).mean(), (error.square() * weight).mean()
    parts = {"l1": l1, "mse": mse, "bands": bands.abs().mean() * (PATCH**3 / (PATCH**3 - 1))}
    parts["total"] = l1 + mse_weight * mse + band_weight * parts["bands"]
    return parts


def latent_penalty(latents: Tensor) -> Tensor:
    """A KL-like penalty that draws each channel to mean 0 and deviation 1 over the batch: keeps scales alike, kills none.

    Args:
        latents: [B, C, f, h, w].

    Returns:
        Scalar, 0 where every channel already is so.
    """
    values = latents.float()
    mean = values.mean(dim=(0, 2, 3, 4))
    var = values.var(dim=(0, 2, 3, 4)) + 1e-6
    return 0.5 * (mean.square() + var - 1 - var.log()).mean()


def smoothness_penalty(latents: Tensor) -> Tensor:
    """Mean squared difference of neighbouring latent positions, relative to their variance.

    Local correlation makes latents easier to generate (SSVAE, 2025, arXiv:2512.05394; there on correlations).

    Args:
        latents: [B, C, f, h, w] with h and w above 1.
    """
    values = latents.float()
    var = values.var(dim=(0, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    rows = (values.diff(dim=3).square() / var).mean()
    columns = (values.diff(dim=4).square() / var).mean()
    return 0.5 * (rows + columns)


def actor_weight(boxes: Tensor, video_shape: torch.Size, extra: float) -> Tensor:
    """Pixel weights that count actors more.

    Args:
        boxes: [B, A, F, 4] (left, top, right, bottom) in pixels, NaN where there is none.
        video_shape: [B, 3, F, H, W].
        extra: added to 1 inside a box; the result is divided by its mean per clip.

    Returns:
        [B, 1, F, H, W].
    """
    _, _, _, height, width = video_shape
    left, top, right, bottom = boxes.unbind(-1)  # [B, A, F]
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    inside_x = (x > left[..., None]) & (x < right[..., None])  # [B, A, F, W]; NaN compares false
    inside_y = (y > top[..., None]) & (y < bottom[..., None])
    inside = (inside_y[..., :, None] & inside_x[..., None, :]).any(dim=1)  # [B, F, H, W]
    weight = 1 + extra * inside[:, None].float()
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


def psnr(sample: Tensor, video: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip, values -1..1 (peak 2): [B, ...] -> [B]."""
    mse = F.mse_loss(sample.float().clamp(-1, 1), video.float(), reduction="none").flatten(1).mean(1)
    return 10 * torch.log10(4 / mse.clamp_min(1e-10))
