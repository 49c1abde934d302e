"""Ctrl-C and SIGTERM end a run after the step at hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within the context SIGINT and SIGTERM only leave a note; yields a function that says whether one came.

    Outside the main thread, where Python lets nobody handle signals, it never does.
    """
    came = False

    def handle(number: int, frame: Any) -> None:
        nonlocal came
        came = True

    try:
        previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread
        previous = {}
    try:
        yield lambda: came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
