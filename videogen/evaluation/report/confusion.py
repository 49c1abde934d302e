"""What was asked for against what the Stage checkers saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

UNCLEAR = "unclear"


def confusion(items: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Asked label -> seen label -> clips, from the items of a metric with `asked` and `seen`; clips without a verdict are unclear."""
    table: dict[str, Counter[str]] = {}
    for item in items:
        if "asked" in item:
            asked = label(item["asked"])
            table.setdefault(asked, Counter())[_seen(item, asked)] += 1
    return table


def label(value: Any) -> str:
    """A name for a verdict: camera segments read "Pan left + Zoom in, then Static shot"."""
    if isinstance(value, list) and value and all(isinstance(group, list) for group in value):
        return ", then ".join(" + ".join(sorted(set(group) - {"Static shot"})) or "Static shot" for group in value)
    if isinstance(value, list):
        return " and ".join(sorted(map(str, value)))
    return str(value)


def _seen(item: Mapping[str, Any], asked: str) -> str:
    seen = item.get("seen")
    if seen is None or seen == []:
        return UNCLEAR
    if item.get("video_results"):
        return asked  # a second actor that was not asked for does not make the first one wrong
    return label(seen)
