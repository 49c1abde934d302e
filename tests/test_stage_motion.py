"""Naming a movement from a track that is given, without a clip."""

from dataclasses import replace

import numpy as np
import pytest

from videogen.evaluation.stage.actors import ActorTrack
from videogen.evaluation.stage.background import COMPONENTS
from videogen.evaluation.stage.motion import movement

FPS = 12.0
TIMES = np.arange(17) / FPS


class StillCamera:
    """A camera that does not move."""

    def paths(self, num_segments: int | None, max_segments: int = 1) -> dict[str, np.ndarray]:
        return {name: np.zeros(len(TIMES)) for name in COMPONENTS}


def track(x: np.ndarray) -> ActorTrack:
    some = np.full(len(TIMES), 0.3)
    return ActorTrack("fox", x, 0 * some, some, 0 * some, some, some, some, "owl", some, some)


@pytest.mark.parametrize(
    ("speed", "motion"), [(0.5, "moves right"), (-0.5, "moves left"), (0.0, "stays"), (0.155, None)]
)
def test_a_straight_line_is_named_by_its_speed(speed: float, motion: str | None) -> None:
    found = movement(track(speed * TIMES), StillCamera(), FPS)
    assert found.motion == motion and (motion in (None, "stays") or found.rate == pytest.approx(1.0))


def test_a_track_that_can_hardly_be_measured_has_no_movement() -> None:
    moving = track(0.5 * TIMES)
    hidden = replace(moving, score=np.where(np.arange(17) < 5, moving.score, np.nan))
    assert movement(hidden, StillCamera(), FPS).motion is None
    for size in (np.nan, -0.3):  # shows, but was measured at no size, or beyond the vanishing point
        with np.errstate(invalid="ignore"):
            found = movement(replace(moving, half=np.full(17, size)), StillCamera(), FPS)
        assert found.motion is None and len(found.frames) == 0 and found.velocities(0, 16) == (0.0, 0.0)
