"""One clip on its way through the metrics: decoded once, with everything that several metrics share computed once.

Shapes: `F` frames, `H W` height and width, `D` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from videogen.evaluation.suite import Entry


@dataclass(frozen=True)
class Value:
    """What a metric says of one clip.

    Attributes:
        value: the number; `None` = the metric's own definition leaves this clip out (a moving clip in a measure of static ones).
        details: what else is worth keeping, ready for JSON: per-frame curves, what was seen.
    """

    value: float | bool | None
    details: dict[str, Any] = field(default_factory=dict)


class Sample:
    """A clip with its prompt.

    Args:
        frames: uint8 RGB [F, H, W, 3].
        fps: frames per second.
        entry: what was asked for.
        pictures: uint8 RGB [H, W, 3] by name, as `entry` names them ("image", "subject") and "stranger 0", "stranger 1", ... of others.
        feature_cache: by extractor and frame; share it between a clip and its baselines, which hold mostly the same frames.
    """

    def __init__(
        self,
        frames: np.ndarray,
        fps: float,
        entry: Entry,
        pictures: Mapping[str, np.ndarray] | None = None,
        feature_cache: dict[tuple[str, bytes], Any] | None = None,
    ) -> None:
        self.frames = frames
        self.fps = fps
        self.entry = entry
        self.pictures = dict(pictures or {})
        self.feature_cache = {} if feature_cache is None else feature_cache
        self._flows: dict[tuple[int, int], np.ndarray] = {}
        self.memo: dict[str, Any] = {}  # what several metrics of one file share

    @cached_property
    def grey(self) -> np.ndarray:
        """Luma, uint8 [F, H, W]."""
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.frames])

    def flow(self, first: int, second: int) -> np.ndarray:
        """Dense optical flow in pixels from one frame to another, float32 [H, W, 2] (DIS, medium preset; Kroeger et al. 2016)."""
        if (first, second) not in self._flows:
            method: Any = cv2.DISOpticalFlow_create(  # type: ignore[attr-defined]
                cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
            )
            self._flows[first, second] = method.calc(self.grey[first], self.grey[second], None)
        return self._flows[first, second]

    def with_frames(self, frames: np.ndarray) -> Sample:
        """The same prompt with other frames, sharing the features of frames that are equal."""
        return Sample(frames, self.fps, self.entry, self.pictures, self.feature_cache)
