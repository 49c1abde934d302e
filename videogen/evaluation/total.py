"""VBench's totals from result files, by its published normalisation and weights (Huang et al. 2023, arXiv:2311.17982; VBench++ 2024).

Only bare names count: `subject_consistency@efflite0` is not VBench's `subject_consistency`, and a Total of other metrics would be another number under the same
name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videogen.evaluation.score import meta_of


@dataclass(frozen=True)
class Scale:
    """How a dimension enters: (value - low) / (high - low), not clipped, times `weight`."""

    low: float
    high: float
    weight: float


QUALITY: dict[str, Scale] = {
    "subject_consistency": Scale(0.1462, 1.0, 1.0),
    "background_consistency": Scale(0.2615, 1.0, 1.0),
    "temporal_flickering": Scale(0.6293, 1.0, 1.0),
    "motion_smoothness": Scale(0.706, 0.9975, 1.0),
    "dynamic_degree": Scale(0.0, 1.0, 0.5),
    "aesthetic_quality": Scale(0.0, 1.0, 1.0),
    "imaging_quality": Scale(0.0, 1.0, 1.0),
}
SEMANTIC: dict[str, Scale] = {
    "object_class": Scale(0.0, 1.0, 1.0),
    "multiple_objects": Scale(0.0, 1.0, 1.0),
    "human_action": Scale(0.0, 1.0, 1.0),
    "color": Scale(0.0, 1.0, 1.0),
    "spatial_relationship": Scale(0.0, 1.0, 1.0),
    "scene": Scale(0.0, 0.8222, 1.0),
    "appearance_style": Scale(0.0009, 0.2855, 1.0),
    "temporal_style": Scale(0.0, 0.364, 1.0),
    "overall_consistency": Scale(0.0, 0.364, 1.0),
}
I2V: dict[str, Scale] = {
    "camera_motion": Scale(0.0, 1.0, 0.1),
    "i2v_subject": Scale(0.1462, 1.0, 1.0),
    "i2v_background": Scale(0.2615, 1.0, 1.0),
}
I2V_QUALITY: dict[str, Scale] = {name: scale for name, scale in QUALITY.items() if name != "temporal_flickering"}
Board = Literal["vbench", "vbench-i2v"]
# board -> part -> (its dimensions, its weight in the total)
BOARDS: dict[str, dict[str, tuple[dict[str, Scale], float]]] = {
    "vbench": {"Quality": (QUALITY, 4.0), "Semantic": (SEMANTIC, 1.0)},
    "vbench-i2v": {"I2V": (I2V, 1.0), "Quality": (I2V_QUALITY, 1.0)},
}


@dataclass(frozen=True)
class Total:
    """In 0 to 1 for usual clips; normalised values below a dimension's minimum are negative, as VBench has it.

    Attributes:
        total: the board's number.
        parts: Quality, Semantic, ...
        normalised: each dimension on its scale.
        counted_as_zero: dimensions that were missing.
    """

    total: float
    parts: dict[str, float]
    normalised: dict[str, float]
    counted_as_zero: tuple[str, ...]


def board_total(scores: Mapping[str, float], board: Board = "vbench", missing_as_zero: bool = False) -> Total:
    """The total of a board.

    Args:
        scores: dimension -> raw score in 0..1, as in VBench's result files; names with spaces or underscores.
        board: which.
        missing_as_zero: count missing dimensions as raw 0, as the official script does.

    Raises:
        ValueError: an unknown board, a dimension that is missing, or a score that is no share.
    """
    if board not in BOARDS:
        raise ValueError(f"`board` must be one of {', '.join(BOARDS)}, got {board!r}.")
    named = {name.replace(" ", "_"): float(value) for name, value in scores.items()}
    wanted = [name for scales, _ in BOARDS[board].values() for name in scales]
    wrong = {name: named[name] for name in wanted if name in named and not 0 <= named[name] <= 1}
    if wrong:
        name, value = next(iter(wrong.items()))
        raise ValueError(f"`results` must hold scores in 0..1, got {value:g} for {name}; divide percents by 100.")
    missing = tuple(name for name in wanted if name not in named)
    if missing and not missing_as_zero:
        raise ValueError(
            f"`results` must hold all {len(wanted)} dimensions of {board}, missing: {', '.join(missing)}; "
            "measure them, or count them as 0 with --missing-as-zero as the official script does."
        )
    normalised = {
        name: (named.get(name, 0.0) - scale.low) / (scale.high - scale.low)
        for scales, _ in BOARDS[board].values()
        for name, scale in scales.items()
    }
    parts = {
        part: sum(normalised[name] * scale.weight for name, scale in scales.items())
        / sum(scale.weight for scale in scales.values())
        for part, (scales, _) in BOARDS[board].items()
    }
    weights = {part: weight for part, (_, weight) in BOARDS[board].items()}
    total = sum(parts[part] * weight for part, weight in weights.items()) / sum(weights.values())
    return Total(total, parts, normalised, missing)


def read_scores(paths: Sequence[str | Path]) -> dict[str, float]:
    """Raw scores by bare name from result files, VBench's own and ours.

    Raises:
        ValueError: a file that is no result file, a dimension in two files, or results of a part of a suite or of prompts that a dimension is not meant
            for, which have no Total.
    """
    scores: dict[str, float] = {}
    for path in map(Path, paths):
        results = read_results(path)
        if meta_of(results).get("partial"):
            raise ValueError(
                f"`results` must be of a whole suite, got {path}, which holds a part of one; a part has no Total."
            )
        if meta_of(results).get("all_clips"):
            raise ValueError(
                f"`results` must hold each dimension on the prompts that VBench means for it, got {path}, which was scored with --all-clips; "
                "score without it."
            )
        for name, value in results.items():
            if name == "meta" or "@" in name:
                continue
            if name in scores:
                raise ValueError(
                    f"`results` must hold each dimension once, got {name} twice, the second time in {path}."
                )
            if value[0] is not None:
                scores[name] = float(value[0])
    return scores


def read_results(path: str | Path) -> dict[str, Any]:
    """A result file in VBench's shape.

    Raises:
        ValueError: no such file, or another content.
    """
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"`results` must be a file that exists, got {path}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`results` must be a JSON file, got {path} ({error}).") from None
    shaped = isinstance(raw, dict) and all(
        isinstance(value, list) and len(value) >= 2 and isinstance(value[-1], list | dict) for value in raw.values()
    )
    if not shaped or not raw:
        raise ValueError(
            f"`results` must be in VBench's shape, {{dimension: [score, [{{video_path, video_results}}]]}}, got {path}."
        )
    return raw
