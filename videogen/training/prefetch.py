"""Work of the host done ahead of the device, in processes of its own and in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_make: Callable[[Any], Any]


class Prefetcher(Generic[Item]):
    """Calls `make(key)` for the keys that will be asked for next.

    Args:
        make: a picklable callable; what it returns is sent between processes, so it should be small. It must depend on nothing
            but its key: then results do not depend on `workers`.
        workers: processes; 1 = this one, and nothing is done ahead.
        ahead: how many keys are worked on beyond the one at hand, for each worker.

    A worker uses one thread of torch and OpenCV, lets signals to the run's process group pass (the run ends the step at hand
    first), and ends when the run does, however that ends. Use as a context, or call `close`.
    """

    def __init__(self, make: Callable[[Any], Item], workers: int = 1, ahead: int = 3):
        self._call = make
        self._ahead = workers * ahead
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            self._pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(make,)
            )

    def map(self, keys: Iterator[Any]) -> Iterator[Item]:
        """Results in the order of `keys`, which may be endless."""
        if self._pool is None:
            yield from map(self._call, keys)
            return
        waiting: deque[Future[Item]] = deque()
        try:
            for key in keys:
                waiting.append(self._pool.submit(_run, key))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Ends the processes; what they are at is finished, what waits is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(make: Callable[[Any], Any]) -> None:
    import cv2
    import torch

    global _make
    _make = make
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker of a killed parent would wait for work for ever: it holds the queue's other end itself.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(key: Any) -> Any:
    return _make(key)
