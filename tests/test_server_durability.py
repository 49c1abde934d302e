"""Servers and workers that are killed at any moment, two servers on one PostgreSQL, a Ray node that dies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
import httpx
from fastapi.testclient import TestClient
from server_tools import PROMPT, Hook, RunningServer, free_port, make_model, png
from sqlalchemy import select, update

from videogen.client import Client, ServerError
from videogen.server.app import create_app
from videogen.server.database import Database, callbacks, files, jobs, workers
from videogen.server.jobs import JobStore, NewJob, QueueFull
from videogen.server.settings import Settings

pytestmark = pytest.mark.slow
STILL = "a fox stays in the snow"
NUM_JOBS = int(os.environ.get("VIDEOGEN_TEST_JOBS", "200"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def worker_pids(database: Database) -> list[int]:
    with database.read() as connection:
        rows = list(connection.execute(select(workers).where(workers.c.state != "server")))
    return [row.details["pid"] for row in rows]


def test_no_job_is_lost_while_the_server_is_killed_at_random_moments(model: Path, tmp_path: Path) -> None:
    """Every job that got its 200 ends once, with one file, and its callbacks tell of it, whatever dies when."""
    chance = random.Random(0)
    hook = Hook(free_port())
    allowed = hook.url.split("/")[2]
    server = RunningServer(tmp_path / "data", model, "--rate-limit", "100000", "--allowed-host", allowed)
    accepted: dict[int, str] = {}
    finished = threading.Event()

    def submit() -> None:
        client = Client(server.url, timeout=10)
        for index in range(NUM_JOBS):
            while not finished.is_set():
                try:
                    ours = {"idempotency_key": f"job-{index}", "callback_url": hook.url}
                    accepted[index] = client.submit(STILL, seed=index, steps=2, **ours).id
                    break
                except ServerError as error:
                    assert error.status in (0, 503) or "challenge" in str(error), error
                    time.sleep(0.2)

    server.start()
    thread = threading.Thread(target=submit)
    thread.start()
    kills = 0
    deadline = time.monotonic() + 3600
    while True:
        assert time.monotonic() < deadline
        time.sleep(chance.uniform(0.5, 8.0))
        try:
            metrics = server.http.get("/metrics").text
        except httpx.TransportError:
            metrics = ""
        found = dict(re.findall(r'videogen_jobs\{status="(\w+)"\} (\d+)', metrics))
        if int(found.get("completed", 0)) == NUM_JOBS:
            break
        if kills >= 8:
            continue
        kills += 1
        if kills % 3 == 0:
            database = Database(f"sqlite:///{tmp_path}/data/videogen.db")
            for pid in worker_pids(database):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            database.close()
        else:
            server.kill()
            server.start(ready=kills % 2 == 0)  # so that it dies at work, and while it starts
    finished.set()
    thread.join()
    while len({message["task_id"] for message in list(hook.messages) if message["status"] == "success"}) < NUM_JOBS:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert server.stop() in (0, 130, -2)
    assert kills >= 3 and len(accepted) == NUM_JOBS and len(set(accepted.values())) == NUM_JOBS

    database = Database(f"sqlite:///{tmp_path}/data/videogen.db")
    with database.read() as connection:
        rows = {row.id: row for row in connection.execute(select(jobs))}
        kept = {row.job_id: row for row in connection.execute(select(files))}
    assert set(rows) == set(accepted.values()) == set(kept)
    assert Counter(row.status for row in rows.values()) == {"completed": NUM_JOBS}
    clips = list(
        (tmp_path / "data" / "files").glob("*/[!.]*.mp4")
    )  # hidden: half written when the writer died; swept later
    assert len(clips) == NUM_JOBS
    for path in clips:
        row = kept["video_" + path.stem.removeprefix("file_")]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
    told: dict[str, list[int]] = {}
    contents: dict[str, set[str]] = {}
    for message in hook.messages:
        told.setdefault(message["task_id"], []).append(message["sequence"])
        contents.setdefault(message["event_id"], set()).add(json.dumps(message))
    assert set(told) == set(rows)
    for sequence in told.values():  # in order, each at least once; a repetition has the id and the content of the first
        assert sequence == sorted(sequence) and list(dict.fromkeys(sequence)) == [0, 1]
    assert len(contents) == 2 * NUM_JOBS and all(len(same) == 1 for same in contents.values())
    interrupted = sum(row.interruptions for row in rows.values())
    repeated = len(hook.messages) - len(contents)
    print(f"{NUM_JOBS} jobs, {kills} kills, {interrupted} interruptions, {repeated} callbacks twice")
    assert interrupted >= 1 or NUM_JOBS < 200
    hook.stop()


def test_a_job_that_kills_its_worker_three_times_fails_and_the_next_one_runs(model: Path, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", model).start()
    job = server.submit(steps=1000, num_frames=65)
    database = Database(f"sqlite:///{tmp_path}/data/videogen.db")
    killed: set[int] = set()
    while server.job(job["id"])["status"] in ("queued", "running"):
        if server.job(job["id"])["status"] == "running":
            for pid in worker_pids(database):
                if pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    ended = server.job(job["id"])
    assert len(killed) == 3 and ended["status"] == "failed"
    assert ended["error"]["code"] == "worker_died" and "3 times" in ended["error"]["message"]
    assert server.wait(server.submit(steps=1)["id"], seconds=600)["status"] == "completed"
    server.stop()


def test_a_stopped_server_goes_on_from_the_step_it_was_at(model: Path, tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", model).start()
    job = server.submit(steps=600, seed=1)
    while server.job(job["id"])["step"] < 20:
        time.sleep(0.05)
    server.stop()
    server.start()
    done = server.wait(job["id"], seconds=600)
    assert done["status"] == "completed" and done["resumed_from"] >= 20, done
    again = server.wait(server.submit(steps=600, seed=1)["id"], seconds=600)
    assert again["resumed_from"] == 0 and again["result"]["frames_sha256"] == done["result"]["frames_sha256"]
    server.stop()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own on a free port."""
    found = shutil.which("initdb") or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))), None
    )
    if found is None:
        pytest.skip("PostgreSQL's initdb is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra `postgresql`)")
    root = os.geteuid() == 0
    folder = Path("/tmp") / f"videogen-pg-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    user = None
    if root:  # PostgreSQL refuses to run as root
        try:
            user = "postgres" if pwd.getpwnam("postgres") else None
        except KeyError:
            user = "nobody"
        shutil.chown(folder, user)
    port, tools = free_port(), Path(found).resolve().parent
    options = {"user": user, "cwd": folder} if root else {"cwd": folder}
    run = {"check": True, "stdout": subprocess.DEVNULL, **options}
    subprocess.run([tools / "initdb", "-D", folder / "db", "-U", "videogen", "-A", "trust"], **run)  # type: ignore[call-overload]
    server = subprocess.Popen(
        [tools / "postgres", "-D", folder / "db", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"],
        stderr=subprocess.DEVNULL,
        **options,  # type: ignore[arg-type]
    )
    url = f"postgresql://videogen@127.0.0.1:{port}/postgres"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                Database(url).now()
                break
            except Exception:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.2)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_many_claimers_on_postgresql_never_get_the_same_job(postgresql: str) -> None:
    stores = [JobStore(Database(postgresql)) for _ in range(2)]
    for store in stores:
        store.database.create()
    new = NewJob(tenant="claims", dialect="d", request={"prompt": "x"}, asked={}, num_steps=1, shape="s")
    ids = {stores[0].submit(new, 1000)[0].id for _ in range(60)}
    got: list[str] = []

    def claim(index: int) -> None:
        while (job := stores[index % 2].claim(f"w{index}", 60)) is not None:
            got.append(job.id)

    threads = [threading.Thread(target=claim, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 60 and set(got) == ids
    for job_id in ids:
        owner = stores[0].get(job_id).worker  # type: ignore[union-attr]
        assert stores[0].fail(job_id, owner or "", "test", "done")
    same = NewJob(tenant="claims", dialect="d", request={"prompt": "狐狸"}, asked={}, num_steps=1, shape="s", idempotency_key="k", callback_url="http://x/")  # fmt: skip
    first, again = stores[0].submit(same, 1000), stores[1].submit(same, 1000)
    assert first[1] and not again[1] and first[0].id == again[0].id
    assert stores[1].cancel(first[0].id, "claims").status == "cancelled"  # type: ignore[union-attr]
    assert [job.id for job in stores[1].page("claims", limit=9, text="狐狸")[0]] == [first[0].id]
    with stores[0].database.read() as connection:
        told = list(connection.execute(select(callbacks.c.payload).where(callbacks.c.job_id == first[0].id)).scalars())
    assert [payload["status"] for payload in told] == ["cancelled"]
    for store in stores:
        store.database.close()


def test_the_queue_limit_holds_for_requests_at_one_moment(postgresql: str) -> None:
    stores = [JobStore(Database(postgresql)) for _ in range(2)]
    stores[0].database.create()
    new = NewJob(tenant="crowd", dialect="d", request={"prompt": "x"}, asked={}, num_steps=1, shape="s")
    refused: list[str] = []

    def submit(index: int) -> None:
        try:
            stores[index % 2].submit(new, 10)
        except QueueFull as error:
            refused.append(str(error))

    threads = [threading.Thread(target=submit, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].num_active("crowd") == 10 and len(refused) == 6
    assert set(refused) == {"10 jobs are waiting or running, 10 are allowed."}
    for job in stores[0].page("crowd", limit=100)[0]:
        stores[0].cancel(job.id, "crowd")
    for store in stores:
        store.database.close()


def test_every_route_on_postgresql(postgresql: str, tmp_path: Path) -> None:
    """What SQLite lets pass and PostgreSQL does not: NUL, types, one statement that fails its transaction."""
    app = create_app(Settings(data=tmp_path / "data", database=postgresql, workers=0))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        service = app.state.service
        picture = api.post("/v1/uploads", files={"file": ("a.png", png())}).json()["id"]
        job = api.post("/v1/jobs", json={"prompt": "a fox 狐狸 %_\\'\"", "first_frame": picture, "seed": 2**53}).json()
        assert job["status"] == "queued" and job["request"]["seed"] == 2**53
        for path in ("/v1/jobs", "/v1/jobs?q=%25_%5C'&status=queued", "/v1/videos", "/metrics", "/v1/model"):
            reply = api.get(path)
            assert reply.status_code == 200, (path, reply.text)
            assert "jobs" not in path or [one["id"] for one in reply.json()["data"]] == [job["id"]], path
        for name, value in (
            ("prompt", "a\0b"),
            ("negative_prompt", "\0"),
            ("source", "\0"),
            ("first_frame", "file_\0"),
        ):
            reply = api.post("/v1/jobs", json={"prompt": PROMPT, name: value})
            assert reply.status_code == 422 and reply.json()["error"]["param"] == name, reply.text
        for path in ("/v1/jobs?q=%00", "/v1/jobs?after=%00", "/v1/jobs/%00", "/v1/files/retrieve?file_id=%00"):
            assert api.get(path).status_code in (200, 404, 422), path
        headers = {"idempotency-key": "one"}
        same = [api.post("/v1/videos", json={"prompt": PROMPT}, headers=headers).json()["id"] for _ in range(2)]
        assert same[0] == same[1]
        assert api.post("/v1/videos", json={"prompt": "other"}, headers=headers).status_code == 409
        assert api.post("/v1/estimates", json={"prompt": PROMPT}).json()["queue_length"] == 2
        with service.database.write() as connection:
            connection.execute(update(files).values(created_at=1.0, held_until=1.0))
        assert service.janitor.sweep() == 0  # a waiting job needs it
        assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
        assert service.janitor.sweep() == 1 and service.media.find(picture, "local") is None
        for one in (job["id"], same[0]):
            assert api.delete(f"/v1/jobs/{one}").status_code == 204
        assert api.get("/v1/jobs").json()["data"] == []


def test_two_servers_on_one_postgresql_share_the_work_and_survive_each_other(
    postgresql: str, model: Path, tmp_path: Path
) -> None:
    names = ("one", "two")
    servers = [
        RunningServer(tmp_path / name, model, "--database", postgresql, "--data", str(tmp_path / "shared"))
        for name in names
    ]
    for server in servers:
        server.start()
    ids = [servers[index % 2].submit(seed=index, steps=30)["id"] for index in range(24)]
    servers[0].wait(ids[4])
    servers[0].kill()
    ended = [servers[1].wait(one, seconds=600) for one in ids]
    assert {job["status"] for job in ended} == {"completed"}
    clips = {path.stem for path in (tmp_path / "shared" / "files").glob("*/[!.]*.mp4")}
    assert clips == {job["file_id"] for job in ended}
    both = [re.findall(r"(video_[0-9a-f]{24}) is completed", server.log.read_text()) for server in servers]
    assert both[0] and both[1]
    completed = Counter(both[0] + both[1])
    # A server that is killed after the commit and before its line in the log leaves none.
    assert set(completed) <= set(ids) and len(completed) >= len(ids) - 1 and set(completed.values()) == {1}
    servers[1].stop()


def test_a_ray_node_that_dies_costs_no_job(model: Path, tmp_path: Path) -> None:
    """Two nodes with a worker each; one is removed while both work."""
    pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    from ray_tools import ray_cluster

    from videogen.server.planning import Ask, Planner
    from videogen.server.ray_workers import RayPool

    with ray_cluster(2) as (cluster, nodes):
        settings = Settings(data=tmp_path / "data", model=model, workers=2, threads=1, ray=cluster.address, lease=20)
        database = Database(settings.database_url)
        database.create()
        store = JobStore(database)
        planner = Planner(model, settings.data)
        ids = []
        for seed in range(8):
            planned = planner.plan(Ask(prompt=STILL, steps=200, seed=seed), {})
            content = planned.request.model_dump(mode="json")
            new = NewJob(
                tenant="t", dialect="d", request=content, asked={}, num_steps=planned.num_steps, shape=planned.shape
            )
            ids.append(store.submit(new, 100)[0].id)
        pool = RayPool(settings, store, "server")
        try:
            removed = False
            deadline = time.monotonic() + 2400
            while any(not store.get(one).ended for one in ids):  # type: ignore[union-attr]
                assert time.monotonic() < deadline, (store.counts(), removed)
                pool.watch()
                store.reap(60)
                if not removed and store.counts().get("running", 0) == 2:
                    cluster.remove_node(nodes[0], allow_graceful=False)
                    cluster.add_node(num_cpus=1)
                    removed = True
                time.sleep(0.05)
            found = [store.get(one) for one in ids]
            assert removed and {job.status for job in found if job} == {"completed"}
            assert sum(job.strikes for job in found if job) >= 1
            assert len(list((settings.data / "files").glob("*/[!.]*.mp4"))) == 8
        finally:
            pool.stop()
            database.close()
