"""Clips that no model made, from each clip that one did: what a metric says of them shows what its number is worth.

A frozen clip is perfectly consistent and smooth, a shuffled one has every frame right and no motion right, and noise has nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np

BASELINES = ("frozen", "shuffled", "noise")


def baseline_frames(kind: str, frames: np.ndarray, name: str) -> np.ndarray:
    """A baseline of a clip.

    Args:
        kind: "frozen" = the first frame throughout; "shuffled" = the frames in another order; "noise" = even noise.
        frames: uint8 [F, H, W, 3].
        name: of the clip; it decides order and noise, so that every run gets the same.

    Returns:
        uint8 [F, H, W, 3].

    Raises:
        ValueError: an unknown `kind`.
    """
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    if kind == "frozen":
        return np.repeat(frames[:1], len(frames), axis=0)
    if kind == "shuffled":
        return frames[generator.permutation(len(frames))]
    if kind == "noise":
        return generator.integers(0, 256, size=frames.shape, dtype=np.uint8)
    raise ValueError(f"`kind` must be one of {', '.join(BASELINES)}, got {kind!r}.")
