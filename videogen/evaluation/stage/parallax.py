"""Explains how the corners of a background shift by the fewest movements of a camera.

A corner's shift depends on the camera's six rates and on the plane that the corner lies on. Movements are compared as wholes: every set of at most
three components, at the speeds of commands, is tried, and the best are refined by robust least squares in which each corner chooses its plane. The
price of a movement is what it leaves unexplained, and a little for each component and for a rate that no command has. So a zoom and a push that
nearly cancel are not taken for a slow zoom.

H movements, N corners; rates are in units of the standard speed, in the order of `COMPONENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from videogen.data.stage.render import CAMERA_SPEED, FAR, MIDDLE, NEAR

COMPONENTS = ("pan", "truck", "tilt", "pedestal", "zoom", "push")
SPEEDS = np.array([CAMERA_SPEED[name] for name in COMPONENTS])
DEPTHS = np.array([FAR, MIDDLE, NEAR])
_FINE = (0.0016, 0.003)  # screen units a step: error of a corner's mean shift, at least and at most
_ERRORS = 2.0  # the error a shift is given, in medians of what remains
_COARSE, _FINER = (
    0.0045,
    0.6,
)  # the error at first, while rates and planes are only roughly known, and its change with each step
_COMPONENT = 0.2  # what a further component must gain, in squared errors a corner
_CROWD = 0.4  # the same besides, for a component more than the world puts together
_MOST = 3  # components that may act at once; a fourth is only looked for beside these
_MOVES = np.array([move for move in product((0.0, 1.0, -1.0), repeat=6) if np.count_nonzero(move) <= _MOST])
_STARTS, _FINALISTS = 40, 10  # movements that are refined, and those that are refined to the end
_STEPS, _FINAL_STEPS = 3, 4  # of refinement
_TRACKING = (-3.5, -2.0, 2.0, 3.5)  # an actor may be tracked faster than any command moves
_SPREAD = 0.12  # how far the rates of commands usually are from 1
_DRIFT = 0.25  # the same for turns of a trembling camera
_UNUSUAL = (0.05, 16.0)  # price of the square of a deviation, and its limit


@dataclass(frozen=True)
class Tracks:
    """Corners of one part of a clip.

    Attributes:
        position: [N, 2] in screen units.
        shift: [N, 2] a step.
        sharpness: Roots of the shifts' relative precision, [N, 2, 2], symmetric: along an edge little is known.
        weight: [N].
        time: Steps since the part's beginning and to its end, [N, 2].
        nearness: Log focal length and push at the part's beginning and end, [2, 2].
        shaking: Whether the camera trembles; a little turn is always left then.
        speeds: The standard ones, in screen units (or log focal length) a step, [6].
        at_once: How many components may be expected at once; more must gain more.
        fine: The usual error of a shift.
    """

    position: np.ndarray
    shift: np.ndarray
    sharpness: np.ndarray
    weight: np.ndarray
    time: np.ndarray
    nearness: np.ndarray
    shaking: bool
    speeds: np.ndarray
    at_once: int = _MOST
    fine: float = _FINE[1]

    def calibrated(self) -> Tracks:
        """With the error that remains when all components are free: sharp tracks tell more than blurred ones."""
        start = self._likely(1)
        rates = self._refined(start, start, np.ones((1, 6), bool), 0, _STEPS + _FINAL_STEPS, strict=False)
        rest = self._errors(rates).min(1)[0]
        return replace(self, fine=float(np.clip(_ERRORS * np.sqrt(np.median(rest)), *_FINE)))

    def explained(self) -> tuple[float, np.ndarray]:
        """The movement that explains the shifts best: its price, and its rates [6], 0 for the components that it lacks."""
        starts = np.zeros((len(_TRACKING), 6))
        starts[:, 1] = _TRACKING
        starts = np.concatenate([self._likely(_STARTS), starts])
        rates, prices = self._priced(starts, starts, 0, _STEPS)
        first = np.argsort(prices)[:_FINALISTS]
        rates, prices = self._priced(rates[first], starts[first], _STEPS, _FINAL_STEPS)
        best = int(prices.argmin())
        if np.count_nonzero(starts[first[best]]) == _MOST:
            more = [
                np.where(np.arange(6) == c, r, rates[best])
                for c in range(6)
                if not starts[first[best], c]
                for r in (-1, 1)
            ]
            grown, grown_prices = self._priced(np.stack(more), np.sign(more), 0, _STEPS + _FINAL_STEPS)
            rates, prices = np.concatenate([rates, grown]), np.concatenate([prices, grown_prices])
            best = int(prices.argmin())
        return float(prices[best]), rates[best]

    def alone(self, component: str, sign: float) -> float:
        """The rate of one component that explains the shifts best without any other, from `sign` as a first guess."""
        start = np.where(np.array(COMPONENTS) == component, sign, 0.0)[None]
        rates = self._refined(start, start, start != 0, 0, _STEPS + _FINAL_STEPS, strict=False)
        return float(rates[0, COMPONENTS.index(component)])

    def turned(self, rates: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Shifts by turns [N, 2] of pan and tilt beside the other rates, [N, 2]."""
        return self._near(rates[None])[0][0, :, None] * turns * self.speeds[[0, 2]] * (-1, 1)

    def turns(self, rates: np.ndarray, step: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Pan and tilt of every step, [steps, 2], beside the other rates: found from the first guess `turns`; `step` of each corner, [N]."""
        others = (rates * (0, 1, 0, 1, 1, 1))[None]
        rest = np.stack(self._rest(others), -1)[0]  # [3, N, 2]
        unit = self.turned(rates, np.ones_like(self.shift))
        every = np.arange(len(step))
        for fine in (2 * _COARSE, _COARSE, _FINE[1], _FINE[1]):
            error = ((rest - unit * turns[step]) ** 2).sum(-1)
            plane = (_saturated(error / fine**2) + self._penalties).argmin(0)
            weight = 1 / (1 + error[plane, every] / fine**2) ** 2
            total = np.bincount(step, weight, len(turns))
            found = [np.bincount(step, weight * value, len(turns)) for value in (rest[plane, every] / unit).T]
            turns = np.where(total[:, None] > 1, np.stack(found, 1) / np.maximum(total, 1)[:, None], turns)
        return turns

    def _likely(self, count: int) -> np.ndarray:
        """The movements at standard speed, of at most `_MOST` components, that fit best without refinement, [count, 6]."""
        costs = self._costs(self._errors(_MOVES), _COARSE) + 0.5 * _COMPONENT * np.abs(_MOVES).sum(1)
        return _MOVES[np.argsort(costs)[:count]]

    def _priced(self, rates: np.ndarray, kinds: np.ndarray, first: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Refined rates [H, 6] and prices [H] of movements; signs of `kinds` say which components each has, and `first` how many steps are done."""
        free = kinds != 0
        if self.shaking:
            free = free | np.isin(np.arange(6), (0, 2))
        rates = self._refined(rates, kinds, free, first, steps)
        cost = self._costs(self._errors(rates), max(self.fine, _COARSE * _FINER ** (first + steps - 1)))
        wrong = ((rates * np.sign(kinds) < 0.2) & (kinds != 0)).any(1)
        unusual = np.minimum(self._off(rates, kinds) ** 2, _UNUSUAL[1]).sum(1) * _UNUSUAL[0]
        count = (kinds != 0).sum(1)
        return rates, cost + _COMPONENT * count + _CROWD * np.maximum(count - self.at_once, 0) + unusual + 10.0 * wrong

    def _off(self, rates: np.ndarray, kinds: np.ndarray) -> np.ndarray:
        """How far rates are from those of commands, in usual deviations."""
        return (rates - np.sign(kinds)) / self._spread

    @cached_property
    def _spread(self) -> np.ndarray:
        spread = np.full(6, _SPREAD)
        if self.shaking:
            spread[[0, 2]] = _DRIFT
        return spread

    @cached_property
    def _penalties(self) -> np.ndarray:
        return 0.1 * plane_penalty(self.position[:, 1]).T  # [3, N]

    def _near(self, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Focal length and push that go with rates [H, 6], [H, N]."""
        near = []
        for rate, (before, after) in zip((rates * self.speeds).T[4:, :, None], self.nearness, strict=True):
            # Zoom and push only ever come nearer than rest: a negative rate ends there, a positive one begins there.
            near.append(np.where(rate > 0, before + rate * self.time[:, 0], after - rate * self.time[:, 1]))
        return np.exp(np.clip(near[0], 0, 0.7)), np.clip(near[1], 0, 0.6)

    def _rest(self, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What rates [H, 6] leave of the shifts along x and y on each plane, [H, 3, N]."""
        focal, push = (value[:, None] for value in self._near(rates))
        nearness = 1 / (DEPTHS[:, None] - push)
        pan, truck, tilt, pedestal, zoom, forward = (rates * self.speeds).T[..., None, None]
        grow = zoom + forward * nearness
        x, y = self.position.T
        across = self.shift[:, 0] + focal * (pan + truck * nearness) - x * grow
        along = self.shift[:, 1] - focal * (tilt + pedestal * nearness) - y * grow
        return across, along

    def _errors(self, rates: np.ndarray) -> np.ndarray:
        """Squares of the sharpened errors on each plane, [H, 3, N]."""
        across, along = self._rest(rates)
        (a, b), (_, c) = self.sharpness.transpose(1, 2, 0)
        return (a * across + b * along) ** 2 + (b * across + c * along) ** 2

    def _costs(self, errors: np.ndarray, fine: float) -> np.ndarray:
        """Mean cost of a corner, [H]."""
        return (_saturated(errors / fine**2) + self._penalties).min(1) @ self.weight / self.weight.sum()

    def _refined(
        self, rates: np.ndarray, kinds: np.ndarray, free: np.ndarray, first: int, steps: int, strict: bool = True
    ) -> np.ndarray:
        """Robust fits of the free components' rates, [H, 6]; `strict`: that should be usual ones."""
        for step in range(first, first + steps):
            fine = max(self.fine, _COARSE * _FINER**step)
            errors = self._errors(rates)
            plane = (_saturated(errors / fine**2) + self._penalties).argmin(1)  # [H, N]
            error = np.take_along_axis(errors, plane[:, None], 1)[:, 0]
            weight = (self.weight / (1 + error / (2 * fine) ** 2))[..., None]
            across, along = self._derivatives(rates, plane)
            across, along = (self.sharpness[:, k, :1] * across + self.sharpness[:, k, 1:] * along for k in (0, 1))
            target = (self.sharpness @ self.shift[..., None])[..., 0]
            across, along = across * weight, along * weight
            turned = across.transpose(0, 2, 1), along.transpose(0, 2, 1)
            square = turned[0] @ across + turned[1] @ along
            wanted = turned[0] @ (target[:, 0, None] * weight) + turned[1] @ (target[:, 1, None] * weight)
            held = np.where(free, 1e-9, 1e9)
            if strict:
                prior = _UNUSUAL[0] * (self.weight**2).sum() * fine**2 / self._spread**2
                prior = np.where(self._off(rates, kinds) ** 2 < _UNUSUAL[1], prior, 0.0)
                held = held + prior
                wanted = wanted + (prior * np.sign(kinds))[..., None]
            square = square + held[:, :, None] * np.eye(6)
            rates = np.where(free, np.linalg.solve(square, wanted)[..., 0], 0.0)
        return rates

    def _derivatives(self, rates: np.ndarray, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of shifts along x and y by the rates on the given planes, [H, N, 6]."""
        focal, push = self._near(rates)
        nearness = 1 / (DEPTHS[plane] - push)
        x, y = self.position.T
        across, along = (np.zeros((*plane.shape, 6)) for _ in range(2))
        across[..., 0], across[..., 1], across[..., 4], across[..., 5] = -focal, -focal * nearness, x, x * nearness
        along[..., 2], along[..., 3], along[..., 4], along[..., 5] = focal, focal * nearness, y, y * nearness
        return across * self.speeds, along * self.speeds


def _saturated(square: np.ndarray) -> np.ndarray:
    return square / (1 + square / 16)


def plane_penalty(row: np.ndarray) -> np.ndarray:
    """What a corner's height says about its plane, [N, 3] for far, middle and near."""
    return np.stack(
        [
            np.clip((row - 0.1) * 12, 0, 12),
            np.clip(np.maximum(-0.35 - row, row - 0.8) * 12, 0, 12),
            np.clip((0.8 - row) * 30, 0, 12),
        ],
        1,
    )
