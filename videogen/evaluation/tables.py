"""Results as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from videogen.evaluation.baselines import BASELINES
from videogen.evaluation.score import meta_of


def format_results(results: Mapping[str, Any]) -> str:
    """One line per metric: score, 95 % interval over prompts, clips, and what the baselines get.

    Scores stand as they are in the file, from 0 to 1 for all but margins.
    """
    rows = [["metric", "score", "95 % interval", "clips", "prompts", "broken", *BASELINES]]
    about = meta_of(results)["metrics"]
    for name, value in results.items():
        if name == "meta":
            continue
        cell = about[name]
        counted = cell["clips"] - cell["left_out"]
        baselines = [cell["baselines"].get(kind, {}).get("score") for kind in BASELINES]
        rows.append(
            [
                name,
                number(value[0]),
                interval(cell),
                f"{counted} of {cell['clips']}" if cell["left_out"] else str(cell["clips"]),
                str(cell["prompts"]),
                str(cell["broken"]),
                *map(number, baselines),
            ]
        )
    return align(rows)


def markdown_table(results: Mapping[str, Any]) -> str:
    """The same in Markdown, in percent."""
    lines = [
        "| metric | score | 95 % interval | clips | " + " | ".join(BASELINES) + " |",
        "| --- |" + " ---: |" * (3 + len(BASELINES)),
    ]
    about = meta_of(results)["metrics"]
    for name, value in results.items():
        if name == "meta":
            continue
        cell = about[name]
        ends = "" if cell["low"] is None else f"{100 * cell['low']:.1f} .. {100 * cell['high']:.1f}"
        marks = [cell["baselines"].get(kind, {}).get("score") for kind in BASELINES]
        shown = [_percent(value[0]), ends, str(cell["clips"] - cell["left_out"]), *map(_percent, marks)]
        lines.append(f"| `{name}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def integrity_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """What is missing, broken, double or only a part, one sentence each."""
    meta = meta_of(results)
    found = meta["integrity"]
    yield f"{found['present']} of {found['expected']} clips are there."
    for key, words in (
        ("missing", "missing (count as 0)"),
        ("undecodable", "cannot be decoded (count as 0)"),
        ("short", "have fewer frames than they should"),
        ("duplicates", "groups of clips have the same frames"),
        ("unexpected", "files belong to no prompt"),
    ):
        if found[key]:
            yield f"{len(found[key])} {words}: {', '.join(_name(item) for item in found[key][:3])}{' ...' if len(found[key]) > 3 else ''}"
    if meta["partial"]:
        yield "Part of a suite: there is no Total of a part."
    missing = {name: reason for name, reason in meta["not_computed"].items() if name not in results}
    for name, reason in missing.items():
        if "@" in name or reason.startswith("VBench"):
            yield f"Not computed: {name}: {reason}."
    bare = [name for name in missing if "@" not in name]
    if bare:
        yield f"Not computed by VBench's own definition: {', '.join(bare)} (the results say why)."


def number(value: float | None) -> str:
    """Four decimals, or a dash."""
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def interval(cell: Mapping[str, Any]) -> str:
    """`low .. high`, or nothing where there is none."""
    return "" if cell["low"] is None else f"{cell['low']:.4f} .. {cell['high']:.4f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, left-aligned, two spaces between them."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _name(item: Any) -> str:
    if isinstance(item, str):
        return item
    return " = ".join(item) if isinstance(item, list) else item["file"]
