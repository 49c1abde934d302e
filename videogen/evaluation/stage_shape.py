"""How long the clips of Stage are that a model is compared with: as long as its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClipShape:
    """Frames of a clip, and frames per second. The default is what the prompts of `stage_task_prompts` number frames in."""

    num_frames: int = 17
    fps: float = 12.0

    def frame(self, number: int) -> int:
        """The frame at the same share of the clip as frame `number` of a clip of the default shape."""
        return round(number * (self.num_frames - 1) / (DEFAULT_SHAPE.num_frames - 1))


DEFAULT_SHAPE = ClipShape()


def clip_shape(folder: Path) -> ClipShape:
    """What the model in a folder makes when nothing else is asked for; the default shape where it does not say."""
    path = folder / "vocabulary.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lengths, rates = known.get("num_frames"), known.get("fps")
    return ClipShape(
        max(lengths) if lengths else DEFAULT_SHAPE.num_frames, float(rates[0]) if rates else DEFAULT_SHAPE.fps
    )
