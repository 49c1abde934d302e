"""Names an actor's movement from its track, after taking the camera's movement away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videogen.data.stage.render import ACTOR
from videogen.evaluation.stage.actors import ActorTrack
from videogen.evaluation.stage.background import CameraMotion

_SPEED_LIMITS = (0.74, 1.3)  # between slow, normal and fast: geometric means of the renderer's rates
_STILL = {"x": 0.14, "y": 0.09, "grow": 0.10, "turn": 0.5}  # less than this a second is standing still
_MOVING = {"x": 0.17, "y": 0.12, "grow": 0.14, "turn": 1.0}  # more than this a second is moving
_SIZE_NOISE = 0.05  # so far a log size may lie off its line
_ROUGHNESS = 0.045  # screen units: how far a straight or still track may deviate from a line
_LEAST_SEEN = 6  # frames in which an actor must show, of which `_sized` may leave out a fifth
_LEAST_FITTED = 5


@dataclass(frozen=True)
class Movement:
    """What an actor does; `rate` is 1 at normal speed; `None` where it cannot be told.

    In the `frames` that show it, `across` is its place along x in its plane and `on_screen` that in the picture, in screen units.
    """

    motion: str | None
    rate: float
    frames: np.ndarray
    across: np.ndarray
    on_screen: np.ndarray
    fps: float

    def velocities(self, start: int, stop: int) -> tuple[float, float]:
        """Speed along x in its plane and on the screen, screen units a second, between two frames; 0 where it is hardly seen."""
        # At the border of two parts the camera may jump.
        within = (self.frames > start) & (self.frames <= stop) if start else self.frames <= stop
        if within.sum() < 4:
            return 0.0, 0.0
        across, on_screen = (_line(self.frames[within] / self.fps, x[within])[0] for x in (self.across, self.on_screen))
        return across, on_screen

    @property
    def speed(self) -> str | None:
        """slow, normal or fast; `None` for a standing actor or an unknown movement."""
        if self.motion in (None, "stays"):
            return None
        return ("slow", "normal", "fast")[int(np.searchsorted(_SPEED_LIMITS, self.rate))]


def movement(
    track: ActorTrack, camera: CameraMotion, fps: float, num_segments: int | None = None, max_segments: int = 1
) -> Movement:
    """The movement of an actor in its own plane; `num_segments`: in how many equal parts the camera moves, if known; else at most so many."""
    nothing = Movement(None, 0.0, np.zeros(0, int), np.zeros(0), np.zeros(0), fps)
    seen = track.visible
    if seen.sum() < _LEAST_SEEN:
        return nothing
    path = camera.paths(num_segments, max_segments)
    near = np.maximum(ACTOR - path["push"], 0.4) / ACTOR
    scale = near / np.exp(path["zoom"])
    times = np.arange(len(seen)) / fps
    seen = seen & _sized(times, np.log(scale * track.half))
    if seen.sum() < _LEAST_FITTED:  # it was measured where it shows in too few of them
        return nothing
    t = times[seen]
    x = (scale * track.x + path["pan"] * near + path["truck"] / ACTOR)[seen]
    y = (scale * track.y - path["tilt"] * near - path["pedestal"] / ACTOR)[seen]
    foot_free = y  # the sprite's centre: growing lifts it, since the feet stay on the ground
    size = np.log((scale * track.half)[seen])
    turn = np.unwrap(track.angle[seen])
    vx, rough_x = _line(t, x)
    vy, rough_y = _line(t, foot_free)
    grow, rough_size = _line(t, size)
    spin, _ = _line(t, turn)
    moving_y = abs(vy) - abs(grow) * float(np.exp(size).mean())  # growing alone moves the centre that much
    speeds = {"x": abs(vx), "y": moving_y, "grow": abs(grow), "turn": abs(spin)}
    moving = [name for name in speeds if speeds[name] > _MOVING[name]]
    still = [name for name in speeds if speeds[name] < _STILL[name]]

    def found(motion: str | None, rate: float) -> Movement:
        return Movement(motion, rate, np.flatnonzero(seen), x, track.x[seen], fps)

    height, rate, rough = _jump(t, y)
    wobble, frequency, rough_wobble = _wave(t, x)
    if "turn" in moving:
        steady = rough_x < 2 * _ROUGHNESS and rough_y < 2 * _ROUGHNESS
        return found("spins" if steady and {"x", "y", "grow"} <= set(still) else None, abs(spin) / (2 * np.pi * 0.6))
    if height > 0.2 and rough < min(_ROUGHNESS, 0.4 * rough_y) and "x" in still:
        return found("jumps" if height < 0.6 else None, rate)
    if wobble > 0.035 and rough_wobble < 0.6 * rough_x and "x" not in moving:
        return found("shakes" if wobble < 0.13 and rough_y < _ROUGHNESS else None, (frequency / 2.6) ** 2)
    if max(rough_x, rough_y) > _ROUGHNESS or rough_size > 0.1 or len(moving) > 1 or len(moving) + len(still) < 4:
        return found(None, 0.0)
    if not moving:
        return found("stays", 0.0)
    if moving == ["x"]:
        return found("moves left" if vx < 0 else "moves right", abs(vx) / 0.5)
    if moving == ["y"]:
        return found("moves up" if vy < 0 else "moves down", abs(vy) / 0.36)
    return found("comes closer" if grow > 0 else "goes away", abs(grow) / 0.42)


def _sized(times: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Frames whose log size is on the line through most of them, [F] bool: at the frame's edge it is often mistaken; a few may be left out."""
    kept = ~np.isnan(sizes)
    for _ in range(int(kept.sum()) // 5):
        slope, start = np.polyfit(times[kept], sizes[kept], 1)
        away = np.where(kept, np.abs(sizes - slope * times - start), -1.0)
        if away.max() < _SIZE_NOISE or away.max() < 2.5 * np.median(away[kept]):
            break
        kept[away.argmax()] = False
    return kept


def _line(t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope and root mean square deviation of a straight line."""
    slope, start = np.polyfit(t, values, 1)
    return float(slope), float(np.sqrt(np.mean((values - slope * t - start) ** 2)))


def _jump(t: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Height, rate and deviation of the best fitting hops y = a - h |sin|."""
    rate, phase = np.meshgrid(np.linspace(0.45, 2.0, 40), np.arange(0, 1, 0.05), indexing="ij")
    shape = -np.abs(np.sin(np.pi * (t * rate[..., None] / 0.75 + phase[..., None])))
    return _best_shape(shape, y, rate)


def _wave(t: np.ndarray, x: np.ndarray) -> tuple[float, float, float]:
    """Amplitude, frequency and deviation of the best fitting sine between 1.5 and 4.2 Hz."""
    x = x - np.polyval(np.polyfit(t, x, 1), t)
    frequency, phase = np.meshgrid(np.linspace(1.5, 4.2, 40), np.arange(0, 1, 0.05), indexing="ij")
    return _best_shape(np.sin(2 * np.pi * (t * frequency[..., None] + phase[..., None])), x, frequency)


def _best_shape(shape: np.ndarray, values: np.ndarray, rate: np.ndarray) -> tuple[float, float, float]:
    centred = shape - shape.mean(-1, keepdims=True)
    target = values - values.mean()
    size = (centred @ target) / np.maximum((centred**2).sum(-1), 1e-6)
    deviation = np.sqrt(((target - size[..., None] * centred) ** 2).mean(-1))
    deviation[size < 0] = np.inf
    best = np.unravel_index(int(deviation.argmin()), deviation.shape)
    return float(size[best]), float(rate[best]), float(deviation[best])
