"""What can happen on Stage: the words, the rungs of difficulty, and the specification of one clip.

A `ClipSpec` is the whole truth about a clip: the renderer draws it, the grammar puts it into words, the checkers are tested against it.
Three splits keep measurements honest: *strangers* (actors that are never trained on, see `actors.json`), *pairs* (about a tenth of the
actor-scene, actor-motion and motion-camera pairs never meet in training) and *words* (synonyms and word orders held out, see `captions.py`).
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from videogen.conditioning.camera import CAMERA_EFFECTS
from videogen.data.stage.actors import load_actors, named_actors

Split = Literal["train", "heldout", "any"]

SCENES = ("snow", "beach", "forest", "city", "desert", "space", "meadow", "sea floor")
LIGHTS = ("day", "sunset", "night")
MOTIONS = (
    "stays",
    "moves left",
    "moves right",
    "jumps",
    "spins",
    "moves up",
    "moves down",
    "comes closer",
    "goes away",
    "shakes",
)
SPEEDS = ("slow", "normal", "fast")
EVENTS = ("enters", "night falls")
RELATIONS = ("left of", "right of")
# In the order in which the rungs add them; the official order of the 15 commands is in `videogen.conditioning.camera`.
CAMERAS = (
    "Static shot",
    "Pan left",
    "Zoom in",
    "Pan right",
    "Zoom out",
    "Truck left",
    "Truck right",
    "Tilt up",
    "Tilt down",
    "Push in",
    "Pull out",
    "Pedestal up",
    "Pedestal down",
    "Shake",
    "Tracking shot",
)
_ALONE = {"Static shot", "Tracking shot"}


@dataclass(frozen=True)
class ActorSpec:
    """One actor and what it does; `speed` is "normal" unless the caption names one."""

    name: str
    motion: str = "stays"
    speed: str = "normal"


@dataclass(frozen=True)
class ClipSpec:
    """The truth about one clip.

    Attributes:
        actors: One or two; with the event "enters" the second one comes in during the clip.
        scene: One of `SCENES`.
        light: One of `LIGHTS` (at the start, when night falls).
        relation: Where the first actor stands seen from the second, or `None` for one actor.
        camera: Sequence of sets of simultaneous MiniMax commands; the sets share the clip equally in time.
        camera_told: Whether captions and camera vectors tell the camera move (otherwise it is free).
        event: One of `EVENTS` or `None`.
        seed: Everything the words leave open: layout, sizes, exact speeds, scenery variant.
    """

    actors: tuple[ActorSpec, ...]
    scene: str
    light: str = "day"
    relation: str | None = None
    camera: tuple[tuple[str, ...], ...] = (("Static shot",),)
    camera_told: bool = True
    event: str | None = None
    seed: int = 0

    def to_json(self) -> str:
        """One line of JSON from which `from_json` makes an equal specification."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ClipSpec:
        """Inverse of `to_json`."""
        raw: dict[str, Any] = json.loads(text)
        raw["actors"] = tuple(ActorSpec(**actor) for actor in raw["actors"])
        raw["camera"] = tuple(tuple(group) for group in raw["camera"])
        return cls(**raw)


@dataclass(frozen=True)
class Vocabulary:
    """What a rung, and the model trained on it, knows."""

    actors: tuple[str, ...]
    scenes: tuple[str, ...]
    motions: tuple[str, ...]
    cameras: tuple[str, ...]
    lights: tuple[str, ...] = LIGHTS
    speeds: tuple[str, ...] = ("normal",)
    events: tuple[str, ...] = ()
    max_actors: int = 1
    max_camera_commands: int = 1  # at the same time
    max_camera_segments: int = 1  # one after another
    sizes: tuple[tuple[int, int], ...] = field(default=((96, 96),))  # (width, height) in pixels
    num_frames: tuple[int, ...] = (17,)
    fps: tuple[int, ...] = (12,)
    num_inference_steps: int = 20  # what a model that was trained on this samples with by default
    guidance_scale: float = 3.0

    def words(self) -> set[str]:
        """Everything that has a name: actors, scenes, lights, motions, speeds, camera commands, events."""
        return {*self.actors, *self.scenes, *self.lights, *self.motions, *self.speeds, *self.cameras, *self.events}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary, as shipped in `vocabulary.json` beside the weights."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Vocabulary:
        """Inverse of `to_dict`; unknown keys are a `TypeError`."""

        def freeze(value: Any) -> Any:
            return tuple(freeze(item) for item in value) if isinstance(value, list | tuple) else value

        return cls(**{key: freeze(value) for key, value in raw.items()})


@lru_cache(maxsize=1)
def rungs() -> dict[str, Vocabulary]:
    """The rungs of difficulty, easiest first; each of rung1 to rung4 contains the one before. "cameras" is rung1 with every camera command."""
    named = named_actors()
    first = Vocabulary(actors=named[:12], scenes=SCENES[:4], motions=MOTIONS[:4], cameras=CAMERAS[:3])
    return {
        "rung1": first,
        "cameras": replace(first, cameras=CAMERAS),
        "rung2": Vocabulary(actors=named[:24], scenes=SCENES[:6], motions=MOTIONS[:6], cameras=CAMERAS[:5]),
        "rung3": Vocabulary(
            actors=named[:40],
            scenes=SCENES,
            motions=MOTIONS[:8],
            cameras=CAMERAS[:9],
            speeds=SPEEDS,
            events=EVENTS,
            max_actors=2,
        ),
        "rung4": Vocabulary(
            actors=named,
            scenes=SCENES,
            motions=MOTIONS,
            cameras=CAMERAS,
            speeds=SPEEDS,
            events=EVENTS,
            max_actors=2,
            max_camera_commands=3,
            max_camera_segments=2,
        ),
    }


@lru_cache(maxsize=1)
def _actor_order() -> dict[str, int]:
    return {name: index for index, name in enumerate(load_actors())}


def held_out_pairs(spec: ClipSpec) -> list[str]:
    """The pairs of this clip that training never shows, as readable strings; empty for a clip of the training split."""
    found = []
    order = _actor_order()
    for actor in spec.actors:
        a, m = order[actor.name], MOTIONS.index(actor.motion)
        if (a + 3 * SCENES.index(spec.scene)) % 10 == 5:
            found.append(f"{actor.name} x {spec.scene}")
        if (a + 3 * m) % 10 == 2:
            found.append(f"{actor.name} x {actor.motion}")
        for command in {command for group in spec.camera for command in group}:
            if (3 * m + CAMERAS.index(command)) % 10 == 4:
                found.append(f"{actor.motion} x {command}")
    return found


def _sample_camera(generator: random.Random, vocabulary: Vocabulary, motion: str) -> tuple[tuple[str, ...], ...]:
    def axis(command: str) -> str | None:
        effect = CAMERA_EFFECTS[command]
        return None if effect is None else effect[0]

    def allowed(command: str, group: list[str]) -> bool:
        if command == "Tracking shot" and motion not in ("moves left", "moves right"):
            return False
        if group and (command in _ALONE or group[0] in _ALONE or command in group):
            return False
        return axis(command) not in map(axis, group)

    num_segments = 1
    if vocabulary.max_camera_segments > 1 and generator.random() < 0.15:
        num_segments = generator.randint(2, vocabulary.max_camera_segments)
    segments: list[tuple[str, ...]] = []
    for _ in range(num_segments):
        num_commands = 1
        if vocabulary.max_camera_commands > 1 and generator.random() < 0.2:
            num_commands = generator.randint(2, vocabulary.max_camera_commands)
        group: list[str] = []
        for _ in range(num_commands):
            options = [c for c in vocabulary.cameras if allowed(c, group) and (c,) not in segments[-1:]]
            if options:
                group.append(generator.choice(options))
        segments.append(tuple(group))
    return tuple(segments)


def _sample_once(generator: random.Random, vocabulary: Vocabulary) -> ClipSpec:
    event = generator.choice(vocabulary.events) if vocabulary.events and generator.random() < 0.2 else None
    two = vocabulary.max_actors > 1 and (event == "enters" or (event is None and generator.random() < 0.35))
    names = generator.sample(vocabulary.actors, 2 if two else 1)
    first = ActorSpec(names[0], generator.choice(vocabulary.motions), generator.choice(vocabulary.speeds))
    if first.motion == "stays":
        first = replace(first, speed="normal")
    actors = [first]
    relation = None
    if two and event != "enters":  # two side by side: what one does, the other leaves room for
        actors = [replace(first, motion=first.motion if first.motion in ("jumps", "spins", "shakes") else "stays")]
        if actors[0].motion == "stays":
            actors = [replace(actors[0], speed="normal")]
        actors.append(ActorSpec(names[1]))
        relation = generator.choice(RELATIONS)
    elif two:
        actors = [ActorSpec(names[0]), ActorSpec(names[1])]
    return ClipSpec(
        actors=tuple(actors),
        scene=generator.choice(vocabulary.scenes),
        light="day" if event == "night falls" else generator.choice(vocabulary.lights),
        relation=relation,
        camera=_sample_camera(generator, vocabulary, actors[0].motion),
        camera_told=generator.random() < 0.85,
        event=event,
        seed=generator.randrange(2**31),
    )


def sample_spec(generator: random.Random, vocabulary: Vocabulary, split: Split = "train") -> ClipSpec:
    """Draws a clip.

    Args:
        generator: Source of randomness; equal states give equal clips.
        vocabulary: What may happen.
        split: "train" never contains a held-out pair, "heldout" always does, "any" does not care.

    Raises:
        ValueError: If `split` is unknown.
    """
    if split not in ("train", "heldout", "any"):
        raise ValueError(f"`split` must be 'train', 'heldout' or 'any', got {split!r}.")
    while True:
        spec = _sample_once(generator, vocabulary)
        if split == "any" or bool(held_out_pairs(spec)) == (split == "heldout"):
            return spec


def attributes(spec: ClipSpec) -> dict[str, Any]:
    """The true attributes a checker may be asked about; what the words leave open is absent."""
    shown: dict[str, Any] = {
        "actor": spec.actors[0].name,
        "scene": spec.scene,
        "light": "night" if spec.event == "night falls" else spec.light,
        "motion": spec.actors[0].motion,
        "count": len(spec.actors),
    }
    if spec.actors[0].speed != "normal":
        shown["speed"] = spec.actors[0].speed
    if spec.camera_told:
        shown["camera"] = [list(group) for group in spec.camera]
    if len(spec.actors) == 2:
        shown["second_actor"] = spec.actors[1].name
    if spec.relation:
        shown["relation"] = spec.relation
    if spec.event:
        shown["event"] = spec.event
    return shown
