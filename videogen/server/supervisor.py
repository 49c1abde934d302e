"""Looking after the workers: starting them, starting them again, and taking back the jobs of those that died."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from videogen.server.database import UNAVAILABLE
from videogen.server.jobs import JobStore
from videogen.server.settings import Settings

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.2
STOP_SECONDS = 30.0
QUICK_DEATH_SECONDS = 20.0
MAX_BACKOFF_SECONDS = 60.0


class Pool(Protocol):
    """Workers of one kind (processes, Ray actors)."""

    def watch(self) -> None:
        """Called again and again: start what is missing, notice what died."""

    def wake(self) -> None:
        """A job was submitted."""

    def stop(self) -> None:
        """Let every worker end after its step, and wait for them."""


class Supervisor:
    """The thread of a server that keeps its workers and everybody's leases in order.

    Args:
        settings: of the server.
        store: the jobs.
        pool: made by `make_pool`; None for a server without workers.
    """

    def __init__(self, settings: Settings, store: JobStore, server: str, pool: Pool | None):
        self.settings, self.store, self.server, self.pool = settings, store, server, pool
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._seen()
        self._thread.start()

    def wake(self) -> None:
        if self.pool is not None:
            self.pool.wake()

    def stop(self) -> None:
        """End the workers gracefully: a job at work is kept at its step and goes back to the queue."""
        self._stopping.set()
        self._thread.join()
        if self.pool is not None:
            self.pool.stop()
        forget_worker(self.store, self.server)

    def _run(self) -> None:
        checked = 0.0
        while not self._stopping.wait(WATCH_SECONDS):
            try:
                if self.pool is not None:
                    self.pool.watch()
                if time.monotonic() - checked > self.settings.lease / 3:
                    checked = time.monotonic()
                    self._seen()
                    self.store.reap(2 * self.settings.lease)
                    self.store.forget_dead_workers(20 * self.settings.lease)
            except UNAVAILABLE as error:
                log.error("the database does not answer: %s", str(error).splitlines()[0])
            except Exception:
                log.exception("the supervisor goes on after an error")

    def _seen(self) -> None:
        self.store.worker_seen(self.server, self.server, "server", {"pid": os.getpid(), "host": socket.gethostname()})


def forget_worker(store: JobStore, worker: str) -> None:
    """Take the jobs of a worker that was stopped back into the queue. Where the database is gone too, its leases run out."""
    try:
        store.release_worker(worker, "the server was stopped", strike=False)
        store.worker_gone(worker)
    except UNAVAILABLE as error:
        log.error("%s is stopped, but the database does not answer: %s", worker, str(error).splitlines()[0])


def new_server_id() -> str:
    """An id that no other server has."""
    return f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(3)}"


@dataclass
class _Process:
    name: str
    process: subprocess.Popen[str]
    started: float = field(default_factory=time.monotonic)


class ProcessPool:
    """Worker processes on this machine.

    A process that dies is replaced; one that died young is replaced ever more slowly, up to a minute.
    """

    def __init__(self, settings: Settings, store: JobStore, server: str):
        self.settings, self.store, self.server = settings, store, server
        self._slots: list[_Process | None] = [None] * settings.workers
        self._not_before = [0.0] * settings.workers
        self._backoff = [1.0] * settings.workers

    def watch(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot is not None and slot.process.poll() is not None:
                self._died(index, slot)
            if self._slots[index] is None and time.monotonic() >= self._not_before[index]:
                self._slots[index] = self._start(index)

    def wake(self) -> None:
        self._say("wake")

    def stop(self) -> None:
        self._say("stop")
        deadline = time.monotonic() + STOP_SECONDS
        for slot in self._slots:
            if slot is None:
                continue
            try:
                slot.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("%s did not stop within %g s and is ended", slot.name, STOP_SECONDS)
                slot.process.kill()
                slot.process.wait()
            if slot.process.stdin:
                slot.process.stdin.close()
            forget_worker(self.store, slot.name)
        self._slots = [None] * len(self._slots)

    def _start(self, index: int) -> _Process:
        name = f"{self.server}/{index}-{secrets.token_hex(3)}"
        process = subprocess.Popen(
            [sys.executable, "-m", "videogen.server.worker"],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the server, which then tells its workers
        )
        assert process.stdin is not None
        first = {"name": name, "server": self.server, "settings": self.settings.model_dump(mode="json")}
        process.stdin.write(json.dumps(first) + "\n")
        process.stdin.flush()
        return _Process(name, process)

    def _died(self, index: int, slot: _Process) -> None:
        code = slot.process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        lived = time.monotonic() - slot.started
        released = self.store.release_worker(slot.name, f"its worker ended with {how}", strike=True)
        self.store.worker_gone(slot.name)
        if lived < QUICK_DEATH_SECONDS and not released:
            self._backoff[index] = min(MAX_BACKOFF_SECONDS, 2 * self._backoff[index])
        else:
            self._backoff[index] = 0.5
        self._not_before[index] = time.monotonic() + self._backoff[index]
        self._slots[index] = None
        log.error(
            "worker %s ended with %s after %.0f s; the next starts in %g s", slot.name, how, lived, self._backoff[index]
        )

    def _say(self, word: str) -> None:
        for slot in self._slots:
            if slot is not None and slot.process.stdin is not None:
                try:
                    slot.process.stdin.write(word + "\n")
                    slot.process.stdin.flush()
                except (BrokenPipeError, ValueError, OSError):
                    pass  # it died; `watch` will see


def make_pool(settings: Settings, store: JobStore, server: str) -> Pool | None:
    """The workers that the settings ask for."""
    if settings.workers == 0:
        return None
    if settings.ray is not None:
        from videogen.server.ray_workers import RayPool

        return RayPool(settings, store, server)
    return ProcessPool(settings, store, server)


def lock_data(settings: Settings) -> Any:
    """Make sure that this is the only server of a SQLite database; keep what is returned as long as it runs.

    Raises:
        ValueError: another server has it.
    """
    import fcntl

    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = open(settings.data / "server.lock", "w")  # noqa: SIM115 - held for the life of the server
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(
            f"`--data` must not be in use by another server, got {settings.data}; stop that one, choose another folder, or "
            "share a PostgreSQL with `--database`."
        ) from None
    return file
