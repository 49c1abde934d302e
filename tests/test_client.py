"""The client against a server of canned answers: lost polls, uploads of every path, exit codes."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from videogen.cli import main
from videogen.client import Client, ServerError


class Canned:
    """Answers to (method, path) from a list each, the last one again and again; None goes without an answer, text in the middle of one."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any] | str | None]] = {}
        self.bodies: list[Any] = []
        self.num_uploads = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                if self.path == "/v1/uploads":
                    outer.num_uploads += 1
                    self.reply(200, {"id": f"file_{outer.num_uploads}"})
                    return
                if body:
                    outer.bodies.append(json.loads(body))
                listed = outer.answers[self.command, self.path]
                found = listed.pop(0) if len(listed) > 1 else listed[0]
                if found is None:
                    self.close_connection = True
                elif isinstance(found, str):
                    self.send_response(200)
                    self.send_header("content-length", "1000")
                    self.end_headers()
                    self.wfile.write(found.encode())
                else:
                    self.reply(*found)

            def reply(self, status: int, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def canned() -> Iterator[Canned]:
    made = Canned()
    yield made
    made.server.shutdown()
    made.server.server_close()


def job(status: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"id": "a", "status": status, "progress": 0, "prompt": "a fox", **more}


def problem(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message}}


def test_wait_outlives_a_server_that_starts_again(canned: Canned) -> None:
    client = Client(canned.url)
    canned.answers["GET", "/v1/jobs/a"] = [
        job("running"), None, '{"id": ', problem(503, "the database does not answer"), job("completed"),
    ]  # fmt: skip
    looks: list[str] = []
    assert client.wait("a", 0.0, lambda now: looks.append(now.status)).status == "completed" and looks == ["running"]
    canned.answers["GET", "/v1/jobs/a"] = [None]
    with pytest.raises(ServerError, match="does not answer"):
        client.wait("a", 0.01, patience=0.05)
    canned.answers["GET", "/v1/jobs/a"] = [problem(404, "there is no such job"), job("completed")]
    with pytest.raises(ServerError, match="no such job"):
        client.wait("a", 0.0)


def test_a_download_that_is_cut_short_leaves_no_file(canned: Canned, tmp_path: Path) -> None:
    route = ("GET", "/v1/jobs/video_1/content?variant=video")
    canned.answers[route] = ["the first half", (200, "whole")]
    path = tmp_path / "clip.mp4"
    with pytest.raises(ServerError, match="ended 986 bytes early") as caught:
        Client(canned.url).download("video_1", path)
    assert caught.value.status == 0 and list(tmp_path.iterdir()) == []
    assert Client(canned.url).download("video_1", path).read_bytes() == b'"whole"'


def test_a_download_whose_connection_breaks_is_a_lost_answer(
    canned: Canned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reply: http.client.HTTPResponse, size: int = -1) -> bytes:
        raise ConnectionResetError("reset by peer")

    canned.answers["GET", "/v1/jobs/video_1/content?variant=video"] = ["the first half"]
    monkeypatch.setattr(http.client.HTTPResponse, "read", broken)
    with pytest.raises(ServerError, match="does not answer: reset by peer"):
        Client(canned.url).download("video_1", tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_every_path_is_uploaded(canned: Canned, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"pixels")
    canned.answers["POST", "/v1/jobs"] = [job("queued")]
    canned.answers["POST", "/v1/estimates"] = [(200, {"seconds": 1.0})]
    settings: dict[str, Any] = {
        "keyframes": [{"time": 0.5, "image": path}],
        "source": path,
        "subjects": (path, "file_x"),
        "seed": None,
    }
    client = Client(canned.url)
    client.submit("a fox", **settings)
    client.estimate("a fox", **settings)
    for body, first in zip(canned.bodies, (1, 4), strict=True):
        one, two, three = (f"file_{first + index}" for index in range(3))
        assert body["keyframes"] == [{"time": 0.5, "image": one}] and body["source"] == two
        assert body["subjects"] == [three, "file_x"] and "seed" not in body


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(422, "`seed` must be small"), 2),
        (problem(404, "there is no such job"), 2),
        (problem(500, "an internal error"), 1),
        (problem(429, "at most 600 requests a minute"), 1),
        (None, 1),
    ],
    ids=["refused", "missing", "broken", "busy", "silent"],
)
def test_exit_codes_of_answers(
    canned: Canned, capsys: pytest.CaptureFixture[str], answer: tuple[int, Any] | None, code: int
) -> None:
    canned.answers["GET", "/v1/jobs/a"] = [answer]
    assert main(["status", "a", "--server", canned.url]) == code
    message = "does not answer" if answer is None else answer[1]["error"]["message"]
    assert f"Error: {message}" in capsys.readouterr().err.replace(f"{canned.url} ", "")


def test_a_job_that_fails_is_no_bad_input(canned: Canned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canned.answers["POST", "/v1/jobs"] = [job("queued")]
    canned.answers["GET", "/v1/jobs/a"] = [job("failed", error={"code": "black_clip", "message": "the clip is black"})]
    assert main(["submit", "a fox", "-o", str(tmp_path / "a.mp4"), "--server", canned.url]) == 1
    assert "Error: a  failed: the clip is black" in capsys.readouterr().err
