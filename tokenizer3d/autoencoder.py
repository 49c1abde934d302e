"""A causal 3D video tokenizer: 8 x 16 x 16 pixels to one latent position, the first frame alone.

A separable 4 x 4 x 4 Haar wavelet turns pixels into 192 channels at a quarter of the size (as in Cosmos, Agarwal et al. 2025,
arXiv:2501.03575, there without a frame of its own), then convolutions factorised into (1, 3, 3) and causal (3, 1, 1) work
mostly at 1/8 and 1/16. Every change of size has a parameter-free path beside it: channel averages on the way down, channel
copies on the way up (Chen et al. 2024, arXiv:2410.10733), so that a blurred picture is learnt at once. Choices made here:

- In time everything looks back only. A group of frames starts with frame 0 repeated until it fills a group, so one image is
  exactly one latent frame; convolutions pad zeros on the left.
- The only norm is a root mean square over channels at one position (no statistics over time, no weight: the next
  convolution absorbs it).
- `encode` and `decode` stream: they carry a `StreamState` from chunk to chunk, so memory does not grow with the clip.
  `forward_train` runs the same layers over the whole clip at once.

Shapes: B batch; C channels; F, H, W pixel frames, height, width; f, h, w latent frames, height, width; t chunk length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from einops import rearrange
from torch import Tensor, nn

from tokenizer3d.shapes import check_num_frames

PATCH = 4  # frames, rows and columns of one wavelet block
LOW_GAIN = 0.25  # the mean of a block is about four times as large as its details


@dataclass
class EncoderOutput(BaseOutput):
    """`latents`: [B, C, f, h, w], raw (see `CausalVideoAutoencoder.normalize`)."""

    latents: Tensor


@dataclass
class StreamState:
    """What one stream remembers between chunks: the last two inputs of every causal convolution.

    Attributes:
        started: whether a chunk has been processed; the first one holds the frame that stands alone.
        history: convolution name -> [B, C, 2, h, w]; its size does not depend on how much was processed.
    """

    started: bool = False
    history: dict[str, Tensor] = field(default_factory=dict)


def haar_matrix(dtype: torch.dtype, device: torch.device, dims: int = 3) -> Tensor:
    """Orthonormal separable Haar transform of a 4 x 4 x 4 block: [64 bands, 64 positions], time outermost, mean first.

    `dims=2` is that of a 4 x 4 block of one frame: [16, 16].
    """
    r = 0.5**0.5
    one = torch.tensor(
        [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [r, -r, 0, 0], [0, 0, r, -r]], dtype=dtype, device=device
    )
    plane = torch.kron(one, one)
    return torch.kron(one, plane) if dims == 3 else plane


def haar_forward(video: Tensor, low_gain: float = 1.0) -> Tensor:
    """Wavelet bands of a video; the mean band is multiplied by `low_gain`.

    [B, c, F, H, W], sides multiples of 4 -> [B, c * 64, F/4, H/4, W/4], channels_last_3d; channels are (c, band).
    """
    matrix = haar_matrix(video.dtype, video.device)
    matrix[0] *= low_gain
    blocks = rearrange(
        video, "b c (f u) (h p) (w q) -> b f h w c (u p q)", u=PATCH, p=PATCH, q=PATCH
    )  # [B, F/4, H/4, W/4, c, 64]
    return (blocks @ matrix.T).flatten(-2).permute(0, 4, 1, 2, 3)


def haar_inverse(bands: Tensor, low_gain: float = 1.0, first: bool = False) -> Tensor:
    """Inverse of `haar_forward`. `first`: the first group is one frame alone, without detail in time; F is 3 less."""
    x = bands.permute(0, 2, 3, 4, 1).unflatten(-1, (-1, PATCH**3)).contiguous()  # [B, F/4, H/4, W/4, c, 64]
    alone, groups = x.split([1, x.shape[1] - 1], dim=1) if first else (None, x)
    matrix = haar_matrix(x.dtype, x.device)
    matrix[0] /= low_gain
    video = rearrange(groups @ matrix, "b f h w c (u p q) -> b c (f u) (h p) (w q)", u=PATCH, p=PATCH, q=PATCH)
    if alone is None:
        return video
    plane = haar_matrix(x.dtype, x.device, dims=2) * 0.5  # 0.5: the mean over the group's four equal frames
    plane[0] /= low_gain
    image = rearrange(
        alone[..., : PATCH**2].contiguous() @ plane, "b f h w c (p q) -> b c f (h p) (w q)", p=PATCH, q=PATCH
    )
    return torch.cat([image, video], dim=2)


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square over channels (dimension 1) set to 1, at every position by itself."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x * (x.shape[1] ** 0.5 / norm.clamp_min(1e-3))


def to_channels(x: Tensor, time: int, space: int) -> Tensor:
    """[B, C, F, H, W] -> [B, C * time * space^2, F/time, H/space, W/space], channels (C outermost) last in memory."""
    x = x.permute(0, 2, 3, 4, 1)
    x = rearrange(x, "b (f u) (h p) (w q) c -> b f h w (c u p q)", u=time, p=space, q=space)
    return x.permute(0, 4, 1, 2, 3)


def repeat_first(x: Tensor, count: int) -> Tensor:
    """Put `count` copies of the first frame in front: [B, C, t, H, W] -> [B, C, t + count, H, W]."""
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x], dim=2)


class SpatialConv(nn.Conv3d):
    """A convolution inside each frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        pad = kernel_size // 2
        super().__init__(in_channels, out_channels, (1, kernel_size, kernel_size), padding=(0, pad, pad))


class CausalTemporalConv(nn.Conv3d):
    """A convolution over the current frame and the two before it; zeros stand before the first."""

    key: str = ""  # name within the model, under which the stream state keeps the history

    def __init__(self, channels: int):
        super().__init__(channels, channels, (3, 1, 1))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # [B, C, t, h, w] -> same
        if state is None or self.key not in state.history:
            x = F.pad(x, (0, 0, 0, 0, 2, 0))
        else:
            x = torch.cat([state.history[self.key], x], dim=2)
        if state is not None:
            state.history[self.key] = x[:, :, -2:].clone()
        return super().forward(x)


class ResidualBlock(nn.Module):
    """x + time(silu(space(norm(x)))); the last convolution starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_space = SpatialConv(channels, channels)
        self.conv_time = CausalTemporalConv(channels)
        nn.init.zeros_(self.conv_time.weight)
        nn.init.zeros_(self.conv_time.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return x + self.conv_time(F.silu(self.conv_space(rms_norm(x))), state)


class Downsample(nn.Module):
    """Fewer, wider positions: a convolution folded into channels, beside channel averages."""

    def __init__(self, in_channels: int, out_channels: int, time: int):
        super().__init__()
        self.time, self.out_channels = time, out_channels
        fold = time * 4
        assert out_channels % fold == 0 and in_channels * fold % out_channels == 0
        self.conv = SpatialConv(in_channels, out_channels // fold)

    def forward(self, x: Tensor, first: bool) -> Tensor:  # [B, C, t, h, w] -> [B, C', t/time, h/2, w/2]
        if first and self.time > 1:
            x = repeat_first(x, self.time - 1)
        folded = to_channels(x, self.time, 2).permute(0, 2, 3, 4, 1)
        shortcut = folded.unflatten(-1, (self.out_channels, -1)).mean(-1).permute(0, 4, 1, 2, 3)
        return to_channels(self.conv(x), self.time, 2) + shortcut


class Upsample(nn.Module):
    """More, narrower positions: a 1 x 1 convolution unfolded from channels, beside channel copies.

    The copies are linear, so they are added to the convolution's weight: output (c, u, p, q), counted through, copies
    input channel `index // repeats`.
    """

    def __init__(self, in_channels: int, out_channels: int, time: int):
        super().__init__()
        self.time, self.out_channels = time, out_channels
        wide = out_channels * time * 4
        assert wide % in_channels == 0
        self.repeats = wide // in_channels
        self.conv = SpatialConv(in_channels, wide, kernel_size=1)

    def forward(self, x: Tensor, first: bool) -> Tensor:  # [B, C, t, h, w] -> [B, C', t * time, 2h, 2w]
        weight = self.conv.weight.flatten(1)  # [C' * time * 4, C]
        copies = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        weight = weight + copies.repeat_interleave(self.repeats, dim=0)
        # Channels innermost, so that unfolding moves whole runs of memory.
        weight = rearrange(weight, "(c k) d -> (k c) d", c=self.out_channels)[..., None, None, None]
        bias = rearrange(self.conv.bias, "(c k) -> (k c)", c=self.out_channels)
        x = F.conv3d(x, weight, bias).permute(0, 2, 3, 4, 1)
        x = rearrange(x, "b f h w (u p q c) -> b (f u) (h p) (w q) c", u=self.time, p=2, q=2)
        return x[:, self.time - 1 if first else 0 :].permute(0, 4, 1, 2, 3)


class Encoder(nn.Module):
    def __init__(self, in_channels: int, latent_channels: int, widths: tuple[int, int, int], blocks: tuple[int, int]):
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.conv_in = SpatialConv(in_channels * PATCH**3, quarter, kernel_size=1)
        self.down_1 = Downsample(quarter, eighth, time=1)
        self.blocks_1 = nn.ModuleList(ResidualBlock(eighth) for _ in range(blocks[0]))
        self.down_2 = Downsample(eighth, sixteenth, time=2)
        self.blocks_2 = nn.ModuleList(ResidualBlock(sixteenth) for _ in range(blocks[1]))
        self.conv_out = SpatialConv(sixteenth, latent_channels)

    def forward(self, bands: Tensor, first: bool, state: StreamState | None = None) -> Tensor:
        x = self.conv_in(bands)  # [B, C, t/4, H/4, W/4]
        x = self.down_1(x, first)  # [B, C, t/4, H/8, W/8]
        for block in self.blocks_1:
            x = block(x, state)
        x = self.down_2(x, first)  # [B, C, t/8, h, w]
        for block in self.blocks_2:
            x = block(x, state)
        return self.conv_out(rms_norm(x))


class Decoder(nn.Module):
    def __init__(self, out_channels: int, latent_channels: int, widths: tuple[int, int, int], blocks: tuple[int, ...]):
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.conv_in = SpatialConv(latent_channels, sixteenth)
        self.blocks_2 = nn.ModuleList(ResidualBlock(sixteenth) for _ in range(blocks[0]))
        self.up_2 = Upsample(sixteenth, eighth, time=2)
        self.blocks_1 = nn.ModuleList(ResidualBlock(eighth) for _ in range(blocks[1]))
        self.up_1 = Upsample(eighth, quarter, time=1)
        self.blocks_0 = nn.ModuleList(ResidualBlock(quarter) for _ in range(blocks[2]))
        self.conv_out = SpatialConv(quarter, out_channels * PATCH**3, kernel_size=1)
        nn.init.normal_(self.conv_out.weight, std=0.02)

    def forward(self, latents: Tensor, first: bool, state: StreamState | None = None) -> Tensor:
        x = self.conv_in(latents)  # [B, C, f, h, w]
        for block in self.blocks_2:
            x = block(x, state)
        x = self.up_2(x, first)  # [B, C, t/4, H/8, W/8]
        for block in self.blocks_1:
            x = block(x, state)
        x = self.up_1(x, first)  # [B, C, t/4, H/4, W/4]
        for block in self.blocks_0:
            x = block(x, state)
        return self.conv_out(rms_norm(x))


class CausalVideoAutoencoder(ModelMixin, ConfigMixin):
    """Video [B, 3, 1 + 8k, H, W] in -1..1 to latents [B, 48, 1 + k, H/16, W/16] and back.

    Args:
        in_channels: colour channels.
        latent_channels: channels of a latent position.
        scale_factor_temporal: always 8; in the config because pipelines read it there.
        scale_factor_spatial: always 16; likewise.
        encoder_widths: channels at 1/4, 1/8 and 1/16 of the size.
        encoder_blocks: residual blocks at 1/8 and 1/16.
        decoder_widths: channels at 1/4, 1/8 and 1/16.
        decoder_blocks: residual blocks at 1/16, 1/8 and 1/4.
        tile_size: pixels; frames larger than this on a side are coded in overlapping tiles.
        tile_overlap: pixels two neighbouring tiles share.

    Raises:
        ValueError: a scale factor differs from what the network does, or the tile sizes are off the grid.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 48,
        scale_factor_temporal: int = 8,
        scale_factor_spatial: int = 16,
        encoder_widths: tuple[int, int, int] = (48, 192, 256),
        encoder_blocks: tuple[int, int] = (2, 1),
        decoder_widths: tuple[int, int, int] = (96, 192, 256),
        decoder_blocks: tuple[int, int, int] = (2, 3, 1),
        tile_size: int = 512,
        tile_overlap: int = 128,
    ):
        super().__init__()
        if (scale_factor_temporal, scale_factor_spatial) != (8, 16):
            raise ValueError(
                "`scale_factor_temporal` and `scale_factor_spatial` must be 8 and 16 (the network's own), got "
                f"{scale_factor_temporal} and {scale_factor_spatial}."
            )
        if tile_size % 16 or tile_overlap % 16 or not 0 < tile_overlap <= tile_size // 2:
            raise ValueError(
                "`tile_size` and `tile_overlap` must be multiples of 16, the overlap at most half of the size, got "
                f"{tile_size} and {tile_overlap}."
            )
        self.scale_factor_temporal, self.scale_factor_spatial = scale_factor_temporal, scale_factor_spatial
        self.encoder = Encoder(in_channels, latent_channels, tuple(encoder_widths), tuple(encoder_blocks))  # type: ignore[arg-type]
        self.decoder = Decoder(in_channels, latent_channels, tuple(decoder_widths), tuple(decoder_blocks))  # type: ignore[arg-type]
        for name in ("latents_mean_first", "latents_mean"):
            self.register_buffer(name, torch.zeros(latent_channels))
        for name in ("latents_std_first", "latents_std"):
            self.register_buffer(name, torch.ones(latent_channels))
        for name, module in self.named_modules():
            if isinstance(module, CausalTemporalConv):
                module.key = name

    # Chunks

    def encode_chunk(self, frames: Tensor, state: StreamState | None = None) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            frames: [B, 3, t, H, W] in -1..1; t is 1 + 8k for the first chunk of a stream, 8k later.
            state: of this stream, changed in place; `None` for a clip in one piece.

        Returns:
            Raw latents [B, C, 1 + k or k, h, w].

        Raises:
            ValueError: the number of frames is off the grid, or a side is no multiple of 16.
        """
        first = state is None or not state.started
        self._check_frames(frames, first)
        x = repeat_first(frames, PATCH - 1) if first else frames
        with torch.autocast(x.device.type, enabled=False):
            bands = haar_forward(x, LOW_GAIN)  # [B, 192, t/4, H/4, W/4]
        latents = self.encoder(bands, first, state)
        if state is not None:
            state.started = True
        return latents

    def decode_chunk(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        """Decode the next latent frames of a stream.

        Args:
            latents: raw, [B, C, f, h, w], f at least 1.
            state: of this stream, changed in place; `None` for a clip in one piece.

        Returns:
            Video [B, 3, t, H, W], not clamped; t is 1 + 8 (f - 1) for the first chunk of a stream, 8f later.

        Raises:
            ValueError: the shape is not that of latents.
        """
        self._check_latents(latents)
        first = state is None or not state.started
        bands = self.decoder(latents, first, state)
        with torch.autocast(bands.device.type, enabled=False):
            bands = bands.float() if self.dtype == torch.float32 else bands
            video = haar_inverse(bands, LOW_GAIN, first)
        if state is not None:
            state.started = True
        return video

    # Clips

    @torch.no_grad()
    def encode(self, video: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[Tensor]:
        """Encode a clip as a stream of 1, 8, 8, ... frames.

        Args:
            video: [B, 3, 1 + 8k, H, W] in -1..1, H and W multiples of 16.
            return_dict: `False` gives a tuple.

        Returns:
            Raw latents [B, C, 1 + k, h, w]; deterministic.

        Raises:
            ValueError: the shape is off the grid.
        """
        self._check_frames(video, first=True)
        step = self.scale_factor_temporal
        chunks = video.split([1] + [step] * ((video.shape[2] - 1) // step), dim=2)
        latents = torch.cat(list(self.encode_stream(chunks)), dim=2)
        return EncoderOutput(latents=latents) if return_dict else (latents,)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode chunks of frames as they come: 1 + 8k frames first, 8k each time after; yields their raw latents."""
        tiles: list[tuple[slice, slice]] | None = None
        states: list[StreamState] = []
        for frames in chunks:
            self._check_frames(frames, first=tiles is None)
            if tiles is None:
                tiles = self._tiles(frames.shape[-2] // 16, frames.shape[-1] // 16)
                states = [StreamState() for _ in tiles]
            pieces = [
                self.encode_chunk(frames[..., _scaled(rows, 16), _scaled(columns, 16)], state)
                for (rows, columns), state in zip(tiles, states, strict=True)
            ]
            yield self._blend(pieces, tiles, frames.shape[-2] // 16, frames.shape[-1] // 16, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Decode a clip latent frame by latent frame.

        Args:
            latents: raw, [B, C, f, h, w].
            return_dict: `False` gives a tuple.

        Returns:
            Video [B, 3, 1 + 8 (f - 1), H, W], clamped to -1..1.
        """
        video = torch.cat(list(self.decode_stream(latents)), dim=2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @torch.no_grad()
    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Like `decode`, yielding frames as they are ready: [B, 3, 1, H, W], then [B, 3, 8, H, W] each."""
        self._check_latents(latents)
        h, w = latents.shape[-2:]
        tiles = self._tiles(h, w)
        states = [StreamState() for _ in tiles]
        for latent in latents.split(1, dim=2):
            pieces = [
                self.decode_chunk(latent[..., rows, columns], state)
                for (rows, columns), state in zip(tiles, states, strict=True)
            ]
            yield self._blend(pieces, tiles, h, w, 16).clamp(-1, 1)

    def forward_train(
        self, video: Tensor, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode and decode a clip in one piece, with gradients.

        Args:
            video: [B, 3, 1 + 8k, H, W] in -1..1.
            noise: each clip's latents get Gaussian noise of uniform(0, noise) times their channel's standard deviation
                over the batch, so that the decoder forgives a generator's small errors.
            generator: for the noise.

        Returns:
            (reconstruction, not clamped, float32; latents without noise [B, C, f, h, w]).
        """
        latents = self.encode_chunk(video)
        noisy = latents
        if noise > 0:
            level = torch.rand(len(video), 1, 1, 1, 1, generator=generator, device=latents.device) * noise
            gauss = torch.randn(latents.shape, generator=generator, device=latents.device)
            std = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
            noisy = latents + (level * std * gauss).to(latents.dtype)
        return self.decode_chunk(noisy).float(), latents

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of a clip in one piece, clamped: [B, 3, F, H, W] -> same."""
        return self.forward_train(video)[0].clamp(-1, 1)

    # Statistics

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, f, h, w] of a whole clip to mean 0 and deviation 1 per channel; frame 0 has its own."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    @torch.no_grad()
    def set_statistics(self, first: Tensor, rest: Tensor) -> None:
        """Take the statistics of raw latents: `first` [n, C] values of first latent frames, `rest` [m, C] of later ones."""
        for values, mean, std in (
            (first, self.latents_mean_first, self.latents_std_first),
            (rest, self.latents_mean, self.latents_std),
        ):
            mean.copy_(values.float().mean(0))
            std.copy_(values.float().std(0).clamp_min(1e-4))

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        self._check_latents(latents)
        count = latents.shape[2] - 1
        pairs = ((self.latents_mean_first, self.latents_mean), (self.latents_std_first, self.latents_std))
        mean, std = (
            torch.stack([first] + [rest] * count, dim=1)[None, :, :, None, None].to(latents.dtype)
            for first, rest in pairs
        )
        return mean, std  # [1, C, f, 1, 1]

    # Tiles

    def _tiles(self, h: int, w: int) -> list[tuple[slice, slice]]:
        """Overlapping tiles in latent positions; one for a frame that is small enough."""
        size, overlap = self.config.tile_size // 16, self.config.tile_overlap // 16
        return [(rows, columns) for rows in _spans(h, size, overlap) for columns in _spans(w, size, overlap)]

    def _blend(self, pieces: list[Tensor], tiles: list[tuple[slice, slice]], h: int, w: int, scale: int) -> Tensor:
        """Tiles put together with linear cross-fades. `scale`: output pixels per latent position."""
        if len(pieces) == 1:
            return pieces[0]
        overlap = self.config.tile_overlap // 16 * scale
        out = pieces[0].new_zeros(*pieces[0].shape[:3], h * scale, w * scale)
        total = out.new_zeros(h * scale, w * scale)
        for piece, (rows, columns) in zip(pieces, tiles, strict=True):
            y, x = (_ramp(span, length, overlap, scale).to(out) for span, length in ((rows, h), (columns, w)))
            weight = y[:, None] * x
            out[..., _scaled(rows, scale), _scaled(columns, scale)] += piece * weight
            total[_scaled(rows, scale), _scaled(columns, scale)] += weight
        return out / total

    # Checks

    def _check_frames(self, frames: Tensor, first: bool) -> None:
        if frames.ndim != 5 or frames.shape[1] != self.config.in_channels:
            raise ValueError(
                f"`video` must be [B, {self.config.in_channels}, F, H, W], got {list(frames.shape)}; "
                "add the missing dimensions."
            )
        if first:
            check_num_frames(frames.shape[2], self.scale_factor_temporal)
        elif frames.shape[2] == 0 or frames.shape[2] % self.scale_factor_temporal:
            raise ValueError(
                f"`frames` of a later chunk must be a multiple of {self.scale_factor_temporal}, got {frames.shape[2]}; "
                "only the first chunk holds one more."
            )
        height, width = frames.shape[-2:]
        if height % 16 or width % 16 or not height or not width:
            raise ValueError(
                f"`height` and `width` must be multiples of 16, got {height} and {width}; "
                f"use {max(16, height // 16 * 16)} and {max(16, width // 16 * 16)}."
            )

    def _check_latents(self, latents: Tensor) -> None:
        if latents.ndim != 5 or latents.shape[1] != self.config.latent_channels or latents.shape[2] == 0:
            raise ValueError(
                f"`latents` must be [B, {self.config.latent_channels}, f, h, w] with f at least 1, "
                f"got {list(latents.shape)}."
            )


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)


def _spans(length: int, size: int, overlap: int) -> list[slice]:
    if length <= size:
        return [slice(0, length)]
    starts = [*range(0, length - size, size - overlap), length - size]
    return [slice(start, start + size) for start in starts]


def _ramp(span: slice, length: int, overlap: int, scale: int) -> Tensor:
    """Weights of one tile along one side: where a neighbour overlaps, 0 (a quarter), rising (half), 1 (a quarter).

    The outer quarter is left to the neighbour: there the zeros beyond the tile's edge have been seen.
    """
    weight = torch.ones((span.stop - span.start) * scale)
    margin = overlap // 4
    rise = torch.zeros(overlap)
    rise[margin:] = ((torch.arange(overlap - margin) + 0.5) / (overlap - 2 * margin)).clamp_max(1)
    if span.start > 0:
        weight[:overlap] = rise
    if span.stop < length:
        weight[-overlap:] = rise.flip(0)
    return weight
