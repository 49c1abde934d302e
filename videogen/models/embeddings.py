"""What a latent frame is told besides its content: noise level, kind, camera, and where its tokens are.

Shapes: B batch, n frames (video latents, then guides, then references), h w token grid, L = n * h * w, D model width,
K key width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: What a frame can be; the numbers are part of the checkpoint format.
KIND_FIRST, KIND_VIDEO, KIND_GUIDE, KIND_REFERENCE_1, KIND_REFERENCE_2 = range(5)
NUM_KINDS = 5

#: References have no time of their own: they are put this many seconds before the clip, the second twice as many.
REFERENCE_TIME_OFFSET = 4.0


class FrameEmbedding(nn.Module):
    """[B, n] noise levels, [n] kinds and [B, n, camera_dim] camera vectors -> [B, n, D], summed."""

    def __init__(self, width: int, camera_dim: int, num_frequencies: int = 128):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.time_in = nn.Linear(2 * num_frequencies, width)
        self.time_out = nn.Linear(width, width)
        self.kind = nn.Embedding(NUM_KINDS, width)
        self.camera = nn.Linear(camera_dim, width)

    def forward(self, timestep: Tensor, kinds: Tensor, camera: Tensor) -> Tensor:
        dtype = self.time_in.weight.dtype
        waves = timestep_features(timestep, self.num_frequencies).to(dtype)  # [B, n, 2 * num_frequencies]
        time = self.time_out(nn.functional.silu(self.time_in(waves)))
        return time + self.kind(kinds) + self.camera(camera.to(dtype))


def timestep_features(timestep: Tensor, num_frequencies: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of 1000 * sigma: [...] in 0..1 -> [..., 2 * num_frequencies], float32."""
    exponents = torch.arange(num_frequencies, dtype=torch.float32, device=timestep.device) / num_frequencies
    angles = 1000.0 * timestep.float()[..., None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_tables(
    times: Tensor, kinds: Tensor, height: int, width: int, head_dim: int, theta: float, time_scale: float
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for tokens at (seconds, y, x).

    Of the K/2 pairs of a head, 5/16 turn with y, 5/16 with x and the rest with time; frequencies fall geometrically from 1
    radian per grid step (`time_scale` radians per second) to 1/theta of it.

    Args:
        times: [n] seconds; a reference's is replaced by its own offset.
        kinds: [n] int.
        height: token rows of a frame.
        width: token columns.
        head_dim: K, even, at least 8.
        theta: ratio of the highest to the lowest frequency.
        time_scale: radians per second of the quickest pair.

    Returns:
        cos and sin, each [L, K/2] float32, tokens in the order (frame, y, x).
    """
    half = head_dim // 2
    pairs_grid = half * 5 // 16
    device = times.device
    times = times.float()
    times = torch.where(kinds >= KIND_REFERENCE_1, -REFERENCE_TIME_OFFSET * (kinds - KIND_GUIDE), times)

    def angles(positions: Tensor, num_pairs: int) -> Tensor:
        exponents = torch.arange(num_pairs, dtype=torch.float32, device=device) / num_pairs
        return positions[:, None] * theta**-exponents

    num_frames = times.shape[0]
    by_time = angles(times * time_scale, half - 2 * pairs_grid)[:, None, None]  # [n, 1, 1, pairs]
    by_row = angles(torch.arange(height, dtype=torch.float32, device=device), pairs_grid)[None, :, None]
    by_column = angles(torch.arange(width, dtype=torch.float32, device=device), pairs_grid)[None, None]
    grid = (num_frames, height, width, -1)
    table = torch.cat([by_time.expand(grid), by_row.expand(grid), by_column.expand(grid)], dim=-1).flatten(0, 2)
    return table.cos(), table.sin()


def frame_visibility(kinds: Tensor, window: int | None) -> Tensor | None:
    """Which frame sees which in a windowed layer.

    Video frames see video frames at most `window` away, and always the first frame, guides and references; those few see
    everything, so the cost per token stays flat in the length.

    Args:
        kinds: [n] int, video frames first.
        window: latent frames to either side; None = no window.

    Returns:
        [n, n] bool, or None where every frame sees every other.
    """
    if window is None or kinds.shape[0] <= window + 1:
        return None
    index = torch.arange(kinds.shape[0], device=kinds.device)
    near = (index[:, None] - index[None, :]).abs() <= window
    always = kinds != KIND_VIDEO
    visible = near | always[None, :] | always[:, None]
    return None if bool(visible.all()) else visible
