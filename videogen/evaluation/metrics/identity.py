"""How well the subject of a reference picture is kept, against pictures of strangers: scale-free, so any likeness will do.

The likeness is `videogen.evaluation.identity` (colours and coarse structure, not learned), hence `@look`. A high mean alone says little: a likeness that is
high for every picture says nothing, which is what the margin and the retrieval among strangers show.
"""

from __future__ import annotations

import numpy as np

from videogen.evaluation.identity import IdentityScore, identity_score
from videogen.evaluation.metrics.sample import Sample, Value

NUM_STRANGERS = 4
_ALONE = Value(None, {"left_out": "there is no other subject to compare with"})


def likeness(sample: Sample) -> Value:
    """Mean likeness over the frames, with the curve."""
    score = _own(sample)
    return Value(score.mean, {"frames": [round(value, 4) for value in score.frames]})


def worst_frame(sample: Sample) -> Value:
    """Likeness of the frame that resembles the subject least."""
    score = _own(sample)
    return Value(score.worst, {"frame": int(np.argmin(score.frames))})


def margin(sample: Sample) -> Value:
    """Likeness to the subject minus the mean of those to the strangers, on every fourth frame; 0 = no more alike than anyone."""
    own, *others = _lineup(sample)
    if not others:
        return _ALONE
    return Value(own - float(np.mean(others)), {"strangers": len(others)})


def retrieval(sample: Sample) -> Value:
    """Whether the subject is more alike than every stranger, on every fourth frame; chance is 1 in 1 + their number."""
    own, *others = _lineup(sample)
    if not others:
        return _ALONE
    return Value(own > max(others), {"among": 1 + len(others)})


def _own(sample: Sample) -> IdentityScore:
    if "own" not in sample.memo:
        sample.memo["own"] = identity_score(sample.frames, sample.pictures["subject"])
    return sample.memo["own"]


def _lineup(sample: Sample) -> list[float]:
    """Mean likenesses to the subject and to each stranger."""
    if "lineup" not in sample.memo:
        names = ["subject", *sorted(name for name in sample.pictures if name.startswith("stranger "))]
        frames = sample.frames[::4]
        sample.memo["lineup"] = [identity_score(frames, sample.pictures[name]).mean for name in names]
    return sample.memo["lineup"]
