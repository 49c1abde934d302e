"""What all dialects do with a request, apart from its shape: check who asks, take pictures in, plan, store, estimate."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from videogen.server.auth import KeyRing, Principal, RateLimiter
from videogen.server.callbacks import Messenger, check_callback
from videogen.server.database import Database
from videogen.server.jobs import IdempotencyConflict, Job, JobStore, NewJob, QueueFull
from videogen.server.media import Kind, Media, Upload
from videogen.server.metrics import Metrics
from videogen.server.names import DIALECTS, renamed, renamed_argument
from videogen.server.planning import Ask, Planned, Planner, Refused, StoredPicture, check_text, references
from videogen.server.retention import HOLD_SECONDS, Janitor
from videogen.server.settings import Settings
from videogen.server.storage import Storage, is_id
from videogen.server.supervisor import Supervisor, make_pool, new_server_id

log = logging.getLogger(__name__)

LINK_SECONDS = 24 * 3600
_SHAPE = re.compile(r":(\d+)x(\d+)x(\d+)@.*:(guided|plain)$")


class ApiError(Exception):
    """An answer other than success. `code` is for programs, `message` for people, `param` names the argument."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_after: float | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after = status, code, message, param, retry_after


@dataclass(frozen=True)
class Estimate:
    """What a request will take.

    Attributes:
        seconds: of generating, once a worker has it; None where that is unknown.
        wait_seconds: until a worker has it, from the jobs before it; None likewise.
        memory_bytes: of the worker at its peak; None likewise.
        steps: denoising steps over all windows.
        basis: "measured" (this very shape), "scaled" (from another one that was measured), "calculated" (from the model and the speed of the
            machine, before anything was measured) or "unknown" (no worker had its model loaded yet).
    """

    seconds: float | None
    wait_seconds: float | None
    memory_bytes: int | None
    steps: int
    queue_length: int
    basis: str


@dataclass
class Service:
    """One server's parts; `start` and `stop` its threads."""

    settings: Settings
    folder: Any  # of the model
    server_id: str = field(default_factory=new_server_id)

    def __post_init__(self) -> None:
        self.settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = Database(self.settings.database_url)
        self.database.create()
        self.store = JobStore(self.database, self.settings.max_strikes)
        self.storage = Storage(self.settings.data)
        self.planner = Planner(self.folder, self.settings.data, self.settings.max_duration)
        self.media = Media(self.settings, self.storage, self.database, self.planner.longest_side)
        self.keys = KeyRing(self.settings.api_key_file) if self.settings.api_key_file else None
        self.limiter = RateLimiter()
        self.messenger = Messenger(self.database, self.settings.allowed_hosts)
        self.metrics = Metrics(self)
        self.janitor = Janitor(self.settings, self.store, self.storage)
        pool = make_pool(self.settings, self.store, self.server_id)
        self.supervisor = Supervisor(self.settings, self.store, self.server_id, pool)
        self._workers: tuple[float, list[Any]] = (0.0, [])
        self._timings: tuple[float, dict[str, Any]] = (0.0, {})

    def start(self) -> None:
        """Take back what an earlier life left behind, then start the workers and the threads."""
        if self.database.is_sqlite:
            taken = self.store.recover()
            if taken:
                log.info("%d unfinished jobs go on", taken)
        self.supervisor.start()
        self.messenger.start()
        self.janitor.start()
        threading.Thread(target=self._warm, name="warm", daemon=True).start()

    def stop(self) -> None:
        """End gracefully: running jobs go back to the queue at their step."""
        self.supervisor.stop()
        self.messenger.stop()
        self.janitor.stop()
        self.database.close()

    def _warm(self) -> None:
        try:
            self.planner.warm()
        except Exception:
            log.exception("the model folder cannot be read")

    @cached_property
    def _secret(self) -> bytes:
        return self.database.secret()

    # Requests

    def limit(self, principal: Principal, address: str) -> None:
        """Count a request that creates something.

        Raises:
            ApiError: 429, too many.
        """
        rate = principal.rate_limit or self.settings.rate_limit
        wait = self.limiter.wait(principal.name or address, rate)
        if wait > 0:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"at most {rate:g} requests a minute; try again in {wait:.1f} s.",
                retry_after=wait,
            )

    def plan(self, ask: Ask, principal: Principal, dialect: str = "videogen") -> Planned:
        """Settle a request, its pictures taken in; what is said of it names the arguments of `dialect`.

        Raises:
            ApiError: 422 with the argument at fault.
        """
        names = DIALECTS[dialect]
        try:
            pictures = self._pictures(ask, principal.tenant)
            planned = self.planner.plan(ask, pictures, force_watermark=self.settings.watermark == "always")
        except Refused as error:
            param = None if error.param is None else renamed_argument(error.param, names)
            raise ApiError(422, "invalid_request", renamed(str(error), names), param) from None
        return replace(planned, adjusted=[renamed(sentence, names) for sentence in planned.adjusted])

    def submit(
        self,
        principal: Principal,
        address: str,
        dialect: str,
        ask: Ask,
        asked: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        adjusted: list[str] | None = None,
        remixed_from: str | None = None,
        attached: tuple[str, bytes, str] | None = None,
    ) -> tuple[Job, bool]:
        """Accept a job; once this returns, it is durable.

        Args:
            principal: who asks.
            address: from where.
            dialect: in which words.
            ask: the request.
            asked: the body as it came, for telling repetitions apart and for people; data URLs are replaced by their hash.
            idempotency_key: a repetition under the same key gives the same job.
            adjusted: what the dialect changed already.
            remixed_from: job that this one varies.
            attached: a file that came along, as argument of `ask` that it is for, bytes and name; kept once no limit stands against it.

        Returns:
            the job, and whether it is new.

        Raises:
            ApiError: what was refused, and why.
        """
        asked = {name: _digest(value) for name, value in asked.items()}
        if idempotency_key is not None:
            try:
                check_text(idempotency_key, "Idempotency-Key")
            except Refused as error:
                raise ApiError(422, "invalid_request", str(error), "Idempotency-Key") from None
            if not 1 <= len(idempotency_key) <= 255:
                raise ApiError(
                    422, "invalid_request", "`Idempotency-Key` must have 1 to 255 characters.", "Idempotency-Key"
                )
        self.limit(principal, address)
        if ask.priority > principal.max_priority:
            raise ApiError(
                422,
                "invalid_request",
                f"`priority` must be at most {principal.max_priority} with this key, got {ask.priority}.",
                "priority",
            )
        probe = NewJob(
            tenant=principal.tenant,
            dialect=dialect,
            request={},
            asked=asked,
            num_steps=0,
            shape="",
            idempotency_key=idempotency_key,
        )
        try:
            earlier = self.store.find_same(probe)
            if earlier is not None:
                return earlier, False
            if ask.strict and adjusted:
                raise ApiError(422, "invalid_request", "`strict` was asked for, but: " + " ".join(adjusted), "strict")
            if attached is not None:
                argument, content, name = attached
                kind: Kind = "video" if argument == "source" else "image"
                kept = self.keep(principal, content, name, kind, renamed_argument(argument, DIALECTS[dialect]))
                ask = ask.model_copy(update={argument: kept.id})
            planned = self.plan(ask, principal, dialect)
            if ask.callback_url is not None:
                try:
                    check_callback(ask.callback_url, self.settings.allowed_hosts)
                except ValueError as error:
                    raise ApiError(422, "invalid_request", str(error), "callback_url") from None
            job, new = self.store.submit(
                NewJob(
                    tenant=principal.tenant,
                    key_name=principal.name,
                    dialect=dialect,
                    request=planned.request.model_dump(mode="json"),
                    asked=asked,
                    num_steps=planned.num_steps,
                    shape=planned.shape,
                    adjusted=[*(adjusted or ()), *planned.adjusted],
                    warnings=planned.warnings,
                    priority=ask.priority,
                    batchable=ask.batching and planned.batchable_task and planned.request.camera is None,
                    idempotency_key=idempotency_key,
                    callback_url=ask.callback_url,
                    remixed_from=remixed_from,
                ),
                principal.max_queue or self.settings.max_queue,
            )
        except QueueFull as error:
            raise ApiError(429, "queue_full", str(error), retry_after=10) from None
        except IdempotencyConflict as error:
            raise ApiError(409, "idempotency_conflict", f"`Idempotency-Key`: {error}", "Idempotency-Key") from None
        if new:
            self.metrics.submitted.labels(dialect).inc()
            self.supervisor.wake()
        return job, new

    def keep(
        self, principal: Principal, content: bytes, name: str, kind: Kind | None = None, param: str = "file"
    ) -> Upload:
        """Take an upload in; `kind` None takes a picture or a video, `param` is what the message names.

        Raises:
            ApiError: 422, what it may not be.
        """
        try:
            return self.media.add(content, name, principal.tenant, kind, param)
        except Refused as error:
            raise ApiError(422, "invalid_request", str(error), error.param) from None

    def job(self, job_id: str, principal: Principal) -> Job:
        """A job of who asks.

        Raises:
            ApiError: 404.
        """
        found = self.store.get(job_id, principal.tenant) if is_id(job_id) else None
        if found is None:
            raise ApiError(404, "not_found", "there is no such job, or it is not yours.", "id")
        return found

    def delete(self, job_id: str, principal: Principal, seconds: float = 15.0) -> None:
        """Stop a job if it has not ended, and forget it with its files.

        Raises:
            ApiError: 404; 409 when the worker did not let go within `seconds`.
        """
        job = self.job(job_id, principal)
        deadline = time.monotonic() + seconds
        if not job.ended:
            self.store.cancel(job.id, principal.tenant)
        while not self.store.delete(job.id, principal.tenant):
            if self.store.get(job.id, principal.tenant) is None:
                break
            if time.monotonic() > deadline:
                raise ApiError(409, "still_running", "the job is being stopped; delete it again in a moment.", "id")
            time.sleep(0.1)
        self.storage.remove(self.storage.clip_id(job.id))
        self.storage.remove_work(job.id)

    def _pictures(self, ask: Ask, tenant: str) -> dict[str, list[StoredPicture]]:
        found: dict[str, list[StoredPicture]] = {}
        for role, param, reference in references(ask):
            check_text(reference[:4096], param)
            if role == "source":
                stored = self._source(reference, tenant)
            else:
                stored = self.media.resolve(reference, tenant, "image", param)
            found.setdefault(role, []).append(stored)
        for group in found.values():
            for stored in group:  # none may expire before the job names it
                self.janitor.hold(stored.file_id, HOLD_SECONDS)
        return found

    def _source(self, source: str, tenant: str) -> StoredPicture:
        if source.startswith("video_"):
            job = self.store.get(source, tenant) if is_id(source) else None
            if job is None or job.status != "completed" or job.result is None or job.file_id is None:
                raise Refused("`source` must be a completed job of yours or a video that you uploaded.", "source")
            if self.media.find(job.file_id, tenant) is None:
                raise Refused("`source` must still have its file; the one of this job expired.", "source")
            return _clip(job.file_id, job.result)
        stored = self.media.resolve(source, tenant, "video", "source")
        if stored.is_clip and stored.num_frames is None:
            clip = self.store.get("video_" + stored.file_id.removeprefix("file_"), tenant)
            return _clip(stored.file_id, clip.result or {} if clip else {})
        return stored

    # Looking

    def workers(self) -> list[Any]:
        """Rows of the live workers of all servers, at most a second old."""
        then, rows = self._workers
        if time.monotonic() - then > 1.0:
            rows = self.store.live_workers(2 * self.settings.lease)
            self._workers = time.monotonic(), rows
        return rows

    def worker_ready(self) -> bool:
        """Whether somebody could take a job now."""
        return any(row.state in ("idle", "running") for row in self.workers())

    def timings(self) -> dict[str, Any]:
        then, rows = self._timings
        if time.monotonic() - then > 2.0:
            rows = self.store.read_timings()
            self._timings = time.monotonic(), rows
        return rows

    def estimate(self, planned: Planned, priority: int = 0) -> Estimate:
        """What a request will take, from what others took."""
        timings = self.timings()
        ahead = self.store.queue_ahead(priority)
        num_workers = max(1, sum(row.state in ("idle", "running") for row in self.workers()))
        costs = [self._cost(timings, shape, left) for shape, left in ahead]
        wait = None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs) / num_workers
        seconds = self._cost(timings, planned.shape, planned.num_steps)
        known = _known(timings)
        exact = known.get(planned.shape)
        memory = exact.peak_bytes if exact else max((row.peak_bytes for row in known.values()), default=None)
        if not any(row.samples for row in known.values()):
            basis = "calculated" if known else "unknown"
        else:
            basis = "measured" if exact else "scaled"
        return Estimate(seconds, wait, memory, planned.num_steps, len(ahead), basis)

    def seconds_left(self, job: Job) -> float | None:
        """How long a running job still takes; None where nothing was measured yet or it waits."""
        if job.status != "running":
            return None
        return self._cost(self.timings(), job.shape, job.num_steps - job.step)

    # Costs

    def _cost(self, timings: Mapping[str, Any], shape: str, steps: int) -> float | None:
        """Seconds of `steps` steps of a shape, scaled by pixels times frames from the nearest one that was measured, or else calculated."""
        known = _known(timings)
        row = known.get(shape)
        if row is not None:
            return row.step_seconds * steps + row.rest_seconds
        if not known:
            return None
        sizes = [(row, self._size(row.shape)) for row in known.values()]
        size = self._size(shape)
        nearest, its_size = min(sizes, key=lambda pair: abs(pair[1] - size))
        factor = max(0.2, min(5.0, size / its_size))
        return (nearest.step_seconds * steps + nearest.rest_seconds) * factor

    def _size(self, shape: str) -> float:
        """What a step computes: a longer clip than the trained one has more steps, one window after another."""
        match = _SHAPE.search(shape)
        if match is None:
            return 1.0
        width, height, frames, guided = match.groups()
        window = min(int(frames), self.planner.trained_num_frames or int(frames))
        return float(width) * float(height) * window * (2 if guided == "guided" else 1)

    # Links

    def sign(self, file_id: str, expires: int) -> str:
        """What shows that this server gave out a link to a file."""
        return hmac.new(self._secret, f"{file_id}:{expires}".encode(), hashlib.sha256).hexdigest()

    def link(self, file_id: str, base: str) -> str:
        """An address that needs no key for a day."""
        expires = int(time.time()) + LINK_SECONDS
        return f"{base}/v1/files/{quote(file_id)}/content?expires={expires}&signature={self.sign(file_id, expires)}"

    def link_holds(self, file_id: str, expires: int, signature: str) -> bool:
        return hmac.compare_digest(self.sign(file_id, expires).encode(), signature.encode()) and expires > time.time()


def _clip(file_id: str, result: Mapping[str, Any]) -> StoredPicture:
    """A clip of ours, with what its job says of it."""
    return StoredPicture(file_id, is_clip=True, num_frames=int(result.get("num_frames", 1)), fps=result.get("fps"))


def _known(timings: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured; before that, what was calculated."""
    return {shape: row for shape, row in timings.items() if row.samples} or timings


def _digest(value: Any) -> Any:
    """A data URL as its hash, anything else as it is, also inside lists and objects."""
    if isinstance(value, str) and value.startswith("data:"):
        return "data:sha256:" + hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "�")
    if isinstance(value, bytes):
        return "bytes:sha256:" + hashlib.sha256(value).hexdigest()
    if isinstance(value, Mapping):
        return {_digest(key): _digest(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_digest(item) for item in value]
    return value
