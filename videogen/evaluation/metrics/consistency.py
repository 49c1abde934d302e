"""Consistency over time and with a picture: VBench's formulas with features that can be had without a download from a model hub."""

from __future__ import annotations

import numpy as np

from videogen.evaluation.metrics.features import features, picture_features
from videogen.evaluation.metrics.sample import Sample, Value


def subject_consistency(sample: Sample, extractor: str) -> Value:
    """VBench's formula: mean over later frames of half the likeness to the frame before plus half that to the first frame."""
    terms = consistency_terms(features(sample, extractor))
    return Value(float(terms.mean()), {"worst": round(float(terms.min()), 4), "worst_frame": int(terms.argmin()) + 1})


def image_consistency(sample: Sample, extractor: str) -> Value:
    """VBench-I2V's formula: 0.4 max c + 0.3 mean k + 0.3 min k, c the likeness to the picture, k that of neighbouring frames."""
    found = features(sample, extractor)
    likeness = _cosine(found, picture_features(sample, extractor, "image")[None])
    neighbours = _cosine(found[1:], found[:-1])
    score = 0.4 * likeness.max() + 0.3 * neighbours.mean() + 0.3 * neighbours.min()
    return Value(
        float(score), {"first_frame": round(float(likeness[0]), 4), "last_frame": round(float(likeness[-1]), 4)}
    )


def consistency_terms(found: np.ndarray) -> np.ndarray:
    """[F, D] features -> [F - 1] terms, 0 to 1."""
    return (_cosine(found[1:], found[:-1]) + _cosine(found[1:], found[:1])) / 2


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max(0, cosine) of rows, float64 [n]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return np.clip((a * b).sum(1) / norm, 0.0, 1.0)
