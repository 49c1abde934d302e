"""Renders clips of Stage: planes at depths seen by a camera that really moves, batched over clips, on any device.

Geometry. Screen units: the frame is 2 high, (0, 0) its centre, x right, y down. A plane at depth Z has scenery at rest coordinate s where the
screen shows x = f * (s - c / Z) * Z / (Z - c_z) - f * a, with camera position (c, c_z), viewing angles a (small-angle: a shift) and focal length f.
Rotation (pan, tilt) and focal length (zoom) move all planes alike; position (truck, pedestal, push) moves near planes more: parallax.

Amplitudes. 1.0 of a camera vector (see `videogen.conditioning.camera`) is the speed in `CAMERA_SPEED`, in screen units (or log focal length)
per second; a clip may be up to 15 % faster or slower.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.data.stage.actors import load_sprite
from videogen.data.stage.scenery import GROUND, HALF_HEIGHT, HALF_WIDTH, NUM_VARIANTS, paint_scene
from videogen.data.stage.vocabulary import ClipSpec

FAR, MIDDLE, ACTOR, NEAR = 4.0, 2.5, 1.6, 1.0  # depths of the planes
SHAKE_HEIGHT = 0.07  # screen units
CAMERA_SPEED = {
    "truck": 0.32,
    "pan": 0.28,
    "push": 0.26,
    "pedestal": 0.28,
    "tilt": 0.22,
    "zoom": 0.24,
    "shake": SHAKE_HEIGHT,
}
_COMMAND = {
    "Truck left": ("truck", -1.0),
    "Truck right": ("truck", 1.0),
    "Pan left": ("pan", -1.0),
    "Pan right": ("pan", 1.0),
    "Push in": ("push", 1.0),
    "Pull out": ("push", -1.0),
    "Pedestal up": ("pedestal", 1.0),
    "Pedestal down": ("pedestal", -1.0),
    "Tilt up": ("tilt", 1.0),
    "Tilt down": ("tilt", -1.0),
    "Zoom in": ("zoom", 1.0),
    "Zoom out": ("zoom", -1.0),
    "Shake": ("shake", 1.0),
    "Tracking shot": ("tracking", 1.0),
}
MOTION_SPEED = {"slow": 0.55, "normal": 1.0, "fast": 1.7}
_ACTOR_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.84, 0.72), "night": (0.62, 0.68, 0.88)}


@dataclass(frozen=True)
class StageClip:
    """A batch of rendered clips with their truth.

    Attributes:
        video: [B, 3, F, H, W], -1..1.
        boxes: Actor boxes as left, top, right, bottom in pixels, [B, 2, F, 4]; NaN where there is no actor or it is out of sight.
    """

    video: Tensor
    boxes: Tensor


@dataclass
class _Track:
    """Per-frame state of one clip; screen units, [F] arrays."""

    camera: dict[str, np.ndarray]
    actors: list[dict[str, np.ndarray]]


def _smooth_noise(rng: np.random.Generator, times: np.ndarray, rate: float) -> np.ndarray:
    """A deterministic trembling in -1..1 with about `rate` turns per second."""
    phases = rng.uniform(0, 2 * np.pi, 3)
    return sum(np.sin(2 * np.pi * rate * k * times + p) for k, p in zip((0.7, 1.0, 1.3), phases, strict=True)) / 2.2


def _camera_track(spec: ClipSpec, rng: np.random.Generator, times: np.ndarray, step: float) -> dict[str, np.ndarray]:
    speed = {name: np.zeros_like(times) for name in (*CAMERA_SPEED, "tracking")}
    segment = np.minimum(np.arange(len(times)) * len(spec.camera) // max(1, len(times)), len(spec.camera) - 1)
    for index, group in enumerate(spec.camera):
        for command in group:
            if command != "Static shot":
                name, sign = _COMMAND[command]
                speed[name][segment == index] = sign * rng.uniform(0.88, 1.15)
    track = {}
    for name, amplitude in CAMERA_SPEED.items():
        if name == "shake":
            continue
        path = np.concatenate([[0.0], np.cumsum(amplitude * speed[name][1:] * step)])
        # Sideways moves are centred; those in depth only ever come nearer than rest, so that scenery always fills the frame.
        track[name] = path - path.min() if name in ("push", "zoom") else path - (path.max() + path.min()) / 2
    for axis in ("pan", "tilt"):
        track[axis] = track[axis] + SHAKE_HEIGHT * speed["shake"] * _smooth_noise(rng, times, 3.7)
    track["tracking"] = speed["tracking"]
    return track


def _actor_track(
    motion: str, speed: str, rng: np.random.Generator, times: np.ndarray, center: float, size: float
) -> dict[str, np.ndarray]:
    rate = MOTION_SPEED[speed] * rng.uniform(0.92, 1.08)
    duration = float(times[-1]) if len(times) > 1 else 0.0
    zero = np.zeros_like(times)
    x, y, grow, turn = zero + center, zero.copy(), zero + 1.0, zero.copy()
    if motion in ("moves left", "moves right"):
        sign = -1.0 if motion == "moves left" else 1.0
        x = center + sign * 0.5 * rate * (times - duration / 2)
    elif motion == "jumps":
        period = 0.75 / rate
        y = -0.36 * np.abs(np.sin(np.pi * (times / period + rng.uniform(0, 1))))
    elif motion == "spins":
        turn = rng.choice((-1, 1)) * 2 * np.pi * 0.6 * rate * times
    elif motion in ("moves up", "moves down"):
        sign = -1.0 if motion == "moves up" else 1.0
        y = -0.32 + sign * 0.36 * rate * (times - duration / 2)
    elif motion in ("comes closer", "goes away"):
        total = 0.42 * rate * duration
        path = 0.42 * rate * times - total / 2
        grow = np.exp(path if motion == "comes closer" else -path)
    elif motion == "shakes":
        x = center + 0.07 * np.sin(2 * np.pi * 2.6 * math.sqrt(rate) * times + rng.uniform(0, 6.28))
    foot = GROUND + rng.uniform(-0.05, 0.05)
    return {
        "x": x,
        "y": foot - size * grow + y,
        "ground": zero + foot,
        "size": size * grow,
        "turn": turn,
        "time": times,
    }


def _layout(spec: ClipSpec, num_frames: int, fps: float, half_width: float) -> _Track:
    rng = np.random.default_rng([spec.seed, 1])
    times = np.arange(num_frames) / fps
    camera = _camera_track(spec, rng, times, 1 / fps)
    actors = []
    if len(spec.actors) == 1:
        centers, size = [rng.uniform(-0.3, 0.3)], rng.uniform(0.36, 0.46)
    else:
        side = rng.uniform(0.40, 0.48)
        first = side if spec.relation == "right of" or (spec.relation is None and rng.random() < 0.5) else -side
        centers, size = [first, -first], rng.uniform(0.28, 0.34)
    for index, actor in enumerate(spec.actors):
        actors.append(_actor_track(actor.motion, actor.speed, rng, times, centers[index], size))
    if spec.event == "enters":
        progress = np.clip((np.arange(num_frames) / max(1, num_frames - 1) - 0.3) / 0.5, 0, 1)
        outside = math.copysign(half_width + 0.6, centers[1])
        actors[1]["x"] = outside + (centers[1] - outside) * progress
    if camera["tracking"].any():
        camera["truck"] = camera["truck"] + np.where(
            camera["tracking"] != 0, (actors[0]["x"] - actors[0]["x"].mean()) * ACTOR, 0.0
        )
    return _Track(camera, actors)


def _plane_matrix(camera: dict[str, np.ndarray], depth: float) -> np.ndarray:
    """Screen -> plane rest coordinate, per frame: s = scale * screen + shift; [F, 3] as scale, shift x, shift y."""
    focal = np.exp(camera["zoom"])
    nearness = (depth - camera["push"]) / depth
    scale = nearness / focal
    return np.stack(
        [
            scale,
            camera["pan"] * nearness + camera["truck"] / depth,
            -camera["tilt"] * nearness - camera["pedestal"] / depth,
        ],
        1,
    )


@lru_cache(maxsize=512)
def _sprite(name: str, height: int) -> Tensor:
    sprite = torch.from_numpy(np.array(load_sprite(name))).float().div_(255)  # [T, H, W, 4]
    sprite[..., :3] *= sprite[..., 3:]
    return _filtered(sprite.permute(0, 3, 1, 2).contiguous(), height)


def _filtered(sprite: Tensor, height: int) -> Tensor:
    """A sprite no finer than it is shown: half the frame's height. Sampling a finer one would alias, and shimmer in motion."""
    size = height // 2
    return F.interpolate(sprite, size=(size, size), mode="area") if sprite.shape[-1] > size else sprite


def _texels(height: int) -> int:
    """Texels per screen unit: one per pixel at rest, for the same reason."""
    return max(16, height // 2)


@lru_cache(maxsize=256)
def _scene(scene: str, variant: int, light: str, texels: int) -> tuple[Tensor, Tensor, Tensor]:
    planes = paint_scene(scene, variant, light, texels)
    tensors = []
    for plane in (planes.far[:3], planes.middle, planes.near):
        tensor = torch.from_numpy(plane).clone()
        if tensor.shape[0] == 4:
            tensor[:3] *= tensor[3:]
        tensors.append(tensor)
    return tensors[0], tensors[1], tensors[2]


def _sample(texture: Tensor, grid: Tensor) -> Tensor:
    """One texture, all frames at once: [C, h, w], [F, H, W, 2] -> [F, C, H, W]. Frames are stacked in height: one call, one texture."""
    num_frames, height, width, _ = grid.shape
    out = F.grid_sample(
        texture[None], grid.reshape(1, num_frames * height, width, 2), align_corners=False, padding_mode="border"
    )
    return out.view(-1, num_frames, height, width).transpose(0, 1)


def _shown(texture: Tensor, matrix: np.ndarray, screen_x: Tensor, screen_y: Tensor) -> Tensor:
    m = torch.from_numpy(matrix.astype(np.float32)).to(screen_x.device)
    x = (m[:, 0, None] * screen_x + m[:, 1, None]) / HALF_WIDTH
    y = (m[:, 0, None] * screen_y + m[:, 2, None]) / HALF_HEIGHT
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return _sample(texture, grid)


def _over(below: Tensor, above: Tensor) -> Tensor:
    """Premultiplied [F, 4, H, W] over opaque [F, 3, H, W]."""
    return below * (1 - above[:, 3:]) + above[:, :3]


def _render_one(
    spec: ClipSpec,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
    device: torch.device,
    sprites: list[Tensor] | None,
) -> tuple[Tensor, Tensor]:
    aspect = width / height
    track = _layout(spec, num_frames, fps, aspect)
    screen_y = ((torch.arange(height, device=device) + 0.5) / height * 2 - 1).float()
    screen_x = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1).float() * aspect
    variant_rng = random.Random(spec.seed)
    variant = variant_rng.randrange(NUM_VARIANTS)
    offset = np.array([0.0, variant_rng.uniform(-0.25, 0.25), 0.0])
    lights = [(spec.light, np.ones(num_frames))]
    if spec.event == "night falls":
        night = np.clip((np.arange(num_frames) / max(1, num_frames - 1) - 0.2) / 0.6, 0, 1)
        lights = [(spec.light, 1 - night), ("night", night)]

    camera_at = {depth: _plane_matrix(track.camera, depth) + offset for depth in (FAR, MIDDLE, NEAR)}
    actor_matrix = _plane_matrix(track.camera, ACTOR)
    layers: list[tuple[Tensor, Tensor]] = []  # per actor: premultiplied sprite, shadow
    boxes = torch.full((2, num_frames, 4), float("nan"))
    for index, actor in enumerate(track.actors):
        to_tensor = lambda value: torch.from_numpy(np.asarray(value, np.float32)).to(device)  # noqa: E731
        scale, shift_x, shift_y = (to_tensor(actor_matrix[:, i]) for i in range(3))
        x, y, size, turn = (to_tensor(actor[key]) for key in ("x", "y", "size", "turn"))
        plane_x = scale[:, None] * screen_x + shift_x[:, None]  # [F, W]
        plane_y = scale[:, None] * screen_y + shift_y[:, None]  # [F, H]
        local_x = ((plane_x - x[:, None]) / size[:, None])[:, None, :]
        local_y = ((plane_y - y[:, None]) / size[:, None])[:, :, None]
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        grid = torch.stack([cos * local_x + sin * local_y, cos * local_y - sin * local_x], -1)
        texture = _filtered(sprites[index], height) if sprites is not None else _sprite(spec.actors[index].name, height)
        texture = texture.to(device)
        if texture.shape[0] == 1:
            picture = F.grid_sample(texture, grid.view(1, -1, width, 2), align_corners=False, padding_mode="zeros")
            picture = picture.view(4, num_frames, height, width).transpose(0, 1)
        else:
            shown = (torch.from_numpy(actor["time"]) * 12).long() % texture.shape[0]
            picture = F.grid_sample(texture[shown.to(device)], grid, align_corners=False, padding_mode="zeros")
        ground = to_tensor(actor["ground"])
        across = ((plane_x - x[:, None]) / (0.75 * size[:, None])).square().neg().exp()[:, None, None, :]
        along = ((plane_y - ground[:, None]) / (0.14 * size[:, None])).square().neg().exp()[:, None, :, None]
        lift = ((ground - size - y).clamp(min=0) / 0.8).clamp(max=0.75)
        layers.append((picture, 0.42 * (1 - lift)[:, None, None, None] * across * along))
        center_x, center_y, half = (x - shift_x) / scale, (y - shift_y) / scale, size / scale
        box = torch.stack([(center_x - half) / aspect, center_y - half, (center_x + half) / aspect, center_y + half], 1)
        box = ((box + 1) / 2).clamp(0, 1) * torch.tensor([width, height, width, height], device=device)
        seen = (box[:, 2] - box[:, 0] > 1) & (box[:, 3] - box[:, 1] > 1)
        boxes[index][seen.cpu()] = box[seen].cpu()

    frames = torch.zeros(num_frames, 3, height, width, device=device)
    for light, weight in lights:
        far, middle, near = (plane.to(device) for plane in _scene(spec.scene, variant, light, _texels(height)))
        shown_frames = _shown(far, camera_at[FAR], screen_x, screen_y)
        shown_frames = _over(shown_frames, _shown(middle, camera_at[MIDDLE], screen_x, screen_y))
        tint = torch.tensor([*_ACTOR_TINT[light], 1.0], device=device).view(1, 4, 1, 1)
        for picture, shadow in reversed(layers):
            shown_frames = _over(shown_frames * (1 - shadow), picture * tint)
        shown_frames = _over(shown_frames, _shown(near, camera_at[NEAR], screen_x, screen_y))
        frames += shown_frames * torch.from_numpy(weight).float().to(device).view(-1, 1, 1, 1)
    return frames.clamp_(0, 1).mul_(2).sub_(1).transpose(0, 1), boxes


def render_with_truth(
    specs: list[ClipSpec],
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    device: str | torch.device = "cpu",
    sprites: list[list[Tensor]] | None = None,
) -> StageClip:
    """Renders clips with their actor boxes.

    Args:
        specs: What to show; equal specifications give equal pixels.
        num_frames: Frames per clip; any number from 1.
        height: Pixels; scenery is painted as fine as it is shown.
        width: Pixels; up to twice the height.
        fps: Frames per second; speeds are per second, so this changes how far things move between frames.
        device: Where to render.
        sprites: Pictures in place of the named actors, per clip and actor: premultiplied RGBA in 0..1, [T, 4, h, w]
            (for unnamed actors and strangers).

    Raises:
        ValueError: If the size is out of range.
    """
    if num_frames < 1 or height < 16 or width < 16 or width > 2 * height:
        raise ValueError(
            f"`num_frames` must be at least 1, `height` and `width` at least 16 and `width` at most twice `height`, "
            f"got {num_frames} frames of {width}x{height}."
        )
    device = torch.device(device)
    rendered = [
        _render_one(spec, num_frames, height, width, fps, device, sprites[i] if sprites is not None else None)
        for i, spec in enumerate(specs)
    ]
    return StageClip(torch.stack([video for video, _ in rendered]), torch.stack([boxes for _, boxes in rendered]))


def render(
    specs: list[ClipSpec],
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    device: str | torch.device = "cpu",
) -> Tensor:
    """The pictures of `render_with_truth` alone: [B, 3, F, H, W], -1..1."""
    return render_with_truth(specs, num_frames, height, width, fps, device).video
