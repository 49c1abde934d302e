"""The best linear codec of single blocks: principal components, the start and the spine of the tokenizer.

Trained networks of this size take tens of thousands of steps to pass the principal components of their blocks; so those are
computed (one eigendecomposition) and the convolutions learn what a linear codec misses.

Shapes: B batch; C latent channels; f, h, w latent frames, height, width; c colours; D values in a block (c * 64 * 16).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer3d.haar import PATCH, haar_forward, repeat_first


class LinearEncoder(nn.Linear):
    """Latents as a linear function of the wavelet bands of their own block."""

    def __init__(self, in_channels: int, latent_channels: int):
        super().__init__(in_channels * PATCH**5, latent_channels)

    def forward(self, bands: Tensor) -> Tensor:  # [B, c * 64, f, 4h, 4w] -> [B, C, f, h, w]
        return super().forward(fold_blocks(bands)).permute(0, 4, 1, 2, 3)


class LinearDecoder(nn.Linear):
    """The wavelet bands of a block as a linear function of its own latents."""

    def __init__(self, out_channels: int, latent_channels: int):
        super().__init__(latent_channels, out_channels * PATCH**5)

    def forward(self, latents: Tensor) -> Tensor:  # [B, C, f, h, w] -> [B, c * 64, f, 4h, 4w]
        blocks = super().forward(latents.permute(0, 2, 3, 4, 1))
        return rearrange(blocks, "b f h w (c p q) -> b c f (h p) (w q)", p=PATCH, q=PATCH)


def fold_blocks(bands: Tensor) -> Tensor:
    """[B, c * 64, f, 4h, 4w] -> [B, f, h, w, D]."""
    return rearrange(bands, "b c f (h p) (w q) -> b f h w (c p q)", p=PATCH, q=PATCH)


@torch.no_grad()
def fit_linear_codec(
    encoder: LinearEncoder, decoder: LinearDecoder, videos: Iterable[Tensor], low_gain: float
) -> float:
    """Set both to the principal components of the blocks of `videos`, with latents of mean 0 and deviation 1.

    Args:
        encoder: changed in place.
        decoder: changed in place.
        videos: [B, c, 1 + 4k, H, W] each, -1..1, H and W multiples of 16; together at least `encoder.in_features` blocks.
        low_gain: factor of the mean band before the encoder (see `haar_forward`).

    Returns:
        The share of the variance that is kept, 0..1.

    Raises:
        ValueError: too few blocks.
    """
    size, channels, device = encoder.in_features, encoder.out_features, encoder.weight.device
    moment = torch.zeros(size, size, dtype=torch.float64, device=device)
    total = torch.zeros(size, dtype=torch.float64, device=device)
    count = 0
    for video in videos:
        # Orthonormal bands, so that variance is squared error of pixels.
        blocks = fold_blocks(haar_forward(repeat_first(video.to(device, torch.float32), PATCH - 1))).flatten(0, 3)
        if device.type == "cuda":  # where products of float32 may be taken in fewer bits
            blocks = blocks.double()  # [n, D]
        moment += (blocks.T @ blocks).double()
        total += blocks.sum(0).double()
        count += len(blocks)
    if count < size:
        raise ValueError(f"`videos` must hold at least {size} blocks of 4x16x16, got {count}; give more clips.")
    mean = total / count
    values, vectors = torch.linalg.eigh((moment / count - mean[:, None] * mean).float())
    values, vectors, mean = values.cpu(), vectors.cpu(), mean.cpu()
    scale = values[-channels:].flip(0).clamp_min(1e-8).sqrt()  # [C] deviations, largest first
    basis = vectors[:, -channels:].flip(1)  # [D, C]
    gain = torch.ones(size // PATCH**2)
    gain[:: PATCH**3] = low_gain
    gain = gain.repeat_interleave(PATCH**2)  # [D], of the values the encoder sees
    weight = basis.T / scale[:, None]
    encoder.weight.copy_(weight / gain)
    encoder.bias.copy_(-(weight @ mean.float()))
    decoder.weight.copy_(basis * scale * gain[:, None])
    decoder.bias.copy_(mean.float() * gain)
    return float(values[-channels:].sum() / values.sum())
