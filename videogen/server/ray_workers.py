"""Workers as actors of a Ray cluster, for people who outgrow one machine.

Every node must reach the database (PostgreSQL, unless all nodes are one machine) and see the data and model folders under the same
paths. An actor that dies, alone or with its node, is replaced on a node that has room, and its job goes on there.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any

from videogen.server.jobs import JobStore
from videogen.server.settings import Settings
from videogen.server.supervisor import forget_worker

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
RESTART_SECONDS = 1.0
PING_SECONDS = 1.0
ROOM_SECONDS = 60.0
"""After so long without an answer the log says that an actor may have found no room in the cluster."""


class RayWorker:
    """A worker as an actor: its loop runs in a thread of its own, so that the actor can always be asked."""

    def __init__(self, name: str, server: str, settings: dict[str, Any]):
        from videogen.server.worker import Worker

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.worker = Worker(name, server, Settings.model_validate(settings))
        self.thread = threading.Thread(target=self.worker.run, name="worker", daemon=True)
        self.thread.start()

    def ping(self) -> dict[str, Any]:
        """Whether the loop lives, and where.

        Raises:
            RuntimeError: it ended by itself.
        """
        if not self.thread.is_alive() and not self.worker.stopping.is_set():
            raise RuntimeError("the worker's loop ended")
        return {"pid": os.getpid(), "state": self.worker.state}

    def wake(self) -> None:
        self.worker.woken.set()

    def stop(self) -> None:
        """End after the step at work."""
        self.worker.stopping.set()
        self.worker.woken.set()
        self.thread.join(STOP_SECONDS)


@dataclass
class _Actor:
    name: str
    handle: Any
    ping: Any
    asked: float
    warned: bool = False


class RayPool:
    """Keeps as many actors alive as there are workers in the settings.

    Raises:
        ValueError: ray is not installed, or the cluster does not answer.
    """

    def __init__(self, settings: Settings, store: JobStore, server: str):
        try:
            import ray
        except ModuleNotFoundError:
            raise ValueError("`--ray` needs ray: pip install 'videogen-moe[ray]'.") from None
        self.ray: Any = ray
        # An actor computes with as many threads as it reserves processors.
        self.settings = settings.model_copy(update={"threads": settings.threads or 1})
        self.store, self.server = store, server
        if not ray.is_initialized():
            try:
                ray.init(address=settings.ray, ignore_reinit_error=True, log_to_driver=True)
            except (ConnectionError, TimeoutError, ValueError) as error:
                raise ValueError(
                    f"`--ray` must be the address of a running cluster, got {settings.ray} ({error})."
                ) from None
        gpus = ray.cluster_resources().get("GPU", 0)
        self._needs = {"num_cpus": self.settings.threads, "num_gpus": 1 if gpus else 0}
        self._kind = self.ray.remote(**self._needs, max_restarts=0, max_concurrency=4)(RayWorker)
        self._actors: list[_Actor | None] = [None] * settings.workers
        self._not_before = 0.0

    def watch(self) -> None:
        for index, actor in enumerate(self._actors):
            if actor is None:
                if time.monotonic() >= self._not_before:
                    self._actors[index] = self._start(index)
                continue
            ready, _ = self.ray.wait([actor.ping], timeout=0)
            if not ready:  # it is being placed, or busy importing; its lease says when that takes too long
                if not actor.warned and time.monotonic() - actor.asked > ROOM_SECONDS:
                    actor.warned = True
                    log.warning("worker %s does not answer; has the cluster room for %s?", actor.name, self._needs)
                continue
            try:
                self.ray.get(actor.ping)
            except self.ray.exceptions.RayError as error:
                self._died(index, actor, str(error).splitlines()[0])
                continue
            if time.monotonic() - actor.asked > PING_SECONDS:
                actor.ping, actor.asked, actor.warned = actor.handle.ping.remote(), time.monotonic(), False

    def wake(self) -> None:
        for actor in self._actors:
            if actor is not None:
                actor.handle.wake.remote()

    def stop(self) -> None:
        living = [actor for actor in self._actors if actor is not None]
        try:
            stopped = [actor.handle.stop.remote() for actor in living]
            if stopped:
                self.ray.wait(stopped, num_returns=len(stopped), timeout=STOP_SECONDS)
            for actor in living:
                self.ray.kill(actor.handle)
        except Exception as error:  # the cluster went first
            log.error("the workers could not be told to stop: %s", str(error).splitlines()[0])
        for actor in living:
            forget_worker(self.store, actor.name)
        self._actors = [None] * len(self._actors)

    def _start(self, index: int) -> _Actor:
        name = f"{self.server}/ray-{index}-{secrets.token_hex(3)}"
        handle = self._kind.remote(name, self.server, self.settings.model_dump(mode="json"))
        return _Actor(name, handle, handle.ping.remote(), time.monotonic())

    def _died(self, index: int, actor: _Actor, why: str) -> None:
        log.error("worker %s died: %s", actor.name, why)
        self.store.release_worker(actor.name, "its worker, a Ray actor, died", strike=True)
        self.store.worker_gone(actor.name)
        self._actors[index] = None
        self._not_before = time.monotonic() + RESTART_SECONDS
