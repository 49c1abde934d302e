"""A causal 3D video tokenizer: 4 x 16 x 16 pixels to one latent position, the first frame alone.

A separable 4 x 4 x 4 Haar wavelet turns pixels into 192 channels at a quarter of the size (as in Cosmos, Agarwal et al. 2025,
arXiv:2501.03575, there without a frame of its own). From there two ways lead to the latents and back, and are added: a linear
one, fitted to the principal components of single blocks (`tokenizer3d.linear_codec`), and a network of depth-wise
convolutions and position-wise layers at 1/8 and 1/16 that learns what the linear one misses. Every change of size in it has a
parameter-free path beside it: channel averages on the way down, channel copies on the way up (Chen et al. 2024,
arXiv:2410.10733). Choices made here:

- In time everything looks back only. A group of frames starts with frame 0 repeated until it fills a group, so one image is
  exactly one latent frame; convolutions pad zeros on the left.
- The only norm is a root mean square over channels at one position (no statistics over time, no weight: the next
  layer absorbs it).
- `encode` and `decode` stream: they carry a `StreamState` from chunk to chunk, so memory does not grow with the clip.
  `forward_train` runs the same layers over the whole clip at once.

Shapes: B batch; C channels; F, H, W pixel frames, height, width; f, h, w latent frames, height, width; t chunk length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from tokenizer3d.haar import PATCH, haar_forward, haar_inverse, repeat_first
from tokenizer3d.linear_codec import LinearDecoder, LinearEncoder, fit_linear_codec
from tokenizer3d.shapes import check_num_frames

LOW_GAIN = 0.25  # the mean of a block is about four times as large as its details


@dataclass
class EncoderOutput(BaseOutput):
    """`latents`: [B, C, f, h, w], raw (see `CausalVideoAutoencoder.normalize`)."""

    latents: Tensor


@dataclass
class StreamState:
    """What one stream remembers between chunks: the last two inputs of every convolution in time.

    Attributes:
        started: whether a chunk has been processed; the first one holds the frame that stands alone.
        history: block name -> [B, 2, h, w, C]; its size does not depend on how much was processed.
    """

    started: bool = False
    history: dict[str, Tensor] = field(default_factory=dict)


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square over channels (dimension 1) set to 1, at every position by itself."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x * (x.shape[1] ** 0.5 / norm.clamp_min(1e-3))


def to_channels(x: Tensor) -> Tensor:
    """[B, C, t, H, W] -> [B, t, H/2, W/2, C * 4], channels (C outermost) last in memory."""
    return rearrange(x.permute(0, 2, 3, 4, 1), "b t (h p) (w q) c -> b t h w (c p q)", p=2, q=2)


class SpatialConv(nn.Conv3d):
    """A convolution inside each frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        pad = kernel_size // 2
        super().__init__(in_channels, out_channels, (1, kernel_size, kernel_size), padding=(0, pad, pad))


class ResidualBlock(nn.Module):
    """x + mlp(time(norm(space(x)))): depth-wise convolutions, then a position-wise layer `expansion` times as wide.

    The form of Liu et al. 2022 (arXiv:2201.03545): nearly all work is matrix products, which is what CPUs do well. In time
    it looks at the current position and the two before it. The last layer starts at zero.
    """

    def __init__(self, channels: int, expansion: int = 3):
        super().__init__()
        self.conv_space = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.time_weight = nn.Parameter(torch.tensor([0.0, 0.0, 1.0])[:, None].repeat(1, channels))
        self.linear_in = nn.Linear(channels, channels * expansion)
        self.linear_out = nn.Linear(channels * expansion, channels)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.zeros_(self.linear_out.bias)
        self.key = ""  # name within the model, under which the stream state keeps the history

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # [B, C, t, h, w] -> same
        batch, channels = x.shape[:2]
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        y = rearrange(self.conv_space(frames), "(b t) c h w -> b t h w c", b=batch)
        y = F.rms_norm(y, (channels,))
        if state is None or self.key not in state.history:
            y = F.pad(y, (0, 0, 0, 0, 0, 0, 2, 0))
        else:
            y = torch.cat([state.history[self.key], y], dim=1)
        if state is not None:
            state.history[self.key] = y[:, -2:].clone()
        weight = self.time_weight.to(y.dtype)
        y = torch.addcmul(torch.addcmul(y[:, 2:] * weight[2], y[:, 1:-1], weight[1]), y[:, :-2], weight[0])
        y = self.linear_out(F.silu(self.linear_in(y)))
        return x + y.permute(0, 4, 1, 2, 3)


class Downsample(nn.Module):
    """Half the height and width, wider: a convolution folded into channels, beside channel averages."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        if out_channels % 4 or in_channels * 4 % out_channels:
            raise ValueError(
                f"`widths` must grow by a divisor of 4 from stage to stage, got {in_channels} and {out_channels}."
            )
        self.out_channels = out_channels
        self.conv = SpatialConv(in_channels, out_channels // 4)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, t, h, w] -> [B, C', t, h/2, w/2]
        shortcut = to_channels(x).unflatten(-1, (self.out_channels, -1)).mean(-1)
        return (to_channels(self.conv(x)) + shortcut).permute(0, 4, 1, 2, 3)


class Upsample(nn.Module):
    """Twice the height and width, narrower: a 1 x 1 convolution unfolded from channels, beside channel copies.

    The copies are linear, so they are added to the weight: output (c, p, q), counted through, copies input channel
    `index // repeats`.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        if out_channels * 4 % in_channels:
            raise ValueError(
                f"`widths` must shrink by a divisor of 4 from stage to stage, got {in_channels} and {out_channels}."
            )
        self.out_channels = out_channels
        self.repeats = out_channels * 4 // in_channels
        self.linear = nn.Linear(in_channels, out_channels * 4)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, t, h, w] -> [B, C', t, 2h, 2w]
        weight = self.linear.weight  # [C' * 4, C]
        copies = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        weight = weight + copies.repeat_interleave(self.repeats, dim=0)
        # Channels innermost, so that unfolding moves whole runs of memory.
        weight = rearrange(weight, "(c k) d -> (k c) d", c=self.out_channels)
        bias = rearrange(self.linear.bias, "(c k) -> (k c)", c=self.out_channels)
        x = F.linear(x.permute(0, 2, 3, 4, 1), weight, bias)
        return rearrange(x, "b t h w (p q c) -> b c t (h p) (w q)", p=2, q=2, c=self.out_channels)


class Encoder(nn.Module):
    """Bands [B, in_channels * 64, f, 4h, 4w] to raw latents [B, C, f, h, w]: a linear codec, and what the network adds."""

    def __init__(self, in_channels: int, latent_channels: int, widths: tuple[int, int, int], blocks: tuple[int, int]):
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.linear = LinearEncoder(in_channels, latent_channels)
        self.conv_in = SpatialConv(in_channels * PATCH**3, quarter, kernel_size=1)
        self.down_1 = Downsample(quarter, eighth)
        self.blocks_1 = nn.ModuleList(ResidualBlock(eighth) for _ in range(blocks[0]))
        self.down_2 = Downsample(eighth, sixteenth)
        self.blocks_2 = nn.ModuleList(ResidualBlock(sixteenth) for _ in range(blocks[1]))
        self.conv_out = SpatialConv(sixteenth, latent_channels)
        nn.init.normal_(self.conv_out.weight, std=0.2 * (27 * sixteenth) ** -0.5)

    def forward(self, bands: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.conv_in(bands)  # [B, C, t, H/4, W/4]
        x = self.down_1(x)  # [B, C, t, H/8, W/8]
        for block in self.blocks_1:
            x = block(x, state)
        x = self.down_2(x)  # [B, C, t, h, w]
        for block in self.blocks_2:
            x = block(x, state)
        return self.linear(bands) + self.conv_out(rms_norm(x))


class Decoder(nn.Module):
    """Raw latents [B, C, f, h, w] to bands [B, out_channels * 64, f, 4h, 4w]."""

    def __init__(
        self, out_channels: int, latent_channels: int, widths: tuple[int, int, int], blocks: tuple[int, int, int]
    ):
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.linear = LinearDecoder(out_channels, latent_channels)
        self.conv_in = SpatialConv(latent_channels, sixteenth)
        self.blocks_2 = nn.ModuleList(ResidualBlock(sixteenth) for _ in range(blocks[0]))
        self.up_2 = Upsample(sixteenth, eighth)
        self.blocks_1 = nn.ModuleList(ResidualBlock(eighth) for _ in range(blocks[1]))
        self.up_1 = Upsample(eighth, quarter)
        self.blocks_0 = nn.ModuleList(ResidualBlock(quarter) for _ in range(blocks[2]))
        self.conv_out = SpatialConv(quarter, out_channels * PATCH**3, kernel_size=1)
        nn.init.normal_(self.conv_out.weight, std=0.004)

    def forward(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        x = self.conv_in(latents)  # [B, C, f, h, w]
        for block in self.blocks_2:
            x = block(x, state)
        x = self.up_2(x)  # [B, C, f, H/8, W/8]
        for block in self.blocks_1:
            x = block(x, state)
        x = self.up_1(x)  # [B, C, f, H/4, W/4]
        for block in self.blocks_0:
            x = block(x, state)
        return self.linear(latents) + self.conv_out(rms_norm(x))


class CausalVideoAutoencoder(ModelMixin, ConfigMixin):
    """Video [B, 3, 1 + 4k, H, W] in -1..1 to latents [B, 64, 1 + k, H/16, W/16] and back.

    Args:
        in_channels: colour channels.
        latent_channels: channels of a latent position.
        scale_factor_temporal: always 4; in the config because pipelines read it there.
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
        latent_channels: int = 64,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 16,
        encoder_widths: tuple[int, int, int] = (48, 192, 256),
        encoder_blocks: tuple[int, int] = (2, 3),
        decoder_widths: tuple[int, int, int] = (96, 192, 256),
        decoder_blocks: tuple[int, int, int] = (5, 4, 1),
        tile_size: int = 512,
        tile_overlap: int = 128,
    ):
        super().__init__()
        if (scale_factor_temporal, scale_factor_spatial) != (4, 16):
            raise ValueError(
                "`scale_factor_temporal` and `scale_factor_spatial` must be 4 and 16 (the network's own), got "
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
            if isinstance(module, ResidualBlock):
                module.key = name

    def fit_linear_codec(self, videos: Iterable[Tensor]) -> float:
        """Start from principal components: before training, on some of its clips. See `tokenizer3d.linear_codec`."""
        return fit_linear_codec(self.encoder.linear, self.decoder.linear, videos, LOW_GAIN)

    # Chunks

    def encode_chunk(self, frames: Tensor, state: StreamState | None = None) -> Tensor:
        """Encode the next frames of a stream.

        Args:
            frames: [B, 3, t, H, W] in -1..1; t is 1 + 4k for the first chunk of a stream, 4k later.
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
        latents = self.encoder(bands, state)
        if state is not None:
            state.started = True
        return latents

    def decode_chunk(self, latents: Tensor, state: StreamState | None = None) -> Tensor:
        """Decode the next latent frames of a stream.

        Args:
            latents: raw, [B, C, f, h, w], f at least 1.
            state: of this stream, changed in place; `None` for a clip in one piece.

        Returns:
            Video [B, 3, t, H, W], not clamped; t is 1 + 4 (f - 1) for the first chunk of a stream, 4f later.

        Raises:
            ValueError: the shape is not that of latents.
        """
        self._check_latents(latents)
        first = state is None or not state.started
        bands = self.decoder(latents, state)
        with torch.autocast(bands.device.type, enabled=False):
            bands = bands.float() if self.dtype == torch.float32 else bands
            video = haar_inverse(bands, LOW_GAIN, first)
        if state is not None:
            state.started = True
        return video

    # Clips

    @apply_forward_hook
    @torch.no_grad()
    def encode(self, video: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[Tensor]:
        """Encode a clip as a stream of 1, 4, 4, ... frames.

        Args:
            video: [B, 3, 1 + 4k, H, W] in -1..1, H and W multiples of 16.
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
        """Encode chunks of frames as they come: 1 + 4k frames first, 4k each time after; yields their raw latents."""
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

    @apply_forward_hook
    @torch.no_grad()
    def decode(self, latents: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Decode a clip latent frame by latent frame.

        Args:
            latents: raw, [B, C, f, h, w].
            return_dict: `False` gives a tuple.

        Returns:
            Video [B, 3, 1 + 4 (f - 1), H, W], clamped to -1..1.
        """
        video = torch.cat(list(self.decode_stream(latents)), dim=2)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @torch.no_grad()
    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Like `decode`, yielding frames as they are ready: [B, 3, 1, H, W], then [B, 3, 4, H, W] each."""
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
        self,
        video: Tensor,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
        corrupt: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode and decode a clip in one piece, with gradients.

        Args:
            video: [B, 3, 1 + 4k, H, W] in -1..1.
            noise: each clip's latents get Gaussian noise of uniform(0, noise) times their channel's standard deviation
                over the batch, so that the decoder forgives a generator's small errors.
            generator: for the noise.
            corrupt: called with the latents and `generator` before the noise; what it returns is decoded, and no gradient
                reaches the encoder through it unless it lets one.

        Returns:
            (reconstruction, not clamped, float32; latents without noise [B, C, f, h, w]).
        """
        latents = self.encode_chunk(video)
        noisy = latents if corrupt is None else corrupt(latents, generator)
        if noise > 0:
            level = torch.rand(len(video), 1, 1, 1, 1, generator=generator, device=latents.device) * noise
            gauss = torch.randn(latents.shape, generator=generator, device=latents.device)
            std = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
            noisy = noisy + (level * std * gauss).to(latents.dtype)
        return self.decode_chunk(noisy).float(), latents

    def forward(self, video: Tensor) -> Tensor:
        """Reconstruction of a clip in one piece, clamped: [B, 3, F, H, W] -> same."""
        return self.forward_train(video)[0].clamp(-1, 1)

    # Statistics

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw latents [B, C, f, h, w] of a whole clip to mean 0 and the deviations `set_statistics` was told.

        The first frame has statistics of its own. Over all channels the mean square is 1.
        """
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    @torch.no_grad()
    def set_statistics(self, first: Tensor, rest: Tensor, deviations: Tensor | None = None) -> None:
        """Take the statistics of raw latents.

        Args:
            first: [n, C] values of first latent frames.
            rest: [m, C] values of later ones.
            deviations: [C] relative deviations of the channels after `normalize`; `None` for all equal.
        """
        wanted = torch.ones_like(self.latents_std) if deviations is None else deviations.to(self.latents_std)
        wanted = wanted / wanted.square().mean().sqrt()
        for values, mean, std in (
            (first, self.latents_mean_first, self.latents_std_first),
            (rest, self.latents_mean, self.latents_std),
        ):
            mean.copy_(values.float().mean(0))
            std.copy_(values.float().std(0).clamp_min(1e-4) / wanted)

    @torch.no_grad()
    def visibility(self, latents: Tensor) -> Tensor:
        """How much one deviation of a channel, here or there, changes the decoded pixels.

        Args:
            latents: raw, [B, C, f, h, w]; several clips.

        Returns:
            [C] root mean square changes of pixels, in units of -1..1.
        """
        std = latents.float().std(dim=(0, 2, 3, 4))  # [C]
        sign = torch.ones(latents.shape[2:], device=latents.device)
        sign[:, ::2, 1::2] = sign[:, 1::2, ::2] = -1  # neighbours move apart, so that nothing cancels
        before = self.decode_chunk(latents).float()
        changes = []
        for channel in range(latents.shape[1]):
            moved = latents.clone()
            moved[:, channel] += sign * std[channel]
            changes.append((self.decode_chunk(moved).float() - before).square().mean().sqrt())
        return torch.stack(changes)

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        self._check_latents(latents)
        count = latents.shape[2] - 1
        pairs = ((self.latents_mean_first, self.latents_mean), (self.latents_std_first, self.latents_std))
        mean, std = (
            torch.stack([first] + [rest] * count, dim=1)[None, :, :, None, None].to(latents) for first, rest in pairs
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
