"""What the Stage checkers see, under the names of VBench's dimensions; exact in Stage's closed world and marked `@stage`."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from videogen.data.stage.vocabulary import rungs
from videogen.evaluation import stage as checkers
from videogen.evaluation.metrics.sample import Sample, Value
from videogen.evaluation.stage import Verdict, check
from videogen.evaluation.suite import Entry

ATTRIBUTE_OF = {
    "object_class@stage": "actor",
    "multiple_objects@stage": "actor",
    "light@stage": "light",
    "spatial_relationship@stage": "relation",
    "scene@stage": "scene",
    "camera_motion@stage": "camera",
    "motion@stage": "motion",
    "speed@stage": "speed",
    "count@stage": "count",
    "event@stage": "event",
    "identity@stage": "identity",
}
"""Metric -> attribute of `videogen.evaluation.stage.check`."""


@lru_cache(maxsize=4)
def checkers_version(*judges: str) -> int:
    """A number that changes with the checkers' code, so that what older ones judged is judged anew.

    Args:
        judges: further source files that decide about verdicts.
    """
    digest = hashlib.sha256()
    for path in (*sorted(Path(checkers.__file__).parent.glob("*.py")), *map(Path, judges)):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")


def is_asked(entry: Entry, metric: str) -> bool:
    """Whether a prompt of Stage names what a metric checks."""
    if entry.stage is None:
        return False
    asked = entry.stage["asked"]
    if metric == "all@stage":
        return True
    if metric in ("object_class@stage", "multiple_objects@stage") and ("second_actor" in asked) != metric.startswith(
        "m"
    ):
        return False
    return ATTRIBUTE_OF[metric] in asked


def attribute(sample: Sample, metric: str) -> Value:
    """1 if the clip shows what the prompt asked for, 0 if it shows something else or nothing clear."""
    key = ATTRIBUTE_OF[metric]
    verdict = _verdicts(sample)[key]
    asked = sample.entry.stage["asked"]  # type: ignore[index]
    wanted = [asked["actor"], asked["second_actor"]] if metric == "multiple_objects@stage" else asked[key]
    return Value(bool(verdict.right), {"asked": wanted, "seen": verdict.seen})


def everything(sample: Sample) -> Value:
    """1 if everything that the prompt names is right."""
    return Value(all(verdict.right for verdict in _verdicts(sample).values()))


def judged(sample: Sample) -> dict[str, Any]:
    """The clip as one line of `videogen evaluate stage`, so that both give the same summary."""
    entry = sample.entry
    assert entry.stage is not None
    verdicts = _verdicts(sample)
    asked = {key: value for key, value in entry.stage["asked"].items() if key in verdicts or key == "second_actor"}
    return {
        "prompt": entry.stage["id"],
        "kind": entry.stage["kind"],
        "right": {key: verdict.right for key, verdict in verdicts.items()},
        "seen": {key: verdict.seen for key, verdict in verdicts.items()},
        "asked": asked,
    }


def _verdicts(sample: Sample) -> dict[str, Verdict]:
    if "verdicts" not in sample.memo:
        stage = sample.entry.stage
        assert stage is not None
        try:
            sample.memo["verdicts"] = check(sample.frames, sample.fps, stage["asked"], rungs()[stage["rung"]])
        except ValueError:  # fewer frames than the checkers need: nothing can be seen
            names = [key for key in stage["asked"] if key in set(ATTRIBUTE_OF.values())]
            sample.memo["verdicts"] = dict.fromkeys(names, Verdict(False, None))
    return sample.memo["verdicts"]
