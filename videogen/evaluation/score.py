"""Scores a folder of clips: each is decoded once for all metrics, in any number of processes, and what is done is kept.

The result has VBench's shape, `{metric: [score, [{"video_path": ..., "video_results": ...}, ...]]}`, with one more entry of that shape, `meta`, for everything
else: intervals, baselines, what is missing or broken, what was not computed and why. A clip that is missing or broken counts as 0 in every metric that its
prompt asks for, and is named; nothing is left out in silence.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videogen._version import __version__
from videogen.data.files import write_atomic
from videogen.data.video import Video, read_video
from videogen.evaluation.baselines import BASELINES, baseline_frames
from videogen.evaluation.collection import (
    Collection,
    ExpectedClip,
    end_last_line,
    file_sha256,
    load_collection,
    read_lines,
)
from videogen.evaluation.metrics import METRICS, NOT_COMPUTED, Sample, Value, base_name
from videogen.evaluation.metrics.identity import NUM_STRANGERS
from videogen.evaluation.metrics.stage import judged
from videogen.evaluation.spread import JobFailed, spread
from videogen.evaluation.statistics import clustered_interval
from videogen.evaluation.suite import Entry

MAX_FRAMES = 4096
BASELINE_CLIPS = 8
"""Clips of each metric that its baselines are taken from."""

Job = dict[str, Any]
Record = dict[str, Any]


def score_folder(
    folder: str | Path,
    *,
    dimensions: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    samples: int | None = None,
    scores: str | Path | None = None,
    pictures: str | Path | None = None,
    workers: int = 1,
    ray: str = "",
    baseline_clips: int = BASELINE_CLIPS,
    all_clips: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Judges every clip that is not judged yet, and sums up.

    Args:
        folder: made by `videogen evaluate sample`, or any folder of clips named `{prompt}-{index}.mp4`.
        dimensions: names of metrics; None = all that apply.
        prompts: list in VBench's schema for a folder without a manifest.
        samples: clips per prompt that `prompts` calls for, see `load_collection`.
        scores: file that keeps what is judged.
        pictures: folder of the pictures that prompts name; None = that of the sampler.
        workers: processes on this machine.
        ray: address of a Ray cluster that does the work in place of this machine.
        baseline_clips: how many clips of each metric the baselines are taken from; 0 = no baselines.
        all_clips: judge clips also by metrics that their prompts are not meant for (VBench gives each dimension prompts of its own).
        report: called with the number of judged clips and their total.

    Returns:
        See the module.

    Raises:
        ValueError: what cannot be computed, or an argument out of range.
    """
    if baseline_clips < 0 or workers < 1:
        raise ValueError("`baseline_clips` must be at least 0 and `workers` at least 1.")
    if ray and workers > 1:
        raise ValueError(
            f"`workers` and `ray` must not both be given, got {workers} and {ray}; the cluster has its own."
        )
    collection = load_collection(
        Path(folder),
        Path(prompts) if prompts else None,
        samples,
        Path(scores) if scores else None,
        Path(pictures) if pictures else None,
    )
    names, refused = choose_metrics(collection, dimensions, all_clips)
    plan = {
        clip.file: tuple(n for n in names if _belongs(n, clip.entry, collection, all_clips))
        for clip in collection.clips
    }
    baselines = _baseline_plan(collection, plan, baseline_clips)
    hashes = {clip.file: file_sha256(collection.videos / clip.file) for clip in collection.present()}
    grounds = _grounds(collection)
    records = _usable(read_lines(collection.scores), hashes, grounds)
    jobs = _jobs(collection, plan, baselines, hashes, records)
    total = len(hashes)
    report(total - len(jobs), total)
    end_last_line(collection.scores)
    with collection.scores.open("a", encoding="utf-8") as file:
        for done, (index, result) in enumerate(_run(jobs, workers, ray), 1):
            job = jobs[index]
            record: Record = {"error": str(result), "again": True} if isinstance(result, JobFailed) else result
            record |= {"file": job["file"], "sha256": job["sha256"], "grounds": grounds[job["file"]]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            records[job["file"]] = _merged(records.get(job["file"]), record)
            report(total - len(jobs) + done, total)
    return summarise(collection, plan, baselines, records, refused, all_clips)


def choose_metrics(
    collection: Collection, dimensions: Sequence[str] | None, all_clips: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The metrics to compute, and those that apply but cannot be computed here, with the reason.

    Raises:
        ValueError: a metric was asked for by name that is unknown, cannot be computed, or fits none of the prompts.
    """
    refused = dict(NOT_COMPUTED)
    if dimensions is None:
        fitting = [
            n for n in METRICS if any(_belongs(n, clip.entry, collection, all_clips) for clip in collection.clips)
        ]
        reasons = {name: _missing(name, collection) for name in fitting}
        refused |= {name: reason for name, reason in reasons.items() if reason is not None}
        return [name for name in fitting if reasons[name] is None], refused
    for name in dimensions:
        if name in NOT_COMPUTED:
            raise ValueError(f"`dimensions` {name} cannot be computed: {NOT_COMPUTED[name]}.")
        if name not in METRICS:
            raise ValueError(f"`dimensions` must be among {', '.join(METRICS)}, got {name}.")
        reason = _missing(name, collection)
        if reason is not None:
            raise ValueError(f"`dimensions` {name} cannot be computed: {reason}.")
        if not any(_belongs(name, clip.entry, collection, all_clips) for clip in collection.clips):
            raise ValueError(f"`dimensions` {name} fits none of these prompts; leave it out, or take --all-clips.")
    return list(dict.fromkeys(dimensions)), refused


def score_job(job: Job) -> Record:
    """Decodes one clip and measures it; runs in any process on any machine.

    Args:
        job: `path` or `content` of the clip, `entry`, `pictures` (name -> path or content), `metrics` and `baselines` (names), `file`.

    Returns:
        `values`: metric -> `{"value": ...}` with details, or `{"error": ...}`; `baselines`: kind -> metric -> value; `frames`, `size`, `fps`, `pixels` (a hash
        of the decoded frames), `stage` (see `metrics.stage.judged`); or only `error`.
    """
    try:
        video = _read(job)
    except ValueError as error:
        return {"error": str(error)}
    entry = Entry.from_json(job["entry"])
    pictures = {name: _picture(source) for name, source in job["pictures"].items()}
    sample = Sample(video.frames, video.fps, entry, pictures)
    record: Record = {
        "frames": len(video.frames),
        "size": [video.frames.shape[2], video.frames.shape[1]],
        "fps": video.fps,
        "pixels": hashlib.blake2b(video.frames.tobytes(), digest_size=16).hexdigest(),
        "values": {name: _measured(name, sample) for name in job["metrics"]},
    }
    if entry.stage is not None and any(name.endswith("@stage") for name in job["metrics"]):
        record["stage"] = judged(sample)
    if job["baselines"]:
        record["baselines"] = {}
        for kind in BASELINES:
            twin = sample.with_frames(baseline_frames(kind, video.frames, job["file"]))
            values = {name: _measured(name, twin).get("value") for name in job["baselines"]}
            record["baselines"][kind] = {
                name: None if value is None else float(value) for name, value in values.items()
            }
    return record


def summarise(
    collection: Collection,
    plan: Mapping[str, Sequence[str]],
    baselines: Mapping[str, Sequence[str]],
    records: Mapping[str, Record],
    refused: Mapping[str, str],
    all_clips: bool = False,
) -> dict[str, Any]:
    """Results in VBench's shape from judged clips."""
    names = [name for name in METRICS if any(name in metrics for metrics in plan.values())]
    results: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name in names:
        clips = [clip for clip in collection.clips if name in plan[clip.file]]
        items = [_item(name, clip, collection, records.get(clip.file)) for clip in clips]
        kept = [(clip, item) for clip, item in zip(clips, items, strict=True) if item["video_results"] is not None]
        groups: dict[str, list[float]] = {}
        for clip, item in kept:
            groups.setdefault(clip.entry.key, []).append(float(item["video_results"]))
        proportion = any(isinstance(item["video_results"], bool) for item in items)
        interval = clustered_interval(list(groups.values()), proportion) if groups else None
        results[name] = [None if interval is None else interval.mean, items]
        metric = METRICS[name]
        about[name] = {
            "definition": metric.definition,
            "about": metric.about,
            "version": metric.version,
            "clips": len(items),
            "prompts": len(groups),
            "broken": sum("error" in item for item in items),
            "left_out": len(items) - len(kept),
            "low": None if interval is None else interval.low,
            "high": None if interval is None else interval.high,
            "baselines": {kind: _baseline_mean(kind, name, baselines, records) for kind in BASELINES},
        }
    meta: dict[str, Any] = {
        "videogen": __version__,
        "collection": collection.about,
        "partial": bool(collection.about.get("partial")),
        "all_clips": all_clips,
        "integrity": check_integrity(collection, records),
        "metrics": about,
        "not_computed": dict(refused),
    }
    stage = _stage_summary(collection, plan, records)
    if stage is not None:
        meta["stage"] = stage
    return {**results, "meta": [None, [meta]]}


def write_results(path: str | Path, results: Mapping[str, Any]) -> None:
    """Writes results as JSON with one clip per line, whole or not at all."""
    parts = []
    for name, (value, items) in results.items():
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        parts.append(f"{json.dumps(name)}: [{json.dumps(value)}, [\n{lines}\n]]")
    write_atomic(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def meta_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What results say beside the scores; empty for VBench's own files."""
    meta = results.get("meta")
    return dict(meta[1][0]) if isinstance(meta, list) and len(meta) == 2 and meta[1] else {}


def check_integrity(collection: Collection, records: Mapping[str, Record]) -> dict[str, Any]:
    """What is missing, undecodable, short, double or without a prompt; names, not only numbers.

    A clip is short if it has fewer frames than its manifest says or, without one, than most clips. Clips are double if their decoded frames are the same.
    """
    present = {clip.file for clip in collection.present()}
    lengths = [record["frames"] for record in records.values() if "frames" in record]
    usual = max(set(lengths), key=lengths.count) if lengths else 0
    by_pixels: dict[str, list[str]] = {}
    undecodable, short = [], []
    for clip in collection.clips:
        record = records.get(clip.file)
        if clip.file not in present or record is None:
            continue
        if "frames" not in record:
            undecodable.append({"file": clip.file, "reason": record.get("error", "")})
            continue
        if record["frames"] < (clip.num_frames or usual):
            short.append({"file": clip.file, "frames": record["frames"], "expected": clip.num_frames or usual})
        by_pixels.setdefault(record["pixels"], []).append(clip.file)
    return {
        "expected": len(collection.clips),
        "present": len(present),
        "missing": [
            {"file": clip.file, "reason": clip.failure or "no such file"}
            for clip in collection.clips
            if clip.file not in present
        ],
        "undecodable": undecodable,
        "short": short,
        "duplicates": [files for files in by_pixels.values() if len(files) > 1],
        "unexpected": list(collection.unexpected),
    }


def _missing(name: str, collection: Collection) -> str | None:
    """Why a metric cannot be computed of these clips, or `None`: a package or a picture is missing."""
    metric = METRICS[name]
    if (reason := metric.missing()) is not None or not metric.picture:
        return reason
    wanted = {getattr(clip.entry, metric.picture) for clip in collection.clips} - {""}
    lacking = sorted(file for file in wanted if not (collection.pictures / Path(file).name).is_file())
    return (
        f"it needs the picture {lacking[0]} in {collection.pictures}; give its place with --images" if lacking else None
    )


def _belongs(name: str, entry: Entry, collection: Collection, all_clips: bool) -> bool:
    """Whether a metric is taken of a prompt's clips: it applies, and the list, if it has prompts for this dimension, means this one for it."""
    if not METRICS[name].applies(entry):
        return False
    if all_clips or METRICS[name].definition == "stage":
        return True
    base = base_name(name)
    return base not in collection.dimensions or base in entry.dimensions


def _baseline_plan(collection: Collection, plan: Mapping[str, Sequence[str]], count: int) -> dict[str, tuple[str, ...]]:
    """File -> metrics whose baselines it gives: for every metric the same few clips in every run, by hash of their names."""
    order = sorted(
        (clip.file for clip in collection.present()), key=lambda file: hashlib.sha256(file.encode()).digest()
    )
    taken: dict[str, int] = {}
    chosen: dict[str, list[str]] = {file: [] for file in order}
    for file in order:
        for name in plan[file]:
            if taken.get(name, 0) < count:
                taken[name] = taken.get(name, 0) + 1
                chosen[file].append(name)
    return {file: tuple(names) for file, names in chosen.items()}


def _grounds(collection: Collection) -> dict[str, str]:
    """File -> a hash of what its clip is judged against: the prompt with all that it asks for, and the pictures."""
    subjects = _subjects(collection)
    contents: dict[str, str] = {}
    found = {}
    for clip in collection.present():
        paths = _picture_paths(collection.pictures, clip.entry, subjects)
        for path in paths.values():
            contents[path] = contents.get(path) or file_sha256(Path(path))
        content = [clip.entry.to_json(), {name: contents[path] for name, path in paths.items()}]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        found[clip.file] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return found


def _subjects(collection: Collection) -> list[str]:
    return sorted({clip.entry.subject for clip in collection.clips if clip.entry.subject})


def _usable(lines: Iterable[Record], hashes: Mapping[str, str], grounds: Mapping[str, str]) -> dict[str, Record]:
    """What is judged already: of the same bytes, against the same prompt and pictures."""
    records: dict[str, Record] = {}
    for line in lines:
        file = line.get("file", "")
        if file not in hashes or hashes[file] != line.get("sha256") or grounds[file] != line.get("grounds"):
            continue
        records[file] = _merged(records.get(file), line)
    return records


def _merged(old: Record | None, new: Record) -> Record:
    merged = {**(old or {}), **new}
    if old is not None and "values" in old:
        merged["values"] = {**old["values"], **new.get("values", {})}
        baselines = {
            kind: {**old.get("baselines", {}).get(kind, {}), **new.get("baselines", {}).get(kind, {})}
            for kind in BASELINES
        }
        merged["baselines"] = baselines
    return merged


def _is_current(name: str, record: Record) -> bool:
    """Whether a value is of this version of the metric; an error is tried again, except that of a clip that is too short."""
    value = record.get("values", {}).get(name, {})
    if "error" in value and record["frames"] >= METRICS[name].min_frames:
        return False
    return bool(value.get("version", 0) == METRICS[name].version)


def _jobs(
    collection: Collection,
    plan: Mapping[str, Sequence[str]],
    baselines: Mapping[str, Sequence[str]],
    hashes: Mapping[str, str],
    records: Mapping[str, Record],
) -> list[Job]:
    subjects = _subjects(collection)
    jobs = []
    for clip in collection.present():
        record = records.get(clip.file)
        if record is not None and "frames" not in record and "again" not in record:
            continue  # these bytes cannot be decoded; that does not change
        record = record or {}
        wanted = [name for name in plan[clip.file] if not _is_current(name, record)]
        missing = [
            name
            for name in baselines[clip.file]
            if name in wanted or any(name not in record.get("baselines", {}).get(kind, {}) for kind in BASELINES)
        ]
        if not wanted and not missing and record:
            continue
        jobs.append(
            {
                "file": clip.file,
                "sha256": hashes[clip.file],
                "path": str(collection.videos / clip.file),
                "entry": clip.entry.to_json(),
                "pictures": _picture_paths(collection.pictures, clip.entry, subjects),
                "metrics": wanted,
                "baselines": missing,
            }
        )
    return jobs


def _picture_paths(folder: Path, entry: Entry, subjects: Sequence[str]) -> dict[str, str]:
    """The pictures that a clip is compared with: its own, and for a subject those of others, the same ones in every run."""
    found = {}
    for name, file in (("image", entry.image), ("subject", entry.subject)):
        if file and (folder / Path(file).name).is_file():
            found[name] = str(folder / Path(file).name)
    if entry.subject:
        others = [file for file in subjects if file != entry.subject and (folder / Path(file).name).is_file()]
        others.sort(key=lambda file: hashlib.sha256(f"{entry.key}:{file}".encode()).digest())
        for index, file in enumerate(others[:NUM_STRANGERS]):
            found[f"stranger {index}"] = str(folder / Path(file).name)
    return found


def _run(jobs: list[Job], workers: int, ray: str) -> Iterator[tuple[int, Record | JobFailed]]:
    if not ray:
        return spread(score_job, jobs, workers)
    from videogen.evaluation.cluster import spread_on_ray

    return spread_on_ray(score_job, jobs, ray, _with_contents)


def _with_contents(job: Job) -> Job:
    """A job for another machine: files become their bytes."""
    pictures = {name: Path(path).read_bytes() for name, path in job["pictures"].items()}
    return {**job, "content": Path(job["path"]).read_bytes(), "pictures": pictures}


def _read(job: Job) -> Video:
    """Decodes a job's clip; errors name the file, not where it happens to lie on this machine."""
    if "content" not in job:
        return _decoded(Path(job["path"]), job["file"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{Path(job['file']).suffix}"
        path.write_bytes(job["content"])
        return _decoded(path, job["file"])


def _decoded(path: Path, name: str) -> Video:
    try:
        return read_video(path, MAX_FRAMES)
    except ValueError as error:
        raise ValueError(" ".join(str(error).replace(str(path), name).split())) from None


def _picture(source: str | bytes) -> np.ndarray:
    from io import BytesIO

    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
        return np.asarray(picture.convert("RGB"))


def _measured(name: str, sample: Sample) -> dict[str, Any]:
    metric = METRICS[name]
    if len(sample.frames) < metric.min_frames:
        return {
            "error": f"it has {len(sample.frames)} frames, {metric.min_frames} are needed",
            "version": metric.version,
        }
    try:
        value: Value = metric.measure(sample)
    except Exception as error:  # a clip that a metric stumbles over costs that score, not the run
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "version": metric.version}
    number = value.value if value.value is None or isinstance(value.value, bool) else float(value.value)
    if number is not None and not np.isfinite(number):
        return {"error": f"the score is {number}", "version": metric.version}
    return {"value": number, **value.details, "version": metric.version}


def _item(name: str, clip: ExpectedClip, collection: Collection, record: Record | None) -> dict[str, Any]:
    """One clip in VBench's list: `video_results` 0 with an `error` if there is no score, None if the metric leaves the clip out."""
    item: dict[str, Any] = {
        "video_path": collection.shown_path(clip),
        "video_results": 0.0,
        "prompt": clip.entry.prompt,
        "index": clip.index,
    }
    if clip.entry.key != clip.entry.prompt:
        item["key"] = clip.entry.key
    if clip.seed is not None:
        item["seed"] = clip.seed
    if record is None:
        return item | {"error": clip.failure or "missing"}
    measured = record.get("values", {}).get(name)
    if measured is None:
        return item | {"error": record.get("error", "not judged")}
    if "error" in measured:
        return item | {"error": measured["error"]}
    details = {key: value for key, value in measured.items() if key not in ("value", "version")}
    return item | {"video_results": measured["value"]} | details


def _baseline_mean(
    kind: str, name: str, baselines: Mapping[str, Sequence[str]], records: Mapping[str, Record]
) -> dict[str, Any]:
    files = [file for file, names in baselines.items() if name in names and file in records]
    values = [records[file].get("baselines", {}).get(kind, {}).get(name) for file in files]
    numbers = [value for value in values if value is not None]
    return {"score": float(np.mean(numbers)) if numbers else None, "clips": len(numbers)}


def _stage_summary(
    collection: Collection, plan: Mapping[str, Sequence[str]], records: Mapping[str, Record]
) -> dict[str, Any] | None:
    """The summary of `videogen evaluate stage`, if these are Stage clips and every attribute was judged."""
    from videogen.evaluation import stage_suite

    if not any("all@stage" in names for names in plan.values()):
        return None
    lines = []
    for clip in collection.clips:
        if clip.entry.stage is None or "all@stage" not in plan[clip.file]:
            continue
        line = (records.get(clip.file) or {}).get("stage")
        if line is None:
            asked = clip.entry.stage["asked"]
            names = [key for key in asked if key in stage_suite.ATTRIBUTES]
            line = {
                "prompt": clip.entry.stage["id"],
                "kind": clip.entry.stage["kind"],
                "right": dict.fromkeys(names, False),
                "seen": dict.fromkeys(names),
                "asked": asked,
            }
        lines.append({"clip": Path(clip.file).stem, "seed": clip.index, **line})
    return stage_suite.summarise(lines)
