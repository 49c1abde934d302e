"""A typed client of the server (`videogen serve`), of the standard library alone.

>>> from videogen.client import Client
>>> client = Client("http://127.0.0.1:8000")
>>> job = client.wait(client.submit("a fox jumps in the snow, [Pan left]", seed=0).id)
>>> client.download(job.id, "fox.mp4")
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from videogen.data.files import atomic_path

__all__ = ["Client", "Job", "ServerError", "callback_state"]

State = Literal["queued", "running", "completed", "failed", "cancelled"]
PASSING = (0, 502, 503, 504)
"""Statuses of a server that starts again, or of the proxy before it."""


class ServerError(Exception):
    """The server refused. `status` is HTTP's (0 = not reached), `param` the argument at fault, if it is one."""

    def __init__(self, message: str, status: int = 0, param: str | None = None):
        super().__init__(message)
        self.status, self.param = status, param


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a job stands; `request` holds every number as it is used, `adjusted` what is not as it was asked."""

    id: str
    status: State
    progress: int
    prompt: str
    step: int = 0
    num_steps: int = 0
    seconds_left: float | None = None
    adjusted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None
    file_id: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


class Client:
    """Talks to one server. `key` is needed where the server asks for one; `timeout` is of one request, in seconds."""

    def __init__(self, server: str = "http://127.0.0.1:8000", key: str | None = None, timeout: float = 60.0):
        if not server.startswith(("http://", "https://")):
            raise ValueError(f"`server` must start with http:// or https://, got {server}.")
        self.server, self.key, self.timeout = server.rstrip("/"), key, timeout

    def submit(self, prompt: str, *, idempotency_key: str | None = None, **settings: Any) -> Job:
        """Start a video; `settings` are the fields of `POST /v1/jobs`, every `Path` in them being uploaded first. A request that is lost
        on the way is repeated under one idempotency key, so that it makes one job."""
        headers = {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}
        body = self._body(prompt, settings)
        for attempt in range(3):
            try:
                return self._job(self._call("POST", "/v1/jobs", body, headers))
            except ServerError as error:
                if error.status != 0 or attempt == 2:
                    raise
                time.sleep(2.0**attempt)
        raise AssertionError

    def estimate(self, prompt: str, **settings: Any) -> dict[str, Any]:
        """What a request would take, and what would be adjusted; `settings` as of `submit`."""
        return self._call("POST", "/v1/estimates", self._body(prompt, settings))

    def status(self, job_id: str) -> Job:
        """How a job stands."""
        return self._job(self._call("GET", f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}"))

    def jobs(self, limit: int = 20, **filters: Any) -> list[Job]:
        """The newest jobs; `filters` are `status`, `q`, `after`, `order`."""
        query = urllib.parse.urlencode({"limit": limit, **filters}, doseq=True)
        return [self._job(one) for one in self._call("GET", f"/v1/jobs?{query}")["data"]]

    def wait(
        self,
        job_id: str,
        interval: float = 0.5,
        on_progress: Callable[[Job], None] | None = None,
        patience: float = 120.0,
    ) -> Job:
        """The job once it has ended; `on_progress` is called at every look. A job outlives its server, so a server that does not answer is
        asked again for `patience` seconds.

        Raises:
            ServerError: it was silent for longer, or refused.
        """
        answered = time.monotonic()
        while True:
            try:
                job = self.status(job_id)
            except ServerError as error:
                if error.status not in PASSING or time.monotonic() - answered > patience:
                    raise
            else:
                answered = time.monotonic()
                if job.ended:
                    return job
                if on_progress is not None:
                    on_progress(job)
            time.sleep(interval)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once, or within a step where it runs."""
        return self._job(self._call("POST", f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}/cancel", {}))

    def delete(self, job_id: str) -> None:
        """Delete a job with its files."""
        self._open("DELETE", f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}").close()

    def download(self, job_id: str, path: str | Path, variant: str = "video") -> Path:
        """Write a clip (or its "gif", "sheet", "receipt", "thumbnail", "spritesheet") to `path`, whole or not at all.

        Raises:
            ServerError: it refused, or went before the end.
        """
        route = f"/v1/jobs/{urllib.parse.quote(job_id, safe='')}/content?variant={urllib.parse.quote(variant)}"
        with self._open("GET", route) as reply, atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.writelines(self._blocks(reply))
        return Path(path)

    def upload(self, path: str | Path) -> str:
        """Upload a picture or video; the id that stands for it in requests."""
        boundary, content = secrets.token_hex(16), Path(path).read_bytes()
        kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="upload"\r\nContent-Type: {kind}\r\n\r\n'
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        with self._open("POST", "/v1/uploads", body, headers) as reply:
            return self._read(reply)["id"]

    def _body(self, prompt: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"prompt": prompt, **{name: self._sent(value) for name, value in settings.items() if value is not None}}

    def _sent(self, value: Any) -> Any:
        """A setting as JSON takes it: paths as the ids of their uploads."""
        if isinstance(value, Path):
            return self.upload(value)
        if isinstance(value, Mapping):
            return {name: self._sent(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self._sent(one) for one in value]
        return value

    def _job(self, content: Mapping[str, Any]) -> Job:
        return Job(**{one.name: content[one.name] for one in fields(Job) if one.name in content})

    def _call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, path, data, {"Content-Type": "application/json", **(headers or {})}) as reply:
            return self._read(reply)

    def _read(self, reply: Any) -> Any:
        try:
            return json.load(reply)
        except (OSError, http.client.HTTPException) as error:  # the server went while it answered
            raise self._lost(error) from None

    def _blocks(self, reply: Any) -> Iterator[bytes]:
        try:
            while block := reply.read(1 << 16):
                yield block
            if reply.length:  # what is missing of the announced length; such reads do not tell
                raise ConnectionError(f"its answer ended {reply.length} bytes early")
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def _open(self, method: str, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        request = urllib.request.Request(self.server + path, data, dict(headers or {}), method=method)
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            try:
                told = json.load(error)["error"]
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                told = {"message": f"the server answered {error.code} {error.reason}"}
            raise ServerError(told["message"], error.code, told.get("param")) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> ServerError:
        return ServerError(f"{self.server} does not answer: {getattr(error, 'reason', error)}")


def callback_state(payload: Mapping[str, Any]) -> State:
    """The state that a callback tells, in any of the spellings in use: ours and MiniMax's, of its prose and of its samples.

    Raises:
        ValueError: none of them.
    """
    known: dict[str, State] = {
        "preparing": "queued", "queueing": "queued", "queued": "queued", "processing": "running", "in_progress": "running", "running": "running",
        "success": "completed", "succeeded": "completed", "completed": "completed",
        "fail": "failed", "failed": "failed", "cancelled": "cancelled",
    }  # fmt: skip
    state = known.get(str(payload.get("status", "")).casefold())
    if state is None:
        raise ValueError(f"`status` must be a known state of a task, got {payload.get('status')!r}.")
    return state
