"""Metrics of pixels alone: flicker and picture quality."""

from __future__ import annotations

import math

import cv2
import numpy as np

from videogen.evaluation.metrics.sample import Sample, Value

_LAPLACIAN_PAIR = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # Immerkær's noise mask
_NOISE_SCALE = 10.0  # 8-bit levels of noise that halve the score
_BLUR_LENGTH = 9


def temporal_flickering(sample: Sample) -> Value:
    """VBench's definition: (255 - mean absolute difference of successive frames) / 255, on 8-bit RGB at full size."""
    frames = sample.frames.astype(np.float32)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    return Value((255.0 - float(changes.mean())) / 255.0)


def imaging_quality(sample: Sample) -> Value:
    """Sharp, free of noise, not clipped: (1 - blur) * 1 / (1 + (noise / 10)^2) * (1 - clipped), mean over frames; a proxy, not MUSIQ.

    `blur` is the no-reference measure of Crété et al. 2007 (how little another blur changes), 1 for a flat picture; `noise` is Immerkær's 1996
    estimate of its deviation in 8-bit levels; `clipped` the share of pixels at 0 or 255 in all three colours.
    """
    parts = np.array([_quality(frame, grey) for frame, grey in zip(sample.frames, sample.grey, strict=True)])
    blur, noise, clipped = parts.T
    score = (1 - blur) / (1 + (noise / _NOISE_SCALE) ** 2) * (1 - clipped)
    means = {"blur": blur.mean(), "noise": noise.mean(), "clipped": clipped.mean()}
    return Value(float(score.mean()), {name: round(float(value), 4) for name, value in means.items()})


def _quality(frame: np.ndarray, grey: np.ndarray) -> tuple[float, float, float]:
    clipped = float(((frame == 0).all(-1) | (frame == 255).all(-1)).mean())
    luma = grey.astype(np.float32)
    answer = np.abs(cv2.filter2D(luma, -1, _LAPLACIAN_PAIR)[1:-1, 1:-1])
    noise = float(math.sqrt(math.pi / 2) / 6 * answer.mean())
    return max(_blur(luma, 0), _blur(luma, 1)), noise, clipped


def _blur(luma: np.ndarray, axis: int) -> float:
    """How little a strong blur along an axis changes the differences along it: 0 sharp, 1 blurred or flat."""
    size = (1, _BLUR_LENGTH) if axis == 0 else (_BLUR_LENGTH, 1)
    before = np.abs(np.diff(luma, axis=axis))
    after = np.abs(np.diff(cv2.blur(luma, size), axis=axis))
    total = float(before.sum())
    return 1.0 if total < 1e-6 else 1.0 - float(np.maximum(before - after, 0).sum()) / total
