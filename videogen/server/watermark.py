"""The visible mark: a small "AI" in a corner, legible on any ground."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_mark(frames: np.ndarray, text: str = "AI") -> np.ndarray:
    """The frames with the mark at the lower right.

    Args:
        frames: uint8 [F, H, W, 3].
        text: what the mark says; Latin letters.

    Returns:
        uint8 [F, H, W, 3], a copy.
    """
    height, width = frames.shape[1:3]
    size = max(9, min(height, width) // 10)
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, size // 4)
    box_width, box_height = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
    mark = Image.new("RGBA", (box_width, box_height), (0, 0, 0, 140))
    ImageDraw.Draw(mark).text((pad - left, pad - top), text, font=font, fill=(255, 255, 255, 235))
    overlay = np.asarray(mark).astype(np.float32)
    alpha = overlay[..., 3:] / 255
    y, x = height - box_height - pad, width - box_width - pad
    marked = frames.copy()
    region = marked[:, y : y + box_height, x : x + box_width].astype(np.float32)
    marked[:, y : y + box_height, x : x + box_width] = (region * (1 - alpha) + overlay[..., :3] * alpha).round()
    return marked
