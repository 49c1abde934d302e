"""What the tests of the server share: a tiny untrained model of the real classes, and a server in a process of its own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

PROMPT = "a fox jumps in the snow"
SIZE = 32


def make_model(folder: Path) -> Path:
    """Save a model that makes 17 frames of 32 x 32 in a few milliseconds a step."""
    from tiny_models import tiny_pipeline

    from videogen.data.stage import rungs

    vocabulary = {**rungs()["rung1"].to_dict(), "sizes": [[SIZE, SIZE]], "num_inference_steps": 2}
    tiny_pipeline(vocabulary).save_pretrained(folder)
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Served:
    """A server that tests talk to by HTTP."""

    http: httpx.Client
    log: Path | None = None

    def submit(self, **body: Any) -> dict[str, Any]:
        reply = self.http.post("/v1/jobs", json={"prompt": PROMPT, **body})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def job(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def wait(self, job_id: str, *statuses: str, seconds: float = 120.0) -> dict[str, Any]:
        """The job once it has ended, or has one of `statuses`."""
        deadline = time.monotonic() + seconds
        wanted = statuses or ("completed", "failed", "cancelled")
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["status"] in wanted:
                return job
            assert job["status"] not in ("completed", "failed", "cancelled"), json.dumps(job, indent=1)
            time.sleep(0.02)
        raise AssertionError(f"{job_id} is {self.job(job_id)['status']}: {self.log.read_text() if self.log else ''}")


class RunningServer(Served):
    """`videogen serve` as a process, at a fixed port so that it can be started again."""

    def __init__(self, data: Path, model: Path, *options: str):
        self.data, self.model, self.options = data, model, options
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log: Path = data.parent / f"{data.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        atexit.register(self.kill)  # a test that failed leaves no server behind

    def start(self, seconds: float = 600.0, ready: bool = True) -> RunningServer:
        arguments = ["serve", "--port", str(self.port), "--data", str(self.data), "--model", str(self.model)]
        code = f"import sys; from videogen.cli import main; sys.exit(main({[*arguments, *self.options]!r}))"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", code], stderr=log, stdout=log, env=environment)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.http.get("/ready" if ready else "/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready within {seconds} s:\n{self.log.read_text()}")

    def kill(self) -> None:
        """kill -9 the server; its workers notice."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, seconds: float = 60.0) -> int:
        """Stop as Ctrl-C does; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)


class LocalServer(Served):
    """The application on a real socket and a worker, both as threads of this process."""

    def __init__(self, data: Path, model: Path | None, *, num_workers: int = 1, **settings: Any):
        import uvicorn

        from videogen.server.app import create_app
        from videogen.server.settings import Settings
        from videogen.server.worker import Worker

        self.settings = Settings(data=data, model=model, workers=0, threads=1, nice=0, port=free_port(), **settings)
        self.app = create_app(self.settings)
        self.service = self.app.state.service
        config = uvicorn.Config(
            self.app, host="127.0.0.1", port=self.settings.port, log_level="warning", timeout_graceful_shutdown=3
        )
        self.uvicorn = uvicorn.Server(config)
        self.workers = [
            Worker(f"worker-{index}", self.service.server_id, self.settings) for index in range(num_workers)
        ]
        self._threads = [threading.Thread(target=self.uvicorn.run, daemon=True)]
        self._threads += [threading.Thread(target=worker.run, daemon=True) for worker in self.workers]
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def __enter__(self) -> LocalServer:
        for thread in self._threads:
            thread.start()
        deadline = time.monotonic() + 300
        while not self.uvicorn.started or any(worker.state == "loading" for worker in self.workers):
            assert time.monotonic() < deadline and all(thread.is_alive() for thread in self._threads)
            time.sleep(0.02)
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.stopping.set()
            worker.woken.set()
        self.uvicorn.should_exit = True
        for thread in self._threads:
            thread.join(60)
        self.http.close()


class Hook:
    """A callback host that echoes challenges and remembers messages.

    Args:
        port: where; 0 takes a free one.
        delay: seconds before it answers a message.

    `refuse` is to how many messages it still answers 500, `echo` whether it echoes challenges.
    """

    def __init__(self, port: int = 0, delay: float = 0.0):
        self.messages: list[dict[str, Any]] = []
        self.refuse = 0
        self.echo = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = 200
                if "challenge" not in body and outer.refuse:
                    outer.refuse -= 1
                    status = 500
                elif "challenge" not in body:
                    outer.messages.append(body)
                    time.sleep(delay)
                content = json.dumps({"challenge": body.get("challenge")} if outer.echo else {}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def png(seed: int = 0, size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    """A small picture as the bytes of a PNG."""
    import io

    import numpy as np
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, "PNG", **options)
    return buffer.getvalue()


def data_url(content: bytes, media_type: str = "image/png") -> str:
    import base64

    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
