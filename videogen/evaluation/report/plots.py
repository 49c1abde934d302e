"""Plots as inline SVG: they need nothing, scale with the page and follow its colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_BINS = 24
_WIDTH, _HEIGHT = 420, 130
_LEFT, _RIGHT, _TOP, _BOTTOM = 12, 12, 26, 24


def distribution(
    values: Sequence[float], mean: float, low: float | None, high: float | None, marks: Mapping[str, float]
) -> str:
    """A histogram of clips with the mean, its interval, and marks for the baselines.

    Args:
        values: of the clips.
        mean: drawn as a line.
        low: end of the interval, or `None`.
        high: other end.
        marks: name -> value.
    """
    points = [*values, mean, *marks.values(), *(end for end in (low, high) if end is not None)]
    margin = max(0.01, 0.04 * (max(points) - min(points)))
    start, stop = min(points) - margin, max(points) + margin
    inner = _WIDTH - _LEFT - _RIGHT

    def x(value: float) -> float:
        return _LEFT + (value - start) / (stop - start) * inner

    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int((value - start) / (stop - start) * _BINS))] += 1
    base, tallest = _HEIGHT - _BOTTOM, max([*counts, 1])
    parts = []
    for index, count in enumerate(counts):
        if count:
            height = (base - _TOP) * count / tallest
            left = _LEFT + inner * index / _BINS
            parts.append(
                f'<rect class="bar" x="{left:.1f}" y="{base - height:.1f}" width="{inner / _BINS - 1:.1f}" '
                f'height="{height:.1f}"><title>{count} clips</title></rect>'
            )
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}"/>')
    for tick in (start, (start + stop) / 2, stop):
        anchor = "start" if tick == start else "end" if tick == stop else "middle"
        parts.append(f'<text x="{x(tick):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{tick:.2f}</text>')
    if low is not None and high is not None:
        parts.append(
            f'<rect class="interval" x="{x(low):.1f}" y="{_TOP}" width="{max(1.0, x(high) - x(low)):.1f}" height="{base - _TOP}"/>'
        )
    parts.append(f'<line class="mean" x1="{x(mean):.1f}" y1="{_TOP - 4}" x2="{x(mean):.1f}" y2="{base}"/>')
    for index, (name, value) in enumerate(marks.items()):
        parts.append(
            f'<line class="mark mark{index}" x1="{x(value):.1f}" y1="{_TOP - 4}" x2="{x(value):.1f}" y2="{base}"><title>{escape(name)} {value:.4f}</title></line>'
        )
    for index, name in enumerate(marks):
        parts.append(f'<text class="mark{index}" x="{_LEFT + 90 * index}" y="12">{escape(name)}</text>')
    return _svg(_WIDTH, _HEIGHT, "".join(parts))


def curves(lines: Sequence[Sequence[float]], caption: str) -> str:
    """Thin lines of single clips over frames, values 0..1, with their mean in bold."""
    inner, base = _WIDTH - _LEFT - 24, _HEIGHT - _BOTTOM

    def path(line: Sequence[float]) -> str:
        step = inner / max(1, len(line) - 1)
        return " ".join(
            f"{24 + step * k:.1f},{base - (base - _TOP) * min(1.0, max(0.0, v)):.1f}" for k, v in enumerate(line)
        )

    parts = [f'<polyline class="thin" points="{path(line)}"/>' for line in lines]
    longest = max(map(len, lines))
    mean = [
        sum(line[k] for line in lines if k < len(line)) / sum(k < len(line) for line in lines) for k in range(longest)
    ]
    parts.append(f'<polyline class="mean" points="{path(mean)}"/>')
    parts.append(f'<line class="axis" x1="24" y1="{base}" x2="{24 + inner}" y2="{base}"/>')
    parts += [f'<text x="0" y="{base}">0</text>', f'<text x="0" y="{_TOP + 6}">1</text>']
    parts.append(f'<text x="24" y="{_HEIGHT - 8}">{escape(caption)}</text>')
    return _svg(_WIDTH, _HEIGHT, "".join(parts))


def radar(axes: Sequence[str], models: Mapping[str, Mapping[str, float]], own: Mapping[str, float]) -> str:
    """Scores on spokes from 0 in the middle to 1 outside; published models as outlines, our own as dots on the spokes it has.

    Args:
        axes: names of the spokes.
        models: name -> axis -> value in 0..1.
        own: axis -> value; axes that are missing have no dot.
    """
    size, radius = 640, 200
    centre = size / 2

    def point(index: int, value: float) -> tuple[float, float]:
        angle = 2 * math.pi * index / len(axes) - math.pi / 2
        reach = radius * min(1.0, max(0.0, value))
        return centre + reach * math.cos(angle), centre + reach * math.sin(angle)

    parts = []
    for ring in (0.25, 0.5, 0.75, 1.0):
        parts.append(f'<circle class="ring" cx="{centre}" cy="{centre}" r="{radius * ring:.1f}"/>')
    for index, name in enumerate(axes):
        outer, label = point(index, 1.0), point(index, 1.0)
        parts.append(f'<line class="ring" x1="{centre}" y1="{centre}" x2="{outer[0]:.1f}" y2="{outer[1]:.1f}"/>')
        x, y = centre + (label[0] - centre) * 1.06, centre + (label[1] - centre) * 1.06
        anchor = "middle" if abs(x - centre) < 20 else "start" if x > centre else "end"
        parts.append(
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(name.replace("_", " "))}</text>'
        )
    for number, (model, values) in enumerate(models.items()):
        corners = " ".join("{:.1f},{:.1f}".format(*point(index, values[name])) for index, name in enumerate(axes))
        parts.append(
            f'<polygon class="model model{number}" points="{corners}"><title>{escape(model)} (published)</title></polygon>'
        )
    for index, name in enumerate(axes):
        if name in own:
            x, y = point(index, own[name])
            parts.append(
                f'<circle class="own" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>this model: {own[name]:.4f}</title></circle>'
            )
    return _svg(size, size, "".join(parts), "radar")


def _svg(width: float, height: float, content: str, name: str = "plot") -> str:
    return f'<svg class="{name}" viewBox="0 0 {width} {height}" role="img">{content}</svg>'
