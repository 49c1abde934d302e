"""Makes and judges the clips of a suite: in one process or several, on one device for all, and on from where an interrupted run stopped.

A folder of results belongs to one run: `settings.json` says which, `clips/` holds what was made, and `results-*.jsonl` a line for each judged clip.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any, TextIO

import numpy as np
import torch

from videogen.data.video import write_video


@dataclass(frozen=True)
class Work:
    """What a suite does with its jobs; the functions are those of modules, so that other processes find them.

    Attributes:
        settings: Of the suite; its `device` says where clips are made. On another than "cpu" this process makes them, and the workers write and
            judge.
        name: A job's clip is called so.
        make: From settings and jobs to every job, in any order, with its frames, uint8 [F, H, W, 3], and their rate.
        judge: From settings, a job and the clip's file to a result that JSON can hold.
    """

    settings: Any
    name: Callable[[Any], str]
    make: Callable[[Any, list[Any]], Iterator[tuple[Any, np.ndarray, float]]]
    judge: Callable[[Any, Any, Path], dict[str, Any]]


def claim(folder: Path, about: dict[str, Any], free: Sequence[str]) -> None:
    """Makes a folder of results, or sees that it belongs to the same run but for the `free` settings.

    Raises:
        ValueError: It belongs to another one.
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    same = {key: value for key, value in about.items() if key not in free}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*before, *same} if before.get(key, ...) != same.get(key, ...))
        if differing:
            raise ValueError(
                f"`folder` must be new or belong to the same run, got {folder}, which differs in {', '.join(differing)}; "
                "choose another or delete it."
            )
    else:
        path.write_text(json.dumps(same, indent=1) + "\n", encoding="utf-8")


def run_jobs(
    work: Work, jobs: Sequence[Any], folder: Path, workers: int, report: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Makes and judges all clips that the folder does not hold yet.

    Args:
        work: What is to be done.
        jobs: For which clips.
        folder: Of results, see `claim`.
        workers: Processes.
        report: Called with the number of judged clips and their total.

    Returns:
        The results of the jobs, in their order.

    Raises:
        RuntimeError: A worker failed.
    """
    done = load_results(folder)
    todo = [job for job in jobs if work.name(job) not in done]
    report(len(jobs) - len(todo), len(jobs))
    if todo:
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // workers)
        queue = context.Queue()
        if work.settings.device != "cpu":
            _work_on_device(work, folder, todo, workers, _Reporter(report, len(jobs) - len(todo), len(jobs)))
        elif workers == 1:
            _work(work, folder, todo, 0, torch.get_num_threads(), _Reporter(report, len(jobs) - len(todo), len(jobs)))
        else:
            parts = [todo[k::workers] for k in range(workers)]
            processes = [
                context.Process(target=_work, args=(work, folder, part, k, threads, queue), daemon=True)
                for k, part in enumerate(parts)
                if part
            ]
            for process in processes:
                process.start()
            left, finished = len(todo), len(jobs) - len(todo)
            while left:
                try:
                    queue.get(timeout=5)
                except Empty:
                    if all(not process.is_alive() for process in processes):
                        break
                    continue
                left, finished = left - 1, finished + 1
                report(finished, len(jobs))
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise RuntimeError("a worker failed; its message is above. Start again to go on where it stopped.")
    results = load_results(folder)
    return [results[name] for job in jobs if (name := work.name(job)) in results]


def load_results(folder: str | Path) -> dict[str, dict[str, Any]]:
    """All judged clips of a folder by clip name; a line cut off by an interruption is left out."""
    results = {}
    for path in sorted(Path(folder).glob("results-*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):  # a text may hold other line ends
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue
            results[result["clip"]] = result
    return results


class _Reporter:
    """Stands in for the queue when everything runs in one process."""

    def __init__(self, report: Callable[[int, int], None], done: int, total: int) -> None:
        self.report, self.done, self.total = report, done, total

    def put(self, _: Any) -> None:
        self.done += 1
        self.report(self.done, self.total)


def _work(work: Work, folder: Path, jobs: list[Any], worker: int, threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    with _open_results(folder, worker) as file:
        for clip in work.make(work.settings, jobs):
            result = _write_and_judge((work, folder, *clip))
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
            queue.put(result["clip"])


def _work_on_device(work: Work, folder: Path, jobs: list[Any], workers: int, queue: Any) -> None:
    """Like `_work`, but that one device makes the clips of all workers, in large batches."""
    from videogen.training.prefetch import Prefetcher

    clips = ((work, folder, *clip) for clip in work.make(work.settings, jobs))
    with _open_results(folder, 0) as file, Prefetcher(_write_and_judge, workers) as judges:
        for result in judges.map(clips):
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
            file.flush()
            queue.put(result["clip"])


def _open_results(folder: Path, worker: int) -> TextIO:
    """A worker's file, opened at its end; a line cut off by an interruption is closed."""
    path = folder / f"results-{worker}.jsonl"
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        path.write_bytes(path.read_bytes() + b"\n")
    return path.open("a", encoding="utf-8")


def _write_and_judge(clip: tuple[Work, Path, Any, np.ndarray, float]) -> dict[str, Any]:
    work, folder, job, frames, fps = clip
    name = work.name(job)
    path = folder / "clips" / f"{name}.mp4"
    write_video(path, frames, fps)
    return {"clip": name, **work.judge(work.settings, job, path)}
