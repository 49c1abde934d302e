"""Callbacks: an outbox that is emptied until everybody was told, in order, at least once.

A state change and its message are stored in one transaction (`jobs.JobStore._tell`), so that neither a crash nor a dead host loses one. The body has
the shape of MiniMax's query reply. The state is spelled "processing", "success", "failed" or "cancelled", always; `event_id` tells repetitions apart, and
`sequence` counts the messages of a task from 0. A receiver that does not answer 2xx is tried again after 1, 2, 4, ... seconds, up to
an hour apart, for a day.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, update

from videogen.server import fetch
from videogen.server.database import UNAVAILABLE, Database, callbacks, epoch

if TYPE_CHECKING:
    from videogen.server.jobs import Job

log = logging.getLogger(__name__)

CHALLENGE_SECONDS = 3.0
DELIVERY_SECONDS = 10.0
GIVE_UP_SECONDS = 24 * 3600.0
MAX_DELAY_SECONDS = 3600.0
MAX_REPLY_BYTES = 64 * 1024
IDLE_SECONDS = 0.5
_handshakes = threading.BoundedSemaphore(8)
STATES = {
    "queued": "queueing",
    "running": "processing",
    "completed": "success",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""State of a job -> its spelling in callbacks."""


def payload_of(job: Job, event_id: str, sequence: int) -> dict[str, Any]:
    """The body of a callback."""
    result = job.result or {}
    code, text = (0, "success") if job.status != "failed" else (1000, f"{job.error_code}: {job.error_message}")
    return {
        "event_id": event_id,
        "sequence": sequence,
        "task_id": job.id,
        "status": STATES[job.status],
        "file_id": job.file_id or "",
        "video_width": result.get("width", 0),
        "video_height": result.get("height", 0),
        "base_resp": {"status_code": code, "status_msg": text},
    }


def check_callback(url: str, allowed_hosts: Collection[str] = ()) -> None:
    """The handshake of MiniMax: the receiver must echo a challenge within three seconds.

    Raises:
        ValueError: it does not, or its address is not to be talked to.
    """
    challenge = secrets.token_hex(16)
    if not _handshakes.acquire(timeout=CHALLENGE_SECONDS):
        raise ValueError("`callback_url` cannot be checked now, too many are being checked; try again.")
    try:
        reply = fetch.request(
            "POST",
            url,
            body=json.dumps({"challenge": challenge}).encode(),
            seconds=CHALLENGE_SECONDS,
            max_bytes=MAX_REPLY_BYTES,
            allowed_hosts=allowed_hosts,
            name="callback_url",
        )
        answer = json.loads(reply.body)
    except fetch.Unreachable as error:
        raise ValueError(f"`callback_url` must echo the challenge within 3 seconds: {error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, fetch.Forbidden):
            raise
        answer = None
    finally:
        _handshakes.release()
    if not isinstance(answer, dict) or answer.get("challenge") != challenge:
        raise ValueError(
            '`callback_url` must answer {"challenge": ...} with the same JSON within 3 seconds, and did not.'
        )


def _host(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _is_of(host: str) -> ColumnElement[bool]:
    url = func.lower(callbacks.c.url)
    return or_(url == host, *(url.startswith(host + end, autoescape=True) for end in "/?#"))


class Messenger:
    """The thread that empties the outbox; several servers may each have one.

    Args:
        database: with the outbox.
        allowed_hosts: that may be private.
        num_threads: messages on their way at once, each to another host, so that a slow one holds up no other.
    """

    def __init__(self, database: Database, allowed_hosts: Collection[str] = (), num_threads: int = 4):
        self.database, self.allowed_hosts = database, allowed_hosts
        self.delivered = self.failed = 0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"callbacks-{index}", daemon=True) for index in range(num_threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the messages on their way (each has a deadline)."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(DELIVERY_SECONDS + 1)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._take()
                if message is None:
                    self._stopping.wait(IDLE_SECONDS)
                else:
                    self._deliver(message)
            except UNAVAILABLE as error:
                log.error("callbacks: the database does not answer: %s", str(error).splitlines()[0])
                self._stopping.wait(2.0)
            except Exception:
                log.exception("callbacks go on after an error")
                self._stopping.wait(2.0)

    def _due(self, connection: Connection) -> Select:
        """The next message that is due, whose predecessors of the same job are through, and whose host has none on its way."""
        earlier = callbacks.alias("earlier")
        blocked = (
            select(earlier.c.id)
            .where(
                earlier.c.job_id == callbacks.c.job_id,
                earlier.c.sequence < callbacks.c.sequence,
                earlier.c.state == "waiting",
            )
            .exists()
        )
        due = (
            select(callbacks.c.id)
            .where(
                callbacks.c.state == "waiting",
                callbacks.c.next_attempt_at <= epoch(),
                callbacks.c.lease_until <= epoch(),
                ~blocked,
            )
            .order_by(callbacks.c.next_attempt_at)
            .limit(1)
        )
        taken = callbacks.c.state == "waiting", callbacks.c.lease_until > epoch()
        busy = {_host(url) for url in connection.scalars(select(callbacks.c.url).where(*taken))}
        for host in busy:
            due = due.where(~_is_of(host))
        return due

    def _take(self) -> Any:
        """The next message to deliver, marked as on its way; None where there is none."""
        with self.database.read() as connection:
            if connection.scalar(self._due(connection)) is None:
                return None
        with self.database.write() as connection:
            if not self.database.is_sqlite:
                # SQLite has one writer at a time; here, too: what another thread takes meanwhile makes its host busy.
                connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("callbacks", 0))))
            chosen = connection.scalar(self._due(connection).with_for_update(skip_locked=True))
            if chosen is None:
                return None
            return connection.execute(
                update(callbacks)
                .where(callbacks.c.id == chosen)
                .values(lease_until=epoch() + 2 * DELIVERY_SECONDS, attempts=callbacks.c.attempts + 1)
                .returning(*callbacks.c)
            ).one()

    def _deliver(self, message: Any) -> None:
        started = time.monotonic()
        try:
            reply = fetch.request(
                "POST",
                message.url,
                body=json.dumps(message.payload).encode(),
                seconds=DELIVERY_SECONDS,
                max_bytes=MAX_REPLY_BYTES,
                allowed_hosts=self.allowed_hosts,
                name="callback_url",
            )
            error = None if 200 <= reply.status < 300 else f"it answered {reply.status}"
        except (fetch.Unreachable, fetch.Forbidden) as problem:
            error = str(problem)
        if error is None:
            values: dict[str, Any] = {"state": "delivered", "last_error": None}
            self.delivered += 1
        else:
            delay = min(MAX_DELAY_SECONDS, 2.0 ** min(message.attempts - 1, 20))
            age = self.database.now() - message.created_at
            values = {"last_error": error[:500], "next_attempt_at": epoch() + delay, "lease_until": 0.0}
            if age > GIVE_UP_SECONDS:
                values["state"] = "given up"
            self.failed += 1
            log.warning(
                "callback %s of %s failed after %.1f s (%s); %s",
                message.id,
                message.job_id,
                time.monotonic() - started,
                error,
                "given up after a day" if age > GIVE_UP_SECONDS else f"again in {delay:g} s",
            )
        with self.database.write() as connection:
            connection.execute(update(callbacks).where(callbacks.c.id == message.id).values(**values))
