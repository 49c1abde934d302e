"""A load generator on loopback: many clients poll while a clip is being made; then many jobs, and what memory does meanwhile.

    python -m videogen.server.load --output samples/benchmarks          # starts `videogen serve` with the shipped model, then measures it
    python -m videogen.server.load --url http://127.0.0.1:8000          # measures a server that runs, started with a high --rate-limit

Server, worker and clients share the same `--cores` processor cores (2). Each of `--clients` looks once every `--interval` seconds at the job
that is being made, at moments of its own and in one of the three dialects; one more client starts and cancels a job each second, and lists.
A time counts from the moment at which the client *meant* to ask: neither a slow server nor a busy machine can hide by making clients late. How
late the clients themselves were is told apart; an answer other than success, or none, is a failure. Then `--batching` clips are made one by one
and again where they may share forward passes. At last `--jobs` jobs of one step are made, and the memory of the server and of its
worker is read after every 50. What does not fit into `--minutes` is left out, and the report says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import random
import re
import shlex
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from videogen.data.files import write_atomic

PROMPT = "a fox stays in the snow"
P99_BAR = 0.050
"""Seconds within which 99 of 100 answers must come."""

WARM_JOBS = 100
GROWTH_BAR = 0.05
"""By how much memory may grow after the first `WARM_JOBS` jobs and still be called flat."""

STEP_SECONDS = 5.0
CHUNK = 50
DIALECTS = ("/v1/jobs/{id}", "/v1/videos/{id}", "/v1/query/video_generation?task_id={id}")
PACKAGES = ("videogen-moe", "torch", "fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic", "psycopg")


class Connection:
    """One HTTP/1.1 connection that is kept open, so that what is measured is answers and not handshakes."""

    def __init__(self, address: tuple[str, int]):
        self.address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """JSON or text of an answer.

        Raises:
            RuntimeError: any status but 200.
            ConnectionError, EOFError: the server went.
        """
        data = b"" if body is None else json.dumps(body).encode()
        host = f"{self.address[0]}:{self.address[1]}"
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        kept = self._streams is not None
        try:
            answer, content = await self._exchange(head.encode() + data)
        except (ConnectionError, EOFError):
            if not kept:
                raise
            self.close()  # a server closes what was idle for a while
            answer, content = await self._exchange(head.encode() + data)
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"{method} {path} was answered {answer[:40]!r} {content[:300]!r}")
        return json.loads(content) if content[:1] in (b"{", b"[") else content.decode()

    async def _exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self.address)
        reader, writer = self._streams
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        return answer, await reader.readexactly(int(length.group(1)) if length else 0)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Times:
    """Seconds of answers by route, from the moment meant, how late the clients were, and what was no success."""

    def __init__(self) -> None:
        self.answers: dict[str, list[float]] = defaultdict(list)
        self.lateness: list[float] = []
        self.failures: list[str] = []

    async def ask(self, connection: Connection, due: float, method: str, path: str, body: Any = None) -> Any:
        """Ask at `due` (by `perf_counter`), or as soon after it as this process gets to it; None where it failed."""
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        self.lateness.append(time.perf_counter() - due)
        try:
            answer = await connection.ask(method, path, body)
        except (RuntimeError, OSError, EOFError) as error:
            self.failures.append(f"{type(error).__name__}: {error}"[:300])
            connection.close()
            return None
        route = re.sub(r"video_[0-9a-f]+", "ID", path.partition("?")[0])
        self.answers[f"{method} {route}"].append(time.perf_counter() - due)
        return answer


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Count, and p50, p95, p99 and the worst in milliseconds.

    Args:
        times: seconds; at least two.
    """
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    named = {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98], "worst_ms": max(times)}
    return {"count": len(times), **{name: round(1000 * seconds, 2) for name, seconds in named.items()}}


async def polled(address: tuple[str, int], clients: int, seconds: float, interval: float) -> dict[str, Any]:
    """What answers take while a clip is being made, and what the polling costs the clip."""
    connection = Connection(address)
    job = (await connection.ask("POST", "/v1/jobs", {"prompt": PROMPT, "steps": 1000, "duration": 6}))["id"]
    while (await connection.ask("GET", f"/v1/jobs/{job}"))["step"] < 2:
        await asyncio.sleep(0.2)
    times = Times()

    async def rate(wait: Any) -> float:
        before = await connection.ask("GET", f"/v1/jobs/{job}")
        started = time.perf_counter()
        await wait
        after = await connection.ask("GET", f"/v1/jobs/{job}")
        if after["status"] != "running":
            raise RuntimeError(f"the clip was to be in the making all the time, and is {after['status']}")
        return (after["step"] - before["step"]) / (time.perf_counter() - started)

    async def poll(index: int, end: float) -> None:
        own = Connection(address)
        due = time.perf_counter() + random.random() * interval
        while due < end:
            await times.ask(own, due, "GET", DIALECTS[index % len(DIALECTS)].format(id=job))
            due += interval
        own.close()

    async def change(end: float) -> None:
        own = Connection(address)
        due = time.perf_counter()
        while due < end:
            made = await times.ask(own, due, "POST", "/v1/jobs", {"prompt": PROMPT, "steps": 1, "priority": -100})
            if made is not None:
                await times.ask(own, due + 0.3, "POST", f"/v1/jobs/{made['id']}/cancel", {})
            await times.ask(own, due + 0.6, "GET", "/v1/jobs?limit=20")
            due += max(1.0, interval)
        own.close()

    alone = await rate(asyncio.sleep(STEP_SECONDS))
    end = time.perf_counter() + seconds
    together = await rate(asyncio.gather(change(end), *(poll(index, end) for index in range(clients))))
    await connection.ask("POST", f"/v1/jobs/{job}/cancel", {})
    connection.close()
    everything = [one for answers in times.answers.values() for one in answers]
    return {
        "clients": clients,
        "interval_seconds": interval,
        "seconds": seconds,
        "answers_per_second": round(len(everything) / seconds, 1),
        "all": quantiles(everything),
        "routes": {route: quantiles(found) for route, found in sorted(times.answers.items()) if len(found) > 1},
        "clients_late": quantiles(times.lateness),
        "failures": len(times.failures),
        "first_failures": times.failures[:3],
        "steps_per_second_alone": round(alone, 3),
        "steps_per_second_with_clients": round(together, 3),
    }


async def batched(address: tuple[str, int], clips: int) -> dict[str, Any]:
    """Seconds for a clip of a few steps: one by one, and where they may be made together (which the worker does where it found that faster)."""
    connection = Connection(address)
    body = {"prompt": PROMPT, "steps": 4}

    async def make(number: int, batching: bool) -> tuple[float, list[str]]:
        ids = []
        started = time.monotonic()
        for seed in range(number):
            ids.append((await connection.ask("POST", "/v1/jobs", {**body, "seed": seed, "batching": batching}))["id"])
        while (await connection.ask("GET", "/v1/jobs?status=queued&status=running&limit=1"))["data"]:
            await asyncio.sleep(0.1)
        return (time.monotonic() - started) / number, ids

    async def size(job: str) -> int:
        receipt = await connection.ask("GET", f"/v1/jobs/{job}/content?variant=receipt")
        return int(receipt["request"]["batch_size"])

    alone, _ = await make(clips, False)
    await make(clips, True)  # the worker finds out
    allowed, ids = await make(clips, True)
    sizes = [await size(job) for job in ids]
    connection.close()
    return {
        "clips": clips,
        "seconds_alone": round(alone, 3),
        "seconds_allowed": round(allowed, 3),
        "largest_batch": max(sizes),
    }


async def remembered(address: tuple[str, int], jobs: int, deadline: float) -> dict[str, Any]:
    """What memory does over many jobs, until `deadline` (by `monotonic`)."""
    connection = Connection(address)
    before = (await gauges(connection))["jobs"]
    started = time.monotonic()
    samples = [{"jobs": 0, "seconds": 0.0, **(await gauges(connection))["memory"]}]
    done, took = 0, 0.0
    while done < jobs and time.monotonic() + took < deadline:
        begun = time.monotonic()
        for seed in range(done, min(done + CHUNK, jobs)):
            await connection.ask("POST", "/v1/jobs", {"prompt": PROMPT, "steps": 1, "seed": seed, "guidance_scale": 1})
            done += 1
        while (await connection.ask("GET", "/v1/jobs?status=queued&status=running&limit=1"))["data"]:
            await asyncio.sleep(0.2)
        took = time.monotonic() - begun
        found = await gauges(connection)
        samples.append({"jobs": done, "seconds": round(time.monotonic() - started, 1), **found["memory"]})
    ended = (await gauges(connection))["jobs"]
    connection.close()
    return {
        "jobs_asked": jobs,
        "jobs_done": done,
        "completed": ended["completed"] - before["completed"],
        "failed": ended["failed"] - before["failed"],
        "samples": samples,
    }


async def gauges(connection: Connection) -> dict[str, dict[str, Any]]:
    """Memory in MiB of the server and its largest worker (as of its last heartbeat, at most five seconds ago), and jobs by state."""
    text = await connection.ask("GET", "/metrics")

    def read(name: str) -> list[tuple[str, float]]:
        return [(a, float(b)) for a, b in re.findall(rf"^{name}(?:{{[^}}]*\"([^\"]*)\"}})? (\S+)", text, re.MULTILINE)]

    def largest(name: str) -> float:
        return round(max((value for _, value in read(name)), default=0.0) / 2**20, 1)

    return {
        "memory": {
            "server_mib": largest("videogen_server_resident_bytes"),
            "worker_mib": largest("videogen_worker_resident_bytes"),
            "worker_peak_mib": largest("videogen_worker_peak_bytes"),
        },
        "jobs": {status: int(value) for status, value in read("videogen_jobs")},
    }


def growth(samples: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """By how much of itself a memory grew from the first sample after `WARM_JOBS` jobs to the last; None without two such."""
    warm = [sample for sample in samples if sample["jobs"] >= WARM_JOBS]
    return None if len(warm) < 2 else warm[-1][name] / max(1e-9, warm[0][name]) - 1


def judged(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each bar with what was found and whether it holds (None: not measured)."""
    polling = report["polling"]
    p99, failures, asked = polling["all"]["p99_ms"], polling["failures"], polling["all"]["count"] + polling["failures"]
    bars: dict[str, dict[str, Any]] = {
        f"p99 of all answers <= {1000 * P99_BAR:g} ms while a clip is being made and {polling['clients']} clients poll": {
            "found": f"{p99:g} ms",
            "holds": p99 <= 1000 * P99_BAR,
        },
        f"every request of the {polling['clients']} clients succeeds": {
            "found": f"{failures} of {asked} failed",
            "holds": failures == 0,
        },
    }
    memory = report["memory"]
    for name, whose in (("server_mib", "server"), ("worker_mib", "worker")):
        grown = growth(memory["samples"], name) if memory else None
        enough = memory is not None and memory["jobs_done"] >= memory["jobs_asked"] and memory["failed"] == 0
        bars[f"memory of the {whose} grows by at most {GROWTH_BAR:.0%} after the first {WARM_JOBS} jobs"] = {
            "found": "not measured" if grown is None else f"{grown:+.1%} over {memory['jobs_done'] - WARM_JOBS} jobs",
            "holds": None if grown is None or not enough else grown <= GROWTH_BAR,
        }
    return bars


def machine() -> dict[str, Any]:
    """What this ran on."""
    facts: dict[str, Any] = {
        "system": platform.platform(),
        "cores": _num_cores(),
        "cores_of_the_machine": os.cpu_count(),
    }
    with contextlib.suppress(OSError):  # Linux only
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        facts["processor"] = found.group(1) if found else platform.machine()
        total = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
        facts["memory_gib"] = round(int(total.group(1)) / 2**20, 1) if total else None
        facts["load_before"] = os.getloadavg()[0]
    return facts


def versions() -> dict[str, str]:
    """Versions of what answers, as far as they are installed here."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str | None:
    """The commit of the source that runs, with a + where files were changed since."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


async def measure(options: argparse.Namespace, url: str, deadline: float) -> dict[str, Any]:
    """The whole report of a server at `url`."""
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "videogen.server.load", *options.arguments]),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    connection = Connection(address)
    model = await connection.ask("GET", "/v1/model")
    report["model"] = {name: model[name] for name in ("name", "sha256", "default_steps")}
    connection.close()
    report["polling"] = await polled(address, options.clients, options.seconds, options.interval)
    report["batching"] = await batched(address, options.batching) if options.batching else None
    report["memory"] = await remembered(address, options.jobs, deadline) if options.jobs else None
    report["bars"] = judged(report)
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """A report for people."""
    polling, batching, memory = report["polling"], report["batching"], report["memory"]
    hardware = report["machine"]
    lines = [
        f"# The server under load, {report['date']}",
        "",
        f"    {report['command']}",
        "",
        f"{hardware.get('processor', 'unknown processor')}, {hardware['cores']} cores for server, worker and clients together, "
        f"{hardware.get('memory_gib')} GiB, {hardware['system']}. Model {report['model']['name']} (`{report['model']['sha256'][:12]}`), "
        f"commit `{str(report['commit'])[:12]}`.",
        ", ".join(f"{name} {number}" for name, number in report["versions"].items()) + ".",
        "",
        "| bar | found | holds |",
        "| --- | --- | --- |",
    ]
    words = {True: "yes", False: "**no**", None: "not measured"}
    lines += [f"| {name} | {bar['found']} | {words[bar['holds']]} |" for name, bar in report["bars"].items()]
    lines += [
        "",
        f"## {polling['clients']} clients for {polling['seconds']:g} s, each every {polling['interval_seconds']:g} s",
        "",
        "Milliseconds from the moment at which a client meant to ask to the last byte of the answer, all on kept connections, while a clip was being made.",
        "",
        "| what | answers | p50 | p95 | p99 | worst |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = {"all": polling["all"], **polling["routes"], "of which: clients late": polling["clients_late"]}
    lines += [
        f"| {name} | {row['count']} | {row['p50_ms']} | {row['p95_ms']} | {row['p99_ms']} | {row['worst_ms']} |"
        for name, row in rows.items()
    ]
    lines += [
        "",
        f"{polling['answers_per_second']} answers a second. The clip: {polling['steps_per_second_alone']} steps a second alone, "
        f"{polling['steps_per_second_with_clients']} with the clients.",
    ]
    lines += [f"Failed: {failure}" for failure in polling["first_failures"]]
    if batching:
        together = f"together, up to {batching['largest_batch']} at once" if batching["largest_batch"] > 1 else "alone"
        lines += [
            "",
            f"## {batching['clips']} clips of four steps that wait at once",
            "",
            f"{batching['seconds_alone']} s a clip one by one; {batching['seconds_allowed']} s where all of them allow `batching`: the worker tried "
            f"both, and then made them {together}.",
        ]
    if memory:
        lines += [
            "",
            f"## Memory over {memory['jobs_done']} jobs of one step",
            "",
            f"{memory['completed']} completed, {memory['failed']} failed"
            + (
                "."
                if memory["jobs_done"] >= memory["jobs_asked"]
                else f"; {memory['jobs_asked']} were asked for, time was up."
            ),
            "",
            "| jobs | server MiB | worker MiB | worker's peak MiB | seconds |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {sample['jobs']} | {sample['server_mib']} | {sample['worker_mib']} | {sample['worker_peak_mib']} | {sample['seconds']:g} |"
            for sample in memory["samples"]
        ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def own_server(options: argparse.Namespace) -> Iterator[str]:
    """`videogen serve` with a folder of its own, on the cores that this process is left with; its address once it is ready."""
    import urllib.error
    import urllib.request

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    code = "import sys; from videogen.cli import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="videogen-load-") as folder:
        arguments = ["serve", "--port", str(port), "--data", folder, "--rate-limit", "1000000"]
        if options.model is not None:
            arguments += ["--model", str(options.model)]
        log = open(Path(folder) / "log", "wb")  # noqa: SIM115 - closed below, after the process
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=log, stderr=log)
        try:
            while True:
                if process.poll() is not None:
                    raise RuntimeError("the server ended: " + (Path(folder) / "log").read_text()[-2000:])
                with contextlib.suppress(urllib.error.URLError, OSError):
                    if urllib.request.urlopen(f"{url}/ready", timeout=5).status == 200:
                        break
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(60)
            log.close()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the report, and write it as JSON and Markdown; 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs; by default one is started")
    parser.add_argument(
        "--model", type=Path, help="model folder of the server that is started; by default the shipped one"
    )
    parser.add_argument(
        "--cores", type=int, default=2, help="processor cores for all of it together, where a server is started"
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long they poll")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks of a client")
    parser.add_argument(
        "--batching", type=int, default=8, help="clips made alone and, where allowed, together; 0 for none"
    )
    parser.add_argument("--jobs", type=int, default=500, help="afterwards, so many jobs of one step each; 0 for none")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of the whole run; 50 jobs that would take longer are not begun"
    )
    parser.add_argument("--output", type=Path, help="folder for server-DATE.json and server-DATE.md")
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    deadline = time.monotonic() + 60 * options.minutes
    with contextlib.nullcontext(options.url) if options.url else own_server(options) as url:
        report = asyncio.run(measure(options, url, deadline))
    text = markdown(report)
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"server-{report['date'].split()[0]}"
        write_atomic(path.with_suffix(".json"), (json.dumps(report, indent=1) + "\n").encode())
        write_atomic(path.with_suffix(".md"), text.encode())
    return int(any(bar["holds"] is False for bar in report["bars"].values()))


if __name__ == "__main__":
    sys.exit(main())
