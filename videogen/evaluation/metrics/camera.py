"""Camera motion of any clip by VBench-I2V's vote of four edge points, with corners followed by Lucas-Kanade and RANSAC in place of CoTracker2.

Corners are followed from frame to frame and back; a similarity (move, zoom, roll) is fitted to them robustly and accumulated to a map from the first
frame to the last. The four points move with that map, and VBench's rule turns their displacements into words.

Shapes: `F` frames, `P` corners.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from videogen.evaluation.metrics.sample import Sample, Value
from videogen.evaluation.suite import CAMERA_PHRASES, Entry

_BOTH = {
    ("left", "left"): "pan_right",
    ("right", "right"): "pan_left",
    ("down", "down"): "tilt_up",
    ("up", "up"): "tilt_down",
}
_BOTH |= {("static", "static"): "static"}
_TOP_BOTTOM = _BOTH | {("up", "down"): "zoom_in", ("down", "up"): "zoom_out"}
_LEFT_RIGHT = _BOTH | {("left", "right"): "zoom_in", ("right", "left"): "zoom_out"}
_STILL = 0.005  # of the shorter side: VBench's threshold
_CORNERS, _FEWEST = 200, 6
_BACK = 0.7  # pixels that a corner followed there and back may miss its start by
_WORKING_SIDE = 192  # small frames are enlarged to this for following


def asked_camera(entry: Entry) -> str | None:
    """The class that a prompt names in VBench-I2V's words ("camera pans left"), or `None`."""
    return next((name for phrase, name in CAMERA_PHRASES.items() if phrase in entry.prompt), None)


def camera_motion(sample: Sample) -> Value:
    """1 if the class asked for is among those that the clip votes for; fewer corners than six can be followed = nothing seen, wrong."""
    asked = asked_camera(sample.entry)
    assert asked is not None, "the metric applies to prompts that name a camera class"
    seen = camera_classes(sample)
    return Value(asked in seen, {"asked": asked, "seen": sorted(seen)})


def camera_classes(sample: Sample) -> set[str]:
    """What the vote says: a subset of the values of `CAMERA_PHRASES`, empty where nothing is clear."""
    height, width = sample.frames.shape[1:3]
    whole = whole_movement(sample.grey)
    if whole is None:
        return set()
    # CoTracker's 10 x 10 grid, with a margin of a 64th of the width; the fifth of each edge is VBench's "middle".
    margin = width / 64
    xs, ys = np.linspace(margin, width - margin, 10), np.linspace(margin, height - margin, 10)
    points = {"top": (xs[5], ys[0]), "bottom": (xs[5], ys[9]), "left": (xs[0], ys[5]), "right": (xs[9], ys[5])}
    words = {}
    for name, point in points.items():
        moved = whole @ np.array([*point, 1.0])
        words[name] = _words(moved[0] - point[0], moved[1] - point[1], _STILL * min(height, width))
    votes = {_TOP_BOTTOM[pair] for pair in _pairs(words["top"], words["bottom"]) if pair in _TOP_BOTTOM}
    votes |= {_LEFT_RIGHT[pair] for pair in _pairs(words["left"], words["right"]) if pair in _LEFT_RIGHT}
    return votes - {"static"} or votes


def whole_movement(grey: np.ndarray) -> np.ndarray | None:
    """The similarity from first to last frame of a clip, uint8 [F, H, W]: float64 [2, 3] in pixels, or `None` if corners are lost on the way."""
    scale = max(1.0, _WORKING_SIDE / min(grey.shape[1:]))
    if scale > 1:
        size = (round(grey.shape[2] * scale), round(grey.shape[1] * scale))
        grey = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in grey])
    total = np.eye(3)
    for before, after in pairwise(grey):
        step = np.eye(2, 3) if np.array_equal(before, after) else _step(before, after)
        if step is None:
            return None
        total = np.vstack([step, [0, 0, 1]]) @ total
    total[:2, 2] /= scale
    return total[:2]


def _step(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 6)
    if corners is None or len(corners) < _FEWEST:
        return None
    there, found = _follow(before, after, corners)
    back, found_back = _follow(after, before, there)
    good = (found[:, 0] == 1) & (found_back[:, 0] == 1) & (np.abs(back - corners).max((1, 2)) < _BACK)
    if good.sum() < _FEWEST:
        return None
    cv2.setRNGSeed(0)
    step, inliers = cv2.estimateAffinePartial2D(
        corners[good], there[good], method=cv2.RANSAC, ransacReprojThreshold=1.0
    )
    return step if step is not None and inliers.sum() >= _FEWEST else None


def _follow(before: np.ndarray, after: np.ndarray, corners: Any) -> tuple[Any, Any]:
    """Where corners [P, 1, 2] are in another frame, and whether they were found [P, 1]."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(21, 21), maxLevel=3)  # type: ignore[call-overload]
    return there, found


def _words(dx: float, dy: float, threshold: float) -> list[str]:
    words = ["right" if dx > 0 else "left"] if abs(dx) > threshold else []
    words += ["down" if dy > 0 else "up"] if abs(dy) > threshold else []
    return words or ["static"]


def _pairs(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for a in first for b in second]
