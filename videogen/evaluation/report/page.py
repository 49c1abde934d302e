"""The report: one HTML file that opens from disk with no network; tables, plots, clips that play, confusion matrices.

Everything that came from outside (prompts, file names, messages) is escaped, and the page's own policy forbids it to load anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from videogen.evaluation.baselines import BASELINES
from videogen.evaluation.report.confusion import UNCLEAR, confusion
from videogen.evaluation.report.plots import curves, distribution, radar
from videogen.evaluation.report.published import PUBLISHED
from videogen.evaluation.score import meta_of
from videogen.evaluation.tables import interval, number
from videogen.evaluation.total import QUALITY, SEMANTIC

_HERE = Path(__file__).parent
_PLAYABLE = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
_MAX_LABELS = 24  # of a confusion matrix
_MAX_LISTED = 50


def build_page(results: Mapping[str, Any], folder: Path, clips_per_end: int = 3, max_megabytes: float = 32.0) -> str:
    """The page.

    Args:
        results: of `score_folder`.
        folder: the clips' folder, which `video_path` is relative to.
        clips_per_end: best and worst clips shown of each metric.
        max_megabytes: of clips in the page; what does not fit is named only.
    """
    meta = meta_of(results)
    scored = {name: value for name, value in results.items() if name != "meta"}
    clips = _Clips(folder, max_megabytes)
    sections = [
        _summary(scored, meta),
        _radar(scored, meta),
        *(_metric(name, value, meta["metrics"][name], clips, clips_per_end) for name, value in scored.items()),
        _confusions(scored),
        _integrity(scored, meta),
        _settings(meta),
    ]
    title = f"Evaluation of {meta['collection'].get('suite', 'clips')}"
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    filled = {
        "{{title}}": escape(title),
        "{{style}}": (_HERE / "page.css").read_text(encoding="utf-8"),
        "{{body}}": "\n".join(sections),
        "{{clips}}": json.dumps(clips.contents).replace("<", "\\u003c"),
        "{{script}}": (_HERE / "page.js").read_text(encoding="utf-8"),
    }
    return "".join(filled.get(part, part) for part in _split(template, list(filled)))


def _split(template: str, names: Sequence[str]) -> Iterator[str]:
    """The template's parts and placeholders in turn; what fills one is never searched for another."""
    rest = template
    while rest:
        places = [(rest.find(name), name) for name in names if name in rest]
        if not places:
            yield rest
            return
        place, name = min(places)
        yield rest[:place]
        yield name
        rest = rest[place + len(name) :]


class _Clips:
    """The clips of the page, each embedded once."""

    def __init__(self, folder: Path, max_megabytes: float) -> None:
        self.folder = folder
        self.room = int(max_megabytes * 2**20)
        self.contents: dict[str, dict[str, str]] = {}
        self.left_out: set[str] = set()

    def figure(self, item: Mapping[str, Any]) -> str:
        """A clip that plays, with its prompt and score; its name alone if it is missing, of another kind or too much."""
        path = item["video_path"]
        caption = f"<b>{_value(item)}</b> {escape(str(item.get('prompt', path)))} <i>#{item.get('index', 0)}</i>"
        if "seen" in item:
            caption += f"<br>seen: {escape(json.dumps(item['seen'], ensure_ascii=False))}"
        kind = _PLAYABLE.get(Path(path).suffix.lower())
        if kind is None or not self._embed(path, kind):
            return f'<figure><div class="absent">{escape(path)}</div><figcaption>{caption}</figcaption></figure>'
        tag = "img" if kind.startswith("image") else 'video loop muted playsinline tabindex="0"'
        end = "" if kind.startswith("image") else "</video>"
        return f'<figure><{tag} data-clip="{escape(path, quote=True)}">{end}<figcaption>{caption}</figcaption></figure>'

    def _embed(self, path: str, kind: str) -> bool:
        if path in self.contents:
            return True
        file = self.folder / path
        if not file.is_file() or file.stat().st_size > self.room:
            self.left_out.add(path)
            return False
        self.room -= file.stat().st_size
        self.contents[path] = {"kind": kind, "data": base64.b64encode(file.read_bytes()).decode()}
        return True


def _value(item: Mapping[str, Any]) -> str:
    value = item["video_results"]
    if "error" in item:
        return "broken"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value)


def _summary(scored: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    columns = ("metric", "score", "95 % interval", "clips", "prompts", "broken", *BASELINES, "definition")
    rows = []
    for name, value in scored.items():
        cell = meta["metrics"][name]
        cells = (
            f'<a href="#{escape(name, quote=True)}">{escape(name).replace("@", "<wbr>@")}</a>',
            f"<b>{number(value[0])}</b>",
            interval(cell),
            str(cell["clips"]) + (f"<br>({cell['left_out']} left out)" if cell["left_out"] else ""),
            cell["prompts"],
            cell["broken"],
            *(number(cell["baselines"].get(kind, {}).get("score")) for kind in BASELINES),
            escape(cell["definition"]),
        )
        own = "" if "@" in name else ' class="bare"'
        # On a narrow screen each row is a block of its own, whose entries say what they are.
        row = "".join(f'<td data-label="{label}">{text}</td>' for label, text in zip(columns, cells, strict=True))
        rows.append(f"<tr{own}>{row}</tr>")
    head = "".join(f"<th>{label}</th>" for label in columns)
    partial = '<p class="warning">Part of a suite. There is no Total of a part.</p>' if meta["partial"] else ""
    return (
        f"<section><h2>Scores</h2>{partial}<p>Bare names are VBench's own definitions; a suffix says what is different. Intervals are over prompts. "
        "A missing or broken clip counts as 0. The baselines are a frozen, a shuffled and a noise version of some of the same clips.</p>"
        f'<div class="wide"><table class="scores"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _radar(scored: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    scales = QUALITY | SEMANTIC

    def scaled(values: Mapping[str, float]) -> dict[str, float]:
        return {name: (values[name] - s.low) / (s.high - s.low) for name, s in scales.items() if name in values}

    own = {name: value[0] for name, value in scored.items() if name in scales and value[0] is not None}
    picture = radar(list(scales), {model: scaled(values) for model, values in PUBLISHED.items()}, scaled(own))
    legend = "".join(
        f'<li class="model{index}">{escape(model)} (published)</li>' for index, model in enumerate(PUBLISHED)
    )
    which = f"{', '.join(own)} of this run" if own else "none of this run's metrics is one of them"
    caveat = (
        " This run holds a part of a suite or other prompts than VBench's: its dots are not to be compared."
        if _not_vbench(meta)
        else ""
    )
    return (
        f"<section><h2>VBench's dimensions</h2><p>On VBench's normalised scale: {escape(which)} (dots) among published rows of the leaderboard, which this "
        f'project did not measure.{caveat}</p><div class="radarbox">{picture}<ul class="legend">{legend}<li class="own">this model</li></ul></div></section>'
    )


def _not_vbench(meta: Mapping[str, Any]) -> bool:
    return bool(meta["partial"]) or meta["collection"].get("suite") != "vbench"


def _metric(name: str, value: Sequence[Any], cell: Mapping[str, Any], clips: _Clips, count: int) -> str:
    items = value[-1]
    kept = [item for item in items if item["video_results"] is not None]
    numbers = [float(item["video_results"]) for item in kept]
    scale = 100.0 if name == "imaging_quality" else 1.0  # VBench's own values of clips are percents there
    parts = [
        f'<section id="{escape(name, quote=True)}"><h3>{escape(name)}</h3><p>{escape(cell["about"])} ({escape(cell["definition"])}).</p>'
    ]
    left, right = [], []
    if numbers and value[0] is not None:
        marks = {
            kind: cell["baselines"][kind]["score"]
            for kind in BASELINES
            if cell["baselines"].get(kind, {}).get("score") is not None
        }
        left.append(distribution([x / scale for x in numbers], value[0], cell["low"], cell["high"], marks))
        count_of = max((cell["baselines"][kind]["clips"] for kind in marks), default=0)
        left.append(f"<p>{len(numbers)} clips{f'; baselines from {count_of}' if count_of else ''}.</p>")
    lines = [item["frames"] for item in items if isinstance(item.get("frames"), list)]
    if lines:
        left.append(curves(lines, "frame by frame, each clip thin, mean bold"))
    order = sorted((item for item in kept if "error" not in item), key=lambda item: float(item["video_results"]))
    ends = (("worst", order[:count]), ("best", order[max(count, len(order) - count) :][::-1]))
    for word, chosen in ends:
        if chosen:
            right.append(f'<h4>{word}</h4><div class="clips">{"".join(clips.figure(item) for item in chosen)}</div>')
    parts.append(f'<div class="metric"><div>{"".join(left)}</div><div>{"".join(right)}</div></div>')
    return "".join(parts) + "</section>"


def _confusions(scored: Mapping[str, Any]) -> str:
    parts = []
    for name, value in scored.items():
        table = confusion(value[-1])
        if not table:
            continue
        columns = sorted({seen for row in table.values() for seen in row} - {UNCLEAR}) + [UNCLEAR]
        if len(columns) > _MAX_LABELS or len(table) > _MAX_LABELS:
            common = {
                label
                for label, _ in sorted(((k, -sum(r.values())) for k, r in table.items()), key=lambda kv: kv[1])[
                    :_MAX_LABELS
                ]
            }
            table = {asked: row for asked, row in table.items() if asked in common}
            columns = [c for c in columns if c in common] + ["something else", UNCLEAR]
        rows = []
        for asked in sorted(table):
            row, total = table[asked], sum(table[asked].values())
            cells = []
            for seen in columns:
                count = row[seen] if seen != "something else" else sum(n for k, n in row.items() if k not in columns)
                right = " right" if seen == asked else ""
                cells.append(f'<td class="cell{right}" style="--share:{count / total:.2f}">{count or ""}</td>')
            rows.append(f"<tr><th>{escape(asked)}</th>{''.join(cells)}</tr>")
        head = "".join(f"<th><span>{escape(column)}</span></th>" for column in columns)
        parts.append(
            f'<h3>{escape(name)}</h3><div class="wide"><table class="confusion"><thead><tr><th>asked \\ seen</th>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return f"<section><h2>Asked and seen</h2>{''.join(parts)}</section>" if parts else ""


def _integrity(scored: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    found = meta["integrity"]
    parts = [f"<p>{found['present']} of {found['expected']} clips are there.</p>"]
    for key, words in (
        ("missing", "missing"),
        ("undecodable", "cannot be decoded"),
        ("short", "shorter than they should be"),
        ("duplicates", "same frames"),
        ("unexpected", "no prompt asks for"),
    ):
        lines = [_line(item) for item in found[key]]
        if lines:
            more = f"<li>and {len(lines) - _MAX_LISTED} more</li>" if len(lines) > _MAX_LISTED else ""
            parts.append(
                f"<h4>{words} ({len(lines)})</h4><ul>{''.join(f'<li>{line}</li>' for line in lines[:_MAX_LISTED])}{more}</ul>"
            )
    stumbles = sorted(
        {
            f"{name}: {item['video_path']}: {item['error']}"
            for name, value in scored.items()
            for item in value[-1]
            if "error" in item
            and not any(item["video_path"].endswith(entry["file"]) for entry in found["missing"] + found["undecodable"])
        }
    )
    if stumbles:
        parts.append(
            f"<h4>could not be scored ({len(stumbles)})</h4><ul>{''.join(f'<li>{escape(s)}</li>' for s in stumbles[:_MAX_LISTED])}</ul>"
        )
    refused = {name: reason for name, reason in meta["not_computed"].items() if name not in scored}
    if refused:
        rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in refused.items())
        parts.append(f'<h4>not computed</h4><table class="facts"><tbody>{rows}</tbody></table>')
    return f"<section><h2>What is there and what is not</h2>{''.join(parts)}</section>"


def _line(item: Any) -> str:
    if isinstance(item, str):
        return escape(item)
    if isinstance(item, list):
        return escape(" = ".join(item))
    rest = ", ".join(
        f"{key} {value}" if key != "reason" else str(value) for key, value in item.items() if key != "file"
    )
    return f"{escape(item['file'])}: {escape(rest)}"


def _settings(meta: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for key, value in {**meta["collection"], "scored with": f"videogen {meta['videogen']}"}.items()
    )
    return f'<section><h2>How the clips were made</h2><table class="facts"><tbody>{rows}</tbody></table></section>'
