"""Frames per second and peak memory of encoding and decoding, beside other tokenizers of the same compression and size.

| model | what |
| --- | --- |
| `videogen` | `CausalVideoAutoencoder` as shipped, a whole clip in and out |
| `videogen-stream` | the same, frames handed over and taken away as they come: nothing of the clip's length stays in memory |
| `wan` | diffusers' `AutoencoderKLWan` in the form of Wan 2.2 (4 x 16 x 16), 64 channels, narrowed to the same number of parameters |
| `cosmos` | diffusers' `AutoencoderKLCosmos`, likewise |

Random weights, one clip. `tokens` are latent positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from tokenizer3d.shapes import num_latent_frames
from videogen.benchmark.measure import Budget, CaseFailed, Row, best_device, measure
from videogen.benchmark.measure import run_case as run_in_process
from videogen.planning.counts import tiled_positions, tokenizer_flops

MODELS = ("videogen", "videogen-stream", "wan", "cosmos")
SIZES = (256, 512)
FRAMES = (17, 65, 129, 257, 513)


def build(name: str) -> Any:
    """A tokenizer of `MODELS`; the others with the number of parameters nearest to ours, encoder and decoder each."""
    if name.startswith("videogen"):
        return CausalVideoAutoencoder()
    with torch.device("meta"):
        ours = CausalVideoAutoencoder()
    wanted = _count(ours.encoder), _count(ours.decoder)
    make = {"wan": _wan, "cosmos": _cosmos}[name]
    sizes: dict[int, tuple[int, int]] = {}
    for width in range(8, 129, 2):
        with torch.device("meta"):
            model = make(width, width, ours.config.latent_channels)
        sizes[width] = _count(model.encoder), _count(model.decoder)
        if min(sizes[width][0] / wanted[0], sizes[width][1] / wanted[1]) > 1.5:
            break
    encoder, decoder = (min(sizes, key=lambda width: abs(sizes[width][part] - wanted[part])) for part in range(2))
    return make(encoder, decoder, ours.config.latent_channels)


def _wan(encoder: int, decoder: int, channels: int) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=encoder,
        decoder_base_dim=decoder,
        z_dim=channels,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        temperal_downsample=[False, True, True],
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
    )


def _cosmos(encoder: int, decoder: int, channels: int) -> Any:
    from diffusers import AutoencoderKLCosmos

    return AutoencoderKLCosmos(
        latent_channels=channels,
        encoder_block_out_channels=(encoder, 2 * encoder, 4 * encoder, 4 * encoder),
        decode_block_out_channels=(decoder, 2 * decoder, 4 * decoder, 4 * decoder),
        attention_resolutions=(),
        spatial_compression_ratio=16,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def run_case(model: str, mode: str, size: int, frames: int, dtype: str = "float32") -> Row:
    """One row: `mode` "encode" or "decode" of one clip of `frames` frames of `size` x `size` pixels."""
    torch.manual_seed(0)
    device, element = best_device(), getattr(torch, dtype)
    network = build(model).to(device, element).eval()
    latent_frames = num_latent_frames(frames)
    shape = (1, 3, frames, size, size) if mode == "encode" else (1, 64, latent_frames, size // 16, size // 16)
    if model == "videogen-stream":
        run = _streaming(network, mode, shape, element, device)
    else:
        values = torch.randn(shape, device=device).mul_(0.3).to(element)
        run = _whole(network, mode, values)
    row: Row = {"benchmark": "tokenizer", "model": model, "mode": mode, "size": size, "frames": frames, "dtype": dtype}
    row["tokens"] = latent_frames * (size // 16) ** 2
    row |= measure(torch.no_grad()(run), device, element)
    row["frames_per_second"] = frames / row["seconds"]
    row["parameters"] = _count(network)
    if model.startswith("videogen"):
        positions = tiled_positions(network.config, size // 16, size // 16)[0] * latent_frames
        row["flops"] = tokenizer_flops(network.config, positions)[mode == "decode"]
        row["matmul_fraction"] = row["flops"] / row["seconds"] / row["matmul_flops"]
    return row


def _whole(network: Any, mode: str, values: Tensor) -> Callable[[], Any]:
    if mode == "decode":
        return lambda: network.decode(values, return_dict=False)[0]
    return lambda: network.encode(values, return_dict=False)[0]


def _streaming(
    network: CausalVideoAutoencoder, mode: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """Chunks of 1, 4, 4, ... frames that exist only while they are needed."""
    batch, channels, length, height, width = shape

    def chunks() -> Iterator[Tensor]:
        yield torch.zeros(batch, channels, 1, height, width, dtype=dtype, device=device)
        for _ in range((length - 1) // network.scale_factor_temporal):
            yield torch.zeros(batch, channels, network.scale_factor_temporal, height, width, dtype=dtype, device=device)

    def encode() -> None:
        for _ in network.encode_stream(chunks()):
            pass

    latents = torch.zeros(tuple(shape), dtype=dtype, device=device) if mode == "decode" else torch.zeros(0)

    def decode() -> None:
        for _ in network.decode_stream(latents):
            pass

    return encode if mode == "encode" else decode


def run(
    models: Sequence[str] = MODELS,
    sizes: Sequence[int] = SIZES,
    frames: Sequence[int] = FRAMES,
    *,
    dtype: str = "float32",
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Rows of every model, side by side at every size and length, short clips first; what does not fit the time is said."""
    rate: dict[tuple[str, str], float] = {}  # seconds per pixel of all frames
    for length in sorted(frames):
        for size in sorted(sizes):
            for mode in ("encode", "decode"):
                for model in models:
                    name = f"{model}, {mode}, {length} frames of {size}x{size}"
                    seconds = rate.get((model, mode), 1e-7) * length * size**2
                    if 15 + seconds * (1 if seconds > 20 else 3) > budget.left():
                        say(f"{name}: left out, would take about {seconds:.0f} s a run")
                        continue
                    arguments = {"model": model, "mode": mode, "size": size, "frames": length, "dtype": dtype}
                    try:
                        row = run_in_process("tokenizer", arguments, budget.timeout())
                    except CaseFailed as error:
                        say(f"{name}: failed: {error}")
                        continue
                    rate[model, mode] = row["seconds"] / (length * size**2)
                    say(f"{name}: {row['frames_per_second']:.1f} frames/s, {row['peak_bytes'] / 1e9:.2f} GB")
                    yield row
