"""How a picture comes upright and to the model's size, told without torch: servers need it, too."""

from __future__ import annotations

import struct
from typing import Any

Box = tuple[int, int, int, int]


def fit(size: tuple[int, int], height: int, width: int, name: str = "image") -> tuple[Box, list[str]]:
    """What is cut out of a picture before it is resized, and what is said of both.

    Args:
        size: width and height of the picture, pixels.
        height: of the model, pixels.
        width: of the model, pixels.
        name: argument name for the sentences.

    Returns:
        left, top, right and bottom of the largest part in the middle that has the model's shape; one sentence for a cut, one for a resize.
    """
    was_width, was_height = size
    scale = min(was_width / width, was_height / height)  # source pixels per model pixel
    crop_width, crop_height = round(width * scale), round(height * scale)
    left, top = (was_width - crop_width) // 2, (was_height - crop_height) // 2
    told = []
    if (crop_width, crop_height) != size:
        told.append(f"`{name}` was cropped at the centre from {was_width}x{was_height} to {crop_width}x{crop_height}.")
    if (crop_width, crop_height) != (width, height):
        told.append(f"`{name}` was {'enlarged' if scale < 1.0 else 'reduced'} to {width}x{height}.")
    return (left, top, left + crop_width, top + crop_height), told


def exif_orientation(picture: Any) -> int:
    """Of a PIL picture: 1 (upright) to 8, as EXIF says; 1 where it says nothing or is damaged, which the picture need not be."""
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1
