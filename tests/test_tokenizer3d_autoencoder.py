"""The video tokenizer: causality, streaming, shapes, statistics, tiles, memory, saving."""

import os
import subprocess
import sys

import pytest
import torch

from tokenizer3d import CausalVideoAutoencoder, StreamState, check_num_frames, num_latent_frames, num_pixel_frames
from tokenizer3d.autoencoder import LOW_GAIN
from tokenizer3d.haar import haar_forward, haar_inverse, haar_matrix, repeat_first

SMALL = {
    "latent_channels": 8,
    "encoder_widths": (16, 32, 64),
    "encoder_blocks": (1, 1),
    "decoder_widths": (16, 32, 64),
    "decoder_blocks": (1, 1, 1),
}


def make_model(**options) -> CausalVideoAutoencoder:
    """A small tokenizer whose zero-initialised convolutions have been woken up."""
    torch.manual_seed(0)
    model = CausalVideoAutoencoder(**{**SMALL, **options})
    for param in model.parameters():
        if not param.any():
            torch.nn.init.normal_(param, std=0.05)
    return model.eval()


def make_video(num_frames: int = 17, height: int = 32, width: int = 48, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, num_frames, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (17, 5), (81, 21)])
def test_frames_and_latents_map_both_ways(frames, latents):
    assert num_latent_frames(frames) == latents
    assert num_pixel_frames(latents) == frames


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (80, "`num_frames` must be 1 plus a multiple of 4, got 80; use 77 or 81."),
        (0, "`num_frames` must be 1 plus a multiple of 4, got 0; use 1."),
        (2, "`num_frames` must be 1 plus a multiple of 4, got 2; use 1 or 5."),
    ],
)
def test_frames_off_the_grid_are_refused(frames, message):
    with pytest.raises(ValueError) as error:
        check_num_frames(frames)
    assert str(error.value) == message


def test_haar_is_orthonormal_and_invertible():
    matrix = haar_matrix(torch.float64, torch.device("cpu"))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64, dtype=torch.float64))
    video = make_video(8)
    torch.testing.assert_close(haar_inverse(haar_forward(video)), video, atol=1e-5, rtol=0)
    flat = haar_forward(torch.full((1, 3, 4, 4, 4), 0.5)).flatten()
    assert flat[0] == 4.0  # the mean band: 8 times the mean
    assert flat[1:64].abs().max() < 1e-6


def test_one_image_is_one_latent_frame_whatever_follows():
    model = make_model()
    video = make_video(17)
    whole = model.encode(video).latents
    assert whole.shape == (1, 8, 5, 2, 3)
    image = model.encode(video[:, :, :1]).latents
    assert image.shape == (1, 8, 1, 2, 3)
    assert torch.equal(image, whole[:, :, :1])
    assert model.decode(image).sample.shape == (1, 3, 1, 32, 48)


@pytest.mark.parametrize("changed", [1, 4, 5, 16])
def test_a_later_frame_never_changes_an_earlier_output(changed):
    model = make_model()
    video = make_video(17)
    other = video.clone()
    other[:, :, changed:] = -other[:, :, changed:]
    unchanged = (changed - 1) // 4 + 1  # latents that see only frames before `changed`
    kept_frames = num_pixel_frames(unchanged)
    with torch.no_grad():
        for encode in (lambda v: model.encode(v).latents, model.encode_chunk):
            before, after = encode(video), encode(other)
            assert torch.equal(before[:, :, :unchanged], after[:, :, :unchanged])
            assert not torch.equal(before[:, :, unchanged:], after[:, :, unchanged:])
        for decode in (lambda z: model.decode(z).sample, model.decode_chunk):
            first, second = decode(before), decode(after)
            assert torch.equal(first[:, :, :kept_frames], second[:, :, :kept_frames])
            assert not torch.equal(first[:, :, kept_frames:], second[:, :, kept_frames:])


def test_streaming_equals_one_shot():
    model = make_model()
    video = make_video(33, batch=2)
    with torch.no_grad():
        sample, latents = model.forward_train(video)
    torch.testing.assert_close(model.encode(video).latents, latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.decode(latents).sample, sample.clamp(-1, 1), atol=1e-5, rtol=0)


def test_any_chunking_gives_the_same_latents_and_frames():
    model = make_model()
    video = make_video(33)
    whole = model.encode(video).latents
    chunks = list(model.encode_stream(video.split([17, 16], dim=2)))
    assert [chunk.shape[2] for chunk in chunks] == [5, 4]
    torch.testing.assert_close(torch.cat(chunks, dim=2), whole, atol=1e-5, rtol=0)
    state = StreamState()
    with torch.no_grad():
        frames = [model.decode_chunk(part, state) for part in whole.split([2, 7], dim=2)]
    assert [part.shape[2] for part in frames] == [5, 28]
    torch.testing.assert_close(torch.cat(frames, dim=2).clamp(-1, 1), model.decode(whole).sample, atol=1e-5, rtol=0)


def test_decode_stream_yields_one_frame_then_four_each():
    model = make_model()
    pieces = list(model.decode_stream(torch.randn(2, 8, 3, 2, 2)))
    assert [tuple(piece.shape) for piece in pieces] == [(2, 3, 1, 32, 32), (2, 3, 4, 32, 32), (2, 3, 4, 32, 32)]
    assert all(piece.abs().max() <= 1 for piece in pieces)


def test_batch_equals_singles():
    model = make_model()
    video = make_video(9, batch=3)
    whole = model.encode(video).latents
    for i in range(3):
        torch.testing.assert_close(model.encode(video[i : i + 1]).latents, whole[i : i + 1], atol=1e-5, rtol=0)


def test_state_does_not_grow_with_the_clip():
    model = make_model()
    sizes = []
    state = StreamState()
    with torch.no_grad():
        model.encode_chunk(make_video(1), state)
        for _ in range(4):
            model.encode_chunk(make_video(8), state)
            sizes.append({name: history.shape for name, history in state.history.items()})
            # A view into the chunk would keep the whole chunk alive.
            assert all(h.untyped_storage().nbytes() == h.numel() * 4 for h in state.history.values())
    assert len(sizes[0]) == 2 and all(size == sizes[0] for size in sizes)


@pytest.mark.slow
def test_peak_memory_is_flat_in_clip_length():
    """Frames come from and go to nowhere; what is left is the tokenizer's own memory."""
    program = (
        "import resource, torch\n"
        "from tokenizer3d import CausalVideoAutoencoder\n"
        "model = CausalVideoAutoencoder(latent_channels=8, encoder_widths=(16, 32, 64), decoder_widths=(16, 32, 64))\n"
        "def chunks(count):\n"
        "    yield torch.zeros(1, 3, 1, 256, 256)\n"
        "    for _ in range(count):\n"
        "        yield torch.zeros(1, 3, 8, 256, 256)\n"
        "def run(count):\n"
        "    for latents in model.encode_stream(chunks(count)):\n"
        "        pass\n"
        "    for frames in model.decode_stream(torch.zeros(1, 8, 1 + 2 * count, 16, 16)):\n"
        "        pass\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "short = run(4)\n"
        "print(short, run(60))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout
    short, long = map(int, printed.split())
    # 481 frames of 256 x 256 take 378 MB as float32; 33 frames took 26 MB.
    assert long - short < 30_000, f"peak grew from {short} to {long} kB"


def test_save_and_load_round_trip(tmp_path):
    model = make_model()
    model.set_statistics(torch.randn(50, 8) * 2 + 1, torch.randn(50, 8) * 3 - 1)
    model.save_pretrained(tmp_path)
    loaded = CausalVideoAutoencoder.from_pretrained(tmp_path)
    video = make_video(9)
    assert torch.equal(model.encode(video).latents, loaded.encode(video).latents)
    assert torch.equal(loaded.latents_std_first, model.latents_std_first)
    assert dict(loaded.config)["encoder_widths"] == [16, 32, 64]
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".safetensors"]


def test_normalisation_has_its_own_statistics_for_the_first_frame():
    model = make_model()
    latents = torch.randn(64, 8, 3, 2, 2)
    latents[:, :, 0] = latents[:, :, 0] * 5 + 7
    latents[:, :, 1:] = latents[:, :, 1:] * 0.5 - 3
    first = latents[:, :, 0].movedim(1, -1).reshape(-1, 8)
    rest = latents[:, :, 1:].movedim(1, -1).reshape(-1, 8)
    model.set_statistics(first, rest)
    normal = model.normalize(latents)
    for part in (normal[:, :, :1], normal[:, :, 1:]):
        torch.testing.assert_close(part.mean(dim=(0, 2, 3, 4)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(part.std(dim=(0, 2, 3, 4)), torch.ones(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.denormalize(normal), latents, atol=1e-5, rtol=1e-5)


def test_channels_keep_the_deviations_they_are_told():
    model = make_model()
    values = torch.randn(500, 8) * torch.arange(1, 9)
    wanted = torch.tensor([4.0, 4, 2, 2, 1, 1, 1, 1])
    model.set_statistics(values, values, wanted)
    normal = (values - model.latents_mean) / model.latents_std
    torch.testing.assert_close(normal.std(0) / normal.std(0)[-1], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.square().mean(), torch.tensor(1.0), atol=1e-2, rtol=0)


def test_visibility_is_what_a_deviation_changes_in_the_picture():
    model = make_model()
    torch.nn.init.zeros_(model.decoder.conv_out.weight)  # the linear way alone
    with torch.no_grad():
        model.decoder.linear.weight[:, 3] *= 10
        model.decoder.linear.weight[:, 5] = 0
    latents = torch.randn(2, 8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    visibility = model.visibility(latents)
    assert visibility.argmax() == 3 and visibility[5] == 0
    assert 5 < visibility[3] / visibility[[0, 1, 2, 4, 6, 7]].mean() < 20


def test_large_frames_are_tiled_and_agree_with_untiled():
    plain = make_model()
    tiled = make_model(tile_size=128, tile_overlap=64)
    # Smooth content: what differs is only what a tile's edge padding reaches.
    coarse = torch.rand(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video = torch.nn.functional.interpolate(coarse, size=(9, 192, 160), mode="trilinear", align_corners=True)
    assert len(tiled._tiles(12, 10)) == 4
    latents, latents_tiled = plain.encode(video).latents, tiled.encode(video).latents
    assert latents_tiled.shape == latents.shape
    # Measured 0.021 and 0.006 for these random weights, whose edges are unlike anything seen in training.
    assert (latents - latents_tiled).abs().mean() < 0.03 * latents.std()
    sample, sample_tiled = plain.decode(latents).sample, tiled.decode(latents).sample
    assert sample_tiled.shape == sample.shape
    assert (sample - sample_tiled).abs().mean() < 0.01 * sample.std()


def test_latent_noise_reaches_the_decoder_only():
    model = make_model()
    video = make_video(9)
    with torch.no_grad():
        plain, latents = model.forward_train(video)
        noisy, same = model.forward_train(video, noise=1.0, generator=torch.Generator().manual_seed(0))
        again, _ = model.forward_train(video, noise=1.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latents, same)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, plain)


def test_every_parameter_learns():
    model = make_model()
    sample, latents = model.forward_train(make_video(9))
    (sample.square().mean() + latents.square().mean()).backward()
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in model.parameters())


def test_linear_codec_starts_as_the_principal_components():
    """On pictures that are mixtures of four patterns, four channels lose nothing and come out scaled."""
    generator = torch.Generator().manual_seed(0)
    model = make_model(in_channels=1, latent_channels=4)
    patterns = torch.randn(4, 1, 1, 16, 16, generator=generator) * torch.tensor([4.0, 2, 1, 0.5]).view(4, 1, 1, 1, 1)
    weights = torch.randn(1500, 4, generator=generator) + 1
    pictures = torch.einsum("nk,kcfhw->ncfhw", weights, patterns) * 0.1
    assert model.fit_linear_codec(pictures.split(500)) > 0.9999
    bands = haar_forward(repeat_first(pictures, 3), LOW_GAIN)
    latents = model.encoder.linear(bands)
    assert latents.shape == (1500, 4, 1, 1, 1)
    torch.testing.assert_close(latents.mean(0).flatten(), torch.zeros(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(latents.std(0).flatten(), torch.ones(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(model.decoder.linear(latents), bands, atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="`videos` must hold at least 1024 blocks of 4x16x16, got 500"):
        model.fit_linear_codec([pictures[:500]])


def test_shipped_size_is_4_to_6_million_parameters():
    with torch.device("meta"):
        model = CausalVideoAutoencoder()
    assert 4e6 < sum(param.numel() for param in model.parameters()) < 6e6
    assert model.config.latent_channels <= 64


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 32, 32), "`num_frames` must be 1 plus a multiple of 4, got 16; use 13 or 17."),
        ((1, 3, 9, 40, 32), "`height` and `width` must be multiples of 16, got 40 and 32; use 32 and 32."),
        ((1, 4, 9, 32, 32), r"`video` must be \[B, 3, F, H, W\], got \[1, 4, 9, 32, 32\]"),
        ((3, 9, 32, 32), r"`video` must be \[B, 3, F, H, W\], got \[3, 9, 32, 32\]"),
    ],
)
def test_bad_videos_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        make_model().encode(torch.zeros(shape))


def test_bad_latents_and_chunks_are_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"`latents` must be \[B, 8, f, h, w\] with f at least 1"):
        model.decode(torch.zeros(1, 7, 1, 2, 2))
    state = StreamState()
    with torch.no_grad():
        model.encode_chunk(make_video(1), state)
    with pytest.raises(ValueError, match="`frames` of a later chunk must be a multiple of 4, got 9"):
        model.encode_chunk(make_video(9), state)
    with pytest.raises(ValueError, match="`scale_factor_temporal` and `scale_factor_spatial` must be 4 and 16"):
        CausalVideoAutoencoder(scale_factor_temporal=8)
    with pytest.raises(ValueError, match="`tile_size` and `tile_overlap` must be multiples of 16"):
        CausalVideoAutoencoder(tile_size=100)
