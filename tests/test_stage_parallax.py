"""A camera's movement is found from the shifts of corners alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from videogen.evaluation.stage.parallax import COMPONENTS, DEPTHS, SPEEDS, Tracks

FPS = 12.0
STEPS = 16


def tracks(rates: dict[str, float], num: int = 240, noise: float = 0.0005, strays: float = 0.05) -> Tracks:
    """Corners on three planes, at heights where those are seen, shifted by a camera; a few of them go astray."""
    rng = np.random.default_rng(3)
    plane = rng.choice(3, num, p=[0.45, 0.4, 0.15])
    low, high = np.array([(-1.0, 0.1), (-0.3, 0.75), (0.85, 1.0)])[plane].T
    position = np.stack([rng.uniform(-1, 1, num), rng.uniform(low, high)], 1)
    step = rng.integers(1, STEPS, num)
    rate = np.array([rates.get(name, 0.0) for name in COMPONENTS]) * SPEEDS / FPS
    near = [r * (step + 0.5) if r > 0 else -r * (STEPS - step - 0.5) for r in rate[4:]]
    focal, distance = np.exp(near[0]), DEPTHS[plane] - near[1]
    grow = rate[4] + rate[5] / distance
    shift = np.stack(
        [
            -focal * (rate[0] + rate[1] / distance) + position[:, 0] * grow,
            focal * (rate[2] + rate[3] / distance) + position[:, 1] * grow,
        ],
        1,
    )
    shift += rng.normal(0, noise, shift.shape)
    stray = rng.random(num) < strays
    shift[stray] += rng.normal(0, 0.03, (int(stray.sum()), 2))
    return Tracks(
        position=position,
        shift=shift,
        sharpness=np.tile(np.eye(2), (num, 1, 1)),
        weight=np.full(num, 2.0),
        time=np.stack([step + 0.5, STEPS - step - 0.5], 1),
        nearness=np.zeros((2, 2)),
        shaking=False,
        speeds=SPEEDS / FPS,
    )


@pytest.mark.parametrize(
    "rates",
    [
        {},
        *({name: sign} for name in COMPONENTS for sign in (1.1, -0.9)),
        {"zoom": -1.0, "push": 0.95},
        {"zoom": -1.1, "push": -0.9},
        {"tilt": 1.0, "pedestal": -1.1},
        {"pan": -0.9, "truck": 1.0, "zoom": -1.1},
        {"truck": 1.0, "zoom": 1.0, "push": -1.0},
        {"truck": 2.6},  # a tracking shot
    ],
    ids=str,
)
def test_a_movement_is_told_from_all_others(rates):
    _, found = tracks(rates).calibrated().explained()
    seen = {name: rate for name, rate in zip(COMPONENTS, found, strict=True) if rate}
    assert seen == pytest.approx(rates, abs=0.12)


@pytest.mark.parametrize(("rate", "at_once"), [(-0.85, 3), (-0.75, 1)])
def test_a_slow_movement_is_taken_for_no_two(rate, at_once):
    _, found = replace(tracks({"zoom": rate}), at_once=at_once).calibrated().explained()
    assert {COMPONENTS[k] for k in np.flatnonzero(found)} == {"zoom"}


def test_two_at_once_are_seen_where_one_is_expected():
    for rates in ({"tilt": 1.0, "zoom": 1.0}, {"pan": 1.0, "pedestal": -1.0}):
        _, found = replace(tracks(rates), at_once=1).calibrated().explained()
        assert {COMPONENTS[k] for k in np.flatnonzero(found)} == set(rates)


def test_edges_say_nothing_along_themselves():
    data = tracks({"truck": 1.0})
    # Corners on level edges slide along them: their shifts along x are worthless, and marked so.
    slides = np.arange(len(data.shift)) % 2 == 0
    data.shift[slides, 0] = 0.0
    data.sharpness[slides, 0, 0] = 0.02
    _, found = data.calibrated().explained()
    assert found[1] == pytest.approx(1.0, abs=0.1) and np.count_nonzero(found) == 1


def test_the_price_grows_with_what_is_left():
    calm, wild = (tracks({"pan": 1.0}, strays=share).calibrated().explained()[0] for share in (0.0, 0.5))
    assert wild > calm + 2
