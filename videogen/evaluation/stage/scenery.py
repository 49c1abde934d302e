"""Recognises scene and light from colours and textures, against frames that the renderer draws without actors.

A frame is described row by row (mean colour, its spread, texture), which sideways moves of the camera leave alone. Prototypes are drawn at first
use. A clip shows the scene whose prototypes are nearest; it shows none when all are far, or when another one is nearly as near.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from videogen.data.stage.render import render
from videogen.data.stage.vocabulary import CAMERAS, LIGHTS, SCENES, ClipSpec

_ROWS, _COLUMNS = 12, 16
_CLIPS = 12  # prototypes' clips per scene and light
_FRAMES, _SECONDS = 4, 2.0  # of each, as far as the camera comes in the longest clips that models are trained on
_LEAST_ROWS = 2  # of a frame that is looked at


@dataclass(frozen=True)
class Scenery:
    """What the frames look like; distances are relative to the usual spread within one scene.

    Attributes:
        scenes: Mean distance to the nearest prototype of every scene that was compared.
        lights: The same for every light of `LIGHTS`, per looked-at frame: [n, 3].
        frames: Which frames were looked at: those that actors leave enough of.
    """

    scenes: np.ndarray
    lights: np.ndarray
    frames: tuple[int, ...]


def describe(frame: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Features [12 rows, 8] of a uint8 frame [H, W, 3]; `ignore` marks pixels of actors [H, W] bool. Rows with too little left are NaN."""
    size = (_COLUMNS * 4, _ROWS * 4)
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB) / 100
    gray = small.mean(-1)
    texture_x = np.abs(cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3))
    texture_y = np.abs(cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3))
    cells = np.concatenate([lab, lab**2, texture_x[..., None], texture_y[..., None]], -1)
    weight = np.ones(size[::-1], np.float32)
    if ignore is not None:
        weight -= cv2.resize(ignore.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.1
    rows = (cells * weight[..., None]).reshape(_ROWS, -1, 8).sum(1)
    total = weight.reshape(_ROWS, -1).sum(1)[:, None]
    rows = np.where(total > 0.15 * weight[0].size * 4, rows / np.maximum(total, 1), np.nan)
    spread = np.sqrt(np.maximum(rows[:, 3:6] - rows[:, :3] ** 2, 0))
    return np.concatenate([rows[:, :3], spread, np.sqrt(rows[:, 6:])], -1)


@dataclass(frozen=True)
class _Prototypes:
    features: np.ndarray  # [P, 12, 8]
    scene: np.ndarray  # [P]
    light: np.ndarray  # [P]
    spread: np.ndarray  # [12, 8]


@lru_cache(maxsize=4)
def _prototypes(names: tuple[str, ...]) -> _Prototypes:
    generator = random.Random("prototypes")
    features, scenes, lights = [], [], []
    moves = [command for command in CAMERAS if command not in ("Static shot", "Tracking shot")]
    for scene_index, scene in enumerate(names):
        for light_index, light in enumerate(LIGHTS):
            specs = [
                ClipSpec((), scene, light, camera=((generator.choice(moves),),), seed=generator.randrange(2**31))
                for _ in range(_CLIPS)
            ]
            video = render(specs, num_frames=_FRAMES, fps=(_FRAMES - 1) / _SECONDS)
            frames = ((video + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).flatten(0, 1).numpy()
            features += [describe(frame) for frame in frames]
            scenes += [scene_index] * len(frames)
            lights += [light_index] * len(frames)
    stacked, scene_of, light_of = np.stack(features), np.array(scenes), np.array(lights)
    group = scene_of * len(LIGHTS) + light_of
    within = np.stack([stacked[group == g].std(0) for g in np.unique(group)])
    return _Prototypes(stacked, scene_of, light_of, within.mean(0) + 0.01)


def recognise(
    frames: np.ndarray,
    scenes: tuple[str, ...] = SCENES,
    ignore: np.ndarray | None = None,
    looked_at: tuple[int, ...] | None = None,
) -> Scenery:
    """Compares some frames with all prototypes.

    Args:
        frames: uint8 [F, H, W, 3].
        scenes: What to compare with.
        ignore: Pixels of actors, [F, H, W] bool.
        looked_at: Frames to compare, but for those that are hidden; default five over the clip.
    """
    prototypes = _prototypes(scenes)
    if looked_at is None:
        looked_at = tuple(sorted({round(k * (len(frames) - 1) / 4) for k in range(5)}))
    described = {index: describe(frames[index], None if ignore is None else ignore[index]) for index in looked_at}
    # A large actor may hide everything in some frames; they say nothing then.
    described = {index: found for index, found in described.items() if np.isfinite(found[:, 0]).sum() >= _LEAST_ROWS}
    if not described:
        described = {index: describe(frames[index]) for index in looked_at}
    scene_distances, lights = [], []
    for found in described.values():
        difference = np.minimum(np.abs(prototypes.features - found) / prototypes.spread, 6) ** 2
        distance = np.sqrt(np.nanmean(difference, (1, 2)))
        scene_distances.append([distance[prototypes.scene == k].min() for k in range(len(scenes))])
        lights.append([distance[prototypes.light == k].min() for k in range(len(LIGHTS))])
    return Scenery(np.mean(scene_distances, 0), np.array(lights), tuple(described))
