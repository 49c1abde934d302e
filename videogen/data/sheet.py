"""Contact sheets: videos as rows of evenly spaced frames in one PNG, to see a clip without playing it."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videogen.data.files import write_atomic

__all__ = ["contact_sheet", "write_sheet"]

GAP = 4
TEXT_HEIGHT = 14
BACKGROUND = (24, 24, 24)
INK = (230, 230, 230)


def contact_sheet(
    videos: Sequence[np.ndarray],
    *,
    fps: float,
    labels: Sequence[str] | None = None,
    num_columns: int = 6,
    num_videos_per_row: int = 1,
) -> Image.Image:
    """Draw videos as rows of `num_columns` frames from first to last, each with its time in seconds.

    Args:
        videos: uint8 RGB arrays [F, H, W, 3], all with the same H and W; F may differ.
        fps: frames per second, for the times.
        labels: one line above each video; characters that the built-in font lacks (Chinese) are left out.
        num_columns: frames shown of each video; short videos show fewer.
        num_videos_per_row: videos beside each other.

    Raises:
        ValueError: no video, sizes that differ, or not one label per video.
    """
    if not videos:
        raise ValueError("`videos` must hold at least one video, got none.")
    sizes = {video.shape[1:3] for video in videos}
    if len(sizes) > 1:
        raise ValueError(f"`videos` must all have one size, got {sorted(sizes)}.")
    if labels is not None and len(labels) != len(videos):
        raise ValueError(f"`labels` must be one per video, got {len(labels)} for {len(videos)} videos.")
    height, width = next(iter(sizes))
    font = ImageFont.load_default()
    label_height = TEXT_HEIGHT if labels else 0
    cell_width = num_columns * (width + GAP) + GAP
    cell_height = label_height + height + TEXT_HEIGHT + GAP
    num_rows = -(-len(videos) // num_videos_per_row)
    num_across = min(num_videos_per_row, len(videos))
    sheet = Image.new("RGB", (cell_width * num_across, num_rows * cell_height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, video in enumerate(videos):
        left = index % num_videos_per_row * cell_width + GAP
        top = index // num_videos_per_row * cell_height + GAP
        if labels:
            draw.text((left, top), _fit(labels[index], cell_width - GAP, draw, font), fill=INK, font=font)
            top += label_height
        times = sorted(set(np.linspace(0, len(video) - 1, num_columns).round().astype(int).tolist()))
        for column, frame_index in enumerate(times):
            x = left + column * (width + GAP)
            sheet.paste(Image.fromarray(video[frame_index]), (x, top))
            draw.text((x, top + height), f"{frame_index / fps:.2f} s", fill=INK, font=font)
    return sheet


def write_sheet(
    path: str | Path,
    videos: Sequence[np.ndarray],
    *,
    fps: float,
    labels: Sequence[str] | None = None,
    num_columns: int = 6,
    num_videos_per_row: int = 1,
) -> None:
    """Write `contact_sheet` of the same arguments as PNG, whole or not at all."""
    sheet = contact_sheet(
        videos, fps=fps, labels=labels, num_columns=num_columns, num_videos_per_row=num_videos_per_row
    )
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def _fit(text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    text = text.encode("latin-1", errors="ignore").decode("latin-1").strip()
    while text and draw.textlength(text, font=font) > width:
        text = text[:-1]
    return text
