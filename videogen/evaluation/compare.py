"""Compares two models on the same prompts and seeds: paired differences, intervals over prompts, and p-values that hold for all metrics together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from videogen.evaluation.score import meta_of
from videogen.evaluation.statistics import clustered_interval, holm, sign_flip_test
from videogen.evaluation.tables import align


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one metric, B minus A.

    Attributes:
        a, b: mean over the common clips.
        difference: mean over prompts of the mean difference of their clips.
        low, high: 95 % interval over prompts, or `None` with one prompt.
        p: of the sign-flip test over prompts.
        p_holm: adjusted for all metrics of the comparison.
        prompts, clips: how many are common.
    """

    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    p: float
    p_holm: float
    prompts: int
    clips: int

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below 0.05."""
        return self.p_holm < 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Attributes: `metrics`: by name; `left_out`: metrics of one side only; `unpaired`: clips of one side only, by metric, where there are any."""

    metrics: dict[str, Difference]
    left_out: tuple[str, ...]
    unpaired: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "metrics": {name: asdict(difference) for name, difference in self.metrics.items()},
            "left_out": list(self.left_out),
            "unpaired": self.unpaired,
        }


def compare(a: Mapping[str, Any], b: Mapping[str, Any], any_seed: bool = False) -> Comparison:
    """Compares two results.

    A clip is paired with that of the same prompt and index; a missing or broken clip counts as 0 there too.

    Args:
        a: results in VBench's shape; with `prompt`, `index` and `seed` per clip as ours have, or VBench's own with `{prompt}-{index}` as file names.
        b: likewise.
        any_seed: accept pairs that were made from different seeds.

    Raises:
        ValueError: no common metric or clip, or pairs of different seeds.
    """
    mine, theirs = ({name: value for name, value in side.items() if name != "meta"} for side in (a, b))
    common = [name for name in mine if name in theirs]
    if not common:
        raise ValueError(f"`B` must share a metric with `A`, got {', '.join(theirs)} and {', '.join(mine)}.")
    suites = [meta_of(side).get("collection", {}).get("suite_sha256") for side in (a, b)]
    rows: dict[str, dict[str, Any]] = {}
    unpaired: dict[str, int] = {}
    for name in common:
        first, second = _by_clip(mine[name][-1]), _by_clip(theirs[name][-1])
        pairs = [(key, first[key], second[key]) for key in first if key in second]
        alone = len(first) + len(second) - 2 * len(pairs)
        if alone:
            unpaired[name] = alone
        other = [key for key, x, y in pairs if None not in (x.get("seed"), y.get("seed")) and x["seed"] != y["seed"]]
        if other and not any_seed:
            raise ValueError(
                f"`A` and `B` must be made from the same seeds, got others for {len(other)} clips of {name}; "
                "sample both with the same --seed, or take --any-seed."
            )
        numbers = [(key, _number(x), _number(y)) for key, x, y in pairs]
        kept = [(key, x, y) for key, x, y in numbers if x is not None and y is not None]
        if not kept:
            continue
        by_prompt: dict[str, list[float]] = {}
        for key, x, y in kept:
            by_prompt.setdefault(key[0], []).append(y - x)
        means = [float(np.mean(values)) for values in by_prompt.values()]
        interval = clustered_interval([[value] for value in means]) if len(means) > 1 else None
        rows[name] = {
            "a": float(np.mean([x for _, x, _ in kept])),
            "b": float(np.mean([y for _, _, y in kept])),
            "difference": float(np.mean(means)),
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "p": sign_flip_test(means),
            "prompts": len(means),
            "clips": len(kept),
        }
    if not rows:
        hint = "; they are of different suites" if suites[0] != suites[1] else ""
        raise ValueError(f"`B` must share clips (prompt and index) with `A`, got none{hint}.")
    adjusted = holm({name: row["p"] for name, row in rows.items()})
    return Comparison(
        metrics={name: Difference(**row, p_holm=adjusted[name]) for name, row in rows.items()},
        left_out=tuple(sorted((set(mine) ^ set(theirs)) | (set(common) - set(rows)))),
        unpaired=unpaired,
    )


def format_comparison(comparison: Comparison) -> str:
    """A plain text table; `*` marks what holds at 5 % for all metrics together."""
    rows = [["metric", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "prompts", "clips", ""]]
    for name, row in comparison.metrics.items():
        interval = "" if row.low is None or row.high is None else f"{row.low:+.4f} .. {row.high:+.4f}"
        rows.append(
            [
                name,
                f"{row.a:.4f}",
                f"{row.b:.4f}",
                f"{row.difference:+.4f}",
                interval,
                f"{row.p:.4f}",
                f"{row.p_holm:.4f}",
                str(row.prompts),
                str(row.clips),
                "*" if row.significant else "",
            ]
        )
    return align(rows)


def _by_clip(items: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    from videogen.evaluation.clip_names import parse_name

    found = {}
    for item in items:
        prompt, index = parse_name(item["video_path"])
        found[item.get("key", item.get("prompt", prompt)), item.get("index", index)] = item
    return found


def _number(item: Mapping[str, Any]) -> float | None:
    value = item["video_results"]
    return None if value is None else float(value)
