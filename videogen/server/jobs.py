"""Jobs: one row each, whose state changes only by statements that name the state they expect.

```
            submit            claim                    complete
   (nothing) ──► queued ───────────────► running ─────────────────► completed
                  │ ▲                      │  │  fail (also: three strikes)
                  │ └── release, lease ────┘  ├─────────────────────► failed
                  │        ran out            │  cancel, within a step
                  └───────────────────────────┴─────────────────────► cancelled
```

A worker owns a job by a lease that it renews. Whatever a worker writes names itself as the owner, so that one whose lease was taken over can
change nothing any more: every job reaches exactly one end. Changes that somebody wants to be told of are written to the outbox
(`callbacks`) in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import Connection, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from videogen.server.database import Database, callbacks, epoch, files, jobs, timings, workers
from videogen.server.storage import is_id

log = logging.getLogger(__name__)

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
Signal = Literal["go on", "cancel", "lost"]
ACTIVE: tuple[Status, ...] = ("queued", "running")
ENDED: tuple[Status, ...] = ("completed", "failed", "cancelled")
MAX_INTERRUPTIONS = 20
"""Restarts and errors of files that were no fault of the job, after which it fails all the same: nothing goes round for ever."""


class QueueFull(Exception):
    """The tenant has as many waiting and running jobs as it may."""


class IdempotencyConflict(Exception):
    """The idempotency key was used for another request."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the table of jobs; times in seconds since 1970."""

    id: str
    tenant: str
    key_name: str | None
    dialect: str
    status: Status
    priority: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    not_before: float
    request: dict[str, Any]
    asked: dict[str, Any]
    adjusted: list[str]
    warnings: list[str]
    prompt: str
    shape: str
    batchable: bool
    idempotency_key: str | None
    request_hash: str
    stage: str
    step: int
    num_steps: int
    preview_step: int
    cancel_requested: bool
    worker: str | None
    lease_until: float | None
    strikes: int
    interruptions: int
    resumed_from: int
    note: str | None
    error_code: str | None
    error_message: str | None
    file_id: str | None
    result: dict[str, Any] | None
    remixed_from: str | None
    callback_url: str | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def progress(self) -> int:
        """Percent; 100 only when the file is there."""
        return 100 if self.status == "completed" else min(99, 100 * self.step // max(1, self.num_steps))


_COLUMNS = [jobs.c[field.name] for field in fields(Job)]


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What `JobStore.submit` stores."""

    tenant: str
    dialect: str
    request: dict[str, Any]
    asked: dict[str, Any]
    num_steps: int
    shape: str
    adjusted: Sequence[str] = ()
    warnings: Sequence[str] = ()
    key_name: str | None = None
    priority: int = 0
    batchable: bool = False
    idempotency_key: str | None = None
    callback_url: str | None = None
    remixed_from: str | None = None

    @property
    def request_hash(self) -> str:
        """What tells two requests with one idempotency key apart: what was asked, as it was asked."""
        return hashlib.sha256(json.dumps([self.dialect, self.asked], sort_keys=True).encode()).hexdigest()


class JobStore:
    """The jobs of one database; every method is one transaction."""

    def __init__(self, database: Database, max_strikes: int = 3):
        self.database = database
        self.max_strikes = max_strikes

    # For the API

    def submit(self, new: NewJob, max_queue: int) -> tuple[Job, bool]:
        """Store a job; once this returns it is durable.

        Returns:
            the job and whether it is new (an idempotency key that was used gives the job it made).

        Raises:
            QueueFull: the tenant has `max_queue` jobs waiting and running.
            IdempotencyConflict: the idempotency key belongs to another request.
        """
        try:
            with self.database.write() as connection:
                if not self.database.is_sqlite:
                    # SQLite has one writer at a time; here a tenant has one, so that its limit holds.
                    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(new.tenant, 0))))
                found = self._same(connection, new)
                if found is not None:
                    return found, False
                waiting = connection.scalar(
                    select(func.count()).where(jobs.c.tenant == new.tenant, jobs.c.status.in_(ACTIVE))
                )
                if (waiting or 0) >= max_queue:
                    raise QueueFull(f"{waiting} jobs are waiting or running, {max_queue} are allowed.")
                # Time first: jobs of one millisecond of the database's clock keep their order.
                suffix = f"{time.time_ns() >> 16:012x}"[-12:] + secrets.token_hex(6)
                row = connection.execute(
                    insert(jobs)
                    .values(
                        id=f"video_{suffix}",
                        tenant=new.tenant,
                        key_name=new.key_name,
                        dialect=new.dialect,
                        status="queued",
                        priority=new.priority,
                        created_at=epoch(),
                        request=new.request,
                        asked=new.asked,
                        adjusted=list(new.adjusted),
                        warnings=list(new.warnings),
                        prompt=new.request["prompt"],
                        shape=new.shape,
                        batchable=new.batchable,
                        idempotency_key=new.idempotency_key,
                        request_hash=new.request_hash,
                        num_steps=new.num_steps,
                        callback_url=new.callback_url,
                        remixed_from=new.remixed_from,
                    )
                    .returning(*_COLUMNS)
                ).one()
                return _job(row), True
        except IntegrityError:  # two requests with one key at one moment
            with self.database.read() as connection:
                found = self._same(connection, new)
            if found is None:
                raise
            return found, False

    def find_same(self, new: NewJob) -> Job | None:
        """The job that an earlier request with the same idempotency key made.

        Raises:
            IdempotencyConflict: that was another request.
        """
        if new.idempotency_key is None:
            return None
        with self.database.read() as connection:
            return self._same(connection, new)

    def _same(self, connection: Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        row = connection.execute(
            select(*_COLUMNS).where(jobs.c.tenant == new.tenant, jobs.c.idempotency_key == new.idempotency_key)
        ).one_or_none()
        if row is None:
            return None
        job = _job(row)
        if job.request_hash != new.request_hash:
            raise IdempotencyConflict(f"the key was used for {job.id}, which asked for something else.")
        return job

    def get(self, job_id: str, tenant: str | None = None) -> Job | None:
        """The job, if it is there and belongs to `tenant` (None = to anybody)."""
        query = select(*_COLUMNS).where(jobs.c.id == job_id)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _job(row)

    def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        """Those of the jobs that are there."""
        with self.database.read() as connection:
            return [_job(row) for row in connection.execute(select(*_COLUMNS).where(jobs.c.id.in_(job_ids)))]

    def page(
        self,
        tenant: str,
        *,
        limit: int,
        after: str | None = None,
        descending: bool = True,
        statuses: Sequence[str] = (),
        text: str | None = None,
        dialect: str | None = None,
        created_after: float | None = None,
        created_before: float | None = None,
    ) -> tuple[list[Job], bool]:
        """Jobs of a tenant by time of creation, and whether there are more.

        Raises:
            ValueError: `after` is no job of the tenant, nor the id of one that was deleted.
        """
        query = select(*_COLUMNS).where(jobs.c.tenant == tenant)
        if statuses:
            query = query.where(jobs.c.status.in_(statuses))
        if text:
            query = query.where(jobs.c.prompt.icontains(text, autoescape=True))
        if dialect:
            query = query.where(jobs.c.dialect == dialect)
        if created_after is not None:
            query = query.where(jobs.c.created_at >= created_after)
        if created_before is not None:
            query = query.where(jobs.c.created_at < created_before)
        with self.database.read() as connection:
            if after is not None:
                moment = connection.scalar(select(jobs.c.created_at).where(jobs.c.id == after, jobs.c.tenant == tenant))
                tie = jobs.c.id < after if descending else jobs.c.id > after
                if moment is not None:
                    later = jobs.c.created_at < moment if descending else jobs.c.created_at > moment
                    query = query.where(or_(later, and_(jobs.c.created_at == moment, tie)))
                elif is_id(after) and after.startswith("video_"):  # deleted since; ids begin with the time
                    query = query.where(tie)
                else:
                    raise ValueError("`after` must be the id of one of your jobs, got one that is not there.")
            order = [jobs.c.created_at, jobs.c.id]
            query = query.order_by(*(column.desc() if descending else column for column in order)).limit(limit + 1)
            found = [_job(row) for row in connection.execute(query)]
        return found[:limit], len(found) > limit

    def cancel(self, job_id: str, tenant: str) -> Job | None:
        """Cancel a waiting job at once, ask the worker of a running one; an ended one stays as it is."""
        with self.database.write() as connection:
            row = connection.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.tenant == tenant, jobs.c.status.in_(ACTIVE))
                .values(
                    status=case((jobs.c.status == "queued", "cancelled"), else_=jobs.c.status),
                    finished_at=case((jobs.c.status == "queued", epoch()), else_=jobs.c.finished_at),
                    cancel_requested=True,
                )
                .returning(*_COLUMNS)
            ).one_or_none()
            if row is not None and row.status == "cancelled":
                self._tell(connection, _job(row))
        return self.get(job_id, tenant)

    def delete(self, job_id: str, tenant: str) -> bool:
        """Forget an ended job; False when it is not there or has not ended. Its files are the caller's to remove."""
        with self.database.write() as connection:
            gone = connection.execute(
                delete(jobs).where(jobs.c.id == job_id, jobs.c.tenant == tenant, jobs.c.status.in_(ENDED))
            ).rowcount
            if gone:
                connection.execute(delete(callbacks).where(callbacks.c.job_id == job_id))
                connection.execute(delete(files).where(files.c.job_id == job_id))
        return bool(gone)

    def queue_ahead(self, priority: int) -> list[tuple[str, int]]:
        """Shape and steps left of every job that a new one of this priority would wait for."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(jobs.c.shape, jobs.c.num_steps - jobs.c.step).where(
                    or_(jobs.c.status == "running", and_(jobs.c.status == "queued", jobs.c.priority >= priority))
                )
            )
            return [(shape, left) for shape, left in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs by status."""
        with self.database.read() as connection:
            rows = connection.execute(select(jobs.c.status, func.count().label("number")).group_by(jobs.c.status))
            return {row.status: row.number for row in rows}

    def num_active(self, tenant: str) -> int:
        """Waiting and running jobs of a tenant."""
        with self.database.read() as connection:
            return (
                connection.scalar(select(func.count()).where(jobs.c.tenant == tenant, jobs.c.status.in_(ACTIVE))) or 0
            )

    # For workers

    def claim(self, worker: str, lease: float) -> Job | None:
        """Take the most urgent job that waits; no two workers get the same one."""
        waiting = (
            select(jobs.c.id)
            .where(jobs.c.status == "queued", jobs.c.not_before <= epoch())
            .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
            .limit(1)
        )
        found = self._take(waiting, worker, lease)
        return found[0] if found else None

    def claim_like(self, job: Job, worker: str, lease: float, limit: int) -> list[Job]:
        """Take up to `limit` more jobs that may share a batch with `job`, the most urgent first."""
        waiting = (
            select(jobs.c.id)
            .where(
                jobs.c.status == "queued",
                jobs.c.not_before <= epoch(),
                jobs.c.shape == job.shape,
                jobs.c.batchable.is_(True),
                jobs.c.step == 0,
            )
            .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
            .limit(limit)
        )
        return self._take(waiting, worker, lease)

    def _take(self, waiting: Select, worker: str, lease: float) -> list[Job]:
        with self.database.read() as connection:
            if connection.scalar(waiting.limit(1)) is None:
                return []  # without asking for the lock of writers
        with self.database.write() as connection:
            # SKIP LOCKED on PostgreSQL; SQLAlchemy leaves it out on SQLite, which has one writer at a time.
            ids = connection.scalars(waiting.with_for_update(skip_locked=True)).all()
            rows = connection.execute(
                update(jobs)
                .where(jobs.c.id.in_(ids), jobs.c.status == "queued")
                .values(
                    status="running",
                    stage="starting",
                    worker=worker,
                    lease_until=epoch() + lease,
                    started_at=func.coalesce(jobs.c.started_at, epoch()),
                    note=None,
                )
                .returning(*_COLUMNS)
            ).all()
            taken = sorted((_job(row) for row in rows), key=lambda job: (-job.priority, job.created_at, job.id))
            for job in taken:
                if job.interruptions == 0:
                    self._tell(connection, job)
        return taken

    def renew(self, worker: str, lease: float) -> set[str]:
        """Renew the leases of a worker; the jobs it still owns."""
        with self.database.write() as connection:
            rows = connection.execute(
                update(jobs)
                .where(jobs.c.worker == worker, jobs.c.status == "running")
                .values(lease_until=epoch() + lease)
                .returning(jobs.c.id)
            )
            return set(rows.scalars())

    def signal(self, job_id: str, worker: str) -> Signal:
        """What the owner of a job should do next."""
        with self.database.read() as connection:
            row = connection.execute(
                select(jobs.c.status, jobs.c.worker, jobs.c.cancel_requested).where(jobs.c.id == job_id)
            ).one_or_none()
        if row is None or row.status != "running" or row.worker != worker:
            return "lost"
        return "cancel" if row.cancel_requested else "go on"

    def progress(
        self,
        job_id: str,
        worker: str,
        *,
        step: int,
        stage: str,
        preview_step: int | None = None,
        resumed_from: int | None = None,
    ) -> Signal:
        """Note how far a job is; what its owner should do next."""
        values: dict[str, Any] = {"step": step, "stage": stage}
        if preview_step is not None:
            values["preview_step"] = preview_step
        if resumed_from is not None:
            values["resumed_from"] = resumed_from
        with self.database.write() as connection:
            row = connection.execute(
                update(jobs).where(*_owned(job_id, worker)).values(**values).returning(jobs.c.cancel_requested)
            ).one_or_none()
        if row is None:
            return "lost"
        return "cancel" if row.cancel_requested else "go on"

    def complete(
        self,
        job_id: str,
        worker: str,
        *,
        file: dict[str, Any],
        result: dict[str, Any],
        adjusted: Sequence[str],
        warnings: Sequence[str],
        keep_days: float | None,
    ) -> bool:
        """End a job with its file; False when the job is no longer this worker's."""
        with self.database.write() as connection:
            row = connection.execute(
                update(jobs)
                .where(*_owned(job_id, worker))
                .values(
                    status="completed",
                    stage="done",
                    step=jobs.c.num_steps,
                    finished_at=epoch(),
                    expires_at=None if keep_days is None else epoch() + keep_days * 86400.0,
                    file_id=file["id"],
                    result=result,
                    adjusted=list(adjusted),
                    warnings=list(warnings),
                    worker=None,
                    lease_until=None,
                    note=None,
                )
                .returning(*_COLUMNS)
            ).one_or_none()
            if row is None:
                return False
            job = _job(row)
            connection.execute(
                insert(files).values(
                    tenant=job.tenant,
                    job_id=job_id,
                    purpose="video_generation",
                    kind="video",
                    created_at=epoch(),
                    **file,
                )
            )
            self._tell(connection, job)
            return True

    def fail(self, job_id: str, worker: str, code: str, message: str) -> bool:
        """End a job with a reason; False when the job is no longer this worker's."""
        with self.database.write() as connection:
            row = connection.execute(
                update(jobs).where(*_owned(job_id, worker)).values(**_failure(code, message)).returning(*_COLUMNS)
            ).one_or_none()
            if row is not None:
                self._tell(connection, _job(row))
        return row is not None

    def mark_cancelled(self, job_id: str, worker: str) -> bool:
        """End a job as cancelled; False when the job is no longer this worker's."""
        with self.database.write() as connection:
            row = connection.execute(
                update(jobs)
                .where(*_owned(job_id, worker))
                .values(status="cancelled", finished_at=epoch(), worker=None, lease_until=None)
                .returning(*_COLUMNS)
            ).one_or_none()
            if row is not None:
                self._tell(connection, _job(row))
        return row is not None

    def release(self, job_id: str, worker: str, note: str, delay: float = 0.0, counts: bool = True) -> bool:
        """Give a job back to the queue without a strike, for `delay` seconds from now; False when it is no longer this worker's.

        Args:
            job_id: the job.
            worker: its owner.
            note: what happened, for people.
            delay: seconds.
            counts: whether it is one of the `MAX_INTERRUPTIONS`; not where the job may have to wait for as long as it takes.
        """
        return self._give_back(_owned(job_id, worker), note, strike=False, delay=delay, counts=counts) > 0

    def release_worker(self, worker: str, note: str, strike: bool) -> int:
        """Take the jobs of a worker that is no more back into the queue; the number of jobs.

        Args:
            worker: its id.
            note: what happened, for people.
            strike: whether its death is held against its jobs.
        """
        return self._give_back((jobs.c.worker == worker, jobs.c.status == "running"), note, strike=strike)

    def reap(self, server_silence: float) -> int:
        """Take over jobs whose lease ran out; the number of jobs.

        It is a strike against the job where the server of its worker lives on (seen within `server_silence` seconds): then
        the worker alone hangs. A whole server that went, with whatever it was doing, says nothing about a job.
        """
        over = (jobs.c.status == "running", jobs.c.lease_until < epoch())
        server = workers.alias("server")
        alive = (
            select(workers.c.id)
            .join(server, server.c.id == workers.c.server)
            .where(server.c.seen_at > epoch() - server_silence)
        )
        hung = self._give_back((*over, jobs.c.worker.in_(alive)), "its worker went silent", strike=True)
        return hung + self._give_back(over, "its server went silent", strike=False)

    def recover(self) -> int:
        """Take back every running job: for a server that knows that no other one is there; the number of jobs."""
        return self._give_back((jobs.c.status == "running",), "the server was restarted", strike=False)

    def _give_back(
        self, which: Sequence[Any], note: str, *, strike: bool, delay: float = 0.0, counts: bool = True
    ) -> int:
        with self.database.write() as connection:
            rows = connection.execute(
                update(jobs)
                .where(*which)
                .values(
                    status="queued",
                    stage="waiting",
                    worker=None,
                    lease_until=None,
                    not_before=epoch() + delay,
                    strikes=jobs.c.strikes + (1 if strike else 0),
                    interruptions=jobs.c.interruptions + (1 if counts else 0),
                    batchable=False if strike else jobs.c.batchable,  # who killed it shows when each is alone
                    note=note,
                )
                .returning(*_COLUMNS)
            ).all()
            for row in rows:
                job = _job(row)
                log.warning("%s goes back to the queue: %s (strike %d)", job.id, note, job.strikes)
                end: dict[str, Any] | None = None
                if job.cancel_requested:
                    end = {"status": "cancelled", "finished_at": epoch()}
                elif job.strikes >= self.max_strikes:
                    end = _failure(
                        "worker_died", f"the job ended its worker {job.strikes} times; the last time: {note}."
                    )
                elif job.interruptions >= MAX_INTERRUPTIONS:
                    end = _failure(
                        "interrupted", f"the job was interrupted {job.interruptions} times; at last: {note}."
                    )
                if end is not None:
                    ended = connection.execute(
                        update(jobs).where(jobs.c.id == job.id).values(**end).returning(*_COLUMNS)
                    ).one()
                    self._tell(connection, _job(ended))
        return len(rows)

    def _tell(self, connection: Connection, job: Job) -> None:
        """Write what the job's callback is to be told into the outbox."""
        if job.callback_url is None:
            return
        from videogen.server.callbacks import payload_of  # the spelling of states lives there

        sequence = connection.scalar(select(func.count()).where(callbacks.c.job_id == job.id)) or 0
        event_id = f"evt_{secrets.token_hex(12)}"
        connection.execute(
            insert(callbacks).values(
                id=event_id,
                job_id=job.id,
                sequence=sequence,
                url=job.callback_url,
                payload=payload_of(job, event_id, sequence),
                created_at=epoch(),
                next_attempt_at=epoch(),
            )
        )

    # Timings and workers

    def record_timing(self, shape: str, step_seconds: float, rest_seconds: float, peak_bytes: int) -> None:
        """Fold a measured generation into the estimate of its shape (a running mean over about the last 20)."""
        with self.database.write() as connection:
            old = connection.execute(select(timings).where(timings.c.shape == shape)).one_or_none()
            if old is None:
                connection.execute(
                    insert(timings).values(
                        shape=shape,
                        samples=1,
                        step_seconds=step_seconds,
                        rest_seconds=rest_seconds,
                        peak_bytes=peak_bytes,
                    )
                )
                return
            weight = max(1 / (old.samples + 1), 0.05)  # 1 where it was only supposed
            connection.execute(
                update(timings)
                .where(timings.c.shape == shape)
                .values(
                    samples=old.samples + 1,
                    step_seconds=old.step_seconds + weight * (step_seconds - old.step_seconds),
                    rest_seconds=old.rest_seconds + weight * (rest_seconds - old.rest_seconds),
                    peak_bytes=max(old.peak_bytes, peak_bytes) if old.samples else peak_bytes,
                )
            )

    def suppose_timing(self, shape: str, step_seconds: float, rest_seconds: float, peak_bytes: int) -> None:
        """Put down what a shape should take, for as long as nothing of it was measured (the first measurement replaces it)."""
        values = {"step_seconds": step_seconds, "rest_seconds": rest_seconds, "peak_bytes": peak_bytes}
        try:
            with self.database.write() as connection:
                connection.execute(insert(timings).values(shape=shape, samples=0, **values))
        except IntegrityError:
            pass  # another worker was faster

    def read_timings(self) -> dict[str, Any]:
        """Shape -> row of the table of timings."""
        with self.database.read() as connection:
            return {row.shape: row for row in connection.execute(select(timings))}

    def worker_seen(self, worker: str, server: str, state: str, details: dict[str, Any]) -> None:
        """Note that a worker lives, and what it does."""
        with self.database.write() as connection:
            changed = connection.execute(
                update(workers).where(workers.c.id == worker).values(state=state, seen_at=epoch(), details=details)
            ).rowcount
            if not changed:
                connection.execute(
                    insert(workers).values(
                        id=worker,
                        server=server,
                        state=state,
                        started_at=epoch(),
                        seen_at=epoch(),
                        details=details,
                    )
                )

    def worker_gone(self, worker: str) -> None:
        """Forget a worker."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker))

    def live_workers(self, seconds: float) -> list[Any]:
        """Rows of the workers seen within the last `seconds`."""
        with self.database.read() as connection:
            return list(connection.execute(select(workers).where(workers.c.seen_at > epoch() - seconds)))

    def forget_dead_workers(self, seconds: float) -> None:
        """Forget workers not seen for `seconds`."""
        with self.database.write() as connection:
            connection.execute(delete(workers).where(workers.c.seen_at < epoch() - seconds))


def _job(row: Any) -> Job:
    return Job(**row._mapping)


def _owned(job_id: str, worker: str) -> tuple[Any, ...]:
    return jobs.c.id == job_id, jobs.c.status == "running", jobs.c.worker == worker


def _failure(code: str, message: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "finished_at": epoch(),
        "error_code": code,
        "error_message": message,
        "worker": None,
        "lease_until": None,
    }
