"""What `videogen evaluate tasks` asks a model for: pictures, clips and camera vectors that come with prompts of Stage.

A prompt is a function of split, rung, task and number alone, so that the first N are the same however many are taken. `TASKS_VERSION` counts their
versions, and `prompts_hash` tells whether this installation makes the same ones.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from videogen.conditioning.camera import CAMERA_EFFECTS
from videogen.data.stage.actors import strangers
from videogen.data.stage.captions import action_caption, caption
from videogen.data.stage.render import camera_amounts, render, to_frames
from videogen.data.stage.vocabulary import (
    LIGHTS,
    ActorSpec,
    ClipSpec,
    Vocabulary,
    attributes,
    held_out_pairs,
    rungs,
    sample_spec,
)
from videogen.evaluation.stage_shape import DEFAULT_SHAPE, ClipShape

TASKS = ("image", "last", "keyframes", "subject", "extend", "camera")
TASKS_VERSION = 1
NUM_STRANGERS = 40
"""Among so many a subject must be the nearest."""

SPEEDS = (0.5, 0.75, 1.0, 1.25, 1.5)
"""Amounts of a camera vector, in units of a command's standard speed; training shows 0.88 to 1.15."""

EXTENSION = 3
"""So many times its duration an extension adds to a clip."""

_HASHED = 20  # prompts of each task
_IN_PLACE = ("stays", "jumps", "spins", "shakes")
_NO_SPEED = ("Static shot", "Shake", "Tracking shot")
_WITH_EVENT = _TWO_SUBJECTS = 3  # every so many prompts


@dataclass(frozen=True)
class TaskPrompt:
    """One clip to make.

    Attributes:
        id: Also names the clip.
        rung: Whose words.
        task: One of `TASKS`.
        kind: What is measured: "motion" or "event" (image), "one" or "two" (subject), "command" or "speed" (camera), else the task itself.
        prompt: The text; may hold a camera bracket.
        asked: What a checker of Stage is asked, see `videogen.evaluation.stage.check`.
        spec: The true clip as JSON; given pictures and clips are cut from it.
        references: Pictures of subjects as JSON of clips, whose first frames they are.
        given: Frame numbers of `keyframes`, of a clip of the default shape; `command`, and the `amount` that its vector has.
    """

    id: str
    rung: str
    task: str
    kind: str
    prompt: str
    asked: dict[str, Any]
    spec: str
    references: tuple[str, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)


def task_prompts(split: str, rung: str, task: str, num_prompts: int) -> list[TaskPrompt]:
    """The first prompts of a task; of "camera" as many of each kind.

    Raises:
        ValueError: Unknown split, rung or task, or fewer than one prompt.
    """
    if split not in ("dev", "test"):
        raise ValueError(f"`split` must be 'dev' or 'test', got {split!r}.")
    if rung not in rungs():
        raise ValueError(f"`rung` must be one of {', '.join(rungs())}, got {rung!r}.")
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}.")
    if num_prompts < 1:
        raise ValueError(f"`num_prompts` must be at least 1, got {num_prompts}.")
    prompts = []
    for group, build in _BUILDERS[task].items():
        for index in range(num_prompts):
            generator = random.Random(f"stage-tasks:{split}:{rung}:{group}:{index}")
            prompts.append(build(f"{split}-{rung}-{group}-{index:03d}", rung, generator, index))
    return prompts


def left_out(rung: str) -> dict[str, str]:
    """Measures that a rung cannot have, as task and name, with the reason."""
    vocabulary = rungs()[rung]
    reasons = {}
    if not vocabulary.events:
        reasons["image beyond"] = f"{rung} has no events"
    if vocabulary.max_actors < 2:
        reasons["subject two"] = reasons["subject exchanged"] = f"{rung} has one actor at a time"
    return reasons


def prompts_hash(split: str, rung: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the first prompts of all tasks."""
    lines = [json.dumps(asdict(prompt)) for task in TASKS for prompt in task_prompts(split, rung, task, _HASHED)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def known_strangers() -> tuple[str, ...]:
    """The strangers that subjects are drawn from and compared with."""
    return tuple(random.Random("stage-tasks").sample(strangers(), NUM_STRANGERS))


def seed_of(prompt: TaskPrompt) -> int:
    """The seed that a model is given."""
    return int.from_bytes(hashlib.sha256(prompt.id.encode()).digest()[:4], "big") >> 1


def num_new_frames(shape: ClipShape) -> int:
    """By which an extension makes a clip of this shape longer."""
    return EXTENSION * (shape.num_frames - 1)


def true_clip(prompt: TaskPrompt, shape: ClipShape = DEFAULT_SHAPE) -> np.ndarray:
    """A render of what is asked for, uint8 [F, H, W, 3]; of an extension the old and the new frames."""
    num_frames = shape.num_frames + (num_new_frames(shape) if prompt.task == "extend" else 0)
    fps = shape.fps
    if prompt.kind == "speed":
        # In fewer pictures a second everything moves further from one to the next: the renderer has but one speed for each command, or nearly.
        fps *= camera_amounts(ClipSpec.from_json(prompt.spec))[0][0] / prompt.given["amount"]
    return _pixels(prompt.spec, num_frames, fps)


def reference_pictures(prompt: TaskPrompt) -> list[np.ndarray]:
    """The pictures of the subjects, uint8 [H, W, 3]."""
    return [_pixels(reference, 1, DEFAULT_SHAPE.fps)[0] for reference in prompt.references]


@lru_cache(maxsize=4)
def _pixels(spec: str, num_frames: int, fps: float) -> np.ndarray:
    video = render([ClipSpec.from_json(spec)], num_frames=num_frames, fps=fps)[0]
    return to_frames(video)


def _drawn(generator: random.Random, vocabulary: Vocabulary, fits: Callable[[ClipSpec], bool]) -> ClipSpec:
    while True:
        spec = replace(sample_spec(generator, vocabulary), camera_told=True)
        if fits(spec):
            return spec


def _alone(spec: ClipSpec) -> bool:
    return len(spec.actors) == 1 and spec.event is None


def _language(generator: random.Random) -> Literal["en", "zh"]:
    return "zh" if generator.random() < 0.3 else "en"


def _style(index: int) -> Literal["words", "bracket"]:
    return "bracket" if index % 2 else "words"


def _image(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    vocabulary = rungs()[rung]
    event = None
    if vocabulary.events and index % _WITH_EVENT == _WITH_EVENT - 1:
        event = vocabulary.events[index // _WITH_EVENT % len(vocabulary.events)]

    def fits(spec: ClipSpec) -> bool:
        return spec.event == event if event else _alone(spec) and spec.actors[0].motion != "stays"

    spec = _drawn(generator, vocabulary, fits)
    text = action_caption(spec, generator, _language(generator), _style(index))
    return TaskPrompt(name, rung, "image", "event" if event else "motion", text, attributes(spec), spec.to_json())


def _last(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    spec = _drawn(generator, rungs()[rung], _alone)
    text = caption(spec, generator, _language(generator), _style(index))
    return TaskPrompt(name, rung, "last", "last", text, attributes(spec), spec.to_json())


def _keyframes(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    def fits(spec: ClipSpec) -> bool:
        """Whether no two pictures of the clip are alike."""
        moves = spec.actors[0].motion not in _IN_PLACE
        return _alone(spec) and (moves or set(spec.camera[0]).isdisjoint(_NO_SPEED))

    spec = _drawn(generator, rungs()[rung], fits)
    text = caption(spec, generator, _language(generator), _style(index))
    least, last = DEFAULT_SHAPE.num_frames // 4, DEFAULT_SHAPE.num_frames - 1
    while True:
        frames = sorted(generator.sample(range(last + 1), 2 + index % 2))
        if min(np.diff(frames)) >= least:
            break
    given = {"keyframes": frames}
    return TaskPrompt(name, rung, "keyframes", "keyframes", text, attributes(spec), spec.to_json(), given=given)


def _subject(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    from videogen.training.batches import name_the_subject

    vocabulary = rungs()[rung]
    two = vocabulary.max_actors > 1 and index % _TWO_SUBJECTS == _TWO_SUBJECTS - 1
    spec = _drawn(generator, vocabulary, lambda spec: spec.relation is not None if two else _alone(spec))
    names = generator.sample(known_strangers(), len(spec.actors))
    actors = tuple(replace(actor, name=name) for actor, name in zip(spec.actors, names, strict=True))
    spec = replace(spec, actors=actors)
    language = _language(generator)
    text = caption(spec, generator, language, _style(index))
    references = []
    for number, actor in enumerate(spec.actors, 1):
        text = name_the_subject(text, actor.name, language, number if two else 0)
        scene = generator.choice([scene for scene in vocabulary.scenes if scene != spec.scene])
        light = generator.choice([light for light in LIGHTS if light != spec.light])
        shown = ClipSpec((ActorSpec(actor.name),), scene, light, seed=generator.randrange(2**31))
        references.append(shown.to_json())
    asked = {**attributes(spec), "identity": names[0]}
    if not two:
        del asked["actor"]
    return TaskPrompt(
        name, rung, "subject", "two" if two else "one", text, asked, spec.to_json(), references=tuple(references)
    )


def _extend(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    # What moves away, or is moved away from, is out of sight before the end.
    spec = _drawn(generator, rungs()[rung], lambda spec: _alone(spec) and spec.actors[0].motion in _IN_PLACE)
    spec = replace(spec, camera=(("Static shot",),))
    text = caption(spec, generator, _language(generator), _style(index))
    return TaskPrompt(name, rung, "extend", "extend", text, attributes(spec), spec.to_json())


def _with_command(generator: random.Random, vocabulary: Vocabulary, command: str, motions: tuple[str, ...]) -> ClipSpec:
    while True:
        spec = _drawn(generator, vocabulary, _alone)
        spec = replace(spec, camera=((command,),))
        if spec.actors[0].motion in motions and not held_out_pairs(spec):
            return spec


def _command(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    vocabulary = rungs()[rung]
    command = vocabulary.cameras[index % len(vocabulary.cameras)]
    motions = ("moves left", "moves right") if command == "Tracking shot" else vocabulary.motions
    spec = _with_command(generator, vocabulary, command, motions)
    # One after the other for each command, too, however many there are.
    text = caption(spec, generator, _language(generator), _style(index // len(vocabulary.cameras)))
    given = {"command": command}
    return TaskPrompt(name, rung, "camera", "command", text, attributes(spec), spec.to_json(), given=given)


def _speed(name: str, rung: str, generator: random.Random, index: int) -> TaskPrompt:
    vocabulary = rungs()[rung]
    commands = [command for command in vocabulary.cameras if command not in _NO_SPEED]
    command = commands[index % len(commands)]
    amount = SPEEDS[(index // len(commands) + index % len(commands)) % len(SPEEDS)]
    spec = _with_command(generator, vocabulary, command, _IN_PLACE)
    text = caption(spec, generator, _language(generator), "none")
    effect = CAMERA_EFFECTS[command]
    assert effect is not None
    given = {"command": command, "amount": amount, "component": effect[0], "sign": effect[1]}
    return TaskPrompt(name, rung, "camera", "speed", text, attributes(spec), spec.to_json(), given=given)


_BUILDERS: dict[str, dict[str, Callable[[str, str, random.Random, int], TaskPrompt]]] = {
    "image": {"image": _image},
    "last": {"last": _last},
    "keyframes": {"keyframes": _keyframes},
    "subject": {"subject": _subject},
    "extend": {"extend": _extend},
    "camera": {"camera": _command, "speed": _speed},
}
