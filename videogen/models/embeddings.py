"""What a latent frame is told besides its content: noise level, kind, camera, and where its tokens are.

Shapes: B batch, n frames (video latents, then guides, then references), h w token grid, L = n * h * w, D model width,
K key width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """Where a token is, [B, L, D] to be added to the tokens: zero at initialisation.

    The features are sines and cosines of 4 frame heights and of every half of it down to a quarter of a height. With
    `camera_speeds` they are those of its place on the screen and, apart, of the spot of the scenery that it shows. Without, there is
    one place, from which a learnt part of what the camera has done is taken back: on its way to the scenery the pan of weights
    trained for eleven hours stopped at a sixteenth, since attention needs the screen's places, too.

    Args:
        width: D.
        camera_speeds: see `scenery_places`, or None.
        num_frequencies: of the waves.
    """

    def __init__(self, width: int, camera_speeds: Sequence[float] | None, num_frequencies: int = 5):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.row = nn.Linear(2 * num_frequencies, width, bias=False)
        self.column = nn.Linear(2 * num_frequencies, width, bias=False)
        layers = [self.row, self.column]
        self.camera_speeds = camera_speeds
        if camera_speeds is None:
            self.speed = nn.Parameter(torch.full((NUM_CAMERA_MOVES,), 0.25))
        else:
            self.scenery_row = nn.Linear(2 * num_frequencies, width, bias=False)
            self.scenery_column = nn.Linear(2 * num_frequencies, width, bias=False)
            layers += [self.scenery_row, self.scenery_column]
        for layer in layers:
            nn.init.zeros_(layer.weight)

    def forward(self, displacement: Tensor, height: int, width: int) -> Tensor:
        """[B, n, 6] -> [B, L, D], tokens in the order (frame, y, x)."""
        if self.camera_speeds is None:
            rows, columns = scenery_places(displacement, height, width, self.speed.float().unbind())
            row, column = self.row(self._waves(rows)), self.column(self._waves(columns))  # [B, n, h, D], [B, n, w, D]
        else:
            y, x = screen_places(height, width, displacement.device)
            rows, columns = scenery_places(displacement, height, width, self.camera_speeds)
            row = self.row(self._waves(y)) + self.scenery_row(self._waves(rows))
            column = self.column(self._waves(x)) + self.scenery_column(self._waves(columns))
        return (row[:, :, :, None] + column[:, :, None]).flatten(1, 3)

    def _waves(self, place: Tensor) -> Tensor:
        phases = octave_phases(place, self.num_frequencies)
        return torch.cat([phases.sin(), phases.cos()], dim=-1).to(self.row.weight.dtype)


def screen_places(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The middle of every row [h] and column [w] of tokens, in half frame heights from the middle of the screen, float32."""
    y = (2 * torch.arange(height, dtype=torch.float32, device=device) + 1 - height) / height
    x = (2 * torch.arange(width, dtype=torch.float32, device=device) + 1 - width) / height
    return y, x


def scenery_places(
    displacement: Tensor, height: int, width: int, camera_speeds: Sequence[float | Tensor]
) -> tuple[Tensor, Tensor]:
    """Where in the scenery each row and column of tokens looks: its place on the screen, with what the camera has done since
    the first frame taken back. What stands still stays at one place, however the camera turns and zooms. Where it travels, that
    holds for one depth, and what is nearer or further drifts; trembling and tracking are not taken back.

    Args:
        displacement: [B, n, 6] of `camera_displacement`.
        height: token rows of a frame, h.
        width: token columns, w.
        camera_speeds: of one second of each standard command (truck, pan, push, pedestal, tilt, zoom), in half frame heights or,
            for push and zoom, in the logarithm of the size.

    Returns:
        rows [B, n, h] and columns [B, n, w], half frame heights from the middle of the first frame, float32.
    """
    y, x = screen_places(height, width, displacement.device)
    moves = displacement.float().unbind(-1)  # each [B, n]
    truck, pan, push, pedestal, tilt, zoom = (move * speed for move, speed in zip(moves, camera_speeds, strict=True))
    size = torch.exp(-push - zoom)[..., None]
    return size * y - (pedestal + tilt)[..., None], size * x + (truck + pan)[..., None]


def scenery_positions(
    displacement: Tensor, height: int, width: int, camera_speeds: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """`scenery_places` in tokens of the screen, for `rotary_tables`: [B, n, h] and [B, n, w]."""
    rows, columns = scenery_places(displacement, height, width, camera_speeds)
    return rows * (height / 2), columns * (height / 2)  # a token is 2 / h half frame heights high and wide


def screen_positions(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of tokens, the same whatever the camera does: [1, 1, h] and [1, 1, w] for `rotary_tables`."""
    return torch.arange(height, device=device)[None, None], torch.arange(width, device=device)[None, None]


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
    times: Tensor, kinds: Tensor, rows: Tensor, columns: Tensor, head_dim: int, theta: float, time_scale: float
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for tokens at (seconds, y, x).

    Of the K/2 pairs of a head, 5/16 turn with y, 5/16 with x and the rest with time; frequencies fall geometrically from 1
    radian per token of the screen (`time_scale` radians per second) to 1/theta of it. With places in the scenery
    (`scenery_positions`), what a token sees of another depends on where the two look, not on what the camera did in between.

    Args:
        times: [n] seconds; a reference's is replaced by its own offset.
        kinds: [n] int.
        rows: [B, n, h], in tokens of the screen; or [1, 1, h], the same for all items and frames.
        columns: [B, n, w] or [1, 1, w], likewise.
        head_dim: K, even, at least 8.
        theta: ratio of the highest to the lowest frequency.
        time_scale: radians per second of the quickest pair.

    Returns:
        cos and sin, each [B, L, K/2] float32, or [L, K/2] where one place serves all; tokens in the order (frame, y, x).
    """
    half = head_dim // 2
    pairs_grid = half * 5 // 16
    times = times.float()
    times = torch.where(kinds >= KIND_REFERENCE_1, -REFERENCE_TIME_OFFSET * (kinds - KIND_GUIDE), times)

    def angles(positions: Tensor, num_pairs: int) -> Tensor:
        exponents = torch.arange(num_pairs, dtype=torch.float32, device=times.device) / num_pairs
        return positions[..., None] * theta**-exponents

    by_time = angles(times * time_scale, half - 2 * pairs_grid)[:, None, None]  # [n, 1, 1, pairs]
    by_row = angles(rows.float(), pairs_grid)[:, :, :, None]
    by_column = angles(columns.float(), pairs_grid)[:, :, None]
    grid = (len(rows), len(times), rows.shape[-1], columns.shape[-1], -1)
    table = torch.cat([by_time.expand(grid), by_row.expand(grid), by_column.expand(grid)], dim=-1).flatten(1, 3)
    table = table[0] if len(rows) == 1 else table
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
