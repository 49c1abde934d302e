"""Measures on Stage what a model does with pictures, clips and camera vectors: `videogen evaluate tasks`.

Prompts are those of `stage_task_prompts`, one clip each. Verdicts come from the pixel checkers of Stage, from a comparison with the given pictures, and,
for the speed of the camera, from its measured movement. Shares have Wilson's interval, numbers a bootstrap over prompts. A clip that cannot be read
is wrong in everything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videogen.conditioning.camera import camera_frame_vectors, pool_camera
from videogen.data.stage.render import to_frames
from videogen.data.stage.vocabulary import Vocabulary, rungs
from videogen.data.video import read_video
from videogen.evaluation.clip_jobs import Work, claim, run_jobs
from videogen.evaluation.metrics.stage import checkers_version
from videogen.evaluation.stage import check, look, nearest_actor
from videogen.evaluation.stage.checks import Verdict
from videogen.evaluation.stage.pictures import Jump, jump, nearest_frames, psnr
from videogen.evaluation.stage_shape import DEFAULT_SHAPE, ClipShape, clip_shape
from videogen.evaluation.stage_suite import Source, model_folder, model_hashes
from videogen.evaluation.stage_task_prompts import (
    TASKS,
    TASKS_VERSION,
    TaskPrompt,
    known_strangers,
    left_out,
    num_new_frames,
    prompts_hash,
    reference_pictures,
    seed_of,
    task_prompts,
    true_clip,
)
from videogen.evaluation.statistics import Interval, clustered_interval, correlation_interval

LEAST_PSNR = 22.0
"""dB: a last frame that is so near the given picture is that picture."""

LEAST_FIRST_PSNR = 25.0
"""dB: the same for a first frame, of which `docs/evaluation.md` says how near the tokenizer comes to it."""

_LEAST_FRAMES = 6  # that the checkers need
_LATE = 2  # frames: how far from its time a keyframe may be nearest
_FRAMES_A_LATENT = 4
_OPPOSITE = {"left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class Measure:
    """One row of the report: what it says, in which `unit` ("" = a share, which is right or wrong for each clip), and the `bar` that a good model passes."""

    text: str
    bar: float | None = None
    unit: str = ""


MEASURES: dict[str, dict[str, Measure]] = {
    "image": {
        "kept": Measure("actor and scene right in the last quarter", 0.9),
        "actor": Measure("actor alone"),
        "scene": Measure("scene alone"),
        "first psnr": Measure("first frame against the picture", None, "dB"),
        "no cut": Measure("begins with the picture, no cut after it", 0.98),
        "motion": Measure("prompted motion", 0.85),
        "camera": Measure("prompted camera", 0.8),
        "beyond": Measure("what the picture does not show", 0.6),
    },
    "last": {
        "psnr": Measure("last frame against the picture", LEAST_PSNR, "dB"),
        "reached": Measure(f"clips that reach {LEAST_PSNR:g} dB"),
    },
    "keyframes": {
        "order": Measure("pictures nearest at about their times, in order", 0.9),
        "psnr": Measure("frames at these times against the pictures", None, "dB"),
    },
    "subject": {
        "nearest": Measure("the right one of 40 strangers is nearest", 0.85),
        "recognised": Measure("the right one is clearly recognised"),
        "scene and motion": Measure("scene and motion follow the text", 0.85),
        "two": Measure("two subjects, each in its place", 0.6),
        "exchanged": Measure("two subjects that changed places"),
    },
    "extend": {
        "kept": Measure("actor and scene right in the last clip length", 0.85),
        "actor": Measure("actor alone"),
        "scene": Measure("scene alone"),
        "motion": Measure("prompted motion in the last clip length", 0.85),
        "no jump": Measure("no jump in colour or place at the joins", 0.98),
        "colour": Measure("colour across the worst join, 1 = as inside", None, "x"),
        "place": Measure("pixels across the worst join, 1 = as inside", None, "x"),
    },
    "camera": {
        "obeyed": Measure("commands obeyed"),
        "speed": Measure("measured against asked speed", 0.8, "correlation"),
        "speed error": Measure("measured minus asked, size", None, "x"),
    },
}
"""Task and name -> measure. Of "camera" there is one more for each command, named like it."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What a run is; a folder of results belongs to one of these.

    Attributes:
        split: "dev" or "test".
        rung: Which vocabulary's prompts.
        tasks: Which of `TASKS`.
        num_prompts: Of each task, and of each of the two kinds of "camera".
        source: "model"; "renders" checks the measures on true clips, "tokenizer" on reconstructions of these.
        model: Folder of weights; "" = the shipped ones.
        num_inference_steps: `None` = the model's own.
        guidance_scale: `None` = the model's own.
        literal_prompt: Words that the model never met go to it as they are, instead of being read as known ones.
        quality: "fast" (few steps without guidance) or "high"; `None` = the model's own.
        device: Where clips are made, see `videogen.evaluation.clip_jobs.Work`.
    """

    split: str = "dev"
    rung: str = "rung1"
    tasks: tuple[str, ...] = TASKS
    num_prompts: int = 50
    source: Source = "model"
    model: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    literal_prompt: bool = False
    quality: str | None = None
    device: str = "cpu"


def run_tasks(
    settings: TaskSettings,
    folder: str | Path,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Makes and judges all clips that `folder` does not hold yet, and summarises; arguments as in `videogen.evaluation.stage_suite.run_suite`.

    Returns:
        See `summarise`; with `left_out` (measures that the rung cannot have, and why) and `about`: the settings, the hashes of prompts and model, and the
        version of the checkers.

    Raises:
        ValueError: The folder belongs to another run, or a setting is out of range.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    if not settings.tasks or not set(settings.tasks) <= set(TASKS):
        raise ValueError(f"`tasks` must be among {', '.join(TASKS)}, got {', '.join(settings.tasks) or 'none'}.")
    folder = Path(folder)
    jobs = [
        prompt
        for task in TASKS
        if task in settings.tasks
        for prompt in task_prompts(settings.split, settings.rung, task, settings.num_prompts)
    ]
    about = {
        "prompts": prompts_hash(settings.split, settings.rung),
        "prompts_version": TASKS_VERSION,
        "checkers": checkers_version(__file__),
        **model_hashes(settings.source, settings.model),
        **asdict(_shape(settings)),
        **asdict(settings),
    }
    about = json.loads(json.dumps(about))
    claim(folder, about, free=("num_prompts", "tasks"))
    # The tasks take turns: a run that is stopped early tells a little of all.
    jobs.sort(key=lambda prompt: prompt.id.rpartition("-")[2])
    results = run_jobs(Work(settings, _clip_name, _made_clips, _judge_file), jobs, folder, workers, report)
    reasons = left_out(settings.rung)
    missing = {name: reason for name, reason in reasons.items() if name.split()[0] in settings.tasks}
    return {**summarise(results), "left_out": missing, "about": about}


def _clip_name(prompt: TaskPrompt) -> str:
    return prompt.id


def _made_clips(settings: TaskSettings, prompts: list[TaskPrompt]) -> Iterator[tuple[TaskPrompt, np.ndarray, float]]:
    make = {"model": _generator, "renders": _renderer, "tokenizer": _reconstructor}
    clip_of = make[settings.source](settings)
    for prompt in prompts:
        yield prompt, *clip_of(prompt)


def _shape(settings: TaskSettings) -> ClipShape:
    return clip_shape(model_folder(settings.model))


def _renderer(settings: TaskSettings) -> Callable[[TaskPrompt], tuple[np.ndarray, float]]:
    shape = _shape(settings)
    return lambda prompt: (true_clip(prompt, shape), shape.fps)


def _reconstructor(settings: TaskSettings) -> Callable[[TaskPrompt], tuple[np.ndarray, float]]:
    from tokenizer3d import CausalVideoAutoencoder

    vae = CausalVideoAutoencoder.from_pretrained(model_folder(settings.model) / "vae").eval().to(settings.device)
    shape = _shape(settings)

    @torch.no_grad()
    def reconstruct(prompt: TaskPrompt) -> tuple[np.ndarray, float]:
        video = torch.from_numpy(true_clip(prompt, shape)).permute(3, 0, 1, 2)[None] / 127.5 - 1  # [1, 3, F, H, W]
        decoded = vae.decode(vae.encode(video.to(settings.device)).latents).sample[0].float().cpu()
        return to_frames(decoded), shape.fps

    return reconstruct


def _generator(settings: TaskSettings) -> Callable[[TaskPrompt], tuple[np.ndarray, float]]:
    from videogen_pipelines import (
        ImageToVideoPipeline,
        SubjectToVideoPipeline,
        TextToVideoPipeline,
        VideoExtensionPipeline,
    )

    pipe = TextToVideoPipeline.from_pretrained(settings.model or None)
    pipe.to(settings.device)
    kinds = {
        "image": ImageToVideoPipeline,
        "last": ImageToVideoPipeline,
        "keyframes": ImageToVideoPipeline,
        "subject": SubjectToVideoPipeline,
        "extend": VideoExtensionPipeline,
    }
    pipes = {"camera": pipe, **{task: kind.from_pipe(pipe) for task, kind in kinds.items()}}
    for each in pipes.values():
        each.set_progress_bar_config(disable=True)
    names = ("num_inference_steps", "guidance_scale", "literal_prompt", "quality")
    options = {name: getattr(settings, name) for name in names}
    shape = _shape(settings)

    def generate(prompt: TaskPrompt) -> tuple[np.ndarray, float]:
        given = _given(prompt, shape, pipe.scale_factor_temporal)
        generators = [torch.Generator().manual_seed(seed_of(prompt))]
        output = pipes[prompt.task](prompt.prompt, generator=generators, **given, **options)
        return output.uint8()[0], output.fps

    return generate


def _given(prompt: TaskPrompt, shape: ClipShape, scale_factor_temporal: int) -> dict[str, Any]:
    """What a pipeline gets besides the text."""
    if prompt.kind == "command":
        return {}
    if prompt.kind == "speed":
        segments, amounts = ((prompt.given["command"],),), ((prompt.given["amount"],),)
        vectors = camera_frame_vectors(segments, shape.num_frames, amounts)
        return {"camera": pool_camera(vectors, scale_factor_temporal)}
    if prompt.task == "subject":
        return {"subject_images": reference_pictures(prompt)}
    clip = true_clip(prompt, shape)
    if prompt.task == "image":
        return {"image": clip[0]}
    if prompt.task == "last":
        return {"last_image": clip[-1]}
    if prompt.task == "keyframes":
        numbers = [shape.frame(number) for number in prompt.given["keyframes"]]
        return {"keyframes": {number / shape.fps: clip[number] for number in numbers}}
    return {"video": clip[: shape.num_frames], "video_fps": shape.fps, "num_frames": num_new_frames(shape)}


def _judge_file(settings: TaskSettings, prompt: TaskPrompt, clip: Path) -> dict[str, Any]:
    try:
        video = read_video(clip)
        found = judge(prompt, video.frames, video.fps, _shape(settings))
    except ValueError:
        found = _nothing(prompt)
    return {"prompt": prompt.id, "task": prompt.task, "kind": prompt.kind, **asdict(found)}


@dataclass(frozen=True)
class Judgement:
    """Of one clip, by the names of `MEASURES`: what is `right`, the `values` in their units, and what was `seen`."""

    right: dict[str, bool]
    values: dict[str, float]
    seen: dict[str, Any]


def judge(prompt: TaskPrompt, frames: np.ndarray, fps: float, shape: ClipShape = DEFAULT_SHAPE) -> Judgement:
    """Judges a clip, uint8 [F, H, W, 3], against what its prompt asked for and gave.

    Args:
        prompt: The clip's.
        frames: Decoded from its file.
        fps: Frames per second.
        shape: Of the model's own clips, and so of the pictures and clips that it was given.

    Raises:
        ValueError: Frames that the checkers refuse, or fewer than the task makes.
    """
    vocabulary = rungs()[prompt.rung]
    judges: dict[str, Callable[[TaskPrompt, np.ndarray, float, Vocabulary, ClipShape], Judgement]] = {
        "image": _judge_image,
        "last": _judge_last,
        "keyframes": _judge_keyframes,
        "subject": _judge_subject,
        "extend": _judge_extension,
        "camera": _judge_command if prompt.kind == "command" else _judge_speed,
    }
    return judges[prompt.task](prompt, frames, fps, vocabulary, shape)


def _nothing(prompt: TaskPrompt) -> Judgement:
    """Of a clip that shows nothing."""
    wrong = {
        "image": ("kept", "actor", "scene", "no cut", "camera", "beyond" if prompt.kind == "event" else "motion"),
        "last": ("reached",),
        "keyframes": ("order",),
        "subject": ("two", "exchanged") if prompt.kind == "two" else ("nearest", "recognised", "scene and motion"),
        "extend": ("kept", "actor", "scene", "no jump", *(("motion",) if prompt.asked["motion"] != "stays" else ())),
        "camera": ("obeyed",) if prompt.kind == "command" else (),
    }[prompt.task]
    values = {"image": {"first psnr": 0.0}, "last": {"psnr": 0.0}, "keyframes": {"psnr": 0.0}}.get(prompt.task, {})
    if prompt.kind == "speed":
        values = {"asked": prompt.given["amount"], "measured": 0.0}
    seen = {"command": prompt.given["command"]} if prompt.kind == "command" else {}
    return Judgement(dict.fromkeys(wrong, False), values, seen)


def _kept(
    prompt: TaskPrompt, frames: np.ndarray, num_last: int, fps: float, vocabulary: Vocabulary
) -> dict[str, Verdict]:
    """Whether actor and scene are right in the last frames.

    An actor that turns may stand upright, as it is first looked for, in none of them: it may also be followed there through the
    whole clip, in which it must not be lost.
    """
    asked = {key: prompt.asked[key] for key in ("actor", "scene")}
    late = check(frames[-num_last:], fps, asked, vocabulary)
    if not late["actor"].right and "spins" in vocabulary.motions:
        tracks = look(frames, fps, asked, vocabulary).tracks
        followed = [track.name for track in tracks if track.visible[-num_last:].mean() > 0.5]
        if asked["actor"] in followed:
            late["actor"] = Verdict(True, followed)
    return late


def _judge_image(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    picture = true_clip(prompt, shape)[0]
    num_last = max(_LEAST_FRAMES, math.ceil(len(frames) / 4))
    late = _kept(prompt, frames, num_last, fps, vocabulary)
    verdicts = check(frames, fps, prompt.asked, vocabulary)
    begins = psnr(frames[0], picture)
    cut = jump(frames, [1])
    right = {name: late[name].right for name in ("actor", "scene")}
    right["kept"] = all(right.values())
    right["no cut"] = begins >= LEAST_FIRST_PSNR and cut.smooth
    right["camera"] = verdicts["camera"].right
    if prompt.kind == "event":
        right["beyond"] = verdicts["event"].right
    else:
        right["motion"] = verdicts["motion"].right
    seen = {name: verdict.seen for name, verdict in verdicts.items()}
    seen.update({"late actor": late["actor"].seen, "late scene": late["scene"].seen, "cut": asdict(cut)})
    return Judgement(right, {"first psnr": begins}, seen)


def _judge_last(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    reached = psnr(frames[-1], true_clip(prompt, shape)[-1])
    return Judgement({"reached": reached >= LEAST_PSNR}, {"psnr": reached}, {})


def _judge_keyframes(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    numbers = [shape.frame(number) for number in prompt.given["keyframes"]]
    pictures = [true_clip(prompt, shape)[number] for number in numbers]
    due = [min(len(frames) - 1, round(number / shape.fps * fps)) for number in numbers]
    nearest = nearest_frames(frames, pictures)
    in_time = all(abs(at - number) <= _LATE for at, number in zip(nearest, due, strict=True))
    likeness = [psnr(frames[number], picture) for number, picture in zip(due, pictures, strict=True)]
    ordered = bool(np.all(np.diff(nearest) > 0))
    return Judgement({"order": in_time and ordered}, {"psnr": float(np.mean(likeness))}, {"due": due, "at": nearest})


def _judge_subject(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    verdicts = check(frames, fps, prompt.asked, vocabulary)
    seen = {name: verdict.seen for name, verdict in verdicts.items()}
    if prompt.kind == "two":
        both = verdicts["actor"].right
        exchanged = both and verdicts["relation"].seen == _OPPOSITE[prompt.asked["relation"]]
        return Judgement({"two": both and verdicts["relation"].right, "exchanged": exchanged}, {}, seen)
    seen["nearest"] = nearest_actor(frames, fps, known_strangers(), vocabulary)
    right = {
        "nearest": seen["nearest"] == prompt.asked["identity"],
        "recognised": verdicts["identity"].right,
        "scene and motion": verdicts["scene"].right and verdicts["motion"].right,
    }
    return Judgement(right, {}, seen)


def _judge_extension(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    late = _kept(prompt, frames, shape.num_frames, fps, vocabulary)
    worst: Jump = jump(frames, extension_joins(shape))
    right = {name: late[name].right for name in ("actor", "scene")}
    right["kept"] = all(right.values())
    right["no jump"] = worst.smooth
    if prompt.asked["motion"] != "stays":  # which a frozen rest would pass
        asked = {key: prompt.asked[key] for key in ("actor", "motion")}
        late["motion"] = check(frames[-shape.num_frames :], fps, asked, vocabulary)["motion"]
        if late["motion"].seen is None:  # one that spins may stand upright, as it is first looked for, earlier only
            late["motion"] = check(frames[shape.num_frames :], fps, asked, vocabulary)["motion"]
        right["motion"] = late["motion"].right
    return Judgement(right, asdict(worst), {name: verdict.seen for name, verdict in late.items()})


def extension_joins(shape: ClipShape = DEFAULT_SHAPE) -> list[int]:
    """The frames of an extended clip that are the first of a newly made part, for a model whose own clips have that shape."""
    from videogen_pipelines.requests import extension_overlap, plan_windows

    overlap = extension_overlap(shape.num_frames, _FRAMES_A_LATENT, shape.num_frames)
    joins, end = [], overlap
    for start, length in plan_windows(overlap + num_new_frames(shape), shape.num_frames, _FRAMES_A_LATENT):
        joins.append(shape.num_frames - overlap + end)
        end = start + length
    return joins


def _judge_command(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    verdict = check(frames, fps, prompt.asked, vocabulary)["camera"]
    return Judgement({"obeyed": verdict.right}, {}, {"command": prompt.given["command"], "camera": verdict.seen})


def _judge_speed(
    prompt: TaskPrompt, frames: np.ndarray, fps: float, vocabulary: Vocabulary, shape: ClipShape
) -> Judgement:
    camera = look(frames, fps, prompt.asked, vocabulary).camera
    sign = prompt.given["sign"]
    rate = None if camera is None else camera.alone(prompt.given["component"], sign)
    values = {"asked": prompt.given["amount"], "measured": 0.0 if rate is None else sign * rate}
    return Judgement({}, values, {"command": prompt.given["command"], "rate": rate})


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The measures of all tasks that the results are of.

    Returns:
        For each task its measures by name (see `MEASURES`): `accuracy`, `low`, `high`, `n` of shares, `mean` in place of `accuracy` of numbers, and
        `bar` where there is one. A number of a single clip has no `low` and `high`.
    """
    summary: dict[str, Any] = {}
    for task in TASKS:
        chosen = [result for result in results if result["task"] == task]
        table: dict[str, Any] = {}
        for name, measure in MEASURES[task].items():
            cell = _speed_cell(name, chosen) if name.startswith("speed") else _cell(name, measure, chosen)
            if cell is not None:
                table[name] = cell if measure.bar is None else {**cell, "bar": measure.bar}
        for command in dict.fromkeys(r["seen"]["command"] for r in chosen if r["kind"] == "command"):
            of_command = [r for r in chosen if r["kind"] == "command" and r["seen"]["command"] == command]
            table[command] = _cell("obeyed", MEASURES["camera"]["obeyed"], of_command)
        if table:
            summary[task] = table
    return summary


def _cell(name: str, measure: Measure, results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    where = "values" if measure.unit else "right"
    found = [float(result[where][name]) for result in results if name in result[where]]
    if not found:
        return None
    return _shown(clustered_interval([[v] for v in found], proportion=not measure.unit), not measure.unit)


def _speed_cell(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    values = [result["values"] for result in results if result["kind"] == "speed"]
    if not values:
        return None
    asked, measured = ([value[side] for value in values] for side in ("asked", "measured"))
    if name == "speed":
        return _shown(correlation_interval(asked, measured), False)
    return _shown(clustered_interval([[abs(a - m)] for a, m in zip(asked, measured, strict=True)]), False)


def _shown(interval: Interval, share: bool) -> dict[str, Any]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    name = "accuracy" if share else "mean"
    ends = {"low": rounded(interval.low), "high": rounded(interval.high)}
    return {name: round(interval.mean, 4), **ends, "n": interval.num_values}


def format_tasks(summary: Mapping[str, Any], **columns: Mapping[str, Any]) -> str:
    """A plain text table; further summaries (ceilings) stand beside it, by title."""
    from videogen.evaluation.tables import align

    rows = [["task", "measure", "found", "95 % interval", "n", "bar", *columns]]
    for task in TASKS:
        for name, cell in summary.get(task, {}).items():
            measure = MEASURES[task].get(name, Measure(f"[{name}]"))
            others = [column.get(task, {}).get(name) for column in columns.values()]
            rows.append(
                [
                    task,
                    measure.text,
                    _number(_value(cell), measure.unit),
                    ""
                    if cell["low"] is None
                    else f"{_number(cell['low'], measure.unit, bare=True)} .. {_number(cell['high'], measure.unit, bare=True)}",
                    str(cell["n"]),
                    "" if "bar" not in cell else _number(cell["bar"], measure.unit),
                    *("" if other is None else _number(_value(other), measure.unit) for other in others),
                ]
            )
    lines = [align(rows)]
    lines += [f"left out: {name} ({reason})" for name, reason in summary.get("left_out", {}).items()]
    return "\n".join(lines)


def _value(cell: Mapping[str, Any]) -> float:
    return float(cell["accuracy"] if "accuracy" in cell else cell["mean"])


def _number(value: float, unit: str, bare: bool = False) -> str:
    if not unit:
        return f"{100 * value:.1f}" if bare else f"{100 * value:.1f} %"
    text = f"{value:.1f}" if unit == "dB" else f"{value:.2f}"
    return text if bare or unit != "dB" else f"{text} dB"
