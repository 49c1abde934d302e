"""What a folder of clips should hold, and what it does hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from videogen.evaluation.clip_names import clip_name, clip_stems, parse_name
from videogen.evaluation.suite import FLICKERING_SAMPLES, Entry, num_samples, read_suite

VIDEO_FOLDER, PICTURE_FOLDER = "videos", "pictures"
MANIFEST, SETTINGS, PROMPTS, SCORES = "manifest.jsonl", "sampling.json", "full_info.json", "scores.jsonl"
SUFFIXES = (".mp4", ".gif", ".webm", ".mov", ".mkv", ".avi")


@dataclass(frozen=True, kw_only=True)
class ExpectedClip:
    """A clip that should be there.

    Attributes:
        file: name inside the folder of videos.
        entry: its prompt.
        index: which of the prompt's clips.
        seed: it was made from, where a manifest says so.
        num_frames: it should have, where a manifest says so.
        failure: why the sampler could not make it, or "".
    """

    file: str
    entry: Entry
    index: int
    seed: int | None = None
    num_frames: int | None = None
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Clips to be judged.

    Attributes:
        root: the folder that was given.
        videos: the folder with the clips.
        pictures: the folder with first frames and subjects.
        clips: what should be there, in order.
        unexpected: video files that belong to no prompt.
        about: suite, its hash, whether it is a part of one, settings of the sampling.
        scores: where judged clips are kept.
    """

    root: Path
    videos: Path
    pictures: Path
    clips: tuple[ExpectedClip, ...]
    unexpected: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    scores: Path

    @cached_property
    def dimensions(self) -> frozenset[str]:
        """What the prompts are made to test."""
        return frozenset(name for clip in self.clips for name in clip.entry.dimensions)

    def present(self) -> tuple[ExpectedClip, ...]:
        """The clips whose file exists."""
        return tuple(clip for clip in self.clips if (self.videos / clip.file).is_file())

    def shown_path(self, clip: ExpectedClip) -> str:
        """The clip's path inside the folder that was given, for results: the same on every machine."""
        return (self.videos / clip.file).relative_to(self.root).as_posix()


def load_collection(
    folder: Path,
    prompts: Path | None = None,
    samples: int | None = None,
    scores: Path | None = None,
    pictures: Path | None = None,
) -> Collection:
    """Finds out what a folder should hold.

    Args:
        folder: one that `videogen evaluate sample` made, or any folder of clips named `{prompt}-{index}.mp4`.
        prompts: VBench's list or one in its schema, for a folder without a manifest; without both, every file is its own prompt.
        samples: clips per prompt that `prompts` calls for, 25 where it tests temporal flickering; None = up to the highest index that there is of
            those prompts, and of the others.
        scores: where judged clips are kept; None = in the sampler's folder, or beside a folder of other origin.
        pictures: folder of the pictures that prompts name; None = `pictures` in the folder.

    Raises:
        ValueError: no such folder, no clip in it, or arguments that contradict its manifest.
    """
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder of clips, got {folder}.")
    folder = root_of(folder)
    if (folder / SETTINGS).is_file():
        if prompts is not None or samples is not None:
            raise ValueError(
                f"`prompts` and `samples` must not be given for {folder}, whose manifest says what it holds."
            )
        return _sampled(folder, scores, pictures)
    files = sorted(
        path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise ValueError(f"`folder` must hold clips ({', '.join(SUFFIXES)}), got {folder} with none.")
    if prompts is None:
        if samples is not None:
            raise ValueError("`samples` needs `prompts`: without a list nobody knows what is missing.")
        named = [(name, *parse_name(name)) for name in files]
        clips = tuple(ExpectedClip(file=name, entry=Entry(prompt=prompt), index=index) for name, prompt, index in named)
        about: dict[str, Any] = {"suite": "files", "partial": False}
        unexpected: tuple[str, ...] = ()
    else:
        clips, about = _by_prompts(files, prompts, samples)
        unexpected = tuple(sorted(set(files) - {clip.file for clip in clips}))
    return Collection(
        root=folder,
        videos=folder,
        pictures=pictures or folder / PICTURE_FOLDER,
        clips=clips,
        unexpected=unexpected,
        about=about,
        scores=scores or folder.resolve().parent / f"{folder.resolve().name}.{SCORES}",
    )


def root_of(folder: Path) -> Path:
    """The sampler's folder, also when its `videos` inside was given; another folder as it is."""
    return folder.parent if folder.name == VIDEO_FOLDER and (folder.parent / SETTINGS).is_file() else folder


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest line about each file of a sampler's folder; a line cut off by an interruption is left out."""
    return {line["file"]: line for line in read_lines(folder / MANIFEST) if "file" in line}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; none if it does not exist, and without a line that an interruption cut off."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # a prompt may hold other line ends
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [line for line in found if isinstance(line, dict)]


def end_last_line(path: Path) -> None:
    """Closes a line that an interruption cut off, so that the next one starts anew."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sampled(folder: Path, scores: Path | None, pictures: Path | None) -> Collection:
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    entries = read_suite(folder / PROMPTS, settings["suite"]).entries
    manifest = read_manifest(folder)
    clips = []
    for entry, stem in zip(entries, clip_stems(entries), strict=True):
        for index in range(num_samples(entry, settings["samples"], settings["flickering_samples"])):
            name = clip_name(stem, index)
            line = manifest.get(name, {})
            clips.append(
                ExpectedClip(
                    file=name,
                    entry=entry,
                    index=index,
                    seed=line.get("seed"),
                    num_frames=line.get("num_frames"),
                    failure=line.get("error", ""),
                )
            )
    videos = folder / VIDEO_FOLDER
    expected = {clip.file for clip in clips}
    there = [
        path.name for path in videos.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    return Collection(
        root=folder,
        videos=videos,
        pictures=pictures or folder / PICTURE_FOLDER,
        clips=tuple(clips),
        unexpected=tuple(sorted(set(there) - expected)),
        about=settings,
        scores=scores or folder / SCORES,
    )


def _by_prompts(
    files: Sequence[str], prompts: Path, samples: int | None
) -> tuple[tuple[ExpectedClip, ...], dict[str, Any]]:
    suite = read_suite(prompts, prompts.stem)
    by_stem = {Path(name).stem: name for name in files}
    suffix = Path(files[0]).suffix
    stems = clip_stems(suite.entries)
    flickering = {s for s, entry in zip(stems, suite.entries, strict=True) if "temporal_flickering" in entry.dimensions}
    others = set(stems) - flickering
    if samples is None:
        counts = _highest(files, others), _highest(files, flickering)
    else:
        counts = samples, FLICKERING_SAMPLES
    clips = []
    for entry, stem in zip(suite.entries, stems, strict=True):
        for index in range(num_samples(entry, *counts)):
            name = by_stem.get(f"{stem}-{index}", clip_name(stem, index, suffix))
            clips.append(ExpectedClip(file=name, entry=entry, index=index))
    about: dict[str, Any] = {"suite": suite.name, "suite_sha256": suite.sha256(), "partial": False}
    about |= {"samples": counts[0]} if others else {}
    about |= {"flickering_samples": counts[1]} if flickering else {}
    return tuple(clips), about


def _highest(files: Sequence[str], stems: set[str]) -> int:
    """Clips per prompt that the highest index of these prompts' own files tells; at least 1."""
    return 1 + max((index for stem, index in map(parse_name, files) if stem in stems), default=0)
