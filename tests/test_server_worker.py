"""What a worker does when things around it fail: the disk, the database, the host of a callback, its neighbours in a batch."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
from server_tools import PROMPT, Hook, LocalServer, free_port, make_model
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from videogen.server import callbacks, database, generation, jobs, worker
from videogen.server.database import callbacks as outbox
from videogen.server.settings import Settings

STILL = "a fox stays in the snow"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    yield make_model(tmp_path_factory.mktemp("model") / "tiny")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hosts() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def server(model: Path, hosts: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    allowed = tuple(f"127.0.0.1:{port}" for port in hosts)
    folder = tmp_path_factory.mktemp("server")
    with LocalServer(folder / "data", model, rate_limit=100_000, allowed_hosts=allowed) as running:
        yield running


def test_a_full_disk_delays_a_job_and_says_so(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = generation.write_clip, []

    def full(*args: Any) -> dict[str, Any]:
        if not failures:
            failures.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args)

    monkeypatch.setattr(generation, "write_clip", full)
    monkeypatch.setattr(worker, "RETRY_SECONDS", 1.0)
    job = server.submit(prompt=STILL)
    notes = set()
    while server.job(job["id"])["status"] != "completed":
        notes.add(server.job(job["id"])["note"])
        time.sleep(0.02)
    assert failures and "the disk is full" in notes
    assert server.http.get(f"/v1/jobs/{job['id']}/content").status_code == 200


def test_an_error_of_files_that_stays_fails_the_job_with_that_reason(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def forbidden(*args: Any) -> dict[str, Any]:
        tries.append(1)
        raise PermissionError(errno.EACCES, "Permission denied", "/secret")

    monkeypatch.setattr(generation, "write_clip", forbidden)
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "MAX_INTERRUPTIONS", 3)
    job = server.wait(server.submit(prompt=STILL)["id"])
    assert job["status"] == "failed" and job["error"]["code"] == "interrupted" and len(tries) == 3
    assert "3 times" in job["error"]["message"] and "Permission denied" in job["error"]["message"]
    assert "/secret" not in job["error"]["message"]


def test_a_claim_whose_answer_was_lost_is_found_again(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says that the worker has the job, the worker never learned of it, and its heartbeat renews the lease for ever."""
    store = server.workers[0].store
    claim, lost = store.claim, []

    def unlucky(name: str, lease: float) -> Any:
        job = claim(name, lease)
        if job is not None and not lost:
            lost.append(job.id)
            raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        return job

    monkeypatch.setattr(store, "claim", unlucky)
    job = server.wait(server.submit(prompt=STILL)["id"])
    assert lost == [job["id"]] and job["status"] == "completed"
    assert server.service.store.get(job["id"]).strikes == 0  # type: ignore[union-attr]


def test_a_bad_or_cancelled_clip_costs_its_batch_nothing(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = server.workers[0].generator.pipes["text"].vae
    decode, write, wrote = vae.decode, generation.write_clip, []

    def frozen(latents: torch.Tensor) -> Any:
        output = decode(latents)
        output.sample = output.sample[:, :, :1].expand_as(output.sample).contiguous()
        return output

    def writing(clip: Any, request: Any, *args: Any) -> dict[str, Any]:
        if not wrote:  # while the first of them is written, somebody cancels the third
            assert server.http.post(f"/v1/jobs/{jobs[2]['id']}/cancel").json()["status"] == "running"
        wrote.append(request.seed)
        return write(clip, request, *args)

    server.wait(server.submit(steps=2, prompt=STILL)["id"])  # what one takes alone is known
    blocker = server.submit(steps=200, priority=50, prompt=STILL)
    jobs = [
        server.submit(steps=2, seed=seed, batching=True, prompt=PROMPT if seed == 1 else STILL) for seed in range(4)
    ]
    server.wait(blocker["id"], "running")
    monkeypatch.setattr(generation, "write_clip", writing)
    server.http.post(f"/v1/jobs/{blocker['id']}/cancel")
    vae.decode = frozen
    try:
        ended = [server.wait(job["id"]) for job in jobs]
    finally:
        vae.decode = decode
    assert [job["status"] for job in ended] == ["completed", "failed", "cancelled", "completed"]
    assert ended[1]["error"]["code"] == "frozen_clip" and wrote == [0, 3]
    receipt = server.http.get(f"/v1/jobs/{jobs[3]['id']}/content", params={"variant": "receipt"}).json()
    assert receipt["request"]["batch_size"] == 4


def test_a_batch_that_does_not_fit_is_made_one_by_one(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = server.workers[0]
    tries: list[int] = []

    def too_much(requests: Any, on_step: Any) -> Any:
        tries.append(len(requests))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(made.generator, "run_batch", too_much)
    server.wait(server.submit(steps=3, prompt=STILL)["id"])  # what one takes alone is known
    for _ in range(2):
        blocker = server.submit(steps=200, priority=50, prompt=STILL)
        batch = [server.submit(steps=3, seed=seed, batching=True, prompt=STILL) for seed in range(3)]
        server.wait(blocker["id"], "running")
        server.http.post(f"/v1/jobs/{blocker['id']}/cancel")
        ended = [server.wait(job["id"]) for job in batch]
        assert [job["status"] for job in ended] == ["completed"] * 3
    assert tries == [3]  # and not tried again


def test_jobs_are_taken_together_where_that_was_faster(tmp_path: Path) -> None:
    made = worker.Worker("w", "s", Settings(data=tmp_path))
    found = [made._together("s")]  # one alone first
    for num_clips, seconds in ((1, 2.0), (4, 12.0), (4, 6.0)):
        made._keep_pace("s", num_clips, seconds)
        found.append(made._together("s"))
    assert found == [False, True, False, True] and not made._together("another shape")


def test_there_is_an_estimate_before_anything_was_made(model: Path, tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", model) as server:

        def estimate(**body: Any) -> dict[str, Any]:
            return server.http.post("/v1/estimates", json={"prompt": STILL, **body}).json()

        found = estimate()
        assert found["basis"] == "calculated" and 0 < found["seconds"] < 60 and found["memory_bytes"] > 10**7
        assert estimate(steps=200)["seconds"] > found["seconds"]
        assert "videogen_step_seconds{" not in server.http.get("/metrics").text
        server.wait(server.submit(prompt=STILL)["id"])
        deadline = time.monotonic() + 30
        while estimate()["basis"] != "measured":
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_callback_hosts_that_are_dead_or_slow(
    server: LocalServer, hosts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "DELIVERY_SECONDS", 0.5)
    slow, dead = Hook(hosts[0], delay=30.0), Hook(hosts[1])
    first = server.submit(prompt=STILL, callback_url=slow.url)
    second = server.submit(prompt=STILL, callback_url=dead.url)
    dead.stop()
    for job in (first, second):  # the jobs do not wait for anybody
        assert server.wait(job["id"])["status"] == "completed"

    def waiting(job: dict[str, Any]) -> list[Any]:
        with server.service.database.read() as connection:
            rows = connection.execute(select(outbox).where(outbox.c.job_id == job["id"]).order_by(outbox.c.sequence))
            return [row for row in rows if row.state == "waiting"]

    deadline = time.monotonic() + 60
    # The first message may have met the host while it went down (a reset); the next ones find nobody there.
    while not all(
        rows and why in (rows[0].last_error or "").lower()
        for rows, why in ((waiting(first), "no answer in time"), (waiting(second), "refused"))
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = Hook(hosts[1])
    while waiting(second):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [message["status"] for message in again.messages] == ["processing", "success"]
    assert [message["sequence"] for message in again.messages] == [0, 1]
    assert len({message["event_id"] for message in again.messages}) == 2
    again.stop()
    slow.stop()


def test_a_locked_database_delays_everything_and_loses_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.2)
    with LocalServer(tmp_path / "data", model) as server:
        job = server.submit(prompt=STILL, steps=60)
        server.wait(job["id"], "running")
        other = sqlite3.connect(tmp_path / "data" / "videogen.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = server.http.post("/v1/jobs", json={"prompt": STILL})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "database"
        assert refused.headers["retry-after"] == "2"
        assert server.job(job["id"])["status"] == "running"  # looking needs no lock
        deadline = time.monotonic() + 60
        while "did not answer" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        other.execute("ROLLBACK")
        other.close()
        done = server.wait(job["id"])
        assert done["status"] == "completed" and server.service.store.get(job["id"]).strikes == 0  # type: ignore[union-attr]
        assert server.submit(prompt=STILL)["status"] == "queued"


def test_a_port_where_nobody_listens_is_refused_as_callback(server: LocalServer, hosts: tuple[int, int]) -> None:
    reply = server.http.post("/v1/jobs", json={"prompt": STILL, "callback_url": f"http://127.0.0.1:{hosts[1]}/"})
    assert reply.status_code == 422 and reply.json()["error"]["param"] == "callback_url"
