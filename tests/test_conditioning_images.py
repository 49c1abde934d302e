import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from videogen.conditioning.images import load_image


@pytest.fixture
def picture():
    rows, columns = np.mgrid[0:64, 0:64]
    return np.stack([rows * 4, columns * 4, np.full_like(rows, 128)], -1).astype(np.uint8)  # [64, 64, 3]


def test_every_kind_of_input_gives_the_same_pixels(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    inputs = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(picture),
        picture,
        picture.astype(np.float64) / 255,
        tensor,
        tensor.float()[None] / 255,
    ]
    expected = tensor.float() / 127.5 - 1
    for image in inputs:
        loaded = load_image(image, 64, 64)
        assert loaded.adjusted == ()
        assert loaded.pixels.dtype == torch.float32 and loaded.pixels.is_contiguous()
        torch.testing.assert_close(loaded.pixels, expected)


def test_crop_is_central_and_reported():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 255  # exactly the part that a square keeps
    loaded = load_image(wide, 50, 50)
    assert loaded.adjusted == (
        "`image` was cropped at the centre from 300x100 to 100x100.",
        "`image` was reduced to 50x50.",
    )
    assert loaded.pixels.shape == (3, 50, 50) and bool((loaded.pixels == 1).all())
    assert load_image(np.zeros((20, 20, 3), np.uint8), 40, 40, "last_image").adjusted == (
        "`last_image` was enlarged to 40x40.",
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!garbage", b"Exif\0\0MM\0*", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_refuse_an_intact_picture(picture, tmp_path, exif, suffix):
    Image.fromarray(picture).save(tmp_path / f"a.{suffix}", exif=exif, dpi=(72, 72))
    loaded = load_image(tmp_path / f"a.{suffix}", 32, 32)
    assert not any("upright" in note for note in loaded.adjusted)


def test_an_orientation_that_does_not_exist_turns_nothing(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert not any("upright" in note for note in load_image(tmp_path / "a.png", 32, 32).adjusted)


def test_a_truncated_picture_that_was_only_opened_is_refused(picture, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match="`image` must be an intact picture"):
        load_image(Image.open(path), 32, 32)


def test_exif_orientation_is_applied(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by 90 degrees
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    loaded = load_image(tmp_path / "a.png", 64, 64)
    assert "EXIF" in loaded.adjusted[0]
    assert np.array_equal(np.asarray(loaded.picture), np.rot90(picture, -1))


def test_alpha_is_flattened_and_reported(picture):
    rgba = np.dstack([picture, np.full((64, 64), 255, np.uint8)])
    assert load_image(rgba, 64, 64).adjusted == ()
    rgba[:32, :, 3] = 0
    loaded = load_image(rgba, 64, 64)
    assert loaded.adjusted == ("`image` has an alpha channel; it was flattened on white.",)
    assert bool((loaded.pixels[:, :32] == 1).all())
    assert np.array_equal(np.asarray(loaded.picture)[32:], picture[32:])
    palette = Image.fromarray(picture).quantize(16)
    palette.info["transparency"] = 0
    assert "alpha" in load_image(palette, 64, 64).adjusted[0]


def test_grey_sixteen_bit_and_cmyk(picture):
    grey = picture[..., 0]
    assert np.array_equal(np.asarray(load_image(grey, 64, 64).picture)[..., 1], grey)
    sixteen = Image.fromarray(grey.astype(np.uint16) * 256)
    loaded = load_image(sixteen, 64, 64)
    assert "16 to 8 bits" in loaded.adjusted[0] and np.array_equal(np.asarray(loaded.picture)[..., 0], grey)
    assert "CMYK" in load_image(Image.fromarray(picture).convert("CMYK"), 64, 64).adjusted[0]


def test_colour_profile(picture, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "srgb.png", icc_profile=srgb)
    assert load_image(tmp_path / "srgb.png", 64, 64).adjusted == ()
    Image.fromarray(picture).save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert "unusable colour profile" in load_image(tmp_path / "broken.png", 64, 64).adjusted[0]


def claim_size(path, width, height):
    """A PNG of a few bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 10_000)])
def test_huge_picture_is_refused_before_decoding(tmp_path, width, height):
    claim_size(tmp_path / "huge.png", width, height)
    with pytest.raises(ValueError, match="`image` must have at most 64 million pixels"):
        load_image(tmp_path / "huge.png", 96, 96)


def test_damaged_and_wrong_files(picture, tmp_path):
    with pytest.raises(ValueError, match="existing picture file"):
        load_image(tmp_path / "missing.png", 96, 96)
    with pytest.raises(ValueError, match="existing picture file"):
        load_image(tmp_path, 96, 96)
    (tmp_path / "text.png").write_text("not a picture at all, but it says .png")
    with pytest.raises(ValueError, match=r"'text.png' is not one whatever its name says"):
        load_image(tmp_path / "text.png", 96, 96)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is not one"):
        load_image(tmp_path / "empty.png", 96, 96)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.webp"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"truncated or damaged|is not one"):
            load_image(tmp_path / name, 96, 96)


def test_animation_is_refused(picture, tmp_path):
    frames = [Image.fromarray(np.roll(picture, 9 * i, 1)) for i in range(3)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ValueError, match="`image` must be a still picture, got an animation of 3 frames"):
            load_image(tmp_path / name, 96, 96)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 1, 3), np.uint8), "at least 8 pixels wide and high, got 1x1"),
        (np.zeros((10, 200, 3), np.uint8), "not be longer than 8 to 1, got 200x10"),
        (np.zeros((64, 64, 5), np.uint8), r"got \[64, 64, 5\]"),
        (np.zeros((64, 64, 3), np.int64), "must be uint8"),
        (np.full((64, 64, 3), -0.5), r"must lie in 0..1, got -0.5..-0.5; map -1..1"),
        (np.full((64, 64, 3), np.nan), "NaN"),
        (torch.zeros(64, 64, 3), r"must be \[3, H, W\]"),
    ],
)
def test_bad_arrays(image, message):
    with pytest.raises(ValueError, match=message):
        load_image(image, 96, 96)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="`subject 1` must be a path"):
        load_image(3, 96, 96, "subject 1")
