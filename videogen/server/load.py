"""A load generator on loopback: many clients poll while a clip is being made; then many jobs, and what memory does.

    videogen serve --data /tmp/load --rate-limit 100000 &
    python -m videogen.server.load --clients 100 --seconds 20 --jobs 500

Each client looks at the running job once a second (`--interval`), at moments of its own; the time of an answer counts from when the client
meant to ask, so that a slow server cannot hide its slowness by making its clients wait. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

PROMPT = "a fox jumps in the snow"


async def ask(address: tuple[str, int], method: str, path: str, body: Any = None, kept: list[Any] | None = None) -> Any:
    """One request over a connection that is kept in `kept`; JSON or text of the answer."""
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    if kept is None or not kept:
        streams = await asyncio.open_connection(*address)
        if kept is not None:
            kept.append(streams)
    else:
        streams = kept[0]
    reader, writer = streams
    writer.write(head.encode() + data)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
    assert length is not None, answer
    content = await reader.readexactly(int(length.group(1)))
    if kept is None:
        writer.close()
    assert b" 200 " in answer.split(b"\r\n", 1)[0], (answer, content)
    return json.loads(content) if content[:1] in b"{[" else content.decode()


async def poll(address: tuple[str, int], path: str, seconds: float, interval: float, times: list[float]) -> None:
    """One client: ask every `interval` seconds and note how long the answer took."""
    kept: list[Any] = []
    due = time.perf_counter() + random.random() * interval
    end = time.perf_counter() + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await ask(address, "GET", path, kept=kept)
        times.append(time.perf_counter() - due)
        due += interval


async def resident(address: tuple[str, int]) -> tuple[float, float]:
    """Memory of the server and of its largest worker so far, MiB."""
    text = await ask(address, "GET", "/metrics")
    server = float(re.findall(r"^videogen_server_resident_bytes (\S+)", text, re.MULTILINE)[0])
    peaks = [float(found) for found in re.findall(r"^videogen_worker_peak_bytes\{[^}]*\} (\S+)", text, re.MULTILINE)]
    return server / 2**20, max(peaks, default=0.0) / 2**20


async def run(options: argparse.Namespace) -> None:
    """Poll during a generation, then (with `--jobs`) watch memory over many jobs."""
    parts = urlsplit(options.url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    job = await ask(address, "POST", "/v1/jobs", {"prompt": PROMPT, "steps": 1000})
    while (await ask(address, "GET", f"/v1/jobs/{job['id']}"))["status"] != "running":
        await asyncio.sleep(0.1)
    times: list[float] = []
    path = f"/v1/jobs/{job['id']}"
    await asyncio.gather(
        *(poll(address, path, options.seconds, options.interval, times) for _ in range(options.clients))
    )
    await ask(address, "POST", f"{path}/cancel", {})
    cuts = statistics.quantiles(times, n=100)
    print(f"| clients | answers | per second | p50 ms | p95 ms | p99 ms | worst ms |\n|{' --- |' * 7}")
    numbers = [cuts[49], cuts[94], cuts[98], max(times)]
    shown = " | ".join(f"{1000 * number:.1f}" for number in numbers)
    print(f"| {options.clients} | {len(times)} | {len(times) / options.seconds:.0f} | {shown} |")
    if not options.jobs:
        return
    print(f"\n| jobs done | server MiB | worker peak MiB | seconds |\n|{' --- |' * 4}")
    started = time.perf_counter()
    for done in range(0, options.jobs, 50):
        ids = []
        for seed in range(done, min(done + 50, options.jobs)):
            ids.append((await ask(address, "POST", "/v1/jobs", {"prompt": PROMPT, "steps": 1, "seed": seed}))["id"])
        for job_id in ids:
            while (await ask(address, "GET", f"/v1/jobs/{job_id}"))["status"] in ("queued", "running"):
                await asyncio.sleep(0.05)
        server, worker = await resident(address)
        print(f"| {done + len(ids)} | {server:.0f} | {worker:.0f} | {time.perf_counter() - started:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two looks of a client")
    parser.add_argument("--jobs", type=int, default=0, help="afterwards, so many jobs of one step each")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
