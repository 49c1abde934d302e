"""Judges one clip against what was asked for, from its pixels alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from videogen.conditioning.camera import CAMERA_EFFECTS
from videogen.data.stage.actors import strangers
from videogen.data.stage.vocabulary import LIGHTS, Vocabulary
from videogen.evaluation.stage.actors import SECOND_HALF, TINTS, ActorTrack, actor_bank, find_actors
from videogen.evaluation.stage.background import CameraMotion, camera_motion
from videogen.evaluation.stage.motion import Movement, movement
from videogen.evaluation.stage.scenery import Scenery, recognise

# Thresholds of recognition; blurred, noisy true renders clear them, half-transparent blends do not.
_MEAN_SCORE, _LEAST_SCORE = 0.76, 0.5  # concordance over the clip, and of the second worst frame
_SCORE_AND_GAIN = 1.1  # mean concordance plus half the contrast: a ghost has little of both
_MARGIN = 0.12  # before the next best actor
# What another sprite may explain of the rest: at most 0.13 in the tokenizer's reconstructions, 0.16 and more in most blends that the rules above let pass.
_MIXED = 0.15
_GAIN = (0.5, 1.6)  # contrast relative to the sprite
_WINDOW = 3  # frames; a single bad frame is forgiven, a window of them is not
_LOST, _LOST_AFTER_A_JUMP = 0.75, 0.88  # worst window's concordance relative to the best one's
_STRIDE = 0.75  # the longest way of an actor in one frame, in `half`
_JUMP, _JUMP_IN_SIZE = 0.85, 0.3  # between windows: way in `half`, and log ratio of sizes; a true actor jumps less
_SECOND_SCORE, _SECOND_EVIDENCE = 0.8, 0.2
# A second actor for which less evidence is enough: least score, least margin, least score plus this share of the margin.
_UNMISTAKABLE = (0.86, 0.3, 0.98, 0.27)
_LITTLE_EVIDENCE = 0.06
_TURNED = (0.2, 1.5, 0.9)  # margin, radians, and share of the mean score in the second worst frame, of one that turns
_TURNED_EVIDENCE = 0.12
_SKY, _IN_THE_SKY = -0.35, 0.86  # so high up a second actor must match better than the moon matches a penguin
_BRIGHT = 1.1  # and a first one, if it has so much contrast: the moon outshines a penguin
_SCENE_DISTANCE, _SCENE_RATIO = 2.6, 0.8  # nearest scene's prototypes; relative to the next scene's
_RATE = (0.4, 2.0)  # a camera command's speed relative to the standard one; less is no move
_KEPT_IN_PLACE = 0.3  # an actor's speed on the screen relative to that in its world, at most, for a tracking shot
_COMMANDS = {effect: name for name, effect in CAMERA_EFFECTS.items() if effect is not None}


@dataclass(frozen=True)
class Verdict:
    """Attributes: `right`: whether the clip shows what was asked for; `seen`: what it shows, `None` = undetermined (then never right)."""

    right: bool
    seen: Any


@dataclass(frozen=True)
class Sights:
    """What the verdicts rest on.

    Attributes:
        tracks: The actors, the most certain first.
        scenery: Distances to scenes and lights.
        camera: Its movement; `None` where too little can be followed.
        moves: The movement of the first actor that was asked for, else of the most certain one.
    """

    tracks: list[ActorTrack]
    scenery: Scenery
    camera: CameraMotion | None
    moves: Movement | None


def check(frames: np.ndarray, fps: float, asked: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Verdict]:
    """Judges a clip.

    Args:
        frames: uint8 [F, H, W, 3], as decoded from the file.
        fps: Frames per second.
        asked: What the prompt names, as `videogen.data.stage.attributes` gives it; `identity` is the name of a stranger that a picture showed.
        vocabulary: What may happen.

    Returns:
        One verdict for each of `actor`, `scene`, `light`, `motion`, `speed`, `camera`, `count`, `relation`, `event`, `identity` that was asked.
        With two actors asked for, `actor` needs both.

    Raises:
        ValueError: If the frames have another type or shape, or are fewer than 6.
    """
    sights = look(frames, fps, asked, vocabulary)
    tracks, scenery, camera, moves = sights.tracks, sights.scenery, sights.camera, sights.moves
    found = [track.name for track in tracks]
    verdicts = {}
    if "actor" in asked:
        missing = {asked["actor"], asked.get("second_actor", asked["actor"])} - set(found)
        verdicts["actor"] = Verdict(bool(found) and not missing, found or None)
    if "identity" in asked:
        verdicts["identity"] = Verdict(asked["identity"] in found, found[0] if found else None)
    scene, final_light = _scene(scenery, vocabulary.scenes), _light(scenery, len(frames), asked.get("event"))
    verdicts["scene"] = Verdict(scene is not None and scene == asked.get("scene"), scene)
    verdicts["light"] = Verdict(final_light is not None and final_light == asked.get("light"), final_light)
    motion = moves.motion if moves is not None else None
    verdicts["motion"] = Verdict(motion is not None and motion == asked.get("motion"), motion)
    speed = moves.speed if moves is not None and motion == asked.get("motion") else None
    verdicts["speed"] = Verdict(speed is not None and speed == asked.get("speed"), speed)
    if asked.get("camera") is not None:
        seen = _camera(camera, asked["camera"], moves)
        right = seen is not None and all(
            set(a) - {"Static shot"} == set(b) for a, b in zip(asked["camera"], seen, strict=True)
        )
        verdicts["camera"] = Verdict(right, seen)
    count = len(tracks) or None
    verdicts["count"] = Verdict(count is not None and count == asked.get("count"), count)
    relation = _relation(tracks, asked)
    verdicts["relation"] = Verdict(relation is not None and relation == asked.get("relation"), relation)
    event = _event(scenery, tracks, len(frames))
    verdicts["event"] = Verdict(event is not None and event == asked.get("event"), event)
    return {name: verdict for name, verdict in verdicts.items() if name in asked}


def look(frames: np.ndarray, fps: float, asked: Mapping[str, Any], vocabulary: Vocabulary) -> Sights:
    """Looks at a clip; arguments and errors as in `check`."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 6:
        raise ValueError(
            f"`frames` must be uint8 [F, H, W, 3] with at least 6 frames, got {frames.dtype} {frames.shape}."
        )
    names = tuple(vocabulary.actors) + (strangers() if "identity" in asked else ())
    wanted = [asked[key] for key in ("actor", "second_actor", "identity") if asked.get(key) in names]
    first_look = recognise(frames, vocabulary.scenes)
    aspect = frames.shape[2] / frames.shape[1]
    tracks = find_actors(
        frames,
        actor_bank(names),
        _tints(first_look, len(frames)),
        lambda track, index: _recognised(track, index > 0, aspect),
        wanted,
        turning="spins" in vocabulary.motions,
        fps=fps,
    )
    boxes = _boxes(tracks, len(frames))
    scenery = recognise(frames, vocabulary.scenes, _ignored(boxes, frames))
    camera = camera_motion(frames, fps, boxes, vocabulary.max_camera_commands)
    subject = next((track for track in tracks if track.name in wanted[:1]), tracks[0] if tracks else None)
    num_segments = len(asked["camera"]) if asked.get("camera") else None
    moves = (
        movement(subject, camera, fps, num_segments, vocabulary.max_camera_segments)
        if subject is not None and camera is not None
        else None
    )
    return Sights(tracks, scenery, camera, moves)


def nearest_actor(frames: np.ndarray, fps: float, names: tuple[str, ...], vocabulary: Vocabulary) -> str | None:
    """Which of the named actors a clip's actor resembles most, however little; `None` if nothing resembles any."""
    tints = _tints(recognise(frames, vocabulary.scenes), len(frames))
    turning = "spins" in vocabulary.motions
    tracks = find_actors(
        frames, actor_bank(names), tints, lambda track, index: True, turning=turning, max_actors=1, fps=fps
    )
    return tracks[0].name if tracks else None


def _tints(look: Scenery, num_frames: int) -> np.ndarray:
    """Colour of the light on the actors, [F, 3]: steady, or falling from day to night over the middle of the clip."""
    first, last = (int(look.lights[k].argmin()) for k in (0, -1))
    if (LIGHTS[first], LIGHTS[last]) == ("day", "night"):
        fallen = np.clip((np.linspace(0, 1, num_frames) - 0.2) / 0.6, 0, 1)[:, None]
        return (1 - fallen) * np.array(TINTS[first]) + fallen * np.array(TINTS[last])
    return np.tile(TINTS[int(look.lights.mean(0).argmin())], (num_frames, 1))


def _recognised(track: ActorTrack, second: bool, aspect: float) -> bool:
    seen = track.visible
    if seen.sum() < (3 if second else 6):
        return False
    score, gain = np.sort(track.score[seen]), np.sort(track.gain[seen])
    mean, contrast, evidence = score.mean(), np.median(gain), np.mean(track.evidence[seen])
    margin = mean - np.nanmean(track.rival_score)
    # Thin or finely patterned sprites match less well; they may, if nothing else comes near and they stand out.
    clear = margin > 0.25 and evidence > (0.5 if second else 0.35) and contrast > 0.78
    # Scenery that resembles a second actor does not turn round; what does need match no better than a first one.
    turned = margin > _TURNED[0] and np.ptp(track.angle[seen]) > _TURNED[1] and score[1] > _TURNED[2] * mean
    second_least = 0.74 if clear else _MEAN_SCORE if turned else _SECOND_SCORE
    least = second_least if second else (0.68 if clear else _MEAN_SCORE)
    if mean < least or score[1] < _LEAST_SCORE or margin < _MARGIN or np.nanmean(track.mixed) > _MIXED:
        return False
    if not _GAIN[0] < contrast < _GAIN[1] or gain[1] < 0.75 * contrast or mean + contrast / 2 < _SCORE_AND_GAIN:
        return False
    # A palm tree's trunk covers little of its square, a shark's tail leaves a hole in it, but nothing else resembles them.
    least_likeness, least_margin, least_sum, share = _UNMISTAKABLE
    unmistakable = mean > least_likeness and margin > least_margin and mean + share * margin > least_sum
    least_evidence = _LITTLE_EVIDENCE if unmistakable else _TURNED_EVIDENCE if turned else _SECOND_EVIDENCE
    if second and (evidence < least_evidence or np.median(track.half[seen]) < SECOND_HALF):
        return False
    if (second or contrast > _BRIGHT) and np.median(track.y[seen]) < _SKY and mean < _IN_THE_SKY:
        return False
    return not (_vanishes(track, aspect) or _is_lost(track))


def _vanishes(track: ActorTrack, aspect: float) -> bool:
    """Whether it is gone between two frames although it was, and would have been, well inside the picture."""
    seen = track.visible
    for frame in np.flatnonzero(seen):
        for step in (-1, 1):
            gone, known = frame + step, frame - step
            if not 0 <= gone < len(seen) or seen[gone]:
                continue
            x, y, half = track.x[frame], track.y[frame], track.half[frame]
            if 0 <= known < len(seen) and seen[known]:
                way_x, way_y = x - track.x[known], y - track.y[known]
                # Where it was heading; further is no movement but another place.
                if np.hypot(way_x, way_y) < _STRIDE * half:
                    x, y = x + way_x, y + way_y
            if abs(x) < aspect - 0.5 * half and abs(y) < 1 - 0.5 * half:
                return True
    return False


def _is_lost(track: ActorTrack) -> bool:
    """Whether part of the clip shows scenery that happens to resemble the actor: it matches worse there, and lies elsewhere."""
    seen = np.flatnonzero(track.visible)
    if len(seen) < 2 * _WINDOW:
        return False
    path = np.stack([track.x, track.y, track.half, track.score], 1)[seen]
    x, y, half, score = np.median(np.lib.stride_tricks.sliding_window_view(path, _WINDOW, 0), -1).T
    if score.min() < _LOST * score.max():
        return True
    before, after = slice(None, -_WINDOW), slice(_WINDOW, None)
    way = np.hypot(x[after] - x[before], y[after] - y[before]) / np.minimum(half[after], half[before])
    jumps = (way > _JUMP) | (np.abs(np.log(half[after] / half[before])) > _JUMP_IN_SIZE)
    return bool(jumps.any()) and score.min() < _LOST_AFTER_A_JUMP * score.max()


def _boxes(tracks: list[ActorTrack], num_frames: int) -> np.ndarray:
    """Boxes with a margin and the shadow, [n, F, 4] in screen units."""
    if not tracks:
        return np.full((1, num_frames, 4), np.nan)
    sides = []
    for track in tracks:
        reach = 1.12 * track.half
        sides.append(
            np.stack([track.x - reach, track.y - reach, track.x + reach, track.y + reach + 0.08 * track.half], 1)
        )
    return np.stack(sides)


def _ignored(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    num_frames, height, width = frames.shape[:3]
    mask = np.zeros((num_frames, height, width), bool)
    for track in boxes:
        for frame in np.flatnonzero(~np.isnan(track[:, 0])):
            left, right = ((track[frame, [0, 2]] * height / width + 1) / 2 * width).round().astype(int)
            top, bottom = ((track[frame, [1, 3]] + 1) / 2 * height).round().astype(int)
            mask[frame, max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


def _clear_nearest(distances: np.ndarray) -> int | None:
    order = np.argsort(distances)
    if distances[order[0]] > _SCENE_DISTANCE:
        return None
    if len(order) > 1 and distances[order[0]] > _SCENE_RATIO * distances[order[1]]:
        return None
    return int(order[0])


def _scene(scenery: Scenery, names: tuple[str, ...]) -> str | None:
    index = _clear_nearest(scenery.scenes)
    return None if index is None else names[index]


def _light(scenery: Scenery, num_frames: int, event: str | None) -> str | None:
    """The light of the whole clip; that of its end when night should fall."""
    if event == "night falls":
        index = _clear_nearest(scenery.lights[-1])
        return None if index is None else LIGHTS[index]
    index = _clear_nearest(scenery.lights.mean(0))
    steady = all(int(frame.argmin()) == index for frame in scenery.lights)
    return LIGHTS[index] if index is not None and steady else None


def _camera(camera: CameraMotion | None, asked: list[list[str]], moves: Movement | None) -> list[list[str]] | None:
    """The commands seen in each of the asked segments; `None` if undetermined."""
    if camera is None or camera.inliers < 0.6 or camera.num_tracks < 8:
        return None
    seen = []
    parts = len(asked)
    seen_parts = zip(asked, camera.spans(parts), camera.shakes(parts), camera.explained(parts), strict=True)
    for wanted, span, shakes, rates in seen_parts:
        commands = ["Shake"] if shakes else []
        # An actor that keeps its place before a camera that moves along with it: that is a tracking shot, and just as much a truck.
        velocity, on_screen = moves.velocities(*span) if moves is not None else (0.0, 0.0)
        tracking = abs(velocity) > 0.17 and abs(on_screen) < _KEPT_IN_PLACE * abs(velocity)
        for name, rate in rates.items():
            command = _COMMANDS[name, 1 if rate > 0 else -1]
            if name == "truck" and tracking and rate * velocity > 0 and command not in wanted:
                commands.append("Tracking shot")
            elif abs(rate) > _RATE[1] and name not in ("tilt", "pan"):
                return None
            elif abs(rate) > _RATE[0]:
                commands.append(command)
        seen.append(commands)
    return seen


def _relation(tracks: list[ActorTrack], asked: Mapping[str, Any]) -> str | None:
    by_name = {track.name: track for track in tracks}
    first, second = by_name.get(asked.get("actor", "")), by_name.get(asked.get("second_actor", ""))
    if first is None or second is None:
        return None
    both = first.visible & second.visible
    distance = first.x[both] - second.x[both]
    if both.sum() < 6 or not (np.all(distance > 0.2) or np.all(distance < -0.2)):
        return None
    return "left of" if distance[0] < 0 else "right of"


def _event(scenery: Scenery, tracks: list[ActorTrack], num_frames: int) -> str | None:
    day, night = LIGHTS.index("day"), LIGHTS.index("night")
    first = scenery.lights[0]
    # Before a large actor day resembles sunset; that it is not yet night is what counts.
    by_day = first.argmin() == day and first[day] < min(_SCENE_DISTANCE, _SCENE_RATIO * first[night])
    if by_day and _clear_nearest(scenery.lights[-1]) == night:
        return "night falls"
    for track in tracks:
        if not track.visible[: num_frames // 5].any() and track.visible[-num_frames // 5 :].all():
            return "enters"
    return None


__all__ = ["Sights", "Verdict", "check", "look", "nearest_actor"]
