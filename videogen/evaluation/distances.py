"""Distances between two sets of clips in the space of a named extractor: Fréchet, and a kernel distance that is unbiased in small sets.

A clip's features are the mean of its frames' features and the mean of their absolute changes from frame to frame, so that motion counts. Neither number is
FVD, whose I3D network cannot be had offline; compare them only with numbers of the same extractor and of as many clips. The Fréchet distance is biased
upwards in small sets, more so than the two models under comparison usually differ: below about 256 clips use the kernel distance.

Shapes: `n` and `m` clips, `F` frames, `D` features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videogen.data.video import read_video
from videogen.evaluation.collection import SUFFIXES
from videogen.evaluation.metrics.features import extract


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Attributes: `frechet`; `mmd`: squared, may fall below 0 for equal sets; `extractor`; `clips` and `reference_clips`: sizes of the sets."""

    frechet: float
    mmd: float
    extractor: str
    clips: int
    reference_clips: int


def clip_features(frames: np.ndarray, extractor: str) -> np.ndarray:
    """Features of a clip, uint8 [F, H, W, 3] -> float32 [2 D]: mean over frames, and mean absolute change (0 for one frame)."""
    found = extract(frames, extractor)
    change = np.abs(np.diff(found, axis=0)).mean(0) if len(found) > 1 else np.zeros_like(found[0])
    return np.concatenate([found.mean(0), change])


def distances(features: np.ndarray, reference: np.ndarray, extractor: str) -> Distances:
    """Both distances.

    Args:
        features: [n, D], n at least 2.
        reference: [m, D], likewise.
        extractor: that made them.

    Raises:
        ValueError: fewer than two clips in a set, or features of different kinds.
    """
    for name, value in (("features", features), ("reference", reference)):
        if value.ndim != 2 or len(value) < 2:
            raise ValueError(f"`{name}` must be of at least 2 clips, got {list(value.shape)}; a spread needs two.")
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"`reference` must have {features.shape[1]} features as the clips, got {reference.shape[1]}.")
    return Distances(
        frechet=frechet_distance(features, reference),
        mmd=kernel_distance(features, reference),
        extractor=extractor,
        clips=len(features),
        reference_clips=len(reference),
    )


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the Gaussians with the means and covariances of two sets [n, D] and [m, D] (Heusel et al. 2017, eq. 6).

    The trace of the root of the product of covariances A'A and B'B is the sum of singular values of A B', an n x m matrix: exact, and without D x D roots.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    centred_a = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    centred_b = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum()
    return float(max(0.0, mean + (centred_a**2).sum() + (centred_b**2).sum() - 2 * cross))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x y / D + 1)^3 (Bińkowski et al. 2018, KID)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within_a, within_b, between = ((x @ y.T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    first = (within_a.sum() - np.trace(within_a)) / (n * (n - 1))
    second = (within_b.sum() - np.trace(within_b)) / (m * (m - 1))
    return float(first + second - 2 * between.mean())


def folder_features(folder: str | Path, extractor: str) -> np.ndarray:
    """Features of every clip in a folder, [n, D].

    Raises:
        ValueError: no clip, or one that cannot be read: a set with holes is another set.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"`folder` must hold clips, got {folder} with none.")
    return stack_features((read_video(path).frames for path in files), extractor)


def stack_features(clips: Iterable[np.ndarray], extractor: str) -> np.ndarray:
    """`clip_features` of each clip, [n, D]."""
    return np.stack([clip_features(frames, extractor) for frames in clips])
