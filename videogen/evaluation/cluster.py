"""Spreads jobs over the machines of a Ray cluster. A machine that dies costs time, not clips: its jobs go to others, and each counts once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from videogen.evaluation.spread import JobFailed, _tried, limit_threads

Job = TypeVar("Job")
Result = TypeVar("Result")
_AHEAD = 4  # jobs in flight per core: enough to keep machines busy, few enough to bound memory
_RETRIES = 5


def spread_on_ray(
    work: Callable[[Job], Result], jobs: Sequence[Job], address: str, load: Callable[[Job], Job] = lambda job: job
) -> Iterator[tuple[int, Result | JobFailed]]:
    """Does jobs on a cluster and yields (position in `jobs`, result) as they are done, each exactly once.

    Args:
        work: a function that the machines can import: videogen must be installed on each, in the same version.
        jobs: what it is called with.
        address: of the cluster, "auto" for the one this machine belongs to, or "host:port".
        load: puts what a job needs from this machine's disk into it, right before it is sent; the machines need no shared folder.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at `address`.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise ValueError("`--ray` needs Ray: pip install 'videogen-moe[ray]'.") from None
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, TimeoutError) as error:
            raise ValueError(f"`--ray` must be the address of a running cluster, got {address} ({error}).") from None
    remote: Any = ray.remote(max_retries=_RETRIES, num_cpus=1)(_on_one_core)
    try:
        waiting = list(range(len(jobs)))[::-1]
        running: dict[Any, int] = {}
        failures: dict[int, int] = {}
        while waiting or running:
            limit = max(_AHEAD, _AHEAD * int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < limit:
                index = waiting.pop()
                running[remote.remote(work, load(jobs[index]))] = index
            for reference in ray.wait(list(running), num_returns=1, timeout=5.0)[0]:
                index = running.pop(reference)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayError as error:
                    # Ray gave up on it: its machine died with the result, or it killed its process time and again.
                    failures[index] = failures.get(index, 0) + 1
                    if failures[index] < _RETRIES:
                        waiting.append(index)
                    else:
                        yield index, JobFailed(f"its process died on the cluster ({type(error).__name__})")
    finally:
        if ours:
            ray.shutdown()


def _on_one_core(work: Callable[[Job], Result], job: Job) -> Result | JobFailed:
    limit_threads(1)
    return _tried(work, job)
