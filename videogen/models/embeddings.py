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

#: Leading columns of a camera vector that move the picture: truck, pan, push, pedestal, tilt, zoom.
NUM_CAMERA_MOVES = 6

#: References have no time of their own: they are put this many seconds before the clip, the second twice as many.
REFERENCE_TIME_OFFSET = 4.0


class FrameEmbedding(nn.Module):
    """What a whole frame is told, summed: noise level, kind, camera now and so far, time in the clip, pooled text.

    Where the camera has got to (not only how fast it goes) and when it is tell a frame how it differs from the first one
    without asking the other frames (CameraCtrl, arXiv 2404.02101, gives poses relative to the first frame, too). The
    pooled text beside cross-attention is that of Stable Diffusion 3 (arXiv 2403.03206).

    Args:
        width: D.
        camera_dim: entries of a camera vector, at least `NUM_CAMERA_MOVES`.
        text_width: width of the pooled text.
        num_frequencies: of the noise level's waves.
        num_time_frequencies: of the time's; the slowest has a period of 8 s, each next one half of it.

    Raises:
        ValueError: a camera vector too short for the moves.
    """

    def __init__(
        self,
        width: int,
        camera_dim: int,
        text_width: int,
        num_frequencies: int = 64,
        num_time_frequencies: int = 5,
    ):
        super().__init__()
        if camera_dim < NUM_CAMERA_MOVES:
            raise ValueError(
                f"`camera_dim` must be at least {NUM_CAMERA_MOVES}, the moves a camera vector begins with, got {camera_dim}."
            )
        self.num_frequencies = num_frequencies
        self.num_time_frequencies = num_time_frequencies
        self.time_in = nn.Linear(2 * num_frequencies, width)
        self.time_out = nn.Linear(width, width)
        self.kind = nn.Embedding(NUM_KINDS, width)
        self.camera = nn.Linear(camera_dim, width)
        self.progress = nn.Linear(NUM_CAMERA_MOVES + 2 * num_time_frequencies, width, bias=False)
        self.text = nn.Linear(text_width, width, bias=False)
        nn.init.zeros_(self.progress.weight)
        nn.init.zeros_(self.text.weight)

    def forward(
        self, timestep: Tensor, times: Tensor, kinds: Tensor, camera: Tensor, displacement: Tensor, text: Tensor
    ) -> Tensor:
        """[B, n] noise levels, [n] seconds, [n] kinds, [B, n, camera_dim], [B, n, 6], [B, text_width] -> [B, n, D]."""
        dtype = self.time_in.weight.dtype
        waves = timestep_features(timestep, self.num_frequencies).to(dtype)  # [B, n, 2 * num_frequencies]
        noise_level = self.time_out(nn.functional.silu(self.time_in(waves)))
        phases = octave_phases(times, self.num_time_frequencies)
        clock = torch.cat([phases.sin(), 1 - phases.cos()], dim=-1)  # 0 at the start of the clip
        clock = clock * (kinds < KIND_REFERENCE_1)[:, None]
        progress = torch.cat([displacement, clock.expand(len(displacement), -1, -1)], dim=-1).to(dtype)
        return (
            noise_level
            + self.kind(kinds)
            + self.camera(camera.to(dtype))
            + self.progress(progress)
            + self.text(text.to(dtype))[:, None]
        )


class TokenPosition(nn.Module):
    """Where in the scenery a token looks, [B, L, D] to be added to the tokens: zero at initialisation.

    A token's place on the screen is taken back by what the camera has done since the first frame, so that tokens which show
    the same spot of the scenery get the same features in every frame. How far one second of a standard command goes is
    learnt. The features are sines and cosines of 4 frame heights and of every half of it down to a quarter of a height.

    Args:
        width: D.
        num_frequencies: of the waves.
    """

    def __init__(self, width: int, num_frequencies: int = 5):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.speed = nn.Parameter(torch.full((NUM_CAMERA_MOVES,), 0.25))  # half frame heights, or logarithm of the size
        self.row = nn.Linear(2 * num_frequencies, width, bias=False)
        self.column = nn.Linear(2 * num_frequencies, width, bias=False)
        nn.init.zeros_(self.row.weight)
        nn.init.zeros_(self.column.weight)

    def forward(self, displacement: Tensor, height: int, width: int) -> Tensor:
        """[B, n, 6] -> [B, L, D], tokens in the order (frame, y, x)."""
        truck, pan, push, pedestal, tilt, zoom = (displacement.float() * self.speed.float()).unbind(-1)  # [B, n]
        size = torch.exp(-push - zoom)[..., None]
        device = displacement.device
        y = (2 * torch.arange(height, dtype=torch.float32, device=device) + 1 - height) / height  # half frame heights
        x = (2 * torch.arange(width, dtype=torch.float32, device=device) + 1 - width) / height
        row = self.row(self._waves(size * y - (pedestal + tilt)[..., None]))  # [B, n, h, D]
        column = self.column(self._waves(size * x + (truck + pan)[..., None]))  # [B, n, w, D]
        return (row[:, :, :, None] + column[:, :, None]).flatten(1, 3)

    def _waves(self, place: Tensor) -> Tensor:
        phases = octave_phases(place, self.num_frequencies)
        return torch.cat([phases.sin(), phases.cos()], dim=-1).to(self.row.weight.dtype)


def octave_phases(position: Tensor, num_octaves: int) -> Tensor:
    """Phases of waves with a period of 8 and every half of it, [...] -> [..., num_octaves] float32 radians."""
    octaves = 2.0 ** torch.arange(num_octaves, dtype=torch.float32, device=position.device)
    return position.float()[..., None] * octaves * (math.pi / 4)


def camera_displacement(camera: Tensor, times: Tensor, kinds: Tensor) -> Tensor:
    """How far the camera has gone at the time of each frame: the integral of its moves from the start of the clip.

    Args:
        camera: [B, n, camera_dim], moves first, per second of a standard command; of guides and references ignored.
        times: [n] seconds, video frames first and ascending.
        kinds: [n] int.

    Returns:
        [B, n, 6] float32, in seconds of a standard command; 0 for the first frame and for references.
    """
    times = times.float()
    is_video = (kinds <= KIND_VIDEO).float()
    moves = camera[..., :NUM_CAMERA_MOVES].float()
    start = torch.cat([times[:1], times[:-1]])
    length = (times - start) * is_video  # of the step that ends at each video frame
    mean = (moves + torch.cat([moves[:, :1], moves[:, :-1]], dim=1)) / 2  # [B, n, 6] over that step
    covered = torch.minimum((times[:, None] - start[None]).clamp_min(0), length[None])  # [n, n]
    covered = covered * (kinds < KIND_REFERENCE_1)[:, None]
    with torch.autocast(camera.device.type, enabled=False):  # places in the scenery are not to be rounded
        return torch.einsum("mk,bkc->bmc", covered, mean)


def pool_text(text: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens, [B, S, D] and [B, S] bool -> [B, D]; 0 where there is none."""
    weight = mask.to(text.dtype)[..., None]
    return (text * weight).sum(1) / weight.sum(1).clamp_min(1)


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
