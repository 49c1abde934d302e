"""A folder of videos with captions, read for training.

`captions.jsonl` holds one JSON object per line: `file` (relative to the folder) and `caption`, which may name camera
commands in brackets as a prompt does; further keys are kept.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from videogen.conditioning.camera import parse_camera


def read_captions(folder: str, captions: str = "captions.jsonl") -> list[dict[str, Any]]:
    """The entries of a folder: dictionaries with `file` (an existing path) and `caption`.

    Raises:
        ValueError: the list or a file is missing, a line is not an object with both keys, or its brackets are no camera
            commands.
    """
    path = Path(folder) / captions
    if not path.is_file():
        raise ValueError(f"`data.captions` must be a file in `data.path`, {path} does not exist.")
    return _read_entries(folder, path.read_text(encoding="utf-8"))


@lru_cache(maxsize=4)
def _read_entries(folder: str, text: str) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`data.captions` must hold one JSON object per line, line {number} is not: {error}"
            ) from error
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("file"), str)
            or not isinstance(entry.get("caption"), str)
        ):
            raise ValueError(f"`data.captions` must hold objects with `file` and `caption`, line {number} does not.")
        file = Path(folder) / entry["file"]
        if not file.is_file():
            raise ValueError(f"`data.captions` must name existing files, line {number} names {entry['file']!r}.")
        try:
            parse_camera(entry["caption"])
        except ValueError as error:
            raise ValueError(
                f"`data.captions` must hold captions that can be prompts, line {number}: {error}"
            ) from error
        entries.append({**entry, "file": str(file)})
    if len(entries) < 2:
        raise ValueError(f"`data.captions` must name at least 2 videos, got {len(entries)}.")
    return entries


def read_clip(path: str | Path, max_frames: int, height: int, width: int, fps: float) -> Tensor:
    """The first frames of a video, resampled to `fps`, centre-cropped and resized.

    Frame i of the result is the video's frame shown at i / fps seconds.

    Args:
        path: any video PyAV reads.
        max_frames: at most this many frames are returned; fewer when the video is shorter.
        height, width: pixels.
        fps: frames per second of the result.

    Returns:
        `[3, F, height, width]` float32, -1..1.

    Raises:
        ValueError: the file cannot be read or holds no frame.
    """
    import av  # here, so that training without video files does without it

    frames: list[np.ndarray] = []
    shown: np.ndarray | None = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 25)
            first = None
            for number, frame in enumerate(container.decode(stream)):
                time = frame.time if frame.time is not None else number / rate
                first = time if first is None else first
                # All slots before this frame's time show the previous frame; half a slot of rounding is forgiven.
                while shown is not None and len(frames) < max_frames and len(frames) / fps < time - first - 0.5e-3:
                    frames.append(shown)
                if len(frames) >= max_frames:
                    break
                upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                shown = _fit(np.ascontiguousarray(upright), height, width)
            end = (time - first + 1 / rate) if shown is not None and first is not None else 0.0
            while shown is not None and len(frames) < max_frames and len(frames) / fps < end - 0.5e-3:
                frames.append(shown)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"`data.path` must hold readable videos, {path} is not: {error}") from error
    if not frames:
        raise ValueError(f"`data.path` must hold readable videos, {path} has no frames.")
    video = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)
    return video.float() / 127.5 - 1.0


def _fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Centre-crop to the aspect ratio, then resize: `[H, W, 3]` uint8."""
    rows, columns = image.shape[:2]
    scale = min(rows / height, columns / width)
    crop_rows, crop_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    crop = image[top : top + crop_rows, left : left + crop_columns]
    shrinking = crop_rows >= height
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
