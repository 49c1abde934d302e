"""Measures the camera from the background of a clip.

Corners away from the actors are followed from frame to frame. Every track is explained by the six movements of a camera: rotation (pan, tilt) and
focal length (zoom) move all planes alike, position (truck, pedestal, push) moves near planes more. Which plane a track lies on is found together
with the movements, starting from its height in the picture. So pan and truck are told apart by parallax, as a viewer does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from videogen.data.stage.render import CAMERA_SPEED, SHAKE_HEIGHT
from videogen.evaluation.stage.parallax import COMPONENTS, DEPTHS, SPEEDS, Tracks, plane_penalty

_WINDOW = 4  # frames between new corners
_WIDE = 8.0  # pixels: contrast is relative to surroundings of this size
_SIDE = 15  # pixels of the enlarged frames that are compared to follow a corner
_SHARP = 2.5e-4  # structure at which the error of a shift is half again as large as at best
_UP = 2  # corners are followed in enlarged frames
_SHAKE = 1.0
_SEGMENT = 0.25  # what a further segment must gain
_AT_REST = np.zeros((2, 2))
_TURN_SPEEDS = SPEEDS[[0, 2]]
_TREMBLING = (2.59, 3.7, 4.81)  # Hz
_NOISE = 0.004  # screen units: error of the trembling's path
_TURN = 0.55  # the least steady turn beside trembling, in units of the standard speed
_JERK = 5.0  # pixels of the enlarged frames: a shift that may mislead
_TOLERANCE = 0.008  # screen units a step: what a track may deviate


@dataclass(frozen=True)
class CameraMotion:
    """The camera's movement between frames.

    Attributes:
        rates: [F-1, 6], in units of one command's standard speed (`CAMERA_SPEED`), order `COMPONENTS`.
        inliers: Share of the tracks that this movement explains, 0..1.
        num_tracks: Mean number of tracks per step.
        tracks: What it was measured from: a row for each corner and step: the corner's number, the step, position, shift, sharpness.
        at_once: How many commands may be expected at the same time.
    """

    rates: np.ndarray
    inliers: float
    num_tracks: float
    tracks: np.ndarray
    fps: float
    at_once: int = 3
    _known: dict[int, tuple[_Part, ...]] = field(default_factory=dict, repr=False, compare=False)

    def explained(self, num_segments: int) -> tuple[dict[str, float], ...]:
        """For each of equal parts of the clip the fewest components that explain its movement, with their rates in units of the standard speed."""
        return tuple(part.rates for part in self._parts(num_segments))

    def alone(self, component: str, sign: float) -> float | None:
        """The rate of one component in units of the standard speed, taken to be the camera's only movement; `None` if too little can be followed.

        Args:
            component: One of `COMPONENTS`.
            sign: Which way it is likely to go, 1 or -1: zoom and push are compared with rest at that end.
        """
        corners = _means(self.tracks[self.tracks[:, 1] > 0])
        if len(corners) < 10:
            return None
        return self._data(corners, 0, len(self.rates), False, _AT_REST).alone(component, sign)

    def spans(self, num_segments: int) -> list[tuple[int, int]]:
        """First and last step (exclusive) of each of equal parts of the clip."""
        return _parts(len(self.rates), num_segments)

    def shakes(self, num_segments: int) -> tuple[bool, ...]:
        """Whether the picture trembles in each of equal parts of the clip."""
        return tuple(self._trembling(*part) > _SHAKE for part in _parts(len(self.rates), num_segments))

    def paths(self, num_segments: int | None, max_segments: int = 1) -> dict[str, np.ndarray]:
        """Positions of the components in screen units (log focal length), [F] each, as the renderer has them.

        The camera is taken to move evenly in each of `num_segments` equal parts, but for its trembling; where their number is unknown, of as
        many as explain the clip best, up to `max_segments`.
        """
        if num_segments is None:
            num_segments = min(range(1, max_segments + 1), key=self._price)
        rates = np.concatenate([part.steps for part in self._parts(num_segments)])
        return {name: _path(name, rates[:, index] / self.fps) for index, name in enumerate(COMPONENTS)}

    def _price(self, num_segments: int) -> float:
        parts = self._parts(num_segments)
        return sum(part.price for part in parts) / len(parts) + _SEGMENT * (num_segments - 1)

    def _trembling(self, start: int, stop: int) -> float:
        """Root mean square of pan and tilt around their local mean, in units of the standard speed."""
        found = []
        for first in range(start - start % _WINDOW, stop, _WINDOW):
            rates = self.rates[max(first, start + 1) : min(first + _WINDOW, stop)][:, [0, 2]]
            if len(rates) > 1:
                found.append(((rates - rates.mean(0)) ** 2).mean())
        return float(np.sqrt(2 * np.mean(found))) if found else 0.0

    def _parts(self, num_segments: int) -> tuple[_Part, ...]:
        if num_segments not in self._known:
            spans, shaking = _parts(len(self.rates), num_segments), self.shakes(num_segments)
            found = [self._explain(*span, shakes, _AT_REST) for span, shakes in zip(spans, shaking, strict=True)]
            if num_segments > 1 and any({"zoom", "push"} & set(part.rates) for part in found):
                # Now it is known how near each part comes before it begins, and after it ended.
                steps = np.concatenate([part.steps for part in found])
                nearness = np.stack(
                    [_path(name, steps[:, COMPONENTS.index(name)] / self.fps) for name in ("zoom", "push")]
                )
                found = [
                    self._explain(*span, shakes, nearness[:, list(span)])
                    for span, shakes in zip(spans, shaking, strict=True)
                ]
            self._known[num_segments] = tuple(found)
        return self._known[num_segments]

    def _explain(self, start: int, stop: int, shaking: bool, nearness: np.ndarray) -> _Part:
        """`nearness`: log focal length and push at the part's beginning and end, [2, 2]."""
        # A part's first step may be a jerk.
        rows = self.tracks[(self.tracks[:, 1] > start) & (self.tracks[:, 1] < stop)]
        if len(_means(rows)) < 10:
            return _Part({}, np.zeros((stop - start, 6)), math.inf)
        every = self._data(rows, start, stop, shaking, nearness)
        step = rows[:, 1].astype(int) - start
        rates, turns = self.rates[start:stop].mean(0), self.rates[start:stop, [0, 2]]
        tremor = np.zeros_like(turns)
        for _ in range(3 if shaking else 1):
            if shaking:
                drift = [
                    _drift(turns[1:, k] * speed, self.fps) / speed for k, speed in enumerate(_TURN_SPEEDS / self.fps)
                ]
                tremor = turns - drift
                rows = rows.copy()
                rows[:, 4:6] = every.shift - every.turned(rates, tremor[step])
            data = self._data(_means(rows), start, stop, shaking, nearness)
            price, rates = data.calibrated().explained()
            if shaking:
                turns = every.turns(rates, step, tremor + rates[[0, 2]])
        every_step = np.tile(rates, (stop - start, 1))
        every_step[:, [0, 2]] += tremor
        jerk = self.tracks[self.tracks[:, 1] == start]
        if start and len(jerk):  # where trembling begins or ends the picture jumps
            first = self._data(jerk, start, stop, shaking, nearness)
            every_step[:1, [0, 2]] = first.turns(rates, np.zeros(len(jerk), int), self.rates[start : start + 1, [0, 2]])
        found = {name: float(rate) for name, rate in zip(COMPONENTS, rates, strict=True) if rate}
        if shaking:  # what is no turn is what the trembling left
            found = {name: rate for name, rate in found.items() if name not in ("pan", "tilt") or abs(rate) > _TURN}
        return _Part(found, every_step * SPEEDS, price)

    def _data(self, rows: np.ndarray, start: int, stop: int, shaking: bool, nearness: np.ndarray) -> Tracks:
        """`rows`: of `tracks`, or their means."""
        step, position, shift, sharpness, length = rows[:, 1], rows[:, 2:4], rows[:, 4:6], rows[:, 6:9], rows[:, 9:]
        return Tracks(
            position=position,
            shift=shift,
            sharpness=sharpness[:, [0, 1, 1, 2]].reshape(-1, 2, 2),
            weight=np.sqrt(length[:, 0]) if length.size else np.ones(len(rows)),
            time=np.stack([step + 0.5 - start, stop - step - 0.5], 1),
            nearness=nearness,
            shaking=shaking,
            speeds=SPEEDS / self.fps,
            at_once=self.at_once - shaking,  # trembling is a command too
        )


@dataclass(frozen=True)
class _Part:
    """How one part of a clip is explained: rates in units of the standard speed, all six in screen units a second [steps, 6], and the price."""

    rates: dict[str, float]
    steps: np.ndarray
    price: float


def _drift(turns: np.ndarray, fps: float) -> float:
    """The steady part of a trembling turn, per step: the slope of a line through its path beside waves of the trembling's frequencies."""
    path = np.concatenate([[0.0], np.cumsum(turns)])
    steps = np.arange(len(path)) - len(turns) / 2
    waves = [wave(2 * np.pi * rate / fps * steps) for rate in _TREMBLING for wave in (np.sin, np.cos)]
    design = np.stack([np.ones(len(path)), steps, *waves], 1)
    prior = np.array([0.0, 0.0] + [_NOISE / (0.32 * SHAKE_HEIGHT)] * len(waves))
    return float(np.linalg.solve(design.T @ design + np.diag(prior**2), design.T @ path)[1])


def _parts(num_steps: int, num_segments: int) -> list[tuple[int, int]]:
    """First and last step (exclusive) of each part: a step belongs to the part of the frame that it leads to."""
    part = (np.arange(num_steps) + 1) * num_segments // (num_steps + 1)
    ends = [int(np.searchsorted(part, k)) for k in range(num_segments + 1)]
    return list(pairwise(ends))


def _path(name: str, steps: np.ndarray) -> np.ndarray:
    """Positions [F] from the steps between them; sideways moves are centred, those in depth only come nearer than rest."""
    path = np.concatenate([[0.0], np.cumsum(steps)])
    return path - path.min() if name in ("push", "zoom") else path - (path.max() + path.min()) / 2


def camera_motion(frames: np.ndarray, fps: float, boxes: np.ndarray, at_once: int = 3) -> CameraMotion | None:
    """The camera of a clip, or `None` where too little can be followed.

    Args:
        frames: uint8 [F, H, W, 3].
        fps: Frames per second.
        boxes: [n, F, 4] actor boxes to leave out: left, top, right, bottom in screen units; NaN = none.
        at_once: How many commands the camera may follow at the same time.
    """
    tracks = _tracks(frames, boxes)
    if tracks is None:
        return None
    identity, step, position, shift, sharpness = tracks
    num_steps = len(frames) - 1
    count = identity.max() + 1
    row = np.zeros(count)
    row[identity] = position[:, 1]
    penalty = plane_penalty(row)
    plane = penalty.argmin(1)
    focal, push = np.ones(num_steps), np.zeros(num_steps)
    weight = np.ones(len(step))
    rates = np.zeros((num_steps, 6))
    for iteration in range(7):
        rates = _solve(num_steps, step, position, shift, weight, DEPTHS[plane][identity], focal, push)
        cost = np.zeros((count, 3))
        errors = np.empty((len(step), 3))
        for index, depth in enumerate(DEPTHS):
            predicted = _predict(rates[step], position, depth, focal[step], push[step])
            errors[:, index] = np.hypot(*(shift - predicted).T)
            capped = np.minimum((errors[:, index] / _TOLERANCE) ** 2, 25)
            cost[:, index] = np.bincount(identity, capped, count) / np.maximum(
                np.bincount(identity, minlength=count), 1
            )
        plane = (cost + 0.15 * penalty).argmin(1)
        error = errors[np.arange(len(step)), plane[identity]]
        scale = _TOLERANCE * max(1.0, 4 - iteration)
        weight = 1 / (1 + (error / scale) ** 2) ** 2
        focal, push = _state(rates)
    inliers = float((error < 2.5 * _TOLERANCE).mean())
    speeds = np.array([CAMERA_SPEED[name] for name in COMPONENTS]) / fps
    steps = np.column_stack([identity, step, position, shift, sharpness[identity]])
    return CameraMotion(rates / speeds, inliers, len(step) / num_steps, steps, fps, at_once)


def _means(steps: np.ndarray) -> np.ndarray:
    """Means of the rows of each corner, and how many they are, [N, 10]; corners seen once are left out."""
    _, identity = np.unique(steps[:, 0], return_inverse=True)
    length = np.bincount(identity)
    sums = [np.bincount(identity, column) for column in steps.T]
    return np.column_stack([*(total / length for total in sums), length])[length > 1]


def _state(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Focal length and push of each step from the rates in screen units a step."""
    zoom, depth = np.cumsum(rates[:, 4]), np.cumsum(rates[:, 5])
    return np.exp(np.clip(zoom - min(zoom.min(), 0.0), 0, 0.7)), np.clip(depth - min(depth.min(), 0.0), 0, 0.6)


def _tracks(frames: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Corner identity [N], step [N], position and shift in screen units [N, 2]; sharpness of every corner [corners, 3], see `_sharpness`."""
    num_frames, height, width = frames.shape[:3]
    gray = [
        cv2.resize(_contrast(frame), (width * _UP, height * _UP), interpolation=cv2.INTER_CUBIC) for frame in frames
    ]
    identities, steps, positions, shifts, sharpness = [], [], [], [], []
    total = 0
    unit = height * _UP / 2
    middle = np.array([width, height]) * _UP / 2 - 0.5
    for first in range(0, num_frames - 1, _WINDOW):
        last = min(first + _WINDOW, num_frames - 1)
        mask = np.full(gray[0].shape, 255, np.uint8)
        for left, top, right, bottom in boxes[:, first : last + 1].reshape(-1, 4):
            if not np.isnan(left):
                corner = (np.array([[left, top], [right, bottom]]) * unit + middle).round().astype(int)
                cv2.rectangle(mask, tuple(corner[0]), tuple(corner[1]), 0, -1)
        corners = cv2.goodFeaturesToTrack(gray[first], 150, 0.004, 5, mask=mask, blockSize=5)
        if corners is None:
            continue
        points = corners[:, 0]
        names = total + np.arange(len(points))
        total += len(points)
        sharpness.append(_sharpness(gray[first], points))
        for frame in range(first, last):
            after, good = _followed(gray[frame], gray[frame + 1], points)
            points, after, names = points[good], after[good], names[good]
            if not len(points):
                break
            identities.append(names)
            steps.append(np.full(len(points), frame))
            positions.append(((points + after) / 2 - middle) / unit)
            shifts.append((after - points) / unit)
            points = after
    if sum(map(len, steps)) < 8 * (num_frames - 1):
        return None
    return tuple(np.concatenate(values) for values in (identities, steps, positions, shifts, sharpness))


def _sharpness(gray: np.ndarray, points: np.ndarray) -> np.ndarray:
    """How well a shift can be followed at each point: symmetric matrices as xx, xy, yy, [N, 3], whose squares are shares of the best precision."""
    column, row = np.clip(points.round().astype(int), 0, np.array(gray.shape[::-1]) - 1).T
    first, second, *directions = cv2.cornerEigenValsAndVecs(gray, _SIDE, 3)[row, column].T
    found = np.zeros((3, len(points)))
    for value, x, y in ((first, *directions[:2]), (second, *directions[2:])):
        found += np.sqrt(value / (value + _SHARP)) * np.stack([x * x, x * y, y * y])
    return found.T


def _contrast(frame: np.ndarray) -> np.ndarray:
    """Local contrast, whatever the light: a picture that darkens as night falls must not seem to move."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    level = np.log(cv2.GaussianBlur(gray, (0, 0), 0.8) + 20)
    level -= cv2.GaussianBlur(level, (0, 0), _WIDE)
    return np.clip(128 + level * (255 / (np.log(275) - np.log(20))), 0, 255).astype(np.uint8)


def _followed(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points move, [N, 2], and which of them could be followed there and back, [N] bool."""
    places, good, error = _there_and_back(before, after, points, np.zeros(2))
    jerk = np.array(cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32), _hanning(before.shape))[0])
    if np.hypot(*jerk) > _JERK:  # among windows of a house the nearest one may be another
        jerked, good_too, other_error = _there_and_back(before, after, points, jerk)
        better = good_too & (~good | (other_error < error))
        places, good = np.where(better[:, None], jerked, places), good | good_too
    height, width = before.shape
    return places, good & ((places > 3) & (places < np.array([width, height]) - 4)).all(1)


@lru_cache(maxsize=4)
def _hanning(shape: tuple[int, int]) -> np.ndarray:
    return cv2.createHanningWindow(shape[::-1], cv2.CV_32F)


def _there_and_back(
    before: np.ndarray, after: np.ndarray, points: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    moved, found, error = _flow(before, after, points, guess)
    back, found_back, _ = _flow(after, before, moved, -guess)
    return moved, found & found_back & (np.abs(back - points).max(1) < 0.6), error


def _flow(
    before: np.ndarray, after: np.ndarray, points: np.ndarray, guess: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01)
    start = points.astype(np.float32)[:, None]
    moved, found, error = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before,
        after,
        start,
        start + guess.astype(np.float32),
        winSize=(_SIDE, _SIDE),
        maxLevel=2,
        criteria=criteria,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return moved[:, 0], found[:, 0].astype(bool), error[:, 0]


def _design(
    position: np.ndarray, depth: np.ndarray | float, focal: np.ndarray, push: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of a shift by the six components: rows for x and for y, [N, 6] each."""
    near = focal / (depth - push)
    x, y, zero = position[:, 0], position[:, 1], np.zeros(len(position))
    across = np.stack([-focal + zero, -near + zero, zero, zero, x, x / (depth - push)], 1)
    along = np.stack([zero, zero, focal + zero, near + zero, y, y / (depth - push)], 1)
    return across, along


def _predict(rates: np.ndarray, position: np.ndarray, depth: float, focal: np.ndarray, push: np.ndarray) -> np.ndarray:
    across, along = _design(position, depth, focal, push)
    return np.stack([(across * rates).sum(1), (along * rates).sum(1)], 1)


def _solve(
    num_steps: int,
    step: np.ndarray,
    position: np.ndarray,
    shift: np.ndarray,
    weight: np.ndarray,
    depth: np.ndarray,
    focal: np.ndarray,
    push: np.ndarray,
) -> np.ndarray:
    """Weighted least squares: pan and tilt free in every step (the camera may shake), the rest constant in each window; [steps, 6]."""
    rates = np.zeros((num_steps, 6))
    across, along = _design(position, depth, focal[step], push[step])
    for first in range(0, num_steps, _WINDOW):
        steps = np.arange(first, min(first + _WINDOW, num_steps))
        chosen = (step >= first) & (step <= steps[-1])
        if not chosen.any():
            continue
        local = step[chosen] - first
        n = len(steps)
        design = np.zeros((2, int(chosen.sum()), 2 * n + 4))
        every = np.arange(len(local))
        for axis, (rows, free) in enumerate(((across, 0), (along, 2))):
            design[axis, every, local * 2 + axis] = rows[chosen, free]
            design[axis][:, 2 * n :] = rows[chosen][:, [1, 3, 4, 5]]
        w = np.sqrt(weight[chosen])
        matrix = np.concatenate([design[0] * w[:, None], design[1] * w[:, None], 0.02 * np.eye(2 * n + 4)])
        target = np.concatenate([shift[chosen, 0] * w, shift[chosen, 1] * w, np.zeros(2 * n + 4)])
        solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
        rates[steps, 0], rates[steps, 2] = solution[0 : 2 * n : 2], solution[1 : 2 * n : 2]
        rates[np.ix_(steps, np.array([1, 3, 4, 5]))] = solution[2 * n :]
    return rates
