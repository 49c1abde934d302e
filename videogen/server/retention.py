"""Expiry: files of ended jobs and old uploads go, oldest first, and never while somebody downloads them or a job needs them."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from typing import Any

from sqlalchemy import String, cast, delete, func, select, update

from videogen.server.database import epoch, files, jobs
from videogen.server.jobs import ACTIVE, JobStore
from videogen.server.settings import Settings
from videogen.server.storage import Storage

log = logging.getLogger(__name__)

SWEEP_SECONDS = 30.0
HOLD_SECONDS = 120.0
"""A download holds its file so long; it renews the hold while it runs."""


class Janitor:
    """The thread that removes what expired."""

    def __init__(self, settings: Settings, store: JobStore, storage: Storage):
        self.settings, self.store, self.storage = settings, store, storage
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            try:
                self.sweep()
            except Exception:
                log.exception("expiry goes on after an error")

    def sweep(self) -> int:
        """Remove what is over age, then the oldest while all files together are over size; how many files went."""
        gone = 0
        if self.settings.keep_days is not None:
            limit = epoch() - self.settings.keep_days * 86400.0
            for file_id in self._candidates(files.c.created_at < limit):
                gone += self._remove(file_id)
        if self.settings.keep_bytes is not None:
            for file_id in self._candidates():
                if self.total_bytes() <= self.settings.keep_bytes:
                    break
                gone += self._remove(file_id)
        self._sweep_leftovers()
        return gone

    def total_bytes(self) -> int:
        """Bytes of all files that are listed."""
        with self.store.database.read() as connection:
            return int(connection.scalar(select(func.coalesce(func.sum(files.c.bytes), 0))) or 0)

    def hold(self, file_id: str, seconds: float) -> bool:
        """Keep a file for `seconds` from now; False when it is not there."""
        with self.store.database.write() as connection:
            return bool(
                connection.execute(
                    update(files).where(files.c.id == file_id).values(held_until=epoch() + seconds)
                ).rowcount
            )

    def _candidates(self, *conditions: Any) -> list[str]:
        with self.store.database.read() as connection:
            query = select(files.c.id).where(*self._free(), *conditions).order_by(files.c.created_at).limit(1000)
            return list(connection.scalars(query))

    def _free(self) -> tuple[Any, ...]:
        """What is true of files that nobody downloads and no waiting or running job names."""
        needed = (
            select(jobs.c.id)
            .where(jobs.c.status.in_(ACTIVE), cast(jobs.c.request, String).contains(files.c.id))
            .exists()
        )
        return files.c.held_until < epoch(), ~needed

    def _remove(self, file_id: str) -> bool:
        """Remove one file, unless it was taken into use since it was chosen."""
        with self.store.database.write() as connection:
            # One statement, so that a download that begins at this moment either keeps the file or does not find it.
            if not connection.execute(delete(files).where(files.c.id == file_id, *self._free())).rowcount:
                return False
            connection.execute(
                update(jobs).where(jobs.c.file_id == file_id).values(expires_at=epoch(), note="its file expired")
            )
        self.storage.remove(file_id)
        log.info("%s expired", file_id)
        return True

    def _sweep_leftovers(self) -> None:
        """Previews and checkpoints of jobs that ended otherwise, and half-written files of processes that were killed."""
        now = time.time()
        for folder, pattern in (("previews", "*.jpg"), ("checkpoints", "*.safetensors")):
            for path in (self.storage.data / folder).glob(pattern):
                if now - path.stat().st_mtime < 600:
                    continue
                job = self.store.get(path.stem)
                if job is None or job.ended:
                    path.unlink(missing_ok=True)
        for path in (self.storage.data / "files").glob("*/.*"):
            if now - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        for path in self.storage.data.glob("decode-*"):
            if now - path.stat().st_mtime > 3600:
                shutil.rmtree(path, ignore_errors=True)
