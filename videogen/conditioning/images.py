"""Conditioning images: a picture somebody brings becomes what the model sees; every change is reported."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from videogen.conditioning.fit import exif_orientation, fit

MIN_SIDE = 8
"""Pixels; a picture with a shorter side says nothing a model could use."""

MAX_PIXELS = 64_000_000
"""Refused above this, before a single pixel is decoded (a small file can claim to be enormous)."""

MAX_ASPECT_RATIO = 8.0

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

ImageInput = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


@dataclass(frozen=True)
class ConditioningImage:
    """A picture as the model sees it.

    Attributes:
        picture: 8-bit RGB at the model's size; storing it losslessly is enough to repeat a request.
        adjusted: what was changed on the way, one sentence each.
    """

    picture: Image.Image
    adjusted: tuple[str, ...] = ()

    @property
    def pixels(self) -> torch.Tensor:
        """float32 [3, H, W] in -1..1."""
        array = np.asarray(self.picture, dtype=np.float32)  # [H, W, 3]
        return torch.from_numpy(array / 127.5 - 1.0).permute(2, 0, 1).contiguous()


def load_image(image: ImageInput, height: int, width: int, name: str = "image") -> ConditioningImage:
    """Loads, checks and fits one picture: upright, RGB, centre-cropped to the model's shape and resized.

    Args:
        image: path of a picture file; PIL image; array uint8 (0..255) or float (0..1), [H, W], [H, W, 3] or [H, W, 4];
            tensor uint8 or float (0..1), [3, H, W], [4, H, W] or [1, 3, H, W]. Floats are rounded to 8 bits.
        height: of the model, pixels.
        width: of the model, pixels.
        name: argument name for messages.

    Returns:
        The picture at [height, width] with the list of adjustments: turned upright by EXIF, alpha flattened on white,
        converted to sRGB, cropped, enlarged or reduced.

    Raises:
        ValueError: unreadable, truncated, animated, shorter than `MIN_SIDE`, more than `MAX_PIXELS` pixels, longer than
            `MAX_ASPECT_RATIO` to 1, or of an unusable shape, type or value range.
        TypeError: none of the accepted kinds.
    """
    adjusted: list[str] = []
    if isinstance(image, str | os.PathLike):
        picture = _open(os.fspath(image), name, adjusted)
    elif isinstance(image, Image.Image):
        _check_size(image.size, name)
        _check_still(image, name, adjusted)
        try:
            image.load()  # one that was opened and not read yet
        except (OSError, SyntaxError, EOFError) as error:
            raise ValueError(
                f"`{name}` must be an intact picture, got a truncated or damaged one ({error})."
            ) from error
        picture = image
    elif isinstance(image, np.ndarray | torch.Tensor):
        picture = _from_array(image, name)
    else:
        raise TypeError(
            f"`{name}` must be a path, PIL image, numpy array or torch tensor, got {type(image).__name__}; "
            f"pass for example the path of a PNG file."
        )
    _check_size(picture.size, name)
    picture = _upright(picture, name, adjusted)
    picture = _to_rgb(picture, name, adjusted)
    return ConditioningImage(_fit(picture, height, width, name, adjusted), tuple(adjusted))


def _open(path: str, name: str, adjusted: list[str]) -> Image.Image:
    shown = os.path.basename(path) or path
    if not os.path.isfile(path):
        raise ValueError(f"`{name}` must be an existing picture file, got '{path}'; check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=_FORMATS)
        _check_size(picture.size, name)
        _check_still(picture, name, adjusted)
        picture.load()
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"`{name}` must have at most {MAX_PIXELS // 1_000_000} million pixels, '{shown}' has far more; "
            f"make it smaller first."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"`{name}` must be a picture ({', '.join(_FORMATS)}), '{shown}' is not one whatever its name says; "
            f"save it as PNG or JPEG."
        ) from error
    except PermissionError as error:
        raise ValueError(f"`{name}` must be readable, '{shown}' is not; check its permissions.") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(
            f"`{name}` must be an intact picture, '{shown}' is truncated or damaged ({error}); save it again."
        ) from error
    return picture


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"`{name}` must have at most {MAX_PIXELS // 1_000_000} million pixels, got {width}x{height}; "
            f"make it smaller first."
        )
    if min(size) < MIN_SIDE:
        raise ValueError(
            f"`{name}` must be at least {MIN_SIDE} pixels wide and high, got {width}x{height}; use a larger picture."
        )
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(
            f"`{name}` must not be longer than {MAX_ASPECT_RATIO:g} to 1, got {width}x{height}; crop it first."
        )


def _check_still(picture: Image.Image, name: str, adjusted: list[str]) -> None:
    num_pictures = getattr(picture, "n_frames", 1)
    if num_pictures == 1:
        return
    if picture.format == "MPO":  # a JPEG with further views of the same scene, as phones write it
        adjusted.append(f"`{name}` holds {num_pictures} views; the first was used.")
        return
    raise ValueError(
        f"`{name}` must be a still picture, got an animation of {num_pictures} frames; save one of them as PNG."
    )


def _from_array(image: np.ndarray | torch.Tensor, name: str) -> Image.Image:
    if isinstance(image, torch.Tensor):
        if image.ndim == 4 and image.shape[0] == 1:
            image = image[0]
        if image.ndim != 3 or image.shape[0] not in (3, 4):
            raise ValueError(f"`{name}` as a tensor must be [3, H, W] or [4, H, W], got {list(image.shape)}.")
        image = image.detach().cpu().permute(1, 2, 0)  # [H, W, C]
        array: np.ndarray = (image.float() if image.is_floating_point() else image).numpy()
    else:
        array = image
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
            raise ValueError(f"`{name}` as an array must be [H, W], [H, W, 3] or [H, W, 4], got {list(array.shape)}.")
    _check_size((array.shape[1], array.shape[0]), name)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
        low, high = float(array.min()), float(array.max())
        if low < 0.0 or high > 1.0:
            raise ValueError(
                f"`{name}` as floats must lie in 0..1, got {low:g}..{high:g}; "
                f"map -1..1 by (x + 1) / 2, or pass 0..255 as uint8."
            )
        array = np.round(array * 255.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"`{name}` must be uint8 (0..255) or float (0..1), got {array.dtype}; convert it.")
    return Image.fromarray(np.ascontiguousarray(array))


def _upright(picture: Image.Image, name: str, adjusted: list[str]) -> Image.Image:
    if exif_orientation(picture) == 1:
        return picture
    adjusted.append(f"`{name}` was turned upright as its EXIF orientation says.")
    upright = ImageOps.exif_transpose(picture)
    assert upright is not None
    return upright


def _to_rgb(picture: Image.Image, name: str, adjusted: list[str]) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
        adjusted.append(f"`{name}` was reduced from 16 to 8 bits.")
    elif picture.mode in ("I", "F"):
        raise ValueError(
            f"`{name}` must have 8 or 16 bits a channel, got a 32-bit picture; save it as an 8-bit PNG first."
        )
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            adjusted.append(f"`{name}` has an alpha channel; it was flattened on white.")
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
    elif picture.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        adjusted.append(f"`{name}` was converted from {picture.mode} to RGB.")
        profile = None
    picture = picture.convert("RGB")
    if profile:
        picture = _to_srgb(picture, profile, name, adjusted)
    return picture


def _to_srgb(picture: Image.Image, profile: bytes, name: str, adjusted: list[str]) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = ImageCms.getProfileDescription(source).strip()
        if "srgb" in description.lower():
            return picture
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):
        adjusted.append(f"`{name}` has an unusable colour profile; it was read as sRGB.")
        return picture
    assert converted is not None
    adjusted.append(f"`{name}` was converted from '{description}' to sRGB.")
    return converted


def _fit(picture: Image.Image, height: int, width: int, name: str, adjusted: list[str]) -> Image.Image:
    box, told = fit(picture.size, height, width, name)
    adjusted.extend(told)
    if box != (0, 0, *picture.size):
        picture = picture.crop(box)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture
