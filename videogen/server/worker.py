"""A worker: a process of its own that holds the model, takes jobs from the database and carries them out.

It is started by `supervisor` with its settings as the first line on standard input; further lines are "wake" and "stop". When the other end
closes, the server is gone: the worker gives its job back after the step at work and ends.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from videogen.server.database import UNAVAILABLE, Database
from videogen.server.jobs import Job, JobStore
from videogen.server.memory import device_peak_bytes, peak_bytes, resident_bytes
from videogen.server.names import DIALECTS, PIPELINES, renamed
from videogen.server.planning import JobRequest
from videogen.server.settings import Settings
from videogen.server.storage import Storage

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
PROGRESS_SECONDS = 0.2
RETRY_SECONDS = 10.0
"""How long a job waits after something passing (disk full, database locked) before it is tried again."""


class _Stopped(Exception):
    """The worker is to end; its job goes back."""


class _Cancelled(Exception):
    """Somebody cancelled the job."""


class _Lost(Exception):
    """The job belongs to somebody else by now."""


class Worker:
    """Takes jobs one after the other (or a few of equal shape together) until it is stopped.

    Args:
        name: unique id, the owner of leases.
        server: id of the server it belongs to.
        settings: of the server.
    """

    def __init__(self, name: str, server: str, settings: Settings):
        self.name, self.server, self.settings = name, server, settings
        self.database = Database(settings.database_url)
        self.store = JobStore(self.database, settings.max_strikes)
        self.storage = Storage(settings.data)
        self.stopping = threading.Event()
        self.woken = threading.Event()
        self._ended = threading.Event()
        self._unsure = False  # whether a job may be ours that nobody works on: the database fell silent in between
        self._pace: dict[
            tuple[str, bool], float
        ] = {}  # shape, whether together with others -> least seconds for a clip
        self.state = "loading"
        self.details: dict[str, Any] = {"pid": os.getpid()}

    def run(self) -> None:
        """Load the model, then work until `stopping` is set."""
        import torch

        from videogen.cli.run import model_folder
        from videogen.data.allocator import keep_freed_memory
        from videogen.server.generation import Generator

        keep_freed_memory()
        torch.set_num_threads(self.settings.threads or default_threads(self.settings.workers))
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        self.generator = Generator(model_folder(self.settings.model))
        self.details |= {"device": self.generator.device, "threads": torch.get_num_threads()}
        self._suppose()
        self.state = "idle"
        self._seen()
        log.info("%s is ready on %s", self.name, self.generator.device)
        while not self.stopping.is_set():
            try:
                self._next()
            except UNAVAILABLE as error:
                log.error("the database does not answer, trying again: %s", _first_line(error))
                self._unsure = True
                self.stopping.wait(1.0)
        self._ended.set()
        beat.join(5.0)
        try:
            self.store.worker_gone(self.name)
        except UNAVAILABLE as error:
            log.error("%s ends, but the database does not answer: %s", self.name, _first_line(error))
        self.database.close()

    def _suppose(self) -> None:
        """Put down what the model's usual clip should take on this machine, so that there is an estimate before anything was measured."""
        from videogen.server.generation import calculated_timing

        try:
            if not self.store.read_timings():
                self.store.suppose_timing(*calculated_timing(self.generator))
        except Exception:  # an estimate is worth no worker
            log.exception("what a clip takes could not be calculated")

    def _next(self) -> None:
        """Take a job, if there is one, and carry it out; otherwise wait a moment.

        Raises:
            SQLAlchemyError: one of `UNAVAILABLE`, after which a job may be ours of which we do not know.
        """
        if self._unsure:
            self.store.release_worker(self.name, "the database did not answer its worker", strike=False)
            self._unsure = False
        job = self.store.claim(self.name, self.settings.lease)
        if job is None:
            self.woken.wait(POLL_SECONDS)
            self.woken.clear()
            return
        self.state = "running"
        try:
            self._work(job)
        finally:
            self.state = "idle"

    def _work(self, job: Job) -> None:
        jobs = [job]
        if job.batchable and job.step == 0 and self.settings.max_batch > 1 and self._together(job.shape):
            jobs += self.store.claim_like(job, self.name, self.settings.lease, self.settings.max_batch - 1)
        self._guarded(jobs, lambda: self._single(job) if len(jobs) == 1 else self._batch(jobs))

    def _together(self, shape: str) -> bool:
        """Whether jobs of a shape are to be taken together: first one is made alone, then some together, from then on what was faster."""
        alone, together = self._pace.get((shape, False)), self._pace.get((shape, True))
        return alone is not None and (together is None or together < alone)

    def _keep_pace(self, shape: str, num_clips: int, seconds: float) -> None:
        """Remember what clips of a shape took, alone or together."""
        kind = shape, num_clips > 1
        self._pace[kind] = min(seconds / num_clips, self._pace.get(kind, float("inf")))

    def _guarded(self, jobs: Sequence[Job], work: Callable[[], None]) -> None:
        """Do some work on jobs. Whatever it raises, each of them ends or goes back to the queue."""
        try:
            work()
        except _Stopped:
            for job in jobs:
                self.store.release(job.id, self.name, "its worker was stopped")
        except _Cancelled:
            for job in jobs:
                self.store.mark_cancelled(job.id, self.name)
                self.storage.remove_work(job.id)
        except _Lost:
            log.warning("%s was taken over; what was made is thrown away", ", ".join(job.id for job in jobs))
        except (OSError, MemoryError, *UNAVAILABLE) as error:
            for job in jobs:
                self._passing(job, error)
        except Exception:
            for job in jobs:
                log.exception("%s failed", job.id)
                self._end(job, "internal", "an internal error; the log of the server says more.")

    def _single(self, job: Job) -> None:
        from videogen.server.generation import (
            CHECKPOINT_SECONDS,
            Step,
            load_checkpoint,
            save_checkpoint,
            write_preview,
        )
        from videogen.server.quality import BadClip

        request = JobRequest.model_validate(job.request)
        key = f"{job.id} {self.generator.model_hash}"
        path = self.storage.checkpoint(job.id)
        resume = load_checkpoint(path, key)
        if resume is not None:
            done = resume.window * request.steps + resume.step
            log.info("%s goes on from step %d", job.id, done)
            self.store.progress(job.id, self.name, step=done, stage="denoising", resumed_from=done)
        told = saved = time.monotonic()
        times: list[float] = []

        def on_step(step: Step) -> None:
            nonlocal told, saved
            now = time.monotonic()
            times.append(now)
            if step.preview is not None:
                write_preview(self.storage.preview(job.id), step.preview)
            last = step.done == step.total
            due = step.preview is not None or last or now - told > PROGRESS_SECONDS
            if due:
                told = now
                signal_ = self.store.progress(
                    job.id,
                    self.name,
                    step=step.done,
                    stage="decoding" if last else "denoising",
                    preview_step=None if step.preview is None else step.done,
                )
            else:
                signal_ = self.store.signal(job.id, self.name)
            if signal_ == "cancel":
                raise _Cancelled
            if signal_ == "lost":
                raise _Lost
            stop = self.stopping.is_set()
            if step.checkpoint is not None and (stop or now - saved > CHECKPOINT_SECONDS):
                save_checkpoint(path, step.checkpoint, key)
                saved = now
            if stop:
                raise _Stopped

        started = time.monotonic()
        try:
            clip = self.generator.run(request, self.storage, on_step, resume)
            if resume is None:
                self._keep_pace(job.shape, 1, time.monotonic() - started)
            self._finish(job, request, clip)
        except FloatingPointError as error:
            self._end(job, "not_finite", f"the model gave numbers that are not finite ({error})")
            return
        except BadClip as error:
            self._end(job, error.code, str(error))
            return
        except (ValueError, TypeError, FileNotFoundError) as error:
            self._end(job, "invalid_request", _in_words_of(job, str(error)))
            return
        if resume is None and len(times) > 1:
            step_seconds = (times[-1] - times[0]) / (len(times) - 1)
            rest = max(0.0, time.monotonic() - started - step_seconds * len(times))
            self.store.record_timing(job.shape, step_seconds, rest, device_peak_bytes(self.generator.device))

    def _batch(self, jobs: Sequence[Job]) -> None:
        import torch

        from videogen.server.generation import Step
        from videogen.server.quality import BadClip

        requests = [JobRequest.model_validate(job.request) for job in jobs]
        alive = {job.id for job in jobs}
        told = 0.0

        def on_step(step: Step) -> None:
            nonlocal told
            if self.stopping.is_set():
                raise _Stopped
            due = time.monotonic() - told > PROGRESS_SECONDS or step.done == step.total
            told = time.monotonic() if due else told
            stage = "decoding" if step.done == step.total else "denoising"
            for job_id in sorted(alive):
                if due:
                    signal_ = self.store.progress(job_id, self.name, step=step.done, stage=stage)
                else:
                    signal_ = self.store.signal(job_id, self.name)
                if signal_ == "cancel":
                    self.store.mark_cancelled(job_id, self.name)
                if signal_ != "go on":
                    alive.discard(job_id)
            if not alive:
                raise _Lost

        started = time.monotonic()
        try:
            clips = self.generator.run_batch(requests, on_step)
            self._keep_pace(jobs[0].shape, len(jobs), time.monotonic() - started)
        except FloatingPointError:  # one of them: each is tried alone
            clips = []
        except torch.OutOfMemoryError as error:  # alone each may fit; such a batch is not tried again
            log.warning("%d clips of %s do not fit together: %s", len(jobs), jobs[0].shape, _first_line(error))
            self._pace[jobs[0].shape, True] = math.inf
            clips = []

        def end(index: int) -> None:
            if not clips:
                self._single(jobs[index])
                return
            clip = clips[index]
            if isinstance(clip, BadClip):
                self._end(jobs[index], clip.code, str(clip))
            elif isinstance(clip, Exception):
                raise clip
            else:
                self._finish(jobs[index], requests[index], clip)

        for index, job in enumerate(jobs):  # what becomes of one is nothing to the others
            if job.id in alive:
                self._guarded([job], functools.partial(end, index))

    def _finish(self, job: Job, request: JobRequest, clip: Any) -> None:
        from videogen.server.generation import write_clip

        adjusted = list(dict.fromkeys([*job.adjusted, *(_in_words_of(job, sentence) for sentence in clip.adjusted)]))
        warnings = list(dict.fromkeys([*job.warnings, *clip.warnings]))
        file_id = self.storage.clip_id(job.id)
        if self.store.signal(job.id, self.name) == "cancel":
            raise _Cancelled
        made = write_clip(clip, request, file_id, self.storage, adjusted, warnings)
        if not self.store.complete(job.id, self.name, **made, keep_days=self.settings.keep_days):
            raise _Lost
        log.info("%s is completed", job.id)
        self.storage.remove_work(job.id)

    def _end(self, job: Job, code: str, message: str) -> None:
        log.warning("%s failed: %s", job.id, message)
        self.store.fail(job.id, self.name, code, message)
        self.storage.remove_work(job.id)

    def _passing(self, job: Job, error: BaseException) -> None:
        """Something that may pass: the job waits and is tried again, as often as it takes where the disk is full or the database away."""
        counts = False
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            note = "the disk is full"
        elif isinstance(error, UNAVAILABLE):
            note = "the database did not answer"
        else:
            told = getattr(error, "strerror", None) or error  # without the path: users read it
            note, counts = f"{type(error).__name__}: {told}", True
        log.error("%s waits %g s: %s (%s)", job.id, RETRY_SECONDS, note, error)
        while not self.stopping.is_set():
            try:
                if isinstance(error, MemoryError):
                    self.store.release_worker(self.name, "out of memory", strike=True)
                else:
                    self.store.release(job.id, self.name, note, delay=RETRY_SECONDS, counts=counts)
                return
            except UNAVAILABLE as again:
                log.error("%s: the database does not answer: %s", job.id, _first_line(again))
                self.stopping.wait(1.0)

    def _seen(self) -> None:
        details = {**self.details, "peak_bytes": peak_bytes(), "resident_bytes": resident_bytes()}
        self.store.worker_seen(self.name, self.server, self.state, details)

    def _beat(self) -> None:
        # Until the very end: a worker that is told to stop still owns the job whose step it finishes.
        while not self._ended.wait(self.settings.lease / 3 if self.state != "loading" else 1.0):
            try:
                self._seen()
                self.store.renew(self.name, self.settings.lease)
            except UNAVAILABLE as error:
                log.error("the heartbeat of %s failed: %s", self.name, _first_line(error))
            except Exception:
                log.exception("the heartbeat of %s goes on after an error", self.name)


def _in_words_of(job: Job, sentence: str) -> str:
    """A sentence of a pipeline with the arguments called as in the dialect of a job."""
    return renamed(renamed(sentence, PIPELINES), DIALECTS.get(job.dialect, {}))


def default_threads(num_workers: int) -> int:
    """Torch threads of a worker: its share of the cores, one core left for the answers, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, min(8, (cores - 1) // max(1, num_workers)))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _listen(worker: Worker) -> None:
    """Follow standard input; its end is the end of the server."""
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        worker.woken.set()
    worker.stopping.set()
    worker.woken.set()
    time.sleep(60)  # a step that takes longer than this is not worth waiting for
    os._exit(3)


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    first = json.loads(sys.stdin.readline())
    settings = Settings.model_validate(first["settings"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings.nice:
        os.nice(settings.nice)
    worker = Worker(first["name"], first["server"], settings)

    def terminate(signum: int, frame: Any) -> None:
        worker.stopping.set()
        worker.woken.set()

    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_listen, args=(worker,), name="listen", daemon=True).start()
    worker.run()


if __name__ == "__main__":
    main()
