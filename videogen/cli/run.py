"""What `generate`, `extend` and `replay` share: from a request to files with receipts, with progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from PIL import Image

import videogen
from videogen.data.files import check_output_path
from videogen.receipt import (
    IdentityRecord,
    PictureRecord,
    Receipt,
    Request,
    Role,
    Task,
    current_environment,
    frames_sha256,
    picture_record,
    receipt_metadata,
    source_frames,
    weights_sha256,
)

if TYPE_CHECKING:
    from videogen_pipelines.output import VideoPipelineOutput

SHIPPED_MODEL = Path(videogen.__file__).parent / "assets" / "weights" / "tiny"
VIDEO_SUFFIXES = (".mp4", ".webm", ".gif")
MAX_SOURCE_FRAMES = 4096


@dataclass(frozen=True)
class Input:
    """A picture or video file that a request brings, and what it is for; `time` of a keyframe in seconds."""

    role: Role
    path: Path
    time: float | None = None


def check_outputs(output: Path, sheet: Path | None) -> None:
    """Refuse unusable output paths before anything heavy is loaded."""
    check_output_path(output, VIDEO_SUFFIXES, "--output")
    if sheet is not None:
        check_output_path(sheet, (".png",), "--sheet")


def model_folder(model: Path | None) -> Path:
    """The folder of the model asked for; the shipped one by default."""
    folder = SHIPPED_MODEL if model is None else model
    if not (folder / "model_index.json").is_file():
        if model is None:
            raise ValueError("`--model` must be given: this installation has no shipped weights; install it again.")
        raise ValueError(f"`--model` must be a model folder with a model_index.json, got {folder}.")
    return folder


def generate_files(
    task: Task,
    model: Path | None,
    inputs: Sequence[Input],
    settings: dict[str, Any],
    *,
    seeds: Sequence[int],
    output: Path,
    sheet: Path | None,
    receipt_images: bool,
) -> None:
    """Generate one video per seed and write them with receipts, then the contact sheet; say what was adjusted.

    Args:
        task: which pipeline.
        model: model folder, None for the shipped one.
        inputs: pictures (or the video to extend).
        settings: arguments of the pipeline; None means its default.
        seeds: one per video; several videos get -1, -2, ... in the name.
        output: video file.
        sheet: contact sheet file or None.
        receipt_images: whether receipts hold the pictures.
    """
    from videogen.data.video import write_video

    if settings.get("guidance_scale") == 1.0 and settings.get("guidance_interval") is not None:
        raise ValueError(
            "`--guidance-interval` has no effect while `--guidance-scale` is 1, which switches guidance off; leave one of them out."
        )
    folder = model_folder(model)
    if task != "extend":
        from videogen.cli.plan import announce, resolve_request
        from videogen.planning.specs import load_spec

        num_extra = sum(item.role in ("last", "keyframe", "subject") for item in inputs)
        spec = load_spec(folder)
        announce(spec, resolve_request(spec, settings, len(seeds), num_extra))
    pipe = load_pipeline(task, folder)
    model_hash = weights_sha256(folder)
    arguments = pipeline_arguments(inputs)
    videos: list[np.ndarray] = []
    said: set[str] = set()
    fps = 0.0
    for index, seed in enumerate(seeds):
        name = f"video {index + 1} of {len(seeds)}" if len(seeds) > 1 else "generating"
        result = call_pipeline(pipe, {**settings, **arguments, "seed": seed}, name)
        frames, fps = result.uint8()[0], result.fps
        if index == 0:
            typer.echo(f"{len(frames)} frames, {len(frames) / fps:.2f} s at {fps:g} frames per second, seed {seed}.")
        for kind, sentences in (("Adjusted", result.adjusted), ("Note", result.warnings)):
            for sentence in sentences:
                if sentence not in said:
                    said.add(sentence)
                    typer.echo(f"{kind}: {sentence}", err=True)
        read = result.settings
        told = {"prompt": read["prompts"][0], "asked_prompt": settings["prompt"].strip()}
        if read["negative_prompts"]:
            told["negative_prompt"] = read["negative_prompts"][0]
        receipt = make_receipt(task, {**settings, **told}, inputs, result, frames, model_hash, str(pipe.device))
        for number, score in enumerate(receipt.identity, 1):
            typer.echo(f"Identity of subject {number}: mean {score.mean:.2f}, worst frame {score.worst:.2f} (0 to 1).")
        if not receipt_images:
            receipt = receipt.without_images()
        path = output if len(seeds) == 1 else output.with_name(f"{output.stem}-{index + 1}{output.suffix}")
        write_video(path, frames, fps, receipt_metadata(receipt, path.suffix.lower()))
        typer.echo(f"Wrote {path}{f' (seed {seed})' if len(seeds) > 1 else ''}.")
        videos.append(frames)
    if sheet is not None:
        from videogen.data.sheet import write_sheet

        write_sheet(sheet, videos, fps=fps)
        typer.echo(f"Wrote {sheet}.")


def load_pipeline(task: Task, folder: Path, device: str | None = None) -> Any:
    """The pipeline of a task with the weights in `folder`, on a GPU where there is one unless `device` says otherwise."""
    import torch
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    import videogen_pipelines

    names = {
        "text": "TextToVideoPipeline",
        "image": "ImageToVideoPipeline",
        "subject": "SubjectToVideoPipeline",
        "extend": "VideoExtensionPipeline",
    }
    pipe = getattr(videogen_pipelines, names[task]).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def pipeline_arguments(inputs: Sequence[Input]) -> dict[str, Any]:
    """Input files as arguments of the pipelines. Pictures stay paths: the pipeline opens, checks and fits them."""
    arguments: dict[str, Any] = {}
    for item in inputs:
        if item.role == "source":
            from videogen.data.video import read_video

            video = read_video(item.path, max_frames=MAX_SOURCE_FRAMES)
            arguments |= {"video": video.frames, "video_fps": video.fps}
        else:
            _add_picture(arguments, item.role, str(item.path), item.time)
    return arguments


def replay_arguments(request: Request) -> dict[str, Any]:
    """Every argument of the pipeline, from a receipt alone."""
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "literal_prompt": True,
        "negative_prompt": request.negative_prompt,
        "camera": request.camera if request.camera_vectors is None else request.camera_vectors,
        "num_frames": request.num_frames,
        "fps": request.fps,
        "quality": request.quality,
        "seed": request.seed,
    }
    if request.quality == "high":
        arguments |= {"num_inference_steps": request.num_inference_steps, "guidance_scale": request.guidance_scale}
        arguments |= {"guidance_method": request.guidance_method, "guidance_rescale": request.guidance_rescale}
        arguments["guidance_interval"] = request.guidance_interval
    if request.task == "extend":
        source = source_frames(request.pictures)
        arguments |= {"video": source, "video_fps": request.fps, "num_frames": request.num_frames - len(source)}
    else:
        arguments |= {"height": request.height, "width": request.width}
    for record in request.pictures:
        if record.role != "source":
            _add_picture(arguments, record.role, record.picture(), record.time)
    return arguments


def _add_picture(arguments: dict[str, Any], role: Role, picture: Any, time: float | None) -> None:
    if role == "first":
        arguments["image"] = picture
    elif role == "last":
        arguments["last_image"] = picture
    elif role == "subject":
        arguments.setdefault("subject_images", []).append(picture)
    else:
        assert role == "keyframe" and time is not None
        keyframes = arguments.setdefault("keyframes", {})
        if time in keyframes:
            raise ValueError(f"`--keyframe` must name each time once, got {time:g} s twice.")
        keyframes[time] = picture


def _records(inputs: Sequence[Input], result: VideoPipelineOutput, frames: np.ndarray) -> tuple[PictureRecord, ...]:
    """The pictures of a request as the model saw them, in the order of `inputs`."""
    records = []
    num_subjects = 0
    for item in inputs:
        if item.role == "source":
            source = frames[: result.settings["num_source_frames"]]
            records += [picture_record(Image.fromarray(frame), "source") for frame in source]
            continue
        num_subjects += item.role == "subject"
        name = {
            "first": "image",
            "last": "last_image",
            "keyframe": f"keyframe {item.time or 0.0:g}",
            "subject": f"subject {num_subjects}",
        }[item.role]
        records.append(picture_record(result.conditioning[name], item.role, item.time))
    return tuple(records)


def call_pipeline(pipe: Any, arguments: dict[str, Any], name: str) -> VideoPipelineOutput:
    """Run the pipeline with a progress bar by step and an estimate of the time left."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if given.get("negative_prompt") == "":
        del given["negative_prompt"]
    with step_progress(name) as advance:

        def on_step_end(pipe: Any, step: int, timestep: float, tensors: dict[str, Any]) -> dict[str, Any]:
            advance(step + 1, pipe.num_timesteps)
            return tensors

        return pipe(**given, output_type="np", callback_on_step_end=on_step_end)


@contextmanager
def step_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error by step, with the time left; yields a function of (steps done, steps in all).

    A terminal gets a bar, a log file a line at each quarter.
    """
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("steps, left"),
        bars.TimeRemainingColumn(),
    )
    started = time.monotonic()
    with bars.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not console.is_terminal and 4 * done // total > 4 * (done - 1) // total:
                left = (time.monotonic() - started) / done * (total - done)
                typer.echo(f"{name}: step {done} of {total}, {left:.0f} s left", err=True)

        yield advance


def make_receipt(
    task: Task,
    settings: dict[str, Any],
    inputs: Sequence[Input],
    result: VideoPipelineOutput,
    frames: np.ndarray,
    model_hash: str,
    device: str,
) -> Receipt:
    """The receipt of one generated video: every number as it was used, every picture as the model saw it."""
    used = result.settings
    camera = settings.get("camera")
    pictures = _records(inputs, result, frames)
    request = Request(
        task=task,
        prompt=settings["prompt"],
        asked_prompt=asked if (asked := settings.get("asked_prompt")) != settings["prompt"] else None,
        negative_prompt=settings.get("negative_prompt") or "",
        camera=camera if isinstance(camera, str) else None,
        camera_vectors=None if camera is None or isinstance(camera, str) else camera,
        height=used["height"],
        width=used["width"],
        num_frames=used["num_frames"],
        fps=used["fps"],
        num_inference_steps=used["num_inference_steps"],
        guidance_scale=used["guidance_scale"],
        guidance_method=used["guidance_method"],
        guidance_rescale=used["guidance_rescale"],
        guidance_interval=used["guidance_interval"],
        quality=used["quality"],
        seed=result.seeds[0],
        batch_size=used["batch_size"],
        pictures=pictures,
    )
    return Receipt(
        request=request,
        model_sha256=model_hash,
        environment=current_environment(device),
        frames_sha256=frames_sha256(frames),
        adjusted=tuple(result.adjusted),
        warnings=tuple(result.warnings),
        identity=_identity(pictures, frames),
    )


def _identity(pictures: Sequence[PictureRecord], frames: np.ndarray) -> tuple[IdentityRecord, ...]:
    subjects = [record for record in pictures if record.role == "subject"]
    if not subjects:
        return ()
    from videogen.evaluation.identity import identity_score

    scores = [identity_score(frames, record.picture()) for record in subjects]
    return tuple(IdentityRecord(mean=round(score.mean, 4), worst=round(score.worst, 4)) for score in scores)
