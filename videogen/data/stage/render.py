"""Renders clips of Stage: planes at depths seen by a camera that really moves, batched over clips, on any device.

Geometry. Screen units: the frame is 2 high, (0, 0) its centre, x right, y down. A plane at depth Z has scenery at rest coordinate s where the
screen shows x = f * (s - c / Z) * Z / (Z - c_z) - f * a, with camera position (c, c_z), viewing angles a (small-angle: a shift) and focal length f.
Rotation (pan, tilt) and focal length (zoom) move all planes alike; position (truck, pedestal, push) moves near planes more: parallax.

Amplitudes. 1.0 of a camera vector (see `videogen.conditioning.camera`) is the speed in `CAMERA_SPEED`, in screen units (or log focal length)
per second; a clip may be up to 15 % faster or slower.

Two halves. `plan_clips` turns specifications into a few hundred numbers per clip, on the host, in any process; `render_plan` draws them: a few
large gathers and grid samplings per batch, whatever its size. A clip's pixels depend on its specification alone, not on the rest of its batch.

Shapes: B clips, F frames, H W pixels, A actors of a clip (0 to 2), G kinds of light of a clip (two when night falls).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.conditioning.camera import CAMERA_EFFECTS
from videogen.data.device import indexed, to_device
from videogen.data.stage.scenery import GROUND, HALF_HEIGHT, HALF_WIDTH, NUM_VARIANTS
from videogen.data.stage.textures import FAR_CHANNELS, Cast, named_cast, scenery
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
MOTION_SPEED = {"slow": 0.55, "normal": 1.0, "fast": 1.7}
_TAKE_OFF = 0.12  # a clip begins at most this far into the first jump, in jumps
_ACTOR_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.84, 0.72), "night": (0.62, 0.68, 0.88)}


@dataclass(frozen=True)
class StageClip:
    """A batch of rendered clips with their truth.

    Attributes:
        video: [B, 3, F, H, W], -1..1.
        boxes: Actor boxes as left, top, right, bottom in pixels, [B, 2, F, 4]; NaN where there is no actor or it is out of sight.

    Both are on the device that rendered.
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


def camera_amounts(spec: ClipSpec) -> tuple[tuple[float, ...], ...]:
    """How fast the clip carries out each command of `spec.camera`, in units of the standard speed; 1 for [Static shot]."""
    return _draw_amounts(spec, np.random.default_rng([spec.seed, 1]))


def _draw_amounts(spec: ClipSpec, rng: np.random.Generator) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(1.0 if CAMERA_EFFECTS[command] is None else rng.uniform(0.88, 1.15) for command in group)
        for group in spec.camera
    )


def _camera_track(spec: ClipSpec, rng: np.random.Generator, times: np.ndarray, step: float) -> dict[str, np.ndarray]:
    speed = {name: np.zeros_like(times) for name in (*CAMERA_SPEED, "tracking")}
    segment = np.minimum(np.arange(len(times)) * len(spec.camera) // max(1, len(times)), len(spec.camera) - 1)
    for index, (group, amounts) in enumerate(zip(spec.camera, _draw_amounts(spec, rng), strict=True)):
        for command, amount in zip(group, amounts, strict=True):
            effect = CAMERA_EFFECTS[command]
            if effect is not None:
                axis, sign = effect
                speed[axis][segment == index] = sign * amount
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
        y = -0.36 * np.abs(np.sin(np.pi * (times / period + rng.uniform(0, _TAKE_OFF))))  # from the ground
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


@dataclass(frozen=True)
class RenderPlan:
    """All the renderer needs to know of B clips: plain arrays and names, made on the host and cheap to send to another process.

    Attributes:
        num_frames: F.
        height: H in pixels.
        width: W in pixels.
        scenes: Scene and variant of every clip.
        lights: One or two kinds of light of every clip.
        actors: Names of every clip's actors, up to two.
        planes: [B, 4, F, 3] float32: scale, shift x and shift y from the screen to the far, middle, near and actors' plane.
        tracks: [B, 2, F, 5] float32: x, y, size, turn (radians) and ground of every actor on its plane; 0 where there is none.
        weights: [B, 2, F] float32: share of every light; 0 where there is none.
        steps: [F] int64: which picture of an animated actor is shown, to be taken modulo their number.
    """

    num_frames: int
    height: int
    width: int
    scenes: tuple[tuple[str, int], ...]
    lights: tuple[tuple[str, ...], ...]
    actors: tuple[tuple[str, ...], ...]
    planes: np.ndarray
    tracks: np.ndarray
    weights: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


_PLANE_DEPTHS = (FAR, MIDDLE, NEAR, ACTOR)  # in the order of `RenderPlan.planes`
_TRACK = ("x", "y", "size", "turn", "ground")  # in the order of `RenderPlan.tracks`


def plan_clips(
    specs: Sequence[ClipSpec], num_frames: int = 17, height: int = 96, width: int = 96, fps: float = 12.0
) -> RenderPlan:
    """The host's half of rendering: where everything is in every frame. Arguments as in `render_with_truth`.

    Raises:
        ValueError: If the size is out of range.
    """
    if num_frames < 1 or height < 16 or width < 16 or width > 2 * height:
        raise ValueError(
            f"`num_frames` must be at least 1, `height` and `width` at least 16 and `width` at most twice `height`, "
            f"got {num_frames} frames of {width}x{height}."
        )
    planes = np.zeros((len(specs), len(_PLANE_DEPTHS), num_frames, 3), np.float32)
    tracks = np.zeros((len(specs), 2, num_frames, len(_TRACK)), np.float32)
    weights = np.zeros((len(specs), 2, num_frames), np.float32)
    scenes: list[tuple[str, int]] = []
    lights: list[tuple[str, ...]] = []
    for clip, spec in enumerate(specs):
        track = _layout(spec, num_frames, fps, width / height)
        variant_rng = random.Random(spec.seed)
        scenes.append((spec.scene, variant_rng.randrange(NUM_VARIANTS)))
        offset = np.array([0.0, variant_rng.uniform(-0.25, 0.25), 0.0])
        for plane, depth in enumerate(_PLANE_DEPTHS):
            planes[clip, plane] = _plane_matrix(track.camera, depth) + (0.0 if depth == ACTOR else offset)
        for index, actor in enumerate(track.actors):
            for column, key in enumerate(_TRACK):
                tracks[clip, index, :, column] = actor[key]
        if spec.event == "night falls":
            night = np.clip((np.arange(num_frames) / max(1, num_frames - 1) - 0.2) / 0.6, 0, 1)
            lights.append((spec.light, "night"))
            weights[clip] = 1 - night, night
        else:
            lights.append((spec.light,))
            weights[clip, 0] = 1.0
    return RenderPlan(
        num_frames,
        height,
        width,
        tuple(scenes),
        tuple(lights),
        tuple(tuple(actor.name for actor in spec.actors) for spec in specs),
        planes,
        tracks,
        weights,
        (np.arange(num_frames) / fps * 12).astype(np.int64),
    )


# Pixels that are drawn at a time: what stays in a CPU's cache, or keeps a GPU busy within 2 GB.
_CHUNK_PIXELS = {"cpu": 160_000}
_CHUNK_PIXELS_GPU = 16_000_000


def render_plan(plan: RenderPlan, device: str | torch.device = "cpu", cast: Cast | None = None) -> StageClip:
    """The device's half of rendering.

    Args:
        plan: Of `plan_clips`.
        device: Where to render; textures are made there when first needed, and stay.
        cast: Who plays; `None` for named actors and strangers.

    Raises:
        ValueError: If an actor of the plan is not in the cast.
    """
    device = indexed(device)
    cast = named_cast() if cast is None else cast
    pixels = plan.num_frames * plan.height * plan.width
    size = max(1, _CHUNK_PIXELS.get(device.type, _CHUNK_PIXELS_GPU) // pixels)
    # Clips with equally many actors and lights are drawn together.
    groups: dict[tuple[int, int], list[int]] = {}
    for clip, (actors, lights) in enumerate(zip(plan.actors, plan.lights, strict=True)):
        groups.setdefault((len(actors), len(lights)), []).append(clip)
    chunks = [clips[start : start + size] for clips in groups.values() for start in range(0, len(clips), size)]
    video = torch.empty(len(plan), 3, plan.num_frames, plan.height, plan.width, device=device)
    boxes = torch.full((len(plan), 2, plan.num_frames, 4), float("nan"), device=device)
    for chunk in chunks:
        part, part_boxes = _render_chunk(plan, chunk, device, cast)
        rows = to_device(np.array(chunk), device)
        video.index_copy_(0, rows, part)
        for actor, actor_boxes in enumerate(part_boxes):
            boxes[:, actor].index_copy_(0, rows, actor_boxes)
    return StageClip(video, boxes)


def _render_chunk(plan: RenderPlan, clips: list[int], device: torch.device, cast: Cast) -> tuple[Tensor, list[Tensor]]:
    """Clips with equally many actors A and lights G: video [B, 3, F, H, W] and the boxes [B, F, 4] of each actor."""
    height, width = plan.height, plan.width
    names = [plan.actors[clip] for clip in clips]
    lights = [plan.lights[clip] for clip in clips]
    num_actors, num_lights = len(names[0]), len(lights[0])
    planes = to_device(plan.planes[clips], device)  # [B, 4, F, 3]
    tracks = to_device(plan.tracks[clips, :num_actors], device)  # [B, A, F, 5]
    screen_y = ((torch.arange(height, device=device) + 0.5) / height * 2 - 1).float()
    screen_x = ((torch.arange(width, device=device) + 0.5) / width * 2 - 1).float() * (width / height)

    drawn, boxes = [], []
    if num_actors:
        sprites = cast.textures(height // 2, device, [name for group in names for name in group])
        slots = np.array([[sprites.slots[name] for name in group] for group in names])  # [B, A, 2]: first one, how many
        shown = to_device(slots[..., :1] + plan.steps % slots[..., 1:], device)  # [B, A, F]
    for actor in range(num_actors):
        texture, track = sprites.textures[shown[:, actor].flatten()], tracks[:, actor]
        drawn.append(_draw_actor(texture, planes[:, 3], track, screen_x, screen_y))
        boxes.append(_boxes(planes[:, 3], track, height, width))

    scenes = [[(*plan.scenes[clip], light) for light in plan.lights[clip]] for clip in clips]
    backdrops = scenery(max(16, height // 2), device, [scene for group in scenes for scene in group])
    scene_rows = to_device(np.array([[backdrops.slots[scene][0] for scene in group] for group in scenes]), device)
    if num_lights > 1:
        weights = to_device(plan.weights[clips], device)[:, :, None, :, None, None]  # [B, 2, 1, F, 1, 1]
    frames: Tensor | None = None
    for light in range(num_lights):
        tints = np.array([(*_ACTOR_TINT[group[light]], 1.0) for group in lights], np.float32)
        tint = to_device(tints, device).view(-1, 4, 1, 1, 1)
        texture = backdrops.textures[scene_rows[:, light]]  # [B, 11, h, w]
        far, middle, near = texture.split([FAR_CHANNELS, 4, 4], dim=1)
        picture = _shown(far, planes[:, 0], screen_x, screen_y)
        picture = _over(picture, _shown(middle, planes[:, 1], screen_x, screen_y))
        for sprite, shadow in reversed(drawn):
            picture = _over(picture.mul_(1 - shadow), sprite * tint)
        picture = _over(picture, _shown(near, planes[:, 2], screen_x, screen_y))
        if num_lights > 1:
            picture = picture.mul_(weights[:, light])
        frames = picture if frames is None else frames.add_(picture)
    assert frames is not None
    return frames.clamp_(0, 1).mul_(2).sub_(1), boxes


def _shown(texture: Tensor, matrix: Tensor, screen_x: Tensor, screen_y: Tensor) -> Tensor:
    """Planes [B, C, h, w] seen through `matrix` [B, F, 3]: [B, C, F, H, W]. Frames are stacked in height: one texture each."""
    scale, shift_x, shift_y = matrix[..., None].unbind(2)  # [B, F, 1]
    x = (scale * screen_x + shift_x) / HALF_WIDTH
    y = (scale * screen_y + shift_y) / HALF_HEIGHT
    batch, num_frames, width = x.shape
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), -1)  # [B, F, H, W, 2]
    out = F.grid_sample(texture, grid.view(batch, -1, width, 2), align_corners=False, padding_mode="border")
    return out.view(batch, -1, num_frames, screen_y.shape[0], width)


def _draw_actor(
    texture: Tensor, matrix: Tensor, track: Tensor, screen_x: Tensor, screen_y: Tensor
) -> tuple[Tensor, Tensor]:
    """One actor of every clip.

    Args:
        texture: [B * F, 4, s, s], premultiplied, of every frame.
        matrix: [B, F, 3] of the actors' plane.
        track: [B, F, 5].
        screen_x: [W].
        screen_y: [H].

    Returns:
        Premultiplied picture [B, 4, F, H, W] and its shadow's darkness [B, 1, F, H, W].
    """
    scale, shift_x, shift_y = matrix[..., None].unbind(2)  # [B, F, 1]
    x, y, size, turn, ground = track[..., None].unbind(2)
    plane_x = scale * screen_x + shift_x  # [B, F, W]
    plane_y = scale * screen_y + shift_y  # [B, F, H]
    local_x = ((plane_x - x) / size)[:, :, None, :]
    local_y = ((plane_y - y) / size)[:, :, :, None]
    cos, sin = turn.cos()[..., None], turn.sin()[..., None]
    grid = torch.stack([cos * local_x + sin * local_y, cos * local_y - sin * local_x], -1)  # [B, F, H, W, 2]
    picture = F.grid_sample(texture, grid.flatten(0, 1), align_corners=False, padding_mode="zeros")
    picture = picture.unflatten(0, grid.shape[:2]).transpose(1, 2)
    across = ((plane_x - x) / (0.75 * size)).square().neg().exp()[:, :, None, :]
    along = ((plane_y - ground) / (0.14 * size)).square().neg().exp()[:, :, :, None]
    lift = ((ground - size - y).clamp(min=0) / 0.8).clamp(max=0.75)
    return picture, (0.42 * (1 - lift)[..., None] * across * along)[:, None]


def _boxes(matrix: Tensor, track: Tensor, height: int, width: int) -> Tensor:
    """Left, top, right, bottom in pixels of one actor of every clip, [B, F, 4]; NaN where less than a pixel of it is seen."""
    scale, shift_x, shift_y = matrix.unbind(2)  # [B, F]
    x, y, size = track[..., :3].unbind(2)
    center_x, center_y, half = (x - shift_x) / scale, (y - shift_y) / scale, size / scale
    aspect = width / height
    left, right = (((center_x + side * half) / aspect + 1) / 2 for side in (-1, 1))
    top, bottom = ((center_y + side * half + 1) / 2 for side in (-1, 1))
    box = torch.stack([left, top, right, bottom], -1).clamp(0, 1)
    box = torch.stack([box[..., 0] * width, box[..., 1] * height, box[..., 2] * width, box[..., 3] * height], -1)
    seen = (box[..., 2] - box[..., 0] > 1) & (box[..., 3] - box[..., 1] > 1)
    return box.masked_fill(~seen[..., None], float("nan"))


def _over(below: Tensor, above: Tensor) -> Tensor:
    """Premultiplied [B, 4, F, H, W] over opaque [B, 3, F, H, W], which is written over."""
    return below.mul_(1 - above[:, 3:]).add_(above[:, :3])


def render_with_truth(
    specs: Sequence[ClipSpec],
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    device: str | torch.device = "cpu",
    cast: Cast | None = None,
) -> StageClip:
    """Renders clips with their actor boxes.

    Args:
        specs: What to show; equal specifications give equal pixels.
        num_frames: Frames per clip; any number from 1.
        height: Pixels; scenery is painted as fine as it is shown.
        width: Pixels; up to twice the height.
        fps: Frames per second; speeds are per second, so this changes how far things move between frames.
        device: Where to render.
        cast: Who plays the names in `specs`; `None` for named actors and strangers.

    Raises:
        ValueError: If the size is out of range, or an actor is not in the cast.
    """
    return render_plan(plan_clips(specs, num_frames, height, width, fps), device, cast)


def render(
    specs: Sequence[ClipSpec],
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    fps: float = 12.0,
    device: str | torch.device = "cpu",
    cast: Cast | None = None,
) -> Tensor:
    """The pictures of `render_with_truth` alone: [B, 3, F, H, W], -1..1."""
    return render_with_truth(specs, num_frames, height, width, fps, device, cast).video


def to_frames(clip: Tensor) -> np.ndarray:
    """A clip [3, F, H, W] in -1..1, as `render` and the tokenizer give it, as uint8 frames [F, H, W, 3]."""
    return clip.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
