"""Keys and tenants, uploads that mean harm, addresses that must not be reached, expiry."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import io
import ipaddress
import json
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import ValidationError
from server_tools import data_url, png
from sqlalchemy import func, select, update

from videogen.cli import main
from videogen.server import fetch
from videogen.server.app import create_app
from videogen.server.auth import KeyRing, RateLimiter, add_key, read_keys, remove_key
from videogen.server.database import files
from videogen.server.http import Guard
from videogen.server.media import decode_data_url
from videogen.server.planning import Refused
from videogen.server.settings import Settings, is_loopback
from videogen.server.storage import Storage
from videogen.server.watermark import draw_mark

PROMPT = "a fox jumps in the snow"


def settings(folder: Path, **changes: object) -> Settings:
    return Settings(data=folder / "data", workers=0, **changes)  # type: ignore[arg-type]


def client(folder: Path, **changes: object) -> TestClient:
    """A server without workers, with the shipped model folder (no weights are read)."""
    return TestClient(create_app(settings(folder, **changes)), base_url="http://127.0.0.1")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Keys


def test_another_address_than_loopback_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"must be a loopback address without `--api-key-file`, got 0\.0\.0\.0"):
        Settings(host="0.0.0.0")
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("192.168.0.1") and not is_loopback("example.org")
    assert main(["serve", "--host", "0.0.0.0", "--data", str(tmp_path)]) == 2


def test_keys_are_kept_as_hashes_and_can_be_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.json"
    assert main(["keys", "add", "alice", "--file", str(path), "--max-queue", "2"]) == 0
    key = capsys.readouterr().out.strip()
    assert key not in path.read_text() and key.split("_")[-1] not in path.read_text()
    assert path.stat().st_mode & 0o77 == 0
    ring = KeyRing(path)
    found = ring.find(key)
    assert found is not None and (found.tenant, found.max_queue, found.admin) == ("alice", 2, False)
    for wrong in (
        None,
        "",
        key[:-1],
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        key.replace("alice", "bob"),
        "x" * 9999,
    ):
        assert ring.find(wrong) is None
    assert main(["keys", "list", "--file", str(path)]) == 0 and "alice: tenant alice" in capsys.readouterr().out
    assert main(["keys", "add", "alice", "--file", str(path)]) == 2
    assert main(["keys", "add", "a b", "--file", str(path)]) == 2
    remove_key(path, "alice")
    ring._read = 0.0
    assert ring.find(key) is None and read_keys(path) == []


def test_a_key_file_that_cannot_be_read_lets_nobody_in_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "alice")
    ring, whole = KeyRing(path), path.read_text()
    for broken in (whole[:-5], None):
        path.unlink() if broken is None else path.write_text(broken)
        ring._read = 0.0
        assert ring.find(key) is None and "`--api-key-file` must be" in caplog.text
        caplog.clear()
        path.write_text(whole)
        ring._read = 0.0
        assert ring.find(key) is not None


def test_tenants_see_only_their_own_and_keys_have_limits(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    alice = add_key(path, "alice", max_queue=1, rate_limit=3)
    bob = add_key(path, "bob", admin=True, max_priority=5)
    with client(tmp_path, host="0.0.0.0", api_key_file=path) as api:
        assert api.post("/v1/jobs", json={"prompt": PROMPT}).status_code == 401
        assert api.get("/v1/query/video_generation?task_id=x").json()["base_resp"]["status_code"] == 1004
        job = api.post("/v1/jobs", json={"prompt": PROMPT}, headers=bearer(alice))
        assert job.status_code == 200, job.text
        name = job.json()["id"]
        for path_ in (f"/v1/jobs/{name}", f"/v1/videos/{name}", f"/v1/jobs/{name}/content", f"/v1/jobs/{name}/events"):
            assert api.get(path_, headers=bearer(bob)).status_code == 404, path_
        assert api.post(f"/v1/jobs/{name}/cancel", headers=bearer(bob)).status_code == 404
        assert api.delete(f"/v1/videos/{name}", headers=bearer(bob)).status_code == 404
        assert api.get("/v1/jobs", headers=bearer(bob)).json()["data"] == []
        assert (
            api.get(f"/v1/query/video_generation?task_id={name}", headers=bearer(bob)).json()["base_resp"][
                "status_code"
            ]
            == 2013
        )
        full = api.post("/v1/jobs", json={"prompt": PROMPT}, headers=bearer(alice))
        assert (
            full.status_code == 429 and full.json()["error"]["code"] == "queue_full" and "retry-after" in full.headers
        )
        api.post("/v1/jobs", json={"prompt": PROMPT}, headers=bearer(alice))
        fast = api.post("/v1/video_generation", json={"model": "video-01", "prompt": PROMPT}, headers=bearer(alice))
        assert fast.status_code == 429 and fast.json()["base_resp"]["status_code"] == 1002
        high = api.post("/v1/jobs", json={"prompt": PROMPT, "priority": 6}, headers=bearer(bob))
        assert high.status_code == 422 and high.json()["error"]["param"] == "priority"
        assert api.get("/metrics", headers=bearer(alice)).status_code == 403
        assert api.get("/metrics", headers=bearer(bob)).status_code == 200
        assert api.get("/health").status_code == 200
        upload = api.post("/v1/uploads", files={"file": ("a.png", png())}, headers=bearer(bob)).json()["id"]
        stolen = api.post("/v1/estimates", json={"prompt": PROMPT, "first_frame": upload}, headers=bearer(alice))
        assert stolen.status_code == 422 and "you uploaded" in stolen.json()["error"]["message"]


def test_rate_limiter_refills() -> None:
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    assert [limiter.wait("a", 2) for _ in range(2)] == [0.0, 0.0]
    assert limiter.wait("a", 2) == pytest.approx(30.0) and limiter.wait("b", 2) == 0.0
    now[0] = 30.0
    assert limiter.wait("a", 2) == 0.0 and limiter.wait("a", 2) > 0


# Uploads


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims to be huge."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 2000), 9)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory):
    with client(tmp_path_factory.mktemp("uploads"), max_upload_bytes=200_000, decode_seconds=120) as found:
        yield found


BAD_UPLOADS = {
    "empty": (b"", "must not be empty"),
    "text": (b"hello", "picture or video"),
    "bomb": (bomb(60_000, 60_000), "pixels"),
    "thin": (png(size=(1000, 10)), "longer than 8 to 1"),
    "dot": (png(size=(2, 2)), "at least 8 pixels"),
    "cut": (png()[:200], "damaged"),
    "large": (b"\x89PNG" + bytes(200_001), "at most 200000 bytes"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "picture or video"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "picture or video"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "is neither"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_uploads_that_are_refused(api: TestClient, name: str) -> None:
    content, words = BAD_UPLOADS[name]
    reply = api.post("/v1/uploads", files={"file": ("a.png", content)})
    assert reply.status_code == 422, reply.text
    assert words in reply.json()["error"]["message"] and "passwd" not in reply.text and "Traceback" not in reply.text


def test_a_file_that_comes_along_is_kept_only_when_nothing_stands_against_it(tmp_path: Path) -> None:
    with client(tmp_path, rate_limit=3) as api:
        service = api.app.state.service  # type: ignore[attr-defined]
        service.limiter._clock = lambda: 0.0

        def create(route: str = "", field: str = "input_reference", key: str = "a", **fields: str) -> tuple[int, int]:
            form = {"prompt": PROMPT, **fields}
            headers = {"idempotency-key": key}
            reply = api.post("/v1/videos" + route, data=form, files={field: ("a.png", png())}, headers=headers)
            with service.database.read() as connection:
                return reply.status_code, connection.scalar(select(func.count()).select_from(files))

        assert create(size="huge") == (400, 0) and create(seconds="soon") == (400, 0)
        assert create("/extensions", "video", seconds="soon") == (400, 0)
        assert create() == (200, 1)
        assert create() == (200, 1)  # a repetition
        assert create(prompt="a pig stays on the beach") == (409, 1)
        assert create(key="b") == (429, 1)
        assert create("/extensions", "video", key="c", seconds="1") == (429, 1)


def test_what_is_kept_of_an_upload_is_pixels_only(api: TestClient) -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("secret", "of the sender")
    reply = api.post("/v1/uploads", files={"file": ("../../../x\r\n.png", png(pnginfo=info))}).json()
    service = api.app.state.service  # type: ignore[attr-defined]
    kept = service.storage.upload(reply["id"], "image")
    assert b"of the sender" not in kept.read_bytes() and Image.open(kept).size == (64, 64)
    assert kept.is_relative_to(service.settings.data) and "/" not in reply["name"] and "\n" not in reply["name"]


def test_ids_cannot_leave_the_data_folder(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for bad in ("../x", "file_../../etc/passwd", "file_" + "0" * 23, "file_" + "0" * 24 + "\n", "FILE_" + "0" * 24, ""):
        with pytest.raises(ValueError, match="`file_id` must be an id that this server gave"):
            storage.path(bad, ".mp4")
    assert storage.path("file_" + "a" * 24, ".mp4").is_relative_to(tmp_path)


def test_data_urls() -> None:
    assert decode_data_url(data_url(b"abc"), 100, "x") == b"abc"
    assert decode_data_url("data:,a%20b", 100, "x") == b"a b"
    for bad in ("data:image/png;base64", "data:image/png;base64,@@@@", "data:;base64," + "A" * 10_000):
        with pytest.raises(Refused):
            decode_data_url(bad, 100, "x")


# Addresses


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("::", False), ("fe80::1", False), ("fc00::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False), ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert fetch.is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "file:///etc/passwd", "http://127.0.0.1/", "http://[::1]/", "http://user:pw@example.org/",
        "http://example.org:0/", "http:///x", "http://169.254.169.254/latest", "http://example.org:99999/", "gopher://x/",
        "http://exa mple.org/", "http://[::ffff:10.0.0.1]/", "javascript:alert(1)", "http://\udcff/",
    ],
)  # fmt: skip
def test_addresses_that_are_refused_unseen(url: str) -> None:
    with pytest.raises(fetch.Forbidden):
        fetch.check_url(url)


class _Host(http.server.BaseHTTPRequestHandler):
    """Answers with whatever the test put into `answers` by path."""

    answers: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.seen.append(self.path)
        status, headers, body = self.answers[self.path]
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def host():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def get(url: str, allowed: str, seconds: float = 5.0, max_bytes: int = 10_000) -> fetch.Reply:
    return fetch.request("GET", url, seconds=seconds, max_bytes=max_bytes, allowed_hosts=(allowed,), redirects=True)


def test_redirects_are_checked_like_the_first_address(host: str) -> None:
    port = int(host.rsplit(":", 1)[1])
    _Host.answers = {
        "/ok": (200, {"content-type": "image/png"}, b"pixels"),
        "/again": (302, {"location": "/ok"}, b""),
        "/inside": (302, {"location": f"http://localhost:{port}/ok"}, b""),
        "/metadata": (302, {"location": "http://169.254.169.254/"}, b""),
        "/loop": (302, {"location": "/loop"}, b""),
        "/big": (200, {}, b"x" * 20_000),
    }
    assert get(f"http://{host}/again", host) == fetch.Reply(200, "image/png", b"pixels")
    for path in ("/inside", "/metadata"):
        with pytest.raises(fetch.Forbidden, match="private, loopback or link-local"):
            get(f"http://{host}{path}", host)
    with pytest.raises(fetch.Unreachable, match="redirects more than 3 times"):
        get(f"http://{host}/loop", host)
    with pytest.raises(fetch.Unreachable, match="at most 10000 bytes"):
        get(f"http://{host}/big", host)


def test_names_that_lead_inside_are_refused_and_the_checked_address_is_the_one_connected_to(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the name is resolved once; a second answer would never be asked for."""
    port = int(host.rsplit(":", 1)[1])
    answers = iter([["8.8.8.8", "127.0.0.1"], ["127.0.0.1"]])
    asked = []

    def look_up(name: str, port: int, **kwargs: object) -> list:
        asked.append(name)
        return [(0, 0, 0, "", (address, port)) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for _ in range(2):
        with pytest.raises(fetch.Forbidden, match="must not lead to a private"):
            get(f"http://rebind.example:{port}/ok", "nobody")
    assert asked == ["rebind.example", "rebind.example"]

    connected = []
    monkeypatch.setattr(fetch, "resolve", lambda name, port, seconds: ["8.8.8.8"])
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda address, timeout: connected.append(address) or (_ for _ in ()).throw(OSError("no")),
    )
    with pytest.raises(fetch.Unreachable):
        get("http://public.example/x", "nobody")
    assert connected == [("8.8.8.8", 80)]


def test_a_host_that_sends_a_byte_now_and_then_is_left_at_the_deadline() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def drip() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(fetch.Unreachable):
        get(f"http://{host}/", host, seconds=0.5)
    assert time.monotonic() - started < 5
    listener.close()


def test_remote_pictures_only_where_enabled(host: str, tmp_path: Path) -> None:
    _Host.answers = {"/a.png": (200, {}, png()), "/text": (200, {}, b"hello"), "/gone": (404, {}, b"")}
    with client(tmp_path, allow_remote_images=True, allowed_hosts=(host,)) as api:
        ok = api.post("/v1/jobs", json={"prompt": PROMPT, "first_frame": f"http://{host}/a.png"})
        assert ok.status_code == 200, ok.text
        for path, words in (("/text", "is not one"), ("/gone", "got status 404")):
            reply = api.post("/v1/jobs", json={"prompt": PROMPT, "first_frame": f"http://{host}{path}"})
            assert reply.status_code == 422 and words in reply.json()["error"]["message"]
        inside = api.post("/v1/jobs", json={"prompt": PROMPT, "first_frame": "http://localhost:1/a.png"})
        assert inside.status_code == 422 and "private, loopback" in inside.json()["error"]["message"]


# Operation


def test_a_task_is_preparing_until_a_worker_has_the_model_then_queueing(tmp_path: Path) -> None:
    with client(tmp_path) as api:
        task = api.post("/v1/video_generation", json={"model": "video-01", "prompt": PROMPT}).json()["task_id"]

        def state() -> str:
            api.app.state.service._workers = (0.0, [])  # type: ignore[attr-defined]  # what it looked up is a second old
            return api.get(f"/v1/query/video_generation?task_id={task}").json()["status"]

        assert state() == "Preparing" and api.get("/ready").status_code == 503
        service = api.app.state.service  # type: ignore[attr-defined]
        service.store.worker_seen("w", service.server_id, "idle", {})
        assert state() == "Queueing" and api.get("/ready").status_code == 200
        service.store.claim("w", 60)
        assert state() == "Processing"
        service.store.fail(task, "w", "frozen_clip", "it stands still")
        assert state() == "Fail"
        said = api.get(f"/v1/query/video_generation?task_id={task}").json()["base_resp"]
        assert said == {"status_code": 1000, "status_msg": "frozen_clip: it stands still"}


@pytest.mark.parametrize(
    ("limit", "words"),
    [({"decode_seconds": 0.01}, "within 0.01 seconds"), ({"decode_memory_bytes": 64 * 1024**2}, "too much memory")],
    ids=["time", "memory"],
)
def test_decoding_has_limits(tmp_path: Path, limit: dict, words: str) -> None:
    large = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(large, "PNG")
    with client(tmp_path, **limit) as api:
        reply = api.post("/v1/uploads", files={"file": ("a.png", large.getvalue())})
        assert reply.status_code == 422 and words in reply.json()["error"]["message"], reply.text
        assert not list((tmp_path / "data").glob("decode-*")) and api.get("/health").status_code == 200


def test_a_clip_that_is_downloaded_does_not_expire(tmp_path: Path) -> None:
    with client(tmp_path, keep_days=1.0) as api:
        service = api.app.state.service  # type: ignore[attr-defined]
        job = api.post("/v1/jobs", json={"prompt": PROMPT}).json()["id"]
        service.store.claim("w", 60)
        file_id = service.storage.clip_id(job)
        service.storage.variant(file_id, "video").write_bytes(b"a clip")
        facts = {"id": file_id, "name": "a.mp4", "bytes": 6, "sha256": "0" * 64, "width": 8, "height": 8}
        service.store.complete(job, "w", file=facts, result={}, adjusted=[], warnings=[], keep_days=1.0)
        with service.database.write() as connection:
            connection.execute(update(files).values(created_at=1.0))
        assert api.get(f"/v1/videos/{job}/content").content == b"a clip"
        assert service.janitor.sweep() == 0
        service.janitor.hold(file_id, -1)
        assert service.janitor.sweep() == 1
        gone = api.get(f"/v1/videos/{job}/content")
        assert gone.status_code == 404 and gone.json()["error"]["code"] == "expired"
        assert api.get(f"/v1/jobs/{job}").json()["note"] == "its file expired"


def test_the_visible_mark_is_in_one_corner_and_legible() -> None:
    for ground in (0, 255):
        frames = np.full((2, 96, 96, 3), ground, np.uint8)
        marked = draw_mark(frames)
        assert (frames == ground).all() and (marked[:, :72, :] == ground).all() and (marked[:, :, :60] == ground).all()
        y, x = np.nonzero(marked[0, ..., 0] != ground)
        mark = marked[0, y.min() : y.max() + 1, x.min() : x.max() + 1]
        assert int(mark.max()) - int(mark.min()) > 100  # letters against their plate


def test_a_forced_mark_is_said(tmp_path: Path) -> None:
    with client(tmp_path, watermark="always") as api:
        job = api.post("/v1/jobs", json={"prompt": PROMPT}).json()
        assert job["request"]["watermark"] and any("operator of this server marks" in s for s in job["adjusted"])
        assert (
            api.post("/v1/jobs", json={"prompt": f"{PROMPT} [Static shot]", "watermark": True}).json()["adjusted"] == []
        )


def test_expiry_takes_the_oldest_first_and_nothing_that_is_in_use(tmp_path: Path) -> None:
    with client(tmp_path, keep_days=1.0) as api:
        service = api.app.state.service  # type: ignore[attr-defined]
        uploads = [api.post("/v1/uploads", files={"file": ("a.png", png(seed))}).json()["id"] for seed in range(4)]
        old, needed, held, young = uploads
        assert api.post("/v1/jobs", json={"prompt": PROMPT, "first_frame": needed}).status_code == 200
        service.janitor.hold(held, 60)
        with service.database.write() as connection:
            connection.execute(update(files).where(files.c.id != young).values(created_at=1.0))
        assert service.janitor.sweep() == 1
        left = {name for name in uploads if service.storage.upload(name, "image").is_file()}
        assert left == {needed, held, young} and service.media.find(old, "local") is None
        service.janitor.settings = service.settings.model_copy(update={"keep_bytes": 0, "keep_days": None})
        service.janitor.hold(held, -1)
        assert service.janitor.sweep() == 2
        assert {name for name in uploads if service.storage.upload(name, "image").is_file()} == {needed}


def test_half_written_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    with client(tmp_path) as api:
        janitor = api.app.state.service.janitor  # type: ignore[attr-defined]
        whole = janitor.storage.path("file_" + "a" * 24, ".mp4")
        old, new = (whole.with_name(f".{whole.stem}.{name}.mp4") for name in ("01234567", "89abcdef"))
        for path in (whole, old, new):
            path.write_bytes(b"a clip")
        decoding = janitor.storage.data / "decode-old", janitor.storage.data / "decode-new"
        for folder in decoding:
            folder.mkdir()
            (folder / "in").write_bytes(b"a picture")
        for path in (whole, old, decoding[0]):
            os.utime(path, (1.0, 1.0))
        janitor.sweep()
        assert whole.is_file() and new.is_file() and not old.exists()
        assert decoding[1].is_dir() and not decoding[0].exists()


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    with client(tmp_path) as api:
        job = api.post("/v1/jobs", json={"prompt": PROMPT}).json()
        service = api.app.state.service  # type: ignore[attr-defined]

        def full(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(service.media, "_decode", full)
        reply = api.post("/v1/uploads", files={"file": ("a.png", png())})
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "storage"
        assert api.get(f"/v1/jobs/{job['id']}").json()["status"] == "queued"


def test_two_servers_on_one_data_folder_are_refused(tmp_path: Path) -> None:
    from videogen.server.supervisor import lock_data

    first = lock_data(settings(tmp_path))
    with pytest.raises(ValueError, match="must not be in use by another server"):
        lock_data(settings(tmp_path))
    first.close()
    lock_data(settings(tmp_path)).close()


def test_a_body_that_does_not_arrive_is_refused_by_every_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Python 3.11 asyncio's exception of that name is another one than the language's."""

    class OldTimeoutError(Exception):
        pass

    async def too_slow(awaitable: Any, timeout: float) -> None:
        awaitable.close()
        raise OldTimeoutError

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = create_app(settings(tmp_path))
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": [(b"host", b"127.0.0.1")]}
    monkeypatch.setattr(asyncio, "TimeoutError", OldTimeoutError)
    monkeypatch.setattr(asyncio, "wait_for", too_slow)
    asyncio.run(Guard(application, app.state.service)(scope, receive, send))
    assert sent[0]["status"] == 400 and b"must arrive within" in sent[1]["body"]


def test_a_method_that_somebody_made_up_is_no_label(tmp_path: Path) -> None:
    with client(tmp_path) as api:
        api.request("BREW", "/health")
        text = api.get("/metrics").text
    assert "BREW" not in text and 'method="other"' in text


def test_nothing_of_torch_is_loaded_by_the_front(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from videogen.server.app import create_app; from videogen.server.planning import Ask\n"
        "from videogen.server.settings import Settings\n"
        f"app = create_app(Settings(data=Path({str(tmp_path)!r}), workers=0))\n"
        f"app.state.service.planner.plan(Ask(prompt={PROMPT!r}, prompt_optimizer=True), {{}})\n"
        "print(sorted({'torch', 'diffusers', 'av', 'cv2', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_hash_of_what_was_asked_ignores_the_order_of_names() -> None:
    from videogen.server.jobs import NewJob

    one, two = (
        NewJob(tenant="t", dialect="d", request={}, asked=json.loads(text), num_steps=1, shape="").request_hash
        for text in ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}')
    )
    assert one == two and len(one) == len(hashlib.sha256().hexdigest())
