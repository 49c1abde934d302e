"""Metrics of motion with dense inverse-search flow (DIS): VBench's rules with another estimator than its RAFT and AMT."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from videogen.evaluation.metrics.sample import Sample, Value

_LARGEST = 0.05  # share of a frame whose flow counts in dynamic_degree
_LARGEST_STATIC = 0.02  # and in the static filter


def dynamic_degree(sample: Sample) -> Value:
    """Whether the clip moves, by VBench's rule: at about 8 frames a second, enough pairs whose fastest 5 % exceed 6 pixels at 256.

    Different from VBench: DIS flow in place of RAFT, and at least one such pair is needed (its rule needs none in clips of one or two frames).
    """
    step = max(1, round(sample.fps / 8))
    picked = range(0, len(sample.frames), step)
    speeds = [_fastest(sample.flow(a, b), _LARGEST) for a, b in pairwise(picked)]
    threshold = 6.0 * min(sample.frames.shape[1:3]) / 256.0
    needed = max(1, round(4 * len(picked) / 16))
    moves = sum(speed > threshold for speed in speeds) >= needed
    return Value(
        moves,
        {
            "mean_speed": round(float(np.mean(speeds)), 3) if speeds else 0.0,
            "pairs_above": sum(speed > threshold for speed in speeds),
            "pairs_needed": needed,
            "threshold_pixels": threshold,
        },
    )


def is_static(sample: Sample) -> bool:
    """VBench's static filter with DIS flow: few pairs, and no first-to-last flow, above 3 pixels at 256."""
    count = len(sample.frames)
    threshold = 3.0 * min(sample.frames.shape[1:3]) / 256.0
    allowed = round(2 * count / 16)
    moving = sum(_fastest(sample.flow(i, i + 1), _LARGEST_STATIC) > threshold for i in range(count - 1))
    ends = max(_fastest(sample.flow(a, b), _LARGEST_STATIC) for a, b in ((0, count - 1), (count - 1, 0)))
    return moving <= allowed and ends <= threshold * 2 * max(1, allowed)


def motion_smoothness(sample: Sample) -> Value:
    """VBench's formula: odd frames interpolated from their even neighbours, (255 - mean absolute error) / 255.

    The interpolation warps both neighbours half way along DIS flow, where VBench uses the AMT-S network: another scale, only to be compared with itself.
    """
    errors = []
    for middle in range(1, len(sample.frames) - 1, 2):
        predicted = _half_way(sample, middle - 1, middle + 1)
        errors.append(float(np.abs(sample.frames[middle].astype(np.float32) - predicted).mean()))
    return Value((255.0 - float(np.mean(errors))) / 255.0)


def _fastest(flow: np.ndarray, share: float) -> float:
    speeds = np.sort(np.hypot(flow[..., 0], flow[..., 1]), axis=None)
    return float(speeds[-max(1, int(share * speeds.size)) :].mean())


def _half_way(sample: Sample, first: int, second: int) -> np.ndarray:
    """The frame between two, float32 [H, W, 3]: both warped by flows seen from the middle (Jiang et al. 2018, eq. 4 at t = 1/2)."""
    forward, backward = sample.flow(first, second), sample.flow(second, first)
    to_first = (backward - forward) / 4
    height, width = sample.frames.shape[1:3]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    total = np.zeros((height, width, 3), np.float32)
    for index, flow in ((first, to_first), (second, -to_first)):
        frame = sample.frames[index].astype(np.float32)
        total += cv2.remap(frame, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / 2
