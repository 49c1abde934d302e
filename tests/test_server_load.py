"""The load generator: its numbers by hand, and a small run against a real server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
from server_tools import LocalServer, make_model

from videogen.server import load


def test_quantiles_of_known_times() -> None:
    found = load.quantiles([index / 1000 for index in range(1, 102)])
    assert found == {"count": 101, "p50_ms": 51.0, "p95_ms": 96.0, "p99_ms": 100.0, "worst_ms": 101.0}


@pytest.mark.parametrize(
    ("after", "failed", "holds"),
    [(104.0, 0, True), (106.0, 0, False), (104.0, 1, None)],
    ids=["flat", "grows", "failures"],
)
def test_memory_is_judged_after_the_first_jobs(after: float, failed: int, holds: bool | None) -> None:
    samples: list[dict[str, Any]] = [
        {"jobs": jobs, "server_mib": server, "worker_mib": 500.0}
        for jobs, server in ((0, 50.0), (50, 90.0), (100, 100.0), (150, 103.0), (200, after))
    ]
    memory = {"jobs_asked": 200, "jobs_done": 200, "failed": failed, "samples": samples}
    slow = {"clients": 100, "failures": 1, "all": {"p99_ms": 50.1, "count": 99}}
    bars = list(load.judged({"polling": slow, "memory": memory}).values())
    assert [bar["holds"] for bar in bars] == [False, False, holds, None if failed else True]
    assert bars[1]["found"] == "1 of 100 failed" and bars[2]["found"] == f"{after / 100 - 1:+.1%} over 100 jobs"
    assert load.growth(samples[:3], "server_mib") is None
    fine = {"clients": 100, "failures": 0, "all": {"p99_ms": 50.0, "count": 100}}
    assert [bar["holds"] for bar in load.judged({"polling": fine, "memory": None}).values()] == [True, True, None, None]


def test_an_answer_that_is_no_success_is_counted_and_the_client_goes_on() -> None:
    """One server that answers 500, then one that hangs up: neither ends the measurement."""

    async def run() -> load.Times:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            status, body = (b"500 no", b"{}") if path == b"/bad" else (b"200 OK", b'{"fine": true}')
            if path != b"/gone":
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        times, connection = load.Times(), load.Connection(server.sockets[0].getsockname())
        found = [await times.ask(connection, 0.0, "GET", path) for path in ("/bad", "/gone", "/fine")]
        connection.close()
        server.close()
        assert found == [None, None, {"fine": True}]
        return times

    times = asyncio.run(run())
    assert [failure.split(":")[0] for failure in times.failures] == ["RuntimeError", "IncompleteReadError"]
    assert list(times.answers) == ["GET /fine"] and len(times.lateness) == 3


@pytest.mark.slow
def test_a_small_run_writes_a_dated_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalServer(tmp_path / "data", make_model(tmp_path / "tiny"), rate_limit=100_000) as server:
        arguments = ["--url", server.url, "--clients", "6", "--seconds", "3", "--interval", "0.5", "--jobs", "60"]
        arguments += ["--batching", "3"]
        code = load.main([*arguments, "--output", str(tmp_path / "reports")])
    (path,) = (tmp_path / "reports").glob("server-????-??-??.json")
    report = json.loads(path.read_text())
    text = path.with_suffix(".md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert report["command"].startswith("python -m videogen.server.load --url http://127.0.0.1")
    assert set(report["versions"]) >= {"python", "fastapi", "uvicorn", "sqlalchemy", "sqlite"}
    polling, memory = report["polling"], report["memory"]
    assert polling["all"]["count"] == sum(route["count"] for route in polling["routes"].values()) >= 30
    assert set(polling["routes"]) == {
        "GET /v1/jobs/ID", "GET /v1/videos/ID", "GET /v1/query/video_generation", "GET /v1/jobs", "POST /v1/jobs", "POST /v1/jobs/ID/cancel",
    }  # fmt: skip
    assert polling["failures"] == 0 and report["batching"]["clips"] == 3 and report["batching"]["seconds_allowed"] > 0
    assert polling["steps_per_second_alone"] > 0 and polling["steps_per_second_with_clients"] > 0
    assert (memory["completed"], memory["failed"], memory["jobs_done"]) == (60, 0, 60)
    assert [sample["jobs"] for sample in memory["samples"]] == [0, 50, 60] and memory["samples"][-1]["server_mib"] > 20
    assert code == int(any(bar["holds"] is False for bar in report["bars"].values()))
    assert "| 60 |" in text and report["commit"][:12] in text
