"""Pictures that people bring: opened safely, upright, opaque, with a list of what was changed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["MAX_PIXELS", "MIN_SIDE", "OpenedImage", "open_image"]

MIN_SIDE = 16
MAX_PIXELS = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class OpenedImage:
    """An RGB picture, and one sentence for each thing that was adjusted to get it."""

    image: Image.Image
    adjusted: tuple[str, ...] = ()


def open_image(path: str | Path, argument: str = "image") -> OpenedImage:
    """Open a still picture as RGB. EXIF rotation is applied; alpha is flattened onto white and said so.

    Args:
        path: PNG, JPEG, WebP or whatever Pillow reads.
        argument: name of the option, for messages.

    Raises:
        ValueError: missing, unreadable, truncated or animated file; a side below `MIN_SIDE` or more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`{argument}` must be a picture, got the folder {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except FileNotFoundError:
        raise ValueError(f"`{argument}` must be a file that exists, got {path}.") from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"`{argument}` must have at most {MAX_PIXELS} pixels, got a larger one ({path}); scale it down."
        ) from None
    except UnidentifiedImageError:
        raise ValueError(f"`{argument}` must be a picture such as PNG or JPEG, got {path}, which is not one.") from None
    except OSError as error:
        raise ValueError(f"`{argument}` must be a readable picture, got {path} ({error.strerror or error}).") from None
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"`{argument}` must have at most {MAX_PIXELS} pixels, got {width}x{height} ({path}); scale it down."
            )
        if min(width, height) < MIN_SIDE:
            raise ValueError(
                f"`{argument}` must be at least {MIN_SIDE} pixels wide and high, got {width}x{height} ({path})."
            )
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(
                f"`{argument}` must be a still picture, got {path} with {image.n_frames} frames; save one of them as PNG."
            )
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"`{argument}` must be a complete picture, got {path} ({error}).") from None
        return _to_rgb(ImageOps.exif_transpose(image), argument, path)


def _to_rgb(image: Image.Image, argument: str, path: Path) -> OpenedImage:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
        grey = np.asarray(image, dtype=np.float32) / 257.0
        return OpenedImage(image=Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] < 255:
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            note = f"`{argument}` {path.name} has an alpha channel: it was flattened onto white."
            return OpenedImage(image=Image.alpha_composite(white, rgba).convert("RGB"), adjusted=(note,))
        return OpenedImage(image=rgba.convert("RGB"))
    return OpenedImage(image=image.convert("RGB"))
