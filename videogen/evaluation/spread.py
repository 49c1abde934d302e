"""Spreads jobs over the processes of this machine; a job that fails, or that kills its process, costs only itself."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
_AHEAD = 4  # jobs a worker may have waiting


class JobFailed(Exception):
    """Stands for the result of a job that raised an error or killed its process."""


def spread(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int = 1,
    start: Callable[..., None] | None = None,
    start_arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[int, Result | JobFailed]]:
    """Does jobs and yields (position in `jobs`, result) as they are done, each exactly once.

    Args:
        work: a module's function.
        jobs: what it is called with.
        workers: processes; 1 = this one.
        start: called once in every process before its first job.
        start_arguments: what `start` is called with.

    Raises:
        ValueError: `workers` below 1.
    """
    if workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    if workers == 1 or len(jobs) < 2:
        if start is not None and jobs:
            start(*start_arguments)
        for index, job in enumerate(jobs):
            yield index, _tried(work, job)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    waiting = list(range(len(jobs)))
    while waiting:
        suspects: list[int] = []
        with _pool(min(workers, len(waiting)), threads, start, start_arguments) as pool:
            running: dict[Future, int] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < _AHEAD * workers:
                        index = waiting.pop(0)
                        running[pool.submit(_tried, work, jobs[index])] = index
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        index = running[future]
                        result = future.result()  # a killed process breaks the pool here
                        del running[future]
                        yield index, result
            except BrokenProcessPool:
                suspects = sorted(running.values())
            finally:
                for future in running:
                    future.cancel()
        # One of these killed its process; each gets a process of its own, where it can harm nothing else.
        for index in suspects:
            with _pool(1, threads, start, start_arguments) as pool:
                try:
                    yield index, pool.submit(_tried, work, jobs[index]).result()
                except BrokenProcessPool:
                    yield index, JobFailed("its process died")


def _pool(
    workers: int, threads: int, start: Callable[..., None] | None, start_arguments: tuple[Any, ...]
) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _begin, (threads, start, start_arguments))


def _begin(threads: int, start: Callable[..., None] | None, start_arguments: tuple[Any, ...]) -> None:
    limit_threads(threads)
    if start is not None:
        start(*start_arguments)


def limit_threads(threads: int) -> None:
    """Lets torch and OpenCV use so many threads in this process, so that processes beside each other do not fight over cores."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _tried(work: Callable[[Job], Result], job: Job) -> Result | JobFailed:
    try:
        return work(job)
    except Exception as error:
        return JobFailed(f"{type(error).__name__}: {' '.join(str(error).split())}")
