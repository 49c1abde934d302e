"""The states of jobs, leases, idempotency, the outbox: on the database alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the `server` extra is not installed")
from sqlalchemy import select, update

from videogen.server.callbacks import STATES, Messenger
from videogen.server.database import Database, callbacks, epoch, facts, jobs
from videogen.server.jobs import IdempotencyConflict, JobStore, NewJob, QueueFull

FILE = {"id": "file_" + "0" * 24, "name": "a.mp4", "bytes": 1, "sha256": "0" * 64, "width": 8, "height": 8}


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    database.create()
    return JobStore(database)


def new(prompt: str = "a fox", **changes: object) -> NewJob:
    values = {
        "tenant": "t",
        "dialect": "videogen",
        "asked": {"prompt": prompt},
        "num_steps": 2,
        "shape": "s",
        **changes,
    }
    return NewJob(request={"prompt": prompt}, **values)  # type: ignore[arg-type]


def submit(store: JobStore, prompt: str = "a fox", **changes: object):
    return store.submit(new(prompt, **changes), 100)[0]


def complete(store: JobStore, job_id: str, worker: str) -> bool:
    return store.complete(job_id, worker, file=FILE, result={}, adjusted=[], warnings=[], keep_days=1.0)


def test_a_job_goes_from_queued_to_completed_and_is_then_closed(store: JobStore) -> None:
    job = submit(store)
    assert (job.status, job.progress, job.ended) == ("queued", 0, False)
    taken = store.claim("w1", 10)
    assert taken is not None and taken.id == job.id and taken.started_at is not None
    assert store.claim("w2", 10) is None
    assert store.progress(job.id, "w1", step=1, stage="denoising") == "go on"
    assert store.get(job.id).progress == 50  # type: ignore[union-attr]
    assert complete(store, job.id, "w1")
    done = store.get(job.id)
    assert done is not None and done.progress == 100 and done.file_id == FILE["id"] and done.worker is None
    assert done.expires_at is not None and done.finished_at is not None
    assert abs(done.expires_at - done.finished_at - 86400) < 1
    for late in (store.fail(job.id, "w1", "x", "x"), store.mark_cancelled(job.id, "w1"), complete(store, job.id, "w1")):
        assert late is False
    assert store.progress(job.id, "w1", step=2, stage="denoising") == "lost"
    cancelled = store.cancel(job.id, "t")
    assert cancelled is not None and cancelled.status == "completed"


def test_priority_first_then_age(store: JobStore) -> None:
    ids = [submit(store, priority=priority).id for priority in (0, 5, 5, -1)]
    order = [store.claim("w", 10).id for _ in ids]  # type: ignore[union-attr]
    assert order == [ids[1], ids[2], ids[0], ids[3]]


def test_many_claimers_never_get_the_same_job(store: JobStore) -> None:
    ids = {submit(store).id for _ in range(40)}
    got: list[str] = []

    def claim(name: str) -> None:
        while (job := store.claim(name, 10)) is not None:
            got.append(job.id)

    threads = [threading.Thread(target=claim, args=(f"w{index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 40 and set(got) == ids


def test_idempotency(store: JobStore) -> None:
    first, was_new = store.submit(new(idempotency_key="k"), 100)
    again, is_new = store.submit(new(idempotency_key="k"), 100)
    assert was_new and not is_new and first.id == again.id
    with pytest.raises(IdempotencyConflict, match="asked for something else"):
        store.submit(new("a pig", idempotency_key="k"), 100)
    other, is_new = store.submit(new(idempotency_key="k", tenant="u"), 100)
    assert is_new and other.id != first.id


def test_queue_limit_is_of_the_tenant(store: JobStore) -> None:
    for _ in range(3):
        submit(store)
    with pytest.raises(QueueFull, match="3 are allowed"):
        store.submit(new(), 3)
    store.submit(new(tenant="u"), 3)


def test_cancel_waiting_and_running(store: JobStore) -> None:
    waiting, running = submit(store, priority=-1), submit(store)
    assert store.claim("w", 10).id == running.id  # type: ignore[union-attr]
    assert store.cancel(waiting.id, "t").status == "cancelled"  # type: ignore[union-attr]
    assert store.cancel(running.id, "somebody else") is None
    assert store.cancel(running.id, "t").status == "running"  # type: ignore[union-attr]
    assert store.signal(running.id, "w") == "cancel"
    assert store.mark_cancelled(running.id, "w")
    assert store.get(running.id).status == "cancelled"  # type: ignore[union-attr]


def test_a_job_that_ends_its_worker_three_times_fails_with_that_reason(store: JobStore) -> None:
    job = submit(store, callback_url="http://example.org/")
    for strike in range(1, 4):
        assert store.claim(f"w{strike}", 10) is not None
        assert store.release_worker(f"w{strike}", "its worker ended with signal 9", strike=True) == 1
        found = store.get(job.id)
        assert found is not None and found.strikes == strike
    assert found.status == "failed" and found.error_code == "worker_died"
    assert found.error_message is not None and "3 times" in found.error_message and "signal 9" in found.error_message


def test_restarts_of_the_server_are_no_strikes(store: JobStore) -> None:
    job = submit(store)
    for _ in range(6):
        assert store.claim("w", 10) is not None
        assert store.recover() == 1
    found = store.get(job.id)
    assert found is not None and found.status == "queued" and found.strikes == 0


def test_a_lease_that_ran_out_is_taken_over_and_the_late_worker_can_change_nothing(store: JobStore) -> None:
    job = submit(store)
    assert store.claim("slow", 0.05) is not None
    store.worker_seen("server", "server", "server", {})
    store.worker_seen("slow", "server", "running", {})
    with store.database.write() as connection:
        connection.execute(update(jobs).values(lease_until=epoch() - 1))
    assert store.reap(60) == 1
    found = store.get(job.id)
    assert found is not None and found.strikes == 1  # its server lives on: the worker alone hung
    assert store.claim("quick", 10) is not None
    assert not complete(store, job.id, "slow") and store.signal(job.id, "slow") == "lost"
    assert complete(store, job.id, "quick")


def test_the_lease_of_a_server_that_is_gone_costs_no_strike(store: JobStore) -> None:
    job = submit(store)
    assert store.claim("w", 0.01) is not None
    with store.database.write() as connection:
        connection.execute(update(jobs).values(lease_until=epoch() - 1))
    assert store.reap(60) == 1
    assert store.get(job.id).strikes == 0  # type: ignore[union-attr]


def test_release_with_delay_waits(store: JobStore) -> None:
    job = submit(store)
    assert store.claim("w", 10) is not None
    assert store.release(job.id, "w", "the disk is full", delay=60, counts=False)
    assert store.claim("w", 10) is None
    found = store.get(job.id)
    assert found is not None and (found.status, found.note, found.interruptions) == ("queued", "the disk is full", 0)


def test_batches_are_of_one_shape_and_only_of_those_that_allow_it(store: JobStore) -> None:
    first = submit(store, batchable=True)
    alike = submit(store, batchable=True)
    submit(store, batchable=True, shape="other")
    submit(store, batchable=False)
    job = store.claim("w", 10)
    assert job is not None and job.id == first.id
    assert [one.id for one in store.claim_like(job, "w", 10, 3)] == [alike.id]


def test_every_change_is_in_the_outbox_once_in_order(store: JobStore) -> None:
    job = submit(store, callback_url="http://example.org/")
    store.claim("w", 10)
    complete(store, job.id, "w")
    with store.database.read() as connection:
        rows = list(connection.execute(select(callbacks).order_by(callbacks.c.sequence)))
    assert [(row.sequence, row.payload["status"]) for row in rows] == [(0, "processing"), (1, "success")]
    assert len({row.id for row in rows}) == 2 and all(row.payload["event_id"] == row.id for row in rows)
    assert rows[1].payload["file_id"] == FILE["id"] and rows[1].payload["task_id"] == job.id
    assert set(STATES.values()) == {"queueing", "processing", "success", "failed", "cancelled"}


def test_a_host_that_does_not_answer_holds_up_no_other(store: JobStore) -> None:
    urls = [
        "http://slow.example/a",
        "http://slow.example/b",
        "HTTP://Slow.example?c",
        "http://slow.example.org/",
        "http://slow.example:81",
    ]
    for url in urls:
        store.cancel(submit(store, callback_url=url).id, "t")
    with store.database.write() as connection:
        for index, url in enumerate(urls):
            connection.execute(update(callbacks).where(callbacks.c.url == url).values(next_attempt_at=float(index)))
    one, other = Messenger(store.database), Messenger(store.database)
    first = one._take()
    taken = [other._take(), one._take(), other._take()]
    assert first.url == urls[0] and {message and message.url for message in taken} == {urls[3], urls[4], None}
    with store.database.write() as connection:  # its turn is over
        connection.execute(update(callbacks).where(callbacks.c.id == first.id).values(state="delivered"))
    assert one._take().url == urls[1] and other._take() is None


def test_pages_and_filters(store: JobStore) -> None:
    ids = [submit(store, f"prompt {index} 100%").id for index in range(5)]
    submit(store, "of another", tenant="u")
    page, more = store.page("t", limit=2)
    assert [job.id for job in page] == ids[:-3:-1] and more
    page, more = store.page("t", limit=10, after=page[-1].id)
    assert [job.id for job in page] == ids[2::-1] and not more
    assert [job.id for job in store.page("t", limit=9, text="PROMPT 3 100%")[0]] == [ids[3]]
    assert store.page("t", limit=9, text="1_0")[0] == []  # no wildcards
    store.cancel(ids[1], "t")
    assert [job.id for job in store.page("t", limit=9, statuses=["cancelled"])[0]] == [ids[1]]
    with pytest.raises(ValueError, match="`after` must be the id of one of your jobs"):
        store.page("t", limit=2, after="video_x")


def test_a_page_goes_on_after_a_job_that_was_deleted(store: JobStore) -> None:
    ids = [submit(store).id for _ in range(5)]
    for name in (ids[1], ids[3]):
        store.cancel(name, "t")
        assert store.delete(name, "t")
    assert [job.id for job in store.page("t", limit=1, after=ids[3])[0]] == [ids[2]]
    assert [job.id for job in store.page("t", limit=9, after=ids[1])[0]] == [ids[0]]
    assert [job.id for job in store.page("t", limit=9, after=ids[1], descending=False)[0]] == [ids[2], ids[4]]
    with pytest.raises(ValueError, match="`after` must be"):
        store.page("t", limit=2, after="file_" + ids[1].removeprefix("video_"))


def test_delete_only_what_has_ended_and_is_yours(store: JobStore) -> None:
    job = submit(store)
    assert not store.delete(job.id, "t")
    store.cancel(job.id, "t")
    assert not store.delete(job.id, "u")
    assert store.delete(job.id, "t") and store.get(job.id) is None


def test_a_database_of_another_version_is_refused(store: JobStore) -> None:
    with store.database.write() as connection:
        connection.execute(update(facts).where(facts.c.name == "schema").values(value="0"))
    with pytest.raises(ValueError, match="tables of version 1, got 0"):
        store.database.create()
    with pytest.raises(ValueError, match="must start with sqlite:/// or postgresql://, got mysql"):
        Database("mysql://x")


def test_timings_are_a_running_mean(store: JobStore) -> None:
    for seconds in (1.0, 3.0):
        store.record_timing("s", seconds, 0.5, 100)
    row = store.read_timings()["s"]
    assert row.samples == 2 and row.step_seconds == pytest.approx(2.0) and row.peak_bytes == 100


def test_what_was_supposed_gives_way_to_what_is_measured(store: JobStore) -> None:
    for seconds in (9.0, 8.0):  # of two workers that begin at once, the first is believed
        store.suppose_timing("s", seconds, 2.0, 1000)
    row = store.read_timings()["s"]
    assert (row.samples, row.step_seconds, row.peak_bytes) == (0, 9.0, 1000)
    store.record_timing("s", 1.0, 0.5, 100)
    store.suppose_timing("s", 9.0, 2.0, 1000)
    row = store.read_timings()["s"]
    assert (row.samples, row.step_seconds, row.rest_seconds, row.peak_bytes) == (1, 1.0, 0.5, 100)
