"""Samples a list of prompts into `{prompt}-{index}.mp4`, the way VBench expects it, with a manifest; goes on where it stopped.

A folder of samples holds `videos/` (clips and nothing else: VBench takes the suffix from whatever it finds first), `full_info.json` (the prompts in VBench's
schema), `sampling.json` (suite, model, settings), `manifest.jsonl` (one line per clip: seed, SHA-256, what was adjusted) and `pictures/` (first frames and
subjects).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from videogen._version import __version__
from videogen.data.files import atomic_path, write_atomic
from videogen.data.video import write_video
from videogen.evaluation.clip_names import clip_name, clip_stems
from videogen.evaluation.collection import (
    MANIFEST,
    PICTURE_FOLDER,
    PROMPTS,
    SETTINGS,
    SUFFIXES,
    VIDEO_FOLDER,
    end_last_line,
    file_sha256,
    read_manifest,
)
from videogen.evaluation.spread import JobFailed, spread
from videogen.evaluation.stage_shape import clip_shape
from videogen.evaluation.stage_suite import model_folder, true_clip
from videogen.evaluation.suite import FLICKERING_SAMPLES, Entry, Suite, clip_seed, num_samples
from videogen.planning.specs import load_spec
from videogen.receipt import weights_sha256
from videogen_pipelines.requests import settle_quality

Source = Literal["model", "renders"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# The settings that clips drawn as the prompts say have.
_OF_RENDERS = ("model", "source", "samples", "flickering_samples")


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How clips are made; what decides their content is written down, and a folder belongs to one of these.

    Attributes:
        model: folder of weights; "" = the shipped ones.
        source: "model"; "renders" draws what Stage prompts ask for, to measure the checkers: in the shape of the model's clips, with no other setting.
        samples: clips per prompt.
        flickering_samples: of prompts that test temporal flickering.
        seed: base of all seeds.
        num_inference_steps: None = the model's own.
        guidance_scale: None = the model's own.
        guidance_interval: lowest and highest noise level at which to guide; None = the model's own.
        quality: "fast" or "high"; None = fast where the model can and no other setting needs the other.
        num_frames: None = the trained length.
        fps: None = the trained rate.
        height: pixels; None = the trained size.
        width: pixels; None = the trained size.
    """

    model: str = ""
    source: Source = "model"
    samples: int = 5
    flickering_samples: int = FLICKERING_SAMPLES
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    quality: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class SamplingReport:
    """What a run did: clips in all, made now, there before, and those that could not be made with the reason."""

    total: int
    made: int
    kept: int
    failed: tuple[tuple[str, str], ...]
    renamed: int
    unexpected: tuple[str, ...]


def sample_suite(
    suite: Suite,
    folder: str | Path,
    settings: SamplingSettings,
    *,
    images: str | Path | None = None,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SamplingReport:
    """Makes every clip that `folder` does not hold yet.

    Each clip has a seed of its own, from prompt and index, and a forward pass of its own: it is the same whatever else is asked for, in whatever order and
    however often the run was interrupted. A clip whose bytes differ from its line in the manifest is made anew. A prompt that the model refuses is written down
    with the reason, and tried again by the next run.

    Args:
        suite: prompts.
        folder: new, or of an interrupted run with the same prompts and settings.
        settings: how.
        images: folder of first frames, for prompts with `image_name`.
        workers: processes.
        report: called with the number of finished clips and their total.

    Raises:
        ValueError: the folder belongs to another run (other pictures under the same names make another one), a picture is missing, or a setting is out of
            range or without effect.
    """
    if min(settings.samples, settings.flickering_samples, workers) < 1:
        raise ValueError("`samples`, `flickering_samples` and `workers` must be at least 1.")
    if settings.source == "renders" and any(entry.stage is None for entry in suite.entries):
        raise ValueError("`source` renders needs prompts of Stage; take --suite stage.")
    if settings.source == "renders":
        given = [f for f in fields(settings) if f.name not in _OF_RENDERS and getattr(settings, f.name) != f.default]
        if given:
            raise ValueError(
                f"`source` renders draws clips as their prompts say, without {', '.join(f.name for f in given)}; leave them out."
            )
    if settings.source == "model" and settings.quality is not None:
        asked = settings.num_inference_steps, settings.guidance_scale, settings.guidance_interval
        settle_quality(settings.quality, load_spec(model_folder(settings.model)).fast, *asked)
    folder = Path(folder)
    entries, stems = suite.entries, clip_stems(suite.entries)
    pictures = _find_pictures(folder / PICTURE_FOLDER, suite, Path(images) if images is not None else None)
    about = _claim(folder, suite, settings, pictures)
    _provide_pictures(folder / PICTURE_FOLDER, suite, pictures)
    jobs: list[dict[str, Any]] = [
        {
            "file": clip_name(stem, index),
            "entry": entry.to_json(),
            "index": index,
            "seed": clip_seed(entry, index, settings.seed),
            "folder": str(folder),
        }
        for entry, stem in zip(entries, stems, strict=True)
        for index in range(num_samples(entry, settings.samples, settings.flickering_samples))
    ]
    done = _finished(folder)
    todo = [job for job in jobs if job["file"] not in done]
    finished = len(jobs) - len(todo)
    report(finished, len(jobs))
    failed = []
    manifest = folder / MANIFEST
    end_last_line(manifest)
    arguments = (asdict(settings), about["model_sha256"])
    if todo:
        _load(*arguments)
    with manifest.open("a", encoding="utf-8") as file:
        for index, result in spread(_sample, todo, workers, _load, arguments):
            job = todo[index]
            line: dict[str, Any] = {
                "file": job["file"],
                "prompt": job["entry"]["prompt_en"],
                "index": job["index"],
                "seed": job["seed"],
            }
            if isinstance(result, JobFailed):
                failed.append((job["file"], str(result)))
                line["error"] = str(result)
            else:
                line |= result
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            finished += 1
            report(finished, len(jobs))
    expected = {job["file"] for job in jobs}
    there = {path.name for path in (folder / VIDEO_FOLDER).iterdir() if path.suffix.lower() in SUFFIXES}
    return SamplingReport(
        total=len(jobs),
        made=len(todo) - len(failed),
        kept=len(jobs) - len(todo),
        failed=tuple(failed),
        renamed=sum(stem != entry.prompt for stem, entry in zip(stems, entries, strict=True)),
        unexpected=tuple(sorted(there - expected)),
    )


def _claim(folder: Path, suite: Suite, settings: SamplingSettings, pictures: Mapping[str, Path]) -> dict[str, Any]:
    """Writes down what the folder is for, or finds that it is for just that; returns it."""
    about = {
        "suite": suite.name,
        "suite_sha256": suite.sha256(),
        "prompts": len(suite.entries),
        "partial": suite.partial,
        **asdict(settings),
        "model_sha256": weights_sha256(model_folder(settings.model)) if settings.source == "model" else None,
        "pictures_sha256": _pictures_sha256(pictures),
        "rewritten": sum(bool(entry.prompt_used) for entry in suite.entries),
        "videogen": __version__,
        "torch": torch.__version__,
    }
    about["model"] = Path(settings.model).name  # the hash says which; a path would say where
    about = json.loads(json.dumps(about))  # as it is read again: pairs are lists there
    path = folder / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        before.setdefault("pictures_sha256", about["pictures_sha256"])  # of a folder from before it was noted
        differing = sorted(key for key in about if before.get(key) != about[key])
        if differing:
            raise ValueError(
                f"`out` must be new or belong to the same run, got {folder}, which differs in {', '.join(differing)}; "
                "choose another folder or delete it."
            )
        return about
    (folder / VIDEO_FOLDER).mkdir(parents=True, exist_ok=True)
    prompts = [entry.to_json() for entry in suite.entries]
    write_atomic(folder / PROMPTS, (json.dumps(prompts, ensure_ascii=False, indent=1) + "\n").encode())
    write_atomic(path, (json.dumps(about, indent=1) + "\n").encode())
    return about


def _find_pictures(folder: Path, suite: Suite, images: Path | None) -> dict[str, Path]:
    """Name -> file of the pictures that prompts name, those of an earlier run last; references of Stage's strangers are drawn."""
    found: dict[str, Path] = {}
    places = [place for place in (images, suite.folder, folder) if place is not None]
    for entry in suite.entries:
        for name in (entry.image, entry.subject):
            if not name or (entry.stage is not None and name == entry.subject):
                continue
            plain = _picture_name(name)
            path = next((place / plain for place in places if (place / plain).is_file()), None)
            if path is None:
                raise ValueError(
                    f"`images` must be a folder that holds {name}, which the prompt {entry.prompt!r} names, got {images}."
                )
            found[plain] = path
    return found


def _pictures_sha256(pictures: Mapping[str, Path]) -> str | None:
    """A hash of names and contents; None without pictures."""
    lines = [f"{file_sha256(path)} {name}" for name, path in sorted(pictures.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None


def _provide_pictures(folder: Path, suite: Suite, pictures: Mapping[str, Path]) -> None:
    """Copies first frames and subjects, and draws the references of Stage's strangers."""
    for name, path in pictures.items():
        if not (folder / name).is_file():
            folder.mkdir(exist_ok=True)
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(path, temporary)
    for entry in suite.entries:
        if entry.stage is None or not entry.subject:
            continue
        target = folder / _picture_name(entry.subject)
        if target.is_file():
            continue
        from videogen.evaluation.stage_suite import reference_picture

        folder.mkdir(exist_ok=True)
        with atomic_path(target) as temporary:
            reference_picture(str(entry.stage["id"])).save(temporary)


def _picture_name(name: str) -> str:
    """A picture's name without folders; anything else would let a list of prompts write elsewhere."""
    plain = Path(name).name
    if plain != name or Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"`image_name` must be a file name ending in one of {', '.join(IMAGE_SUFFIXES)}, got {name!r}."
        )
    return plain


def _finished(folder: Path) -> set[str]:
    """Files whose bytes are those that the manifest says."""
    return {
        name
        for name, line in read_manifest(folder).items()
        if "sha256" in line
        and (folder / VIDEO_FOLDER / name).is_file()
        and file_sha256(folder / VIDEO_FOLDER / name) == line["sha256"]
    }


_sampler: dict[str, Any] = {}
"""What a process keeps between its jobs: settings and pipelines."""


def _load(settings: Mapping[str, Any], model_sha256: str | None) -> None:
    """Makes this process ready, unless it is; a model that cannot be loaded is an error here, not one of every clip."""
    if _sampler.get("settings") == settings and _sampler.get("model_sha256") == model_sha256:
        return
    _sampler.clear()
    _sampler.update(settings=dict(settings), model_sha256=model_sha256)
    if settings["source"] == "model":
        _pipeline("text", settings["model"])


def _sample(job: Mapping[str, Any]) -> dict[str, Any]:
    """Makes one clip, writes it, and says what was made."""
    entry = Entry.from_json(job["entry"])
    folder = Path(job["folder"])
    settings = _sampler["settings"]
    extra: dict[str, Any] = {}
    if settings["source"] == "renders":
        assert entry.stage is not None
        shape = clip_shape(model_folder(settings["model"] or ""))
        frames, fps = true_clip(str(entry.stage["id"]), job["index"], shape), shape.fps
    else:
        frames, fps, extra = _generate(entry, job["seed"], settings, folder / PICTURE_FOLDER)
    path = folder / VIDEO_FOLDER / job["file"]
    write_video(path, frames, fps)
    size = [frames.shape[2], frames.shape[1]]
    return {"sha256": file_sha256(path), "num_frames": len(frames), "fps": fps, "size": size, **extra}


def _generate(
    entry: Entry, seed: int, settings: Mapping[str, Any], pictures: Path
) -> tuple[np.ndarray, float, dict[str, Any]]:
    kind = "subject" if entry.subject else "image" if entry.image else "text"
    pipe = _pipeline(kind, settings["model"])
    names = (
        "num_inference_steps",
        "guidance_scale",
        "guidance_interval",
        "quality",
        "num_frames",
        "fps",
        "height",
        "width",
    )
    options: dict[str, Any] = {name: settings[name] for name in names}
    if entry.image:
        options["image"] = str(pictures / _picture_name(entry.image))
    if entry.subject:
        with Image.open(pictures / _picture_name(entry.subject)) as picture:
            options["subject_images"] = picture.convert("RGB")
    output = pipe(entry.text, seed=seed, **options)
    extra: dict[str, Any] = {"settings": output.settings}
    if entry.text != entry.prompt:
        extra["prompt_used"] = entry.text
    for key, sentences in (("adjusted", output.adjusted), ("warnings", output.warnings)):
        if sentences:
            extra[key] = list(sentences)
    return output.uint8()[0], output.fps, extra


def _pipeline(kind: str, model: str) -> Any:
    if kind not in _sampler:
        import videogen_pipelines

        names = {"text": "TextToVideoPipeline", "image": "ImageToVideoPipeline", "subject": "SubjectToVideoPipeline"}
        made: Sequence[Any] = [_sampler[name] for name in names if name in _sampler]
        cls = getattr(videogen_pipelines, names[kind])
        if made:
            pipe = cls.from_pipe(made[0])
        else:
            pipe = cls.from_pretrained(model_folder(model)).to("cuda" if torch.cuda.is_available() else "cpu")
        pipe.set_progress_bar_config(disable=True)
        _sampler[kind] = pipe
    return _sampler[kind]
