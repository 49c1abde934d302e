"""Painted scenery: every scene is three planes (far, middle, near) in three kinds of light and several variants.

Coordinates of a plane are screen units at rest: x to the right, y down, (0, 0) the centre, 1.0 half the frame's height. Planes reach further
than the frame (`HALF_WIDTH`, `HALF_HEIGHT`), so that a moving camera finds something to see. Painting is plain NumPy and OpenCV, done once
per (scene, variant, light, resolution): `textures.py` keeps the result on the device that renders; the per-frame work is in `render.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

HALF_WIDTH = 2.0
HALF_HEIGHT = 1.6
NUM_VARIANTS = 4
GROUND = 0.62  # where actors stand
_SUPERSAMPLE = 2

_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.74, 0.56), "night": (0.30, 0.38, 0.62)}
_SKY = {
    "day": ((0.33, 0.60, 0.93), (0.80, 0.91, 0.99)),
    "sunset": ((0.42, 0.27, 0.52), (1.0, 0.62, 0.33)),
    "night": ((0.02, 0.03, 0.11), (0.11, 0.15, 0.34)),
}

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Planes:
    """Three painted planes; RGBA float32 in 0..1, [4, height, width], not premultiplied; `far` is opaque."""

    far: np.ndarray
    middle: np.ndarray
    near: np.ndarray


def plane_size(texels_per_unit: int) -> tuple[int, int]:
    """Height and width in texels of a plane."""
    return (
        int(2 * HALF_HEIGHT * texels_per_unit * _SUPERSAMPLE) // _SUPERSAMPLE,
        int(2 * HALF_WIDTH * texels_per_unit * _SUPERSAMPLE) // _SUPERSAMPLE,
    )


class _Canvas:
    """A transparent RGBA plane with drawing in screen units."""

    def __init__(self, texels_per_unit: int, rng: np.random.Generator) -> None:
        self.scale = texels_per_unit * _SUPERSAMPLE
        self.rng = rng
        height, width = int(2 * HALF_HEIGHT * self.scale), int(2 * HALF_WIDTH * self.scale)
        self.rgba = np.zeros((height, width, 4), np.float32)
        self.x = (np.arange(width, dtype=np.float32) + 0.5) / self.scale - HALF_WIDTH
        self.y = (np.arange(height, dtype=np.float32) + 0.5) / self.scale - HALF_HEIGHT

    def _points(self, points: np.ndarray) -> np.ndarray:
        pixels = (np.asarray(points, np.float32) + (HALF_WIDTH, HALF_HEIGHT)) * self.scale
        return np.round(pixels * 16).astype(np.int32)

    def polygon(self, points: np.ndarray | list[tuple[float, float]], color: Color) -> None:
        cv2.fillPoly(self.rgba, [self._points(np.asarray(points))], (*color, 1.0), cv2.LINE_8, shift=4)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, angle: float = 0.0) -> None:
        turn = np.linspace(0, 2 * np.pi, 40)
        px, py = rx * np.cos(turn), ry * np.sin(turn)
        c, s = np.cos(angle), np.sin(angle)
        self.polygon(np.stack([x + c * px - s * py, y + s * px + c * py], 1), color)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def gradient(self, top: Color, bottom: Color, y0: float, y1: float) -> None:
        """Fills everything with a vertical gradient between the heights y0 and y1."""
        mix = np.clip((self.y - y0) / (y1 - y0), 0, 1)[:, None, None]
        self.rgba[..., :3] = np.asarray(top, np.float32) * (1 - mix) + np.asarray(bottom, np.float32) * mix
        self.rgba[..., 3] = 1.0

    def below(self, line: np.ndarray, color: Color, depth: float = 1.2, darken: float = 0.7) -> None:
        """Fills below the height line y = line(x), darker with depth."""
        mask = self.y[:, None] > line[None]
        shade = 1 - (1 - darken) * np.clip((self.y[:, None] - line[None]) / depth, 0, 1)
        self.rgba[mask] = np.concatenate(
            [np.asarray(color, np.float32) * shade[..., None], np.ones_like(shade)[..., None]], -1
        )[mask]

    def hills(self, base: float, height: float, waves: int) -> np.ndarray:
        """A smooth random height line y(x)."""
        line = np.zeros_like(self.x)
        for wave in range(1, waves + 1):
            phase, amplitude = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(0.5, 1.0) / wave
            line += amplitude * np.sin(self.x * wave * 1.3 + phase)
        line -= line.min()
        return base - height * line / line.max()

    def peaks(self, base: float, height: float, width: float) -> np.ndarray:
        """A jagged random height line y(x)."""
        count = int(2 * HALF_WIDTH / width) + 2
        xs = np.linspace(-HALF_WIDTH - width, HALF_WIDTH + width, count) + self.rng.uniform(-0.2, 0.2, count) * width
        ys = base - height * np.where(
            np.arange(count) % 2, self.rng.uniform(0.65, 1, count), self.rng.uniform(0, 0.3, count)
        )
        return np.interp(self.x, xs, ys).astype(np.float32)

    def grain(self, amount: float, cell: float = 0.12) -> None:
        """Multiplies the colour by soft noise, so that motion can be seen and measured everywhere."""
        height, width = self.rgba.shape[:2]
        noise = np.zeros((height, width), np.float32)
        for octave in (1.0, 0.45):
            shape = (max(2, int(2 * HALF_HEIGHT / cell / octave)), max(2, int(2 * HALF_WIDTH / cell / octave)))
            coarse = self.rng.standard_normal(shape).astype(np.float32)
            noise += octave * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        self.rgba[..., :3] *= (1 + amount * noise)[..., None]

    def tint(self, light: str) -> None:
        self.rgba[..., :3] *= np.asarray(_TINT[light], np.float32)

    def finish(self) -> np.ndarray:
        height, width = plane_size(self.scale // _SUPERSAMPLE)
        alpha = self.rgba[..., 3:]
        small = cv2.resize(
            np.concatenate([np.clip(self.rgba[..., :3], 0, 1) * alpha, alpha], -1),
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        color = small[..., :3] / np.maximum(small[..., 3:], 1e-4)
        return np.concatenate([color, small[..., 3:]], -1).transpose(2, 0, 1).astype(np.float32, order="C")

    def spread(self, count: int, margin: float = 0.15) -> np.ndarray:
        """Horizontal positions, spread evenly with jitter."""
        step = 2 * HALF_WIDTH / count
        offset = self.rng.uniform(-0.5 + margin, 0.5 - margin, count)
        return -HALF_WIDTH + step * (np.arange(count) + 0.5 + offset)


def _sky(canvas: _Canvas, light: str, horizon: float) -> None:
    canvas.gradient(*_SKY[light], -1.0, horizon)
    rng = canvas.rng
    if light == "night":
        for x, y in rng.uniform((-HALF_WIDTH, -HALF_HEIGHT), (HALF_WIDTH, horizon - 0.1), (60, 2)):
            radius = rng.uniform(0.012, 0.022)
            canvas.ellipse(x, y, radius, radius, (0.95, 0.95, 0.85))
        x = rng.uniform(-0.6, 0.6)
        canvas.ellipse(x, -0.68, 0.15, 0.15, (0.97, 0.96, 0.86))
        canvas.ellipse(x + 0.04, -0.71, 0.035, 0.03, (0.85, 0.84, 0.76))
        return
    cloud = (1.0, 1.0, 1.0) if light == "day" else (0.98, 0.66, 0.55)
    for x in canvas.spread(6):
        y, size = rng.uniform(-0.95, -0.45), rng.uniform(0.08, 0.16)
        for dx, dy, r in ((-1.2, 0.25, 0.7), (0, 0, 1.0), (1.1, 0.2, 0.8), (0.2, 0.35, 1.1)):
            canvas.ellipse(x + dx * size, y + dy * size, r * size * 1.25, r * size * 0.6, cloud)
    x = rng.uniform(-0.6, 0.6)
    if light == "sunset":
        canvas.ellipse(x, horizon - 0.12, 0.23, 0.23, (1.0, 0.87, 0.42))
    else:
        canvas.ellipse(x, -0.78, 0.12, 0.12, (1.0, 0.95, 0.55))


def _fir(canvas: _Canvas, x: float, foot: float, size: float, leaf: Color, trunk: Color, snow: bool) -> None:
    canvas.rectangle(x - 0.045 * size, foot - 0.25 * size, x + 0.045 * size, foot, trunk)
    for level, width in enumerate((0.36, 0.28, 0.19)):
        y = foot - (0.15 + 0.27 * level) * size
        top = y - 0.42 * size
        canvas.polygon([(x - width * size, y), (x, top), (x + width * size, y)], leaf)
        if snow:
            canvas.polygon(
                [(x - 0.45 * width * size, y - 0.22 * size), (x, top), (x + 0.45 * width * size, y - 0.22 * size)],
                (0.96, 0.97, 1.0),
            )


def _round_tree(canvas: _Canvas, x: float, foot: float, size: float, leaf: Color) -> None:
    canvas.rectangle(x - 0.06 * size, foot - 0.6 * size, x + 0.06 * size, foot, (0.36, 0.23, 0.13))
    for dx, dy, r, shade in (
        (-0.2, -0.72, 0.27, 0.85),
        (0.2, -0.75, 0.27, 0.9),
        (0, -0.95, 0.32, 1.0),
        (0.02, -0.68, 0.28, 1.08),
    ):
        canvas.ellipse(x + dx * size, foot + dy * size, r * size, r * size, tuple(shade * c for c in leaf))  # type: ignore[arg-type]


def _palm(canvas: _Canvas, x: float, foot: float, size: float) -> None:
    lean = canvas.rng.uniform(-0.2, 0.2) * size
    canvas.polygon(
        [
            (x - 0.05 * size, foot),
            (x + lean - 0.03 * size, foot - size),
            (x + lean + 0.03 * size, foot - size),
            (x + 0.05 * size, foot),
        ],
        (0.52, 0.36, 0.20),
    )
    for angle in np.linspace(-2.9, -0.24, 6):
        cx, cy = x + lean + 0.24 * size * np.cos(angle), foot - size + 0.2 * size * np.sin(angle) + 0.06 * size
        canvas.ellipse(
            cx, cy, 0.28 * size, 0.07 * size, (0.13, 0.48, 0.20), angle + (0.35 if np.cos(angle) > 0 else -0.35)
        )


def _snow(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    line = far.peaks(0.12, 0.62, 0.42)
    far.below(line, (0.55, 0.63, 0.78), 0.6, 0.8)
    cap = line + 0.10 + 0.05 * np.sin(far.x * 23)
    mask = (far.y[:, None] > line[None]) & (far.y[:, None] < cap[None]) & (line < -0.1)[None]
    far.rgba[mask] = (0.97, 0.98, 1.0, 1.0)
    far.below(far.hills(0.18, 0.10, 3), (0.87, 0.91, 0.98), 1.2, 0.9)
    middle.below(middle.hills(0.34, 0.10, 3), (0.93, 0.95, 1.0), 1.2, 0.85)
    for x in middle.spread(9):
        _fir(
            middle,
            x,
            0.34 + middle.rng.uniform(-0.02, 0.1),
            middle.rng.uniform(0.42, 0.68),
            (0.10, 0.36, 0.27),
            (0.33, 0.22, 0.15),
            True,
        )
    near.below(near.hills(0.98, 0.16, 5), (0.80, 0.86, 0.96), 0.5, 0.9)
    for x in near.spread(6):
        near.ellipse(x, 0.95, near.rng.uniform(0.1, 0.18), 0.09, (0.97, 0.98, 1.0))


def _beach(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    far.below(np.full_like(far.x, 0.02), (0.10, 0.50, 0.74), 0.5, 0.75)
    for _ in range(90):
        x, y = far.rng.uniform(-HALF_WIDTH, HALF_WIDTH), far.rng.uniform(0.05, 0.6)
        far.ellipse(x, y, far.rng.uniform(0.05, 0.14), 0.008, (0.55, 0.82, 0.92))
    for x in far.spread(2):
        far.ellipse(x, 0.03, 0.3, 0.09, (0.30, 0.50, 0.34))
    far.below(np.full_like(far.x, 0.45), (0.16, 0.58, 0.76))
    shore = middle.hills(0.42, 0.09, 4)
    middle.below(shore - 0.04, (0.93, 0.97, 0.98))
    middle.below(shore, (0.95, 0.84, 0.57), 1.2, 0.85)
    for x in middle.spread(5):
        _palm(middle, x, 0.46 + middle.rng.uniform(0, 0.06), middle.rng.uniform(0.65, 0.95))
    near.below(near.hills(1.02, 0.1, 4), (0.86, 0.72, 0.46), 0.5, 0.9)
    for x in near.spread(9):
        near.ellipse(
            x,
            0.97 + near.rng.uniform(-0.03, 0.05),
            0.06,
            0.04,
            tuple(near.rng.uniform((0.75, 0.5, 0.45), (1, 0.75, 0.7))),
        )


def _forest(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    far.below(far.hills(-0.02, 0.28, 4), (0.28, 0.50, 0.36), 0.8, 0.8)
    for x in far.spread(26):
        size = far.rng.uniform(0.4, 0.62)
        _fir(
            far,
            x,
            0.22 + far.rng.uniform(-0.03, 0.05),
            size,
            tuple(far.rng.uniform((0.14, 0.36, 0.24), (0.22, 0.46, 0.30))),
            (0.25, 0.2, 0.15),
            False,
        )
    far.below(far.hills(0.2, 0.04, 4), (0.20, 0.42, 0.20))
    middle.below(middle.hills(0.36, 0.08, 4), (0.27, 0.46, 0.17), 1.2, 0.7)
    for x in middle.spread(8):
        _round_tree(
            middle,
            x,
            0.42 + middle.rng.uniform(-0.04, 0.05),
            middle.rng.uniform(0.7, 0.95),
            tuple(middle.rng.uniform((0.10, 0.40, 0.08), (0.30, 0.56, 0.16))),
        )
    near.below(near.hills(1.0, 0.12, 5), (0.16, 0.33, 0.12), 0.5, 0.8)
    for x in near.spread(16):
        lean = near.rng.uniform(-0.06, 0.06)
        near.polygon([(x - 0.04, 1.1), (x + lean, 0.78), (x + 0.04, 1.1)], (0.25, 0.52, 0.15))


def _city(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    lit = light == "night"
    for x in far.spread(20):
        width, top = far.rng.uniform(0.12, 0.2), far.rng.uniform(-0.6, -0.1)
        far.rectangle(
            x - width / 2, top, x + width / 2, 1.6, tuple(far.rng.uniform((0.48, 0.54, 0.66), (0.64, 0.70, 0.80)))
        )
    far.below(np.full_like(far.x, 0.3), (0.45, 0.47, 0.50))
    palette = np.array([(0.78, 0.42, 0.34), (0.86, 0.74, 0.52), (0.50, 0.58, 0.70), (0.70, 0.66, 0.62)])
    for x in middle.spread(9, 0.35):
        width, top = middle.rng.uniform(0.34, 0.42), middle.rng.uniform(-0.35, 0.0)
        wall = palette[middle.rng.integers(len(palette))]
        middle.rectangle(x - width / 2, top, x + width / 2, 0.42, tuple(wall))
        for wy in np.arange(top + 0.06, 0.3, 0.13):
            for wx in np.linspace(x - width / 2 + 0.07, x + width / 2 - 0.07, 3):
                # At night the tint is applied later: lit windows are painted brighter than white to survive it.
                bright = (3.0, 2.2, 0.8) if lit and middle.rng.random() < 0.6 else (0.30, 0.38, 0.48)
                middle.rectangle(wx - 0.035, wy, wx + 0.035, wy + 0.07, bright)
    middle.below(np.full_like(middle.x, 0.42), (0.66, 0.66, 0.67), 0.2, 0.95)
    middle.below(np.full_like(middle.x, 0.50), (0.33, 0.34, 0.37), 1.0, 0.9)
    for x in middle.spread(10, 0.45):
        middle.rectangle(x - 0.1, 0.72, x + 0.1, 0.76, (0.92, 0.88, 0.70))
    near.rectangle(-HALF_WIDTH, 0.93, HALF_WIDTH, HALF_HEIGHT, (0.55, 0.55, 0.57))
    for x in near.spread(14, 0.42):
        near.rectangle(x - 0.02, 0.80, x + 0.02, 0.95, (0.20, 0.22, 0.25))
        near.ellipse(x, 0.80, 0.035, 0.035, (0.82, 0.66, 0.16))


def _desert(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    far.below(far.peaks(0.12, 0.35, 0.55), (0.72, 0.42, 0.28), 0.5, 0.8)
    far.below(far.hills(0.2, 0.18, 3), (0.90, 0.66, 0.36), 1.0, 0.8)
    middle.below(middle.hills(0.4, 0.16, 3), (0.95, 0.72, 0.38), 1.2, 0.75)
    for x in middle.spread(7):
        size, foot = middle.rng.uniform(0.4, 0.6), 0.42 + middle.rng.uniform(0, 0.06)
        green = (0.20, 0.47, 0.24)
        middle.ellipse(x, foot - size / 2, 0.09 * size, size / 2, green)
        side = middle.rng.choice((-1, 1))
        middle.ellipse(x + side * 0.17 * size, foot - 0.42 * size, 0.16 * size, 0.055 * size, green)
        middle.ellipse(x + side * 0.3 * size, foot - 0.58 * size, 0.055 * size, 0.2 * size, green)
    near.below(near.hills(1.0, 0.1, 4), (0.76, 0.50, 0.24), 0.5, 0.9)
    for x in near.spread(8):
        near.ellipse(x, 0.95, near.rng.uniform(0.06, 0.13), 0.07, (0.55, 0.36, 0.24))


def _space(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    top = {"day": (0.10, 0.12, 0.34), "sunset": (0.30, 0.08, 0.30), "night": (0.01, 0.01, 0.04)}[light]
    bottom = {"day": (0.25, 0.26, 0.56), "sunset": (0.62, 0.22, 0.36), "night": (0.06, 0.05, 0.16)}[light]
    far.gradient(top, bottom, -1.0, 0.4)
    rng = far.rng
    for x, y in rng.uniform((-HALF_WIDTH, -HALF_HEIGHT), (HALF_WIDTH, 0.5), (110, 2)):
        radius = rng.uniform(0.012, 0.024)
        far.ellipse(x, y, radius, radius, (0.98, 0.97, 0.9))
    for x in far.spread(3):
        y, r, color = (
            rng.uniform(-0.75, -0.35),
            rng.uniform(0.13, 0.24),
            tuple(rng.uniform((0.5, 0.3, 0.3), (0.95, 0.7, 0.8))),
        )
        if rng.random() < 0.6:
            far.ellipse(x, y, r * 1.8, r * 0.35, (0.85, 0.75, 0.6), -0.3)
        far.ellipse(x, y, r, r, color)
    far.below(far.hills(0.26, 0.12, 4), (0.42, 0.42, 0.48), 1.0, 0.8)
    ground = middle.hills(0.40, 0.07, 5)
    middle.below(ground, (0.62, 0.62, 0.67), 1.2, 0.8)
    for _ in range(16):
        x, y, r = (
            middle.rng.uniform(-HALF_WIDTH, HALF_WIDTH),
            middle.rng.uniform(0.52, 0.9),
            middle.rng.uniform(0.05, 0.13),
        )
        middle.ellipse(x, y, r, r * 0.35, (0.45, 0.45, 0.5))
        middle.ellipse(x, y + 0.015, r * 0.85, r * 0.26, (0.54, 0.54, 0.59))
    near.below(near.peaks(1.02, 0.16, 0.22), (0.40, 0.40, 0.45), 0.5, 0.8)


def _meadow(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    far.below(far.hills(0.08, 0.25, 3), (0.48, 0.70, 0.46), 0.8, 0.85)
    far.below(far.hills(0.2, 0.16, 4), (0.52, 0.76, 0.36), 0.8, 0.85)
    middle.below(middle.hills(0.36, 0.08, 4), (0.47, 0.78, 0.27), 1.2, 0.75)
    colors = np.array([(0.98, 0.30, 0.36), (1.0, 0.87, 0.25), (0.98, 0.98, 0.98), (0.75, 0.45, 0.90)])
    for _ in range(110):
        x, y = middle.rng.uniform(-HALF_WIDTH, HALF_WIDTH), middle.rng.uniform(0.4, 0.95)
        r = 0.02 + 0.025 * (y - 0.35)
        middle.ellipse(x, y, r, r, tuple(colors[middle.rng.integers(4)]))
    x = middle.rng.uniform(-1.2, 1.2)
    for offset in (-1.6, 0.0, 1.6):
        hx = x + offset
        middle.rectangle(hx - 0.16, 0.16, hx + 0.16, 0.40, (0.95, 0.90, 0.80))
        middle.polygon([(hx - 0.21, 0.17), (hx, -0.04), (hx + 0.21, 0.17)], (0.80, 0.25, 0.20))
        middle.rectangle(hx - 0.04, 0.26, hx + 0.04, 0.40, (0.45, 0.28, 0.18))
    near.below(near.hills(1.03, 0.08, 5), (0.30, 0.60, 0.18), 0.5, 0.8)
    for x in near.spread(12):
        near.rectangle(x - 0.012, 0.82, x + 0.012, 1.0, (0.20, 0.50, 0.15))
        near.ellipse(x, 0.81, 0.06, 0.06, tuple(colors[near.rng.integers(4)]))
        near.ellipse(x, 0.81, 0.022, 0.022, (0.98, 0.75, 0.2))


def _sea_floor(far: _Canvas, middle: _Canvas, near: _Canvas, light: str) -> None:
    top = {"day": (0.35, 0.80, 0.90), "sunset": (0.72, 0.55, 0.60), "night": (0.06, 0.16, 0.32)}[light]
    bottom = {"day": (0.03, 0.36, 0.58), "sunset": (0.22, 0.22, 0.42), "night": (0.01, 0.05, 0.16)}[light]
    far.gradient(top, bottom, -1.1, 0.4)
    far.below(far.hills(0.22, 0.35, 3), (0.05, 0.33, 0.50) if light == "day" else (0.10, 0.16, 0.30), 0.8, 0.8)
    for _ in range(40):
        x, y, r = far.rng.uniform(-HALF_WIDTH, HALF_WIDTH), far.rng.uniform(-1.2, 0.2), far.rng.uniform(0.015, 0.04)
        far.ellipse(x, y, r, r, (0.75, 0.93, 0.97))
        far.ellipse(x, y, r * 0.6, r * 0.6, tuple(0.55 * a + 0.45 * b for a, b in zip(top, bottom, strict=True)))  # type: ignore[arg-type]
    middle.below(middle.hills(0.42, 0.1, 4), (0.80, 0.76, 0.55), 1.2, 0.8)
    corals = np.array([(0.95, 0.42, 0.45), (0.95, 0.62, 0.25), (0.70, 0.35, 0.70)])
    for x in middle.spread(9):
        foot, size, color = (
            0.45 + middle.rng.uniform(0, 0.06),
            middle.rng.uniform(0.2, 0.34),
            tuple(corals[middle.rng.integers(3)]),
        )
        for angle in (-0.6, -0.2, 0.2, 0.6):
            middle.ellipse(
                x + 0.5 * size * np.sin(angle), foot - 0.5 * size * np.cos(angle), 0.055, 0.55 * size, color, angle
            )
    near.below(near.hills(1.02, 0.08, 4), (0.60, 0.56, 0.38), 0.5, 0.8)
    for x in near.spread(12):
        lean = near.rng.uniform(-0.12, 0.12)
        near.polygon([(x - 0.03, 1.1), (x + lean, 0.62), (x + 0.03, 1.1)], (0.10, 0.45, 0.28))


_PAINTERS: dict[str, Callable[[_Canvas, _Canvas, _Canvas, str], None]] = {
    "snow": _snow,
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "desert": _desert,
    "space": _space,
    "meadow": _meadow,
    "sea floor": _sea_floor,
}
_OWN_LIGHT = {"space", "sea floor"}  # these paint their far plane in its final colours


def paint_scene(scene: str, variant: int, light: str, texels_per_unit: int = 48) -> Planes:
    """Paints one scene.

    Args:
        scene: One of `videogen.data.stage.vocabulary.SCENES`.
        variant: 0 to `NUM_VARIANTS` - 1: another arrangement of the same kind of place; the same arrangement in every light.
        light: "day", "sunset" or "night".
        texels_per_unit: Resolution; half the frame's height in pixels paints one texel per pixel.
    """
    seed = list(_PAINTERS).index(scene) * 1000 + variant
    canvases = [_Canvas(texels_per_unit, np.random.default_rng([seed, plane])) for plane in range(3)]
    far = canvases[0]
    if scene not in _OWN_LIGHT:
        _sky(far, light, 0.1)
        far.rng = np.random.default_rng([seed, 3])  # the sky draws differently in every light; the land must not
    sky = far.rgba.copy()
    _PAINTERS[scene](far, canvases[1], canvases[2], light)
    land = np.any(far.rgba != sky, axis=-1, keepdims=True)
    for plane, canvas in enumerate(canvases):
        canvas.rng = np.random.default_rng([seed, 10 + plane])
        before = canvas.rgba.copy()
        canvas.grain(0.03)
        canvas.tint(light)
        if plane == 0:
            canvas.rgba = before if scene in _OWN_LIGHT else np.where(land, canvas.rgba, before)
    return Planes(*(canvas.finish() for canvas in canvases))
