"""Measures the camera from the background of a clip.

Corners away from the actors are followed from frame to frame. Every track is explained by the six movements of a camera: rotation (pan, tilt) and
focal length (zoom) move all planes alike, position (truck, pedestal, push) moves near planes more. Which plane a track lies on is found together
with the movements, starting from its height in the picture. So pan and truck are told apart by parallax, as a viewer does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import cv2
import numpy as np

from videogen.data.stage.render import CAMERA_SPEED, FAR, MIDDLE, NEAR

COMPONENTS = ("pan", "truck", "tilt", "pedestal", "zoom", "push")
_DEPTHS = np.array([FAR, MIDDLE, NEAR])
_WINDOW = 4  # frames between new corners
_WIDE = 8.0  # pixels: contrast is relative to surroundings of this size
_UP = 2  # corners are followed in enlarged frames
_FINE = (0.001, 0.003)  # screen units a step: error of a track's mean shift, at least and at most
_ERRORS = 2.0  # the error a shift is given, in medians of what remains
_COMPONENT = 0.25  # what a further component must gain, in squared errors a track
_EXCESS = 0.8  # price of rates beyond any command's (tracking shots are faster, and show clear parallax)
_LACK = 0.8  # and of rates below any command's
_SHAKE = 1.0
_TOLERANCE = 0.008  # screen units a step: what a track may deviate


@dataclass(frozen=True)
class CameraMotion:
    """The camera's movement between frames.

    Attributes:
        rates: [F-1, 6], in units of one command's standard speed (`CAMERA_SPEED`), order `COMPONENTS`.
        inliers: Share of the tracks that this movement explains, 0..1.
        num_tracks: Mean number of tracks per step.
        tracks: What it was measured from: a row for each corner and step: the corner's number, the step, position, shift.
    """

    rates: np.ndarray
    inliers: float
    num_tracks: float
    tracks: np.ndarray
    fps: float
    _known: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict, repr=False, compare=False)

    def paths(self, num_segments: int | None = None) -> dict[str, np.ndarray]:
        """Positions of the components in screen units (log focal length), [F] each, as the renderer has them.

        With `num_segments` the camera is taken to move evenly in each of so many equal parts, unless it shakes.
        """
        rates, num_frames = self.rates, len(self.rates) + 1
        if num_segments is not None and not self.shakes(0, num_frames - 1):
            rates = np.zeros_like(self.rates)
            segment = np.minimum(np.arange(num_frames) * num_segments // num_frames, num_segments - 1)
            for index in range(num_segments):
                frames = np.flatnonzero(segment == index)
                start, stop = int(frames[0]), int(min(frames[-1] + 1, num_frames - 1))
                for name, rate in self.explained(start, stop).items():
                    rates[start:stop, COMPONENTS.index(name)] = rate
        found = {}
        for index, name in enumerate(COMPONENTS):
            path = np.concatenate([[0.0], np.cumsum(rates[:, index])]) * CAMERA_SPEED[name] / self.fps
            found[name] = path - path.min() if name in ("push", "zoom") else path - (path.max() + path.min()) / 2
        return found

    def shakes(self, start: int, stop: int) -> bool:
        """Whether the picture trembles between two frames."""
        return bool(self.trembling(start, stop) > _SHAKE)

    def trembling(self, start: int, stop: int) -> float:
        """Root mean square of pan and tilt around their local mean, in units of the standard speed."""
        found = []
        for first in range(start, stop, _WINDOW):
            rates = self.rates[first : min(first + _WINDOW, stop)][:, [0, 2]]
            if len(rates) > 1:
                found.append(((rates - rates.mean(0)) ** 2).mean())
        return float(np.sqrt(2 * np.mean(found))) if found else 0.0

    def explained(self, start: int, stop: int) -> dict[str, float]:
        """The fewest components that explain the movement between two frames, with their rates in units of the standard speed."""
        if (start, stop) not in self._known:
            self._known[start, stop] = self._explain(start, stop)
        return self._known[start, stop]

    def _explain(self, start: int, stop: int) -> dict[str, float]:
        step = self.tracks[:, 1]
        corners = _means(self.tracks[(step >= max(start, 1)) & (step < stop)])  # a clip's first step may be a jerk
        if len(corners) < 10:
            return {}
        step, x, y, dx, dy, length = corners.T
        shaking = self.shakes(start, stop)
        window = (step // _WINDOW).astype(int)
        data = _Data(
            position=np.stack([x, y], 1),
            shift=np.stack([dx, dy], 1),
            weight=np.sqrt(length),
            time=np.stack([step - start, stop - step], 1),
            window=np.unique(window, return_inverse=True)[1] if shaking else None,
        )
        data = data.calibrated()
        speeds = np.array([CAMERA_SPEED[name] for name in COMPONENTS]) / self.fps
        fits = {kept: data.fit(kept) for size in (0, 1, 2) for kept in combinations(range(6), size)}

        def price(kept: tuple[int, ...]) -> float:
            cost, found = fits[kept]
            size = np.abs(found[list(kept)] / speeds[list(kept)])
            unusual = np.maximum(size - 1.35, 0) * _EXCESS + np.maximum(0.7 - size, 0) * _LACK
            return cost * 1.1 ** len(kept) + _COMPONENT * len(kept) + float(unusual.sum())

        best = min(fits, key=price)
        while len(best) in (2, 3):  # three at once are rare: grow the best pair
            larger = [tuple(sorted((*best, c))) for c in range(6) if c not in best]
            fits.update({kept: data.fit(kept) for kept in larger})
            grown = min(larger, key=price)
            if price(grown) >= price(best):
                break
            best = grown
        rates = fits[best][1]
        if shaking:  # trembling also drifts: a turn besides must be clear
            best = tuple(c for c in best if c not in (0, 2))
            drift = self.rates[start:stop].mean(0)
            turns = {COMPONENTS[c]: float(drift[c]) for c in (0, 2) if abs(drift[c]) > 0.65}
        else:
            turns = {}
        return {**turns, **{COMPONENTS[c]: float(rates[c] / speeds[c]) for c in best}}


@dataclass(frozen=True)
class _Data:
    """Tracks of one part of the clip, ready to be explained."""

    position: np.ndarray
    shift: np.ndarray
    weight: np.ndarray
    time: np.ndarray  # steps since the part's beginning and to its end, [N, 2]
    window: np.ndarray | None  # pan and tilt are free in each of these
    fine: float = _FINE[1]  # the usual error of a shift

    def calibrated(self) -> _Data:
        """With the error that remains when all components are free: a sharp clip tells more than a blurred one."""
        rest = self._residuals(tuple(range(6)))[2]
        return replace(self, fine=float(np.clip(_ERRORS * np.median(rest), *_FINE)))

    @cached_property
    def _penalties(self) -> np.ndarray:
        return 0.1 * _penalty(self.position[:, 1])

    @cached_property
    def _at_rest(self) -> np.ndarray:
        return _designs(self.position, np.ones(len(self.position)), np.zeros(len(self.position)))

    def fit(self, components: tuple[int, ...]) -> tuple[float, np.ndarray]:
        """Robust fit of some components, constant in time: mean cost of a track, rates [6]."""
        return self._residuals(components)[:2]

    def _residuals(self, components: tuple[int, ...]) -> tuple[float, np.ndarray, np.ndarray]:
        """The same with what remains of each track's shift, [N]."""
        penalty = self._penalties
        rates, plane = np.zeros(6), penalty.argmin(1)
        robust = self.weight
        columns = list(components)
        num_free = 0 if self.window is None else 2 * (int(self.window.max()) + 1)
        every = np.arange(len(plane))
        free = np.zeros((len(plane), 2, num_free))
        if self.window is not None:
            columns = [c for c in columns if c not in (0, 2)]
            for axis in (0, 1):
                free[every, axis, 2 * self.window + axis] = 1.0
        size = len(columns) + num_free
        rest, cost, error = self.shift, 0.0, np.zeros((len(plane), 3))
        for iteration in range(6):
            designs = self._at_rest
            if rates[4] or rates[5]:
                # Zoom and push only ever come nearer than rest: a negative rate ends at rest, a positive one begins there.
                since = [np.abs(rates[c]) * self.time[:, 0 if rates[c] > 0 else 1] for c in (4, 5)]
                designs = _designs(self.position, np.exp(np.minimum(since[0], 0.7)), np.minimum(since[1], 0.6))
            before = rates
            if size:
                rows = np.concatenate([designs[plane, every][:, :, columns], free], 2) * robust[:, None, None]
                rows = rows.reshape(-1, size)
                target = (self.shift * robust[:, None]).ravel()
                solution = np.linalg.solve(rows.T @ rows + 1e-6 * np.eye(size), rows.T @ target)
                rates = np.zeros(6)
                rates[columns] = solution[: len(columns)]
                rest = self.shift - free @ solution[len(columns) :]
            error = ((rest - designs @ rates) ** 2).sum(-1).T
            # Coarse at first, so that the heights in the picture decide on the planes until the movement is roughly known.
            fine = self.fine * (max(1.0, 4 - 1.5 * iteration) if size else 1.0)
            costs = error / fine**2 / (1 + error / (16 * fine**2)) + penalty
            plane, last = costs.argmin(1), plane
            cost = float((costs.min(1) * self.weight).sum() / self.weight.sum())
            settled = iteration > 2 and np.array_equal(plane, last) and np.abs(rates - before).max() < 1e-5
            if not size or settled:
                break
            scale = (self.fine * max(1.5, 6 - 2 * iteration)) ** 2
            robust = self.weight / (1 + error[every, plane] / scale)
        return cost, rates, np.sqrt(error[every, plane])


def camera_motion(frames: np.ndarray, fps: float, boxes: np.ndarray) -> CameraMotion | None:
    """The camera of a clip, or `None` where too little can be followed.

    Args:
        frames: uint8 [F, H, W, 3].
        fps: Frames per second.
        boxes: [n, F, 4] actor boxes to leave out: left, top, right, bottom in screen units; NaN = none.
    """
    tracks = _tracks(frames, boxes)
    if tracks is None:
        return None
    start, step, position, shift = tracks  # window's first frame, step, [N, 2], [N, 2]
    num_steps = len(frames) - 1
    identity = start  # one integer per tracked corner
    count = identity.max() + 1
    row = np.zeros(count)
    row[identity] = position[:, 1]
    penalty = _penalty(row)
    plane = penalty.argmin(1)
    focal, push = np.ones(num_steps), np.zeros(num_steps)
    weight = np.ones(len(step))
    rates = np.zeros((num_steps, 6))
    for iteration in range(7):
        rates = _solve(num_steps, step, position, shift, weight, _DEPTHS[plane][identity], focal, push)
        cost = np.zeros((count, 3))
        errors = np.empty((len(step), 3))
        for index, depth in enumerate(_DEPTHS):
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
    steps = np.column_stack([identity, step, position, shift])
    return CameraMotion(rates / speeds, inliers, len(step) / num_steps, steps, fps)


def _means(steps: np.ndarray) -> np.ndarray:
    """Mean step, position and shift of each corner, and the number of its steps, [N, 6]; corners seen once are left out."""
    _, identity = np.unique(steps[:, 0], return_inverse=True)
    length = np.bincount(identity)
    sums = [np.bincount(identity, column) for column in steps[:, 1:].T]
    return np.column_stack([*(total / length for total in sums), length])[length > 1]


def _penalty(row: np.ndarray) -> np.ndarray:
    """What a corner's height says about its plane, [N, 3] for far, middle and near."""
    return np.stack(
        [
            np.clip((row - 0.1) * 12, 0, 12),
            np.clip(np.maximum(-0.35 - row, row - 0.8) * 12, 0, 12),
            np.clip((0.8 - row) * 30, 0, 12),
        ],
        1,
    )


def _state(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Focal length and push of each step from the rates in screen units a step."""
    zoom, depth = np.cumsum(rates[:, 4]), np.cumsum(rates[:, 5])
    return np.exp(np.clip(zoom - min(zoom.min(), 0.0), 0, 0.7)), np.clip(depth - min(depth.min(), 0.0), 0, 0.6)


def _tracks(frames: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Corner identity [N], step [N], position and shift in screen units [N, 2]."""
    num_frames, height, width = frames.shape[:3]
    gray = [
        cv2.resize(_contrast(frame), (width * _UP, height * _UP), interpolation=cv2.INTER_CUBIC) for frame in frames
    ]
    identities, steps, positions, shifts = [], [], [], []
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
        for frame in range(first, last):
            after, found, _ = _flow(gray[frame], gray[frame + 1], points)
            back, found_back, _ = _flow(gray[frame + 1], gray[frame], after)
            good = (found & found_back).astype(bool) & (np.abs(back - points).max(1) < 0.6)
            good &= ((after > 3) & (after < np.array([width, height]) * _UP - 4)).all(1)
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
    return np.concatenate(identities), np.concatenate(steps), np.concatenate(positions), np.concatenate(shifts)


def _contrast(frame: np.ndarray) -> np.ndarray:
    """Local contrast, whatever the light: a picture that darkens as night falls must not seem to move."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    level = np.log(cv2.GaussianBlur(gray, (0, 0), 0.8) + 20)
    level -= cv2.GaussianBlur(level, (0, 0), _WIDE)
    return np.clip(128 + level * (255 / (np.log(275) - np.log(20))), 0, 255).astype(np.uint8)


def _flow(before: np.ndarray, after: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01)
    moved, found, error = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, after, points.astype(np.float32)[:, None], None, winSize=(15, 15), maxLevel=2, criteria=criteria
    )
    return moved[:, 0], found[:, 0].astype(bool), error[:, 0]


def _designs(position: np.ndarray, focal: np.ndarray, push: np.ndarray) -> np.ndarray:
    """Derivatives of shifts by the six components on each plane, [3, N, 2, 6]."""
    distance = _DEPTHS[:, None] - push
    rows = np.zeros((*distance.shape, 2, 6))
    for axis, (turn, move, sign) in enumerate(((0, 1, -1.0), (2, 3, 1.0))):
        rows[..., axis, turn] = sign * focal
        rows[..., axis, move] = sign * focal / distance
        rows[..., axis, 4] = position[:, axis]
        rows[..., axis, 5] = position[:, axis] / distance
    return rows


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
