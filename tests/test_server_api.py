"""The three dialects on a real socket, with a worker that runs a tiny model of the real classes."""

from __future__ import annotations

import base64
import io
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
import httpx
import numpy as np
from server_tools import PROMPT, SIZE, Hook, LocalServer, data_url, make_model, png

from videogen.data.video import read_metadata, read_video, write_video
from videogen.receipt import LABEL, frames_sha256, read_receipt
from videogen.server import extension
from videogen.server.auth import LOCAL
from videogen.server.planning import Ask
from videogen_pipelines.requests import extension_overlap

VARIANTS = ("video", "thumbnail", "spritesheet", "gif", "sheet", "receipt")

STILL = f"{PROMPT} [Static shot]"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Hook) -> Iterator[LocalServer]:
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("server")
    model = make_model(folder / "tiny")
    with LocalServer(folder / "data", model, allowed_hosts=(receiver.host,), rate_limit=100_000) as running:
        yield running
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(server: LocalServer) -> dict:
    """A completed job."""
    job = server.wait(server.submit(seed=3, prompt="a fox jumps in the snow, [Pan left]")["id"])
    assert job["status"] == "completed", job
    return job


def content(server: LocalServer, job_id: str, variant: str = "video") -> bytes:
    reply = server.http.get(f"/v1/jobs/{job_id}/content", params={"variant": variant})
    assert reply.status_code == 200, reply.text
    return reply.content


# Our own routes


def test_a_job_makes_one_clip_in_all_its_forms_each_marked(server: LocalServer, done: dict, tmp_path: Path) -> None:
    assert done["progress"] == 100 and done["step"] == done["num_steps"] == 2 and done["request"]["seed"] == 3
    files = {}
    for name, suffix in zip(VARIANTS, (".mp4", ".webp", ".jpg", ".gif", ".png", ".json"), strict=True):
        files[name] = tmp_path / f"a{suffix}"
        files[name].write_bytes(content(server, done["id"], name))
    video = read_video(files["video"])
    assert video.frames.shape == (17, SIZE, SIZE, 3) and video.fps == 12
    assert read_metadata(files["video"])["comment"] == LABEL
    receipt = read_receipt(files["video"])
    assert receipt.request.seed == 3 and receipt.request.prompt.endswith("[Pan left]")
    assert receipt.frames_sha256 == done["result"]["frames_sha256"]
    assert read_receipt(files["gif"]) == receipt and read_receipt(files["receipt"]) == receipt
    for name in ("thumbnail", "spritesheet"):
        picture = Image.open(files[name])
        assert picture.getexif()[0x010E] == LABEL and b"trainedAlgorithmicMedia" in picture.info["xmp"]
    sheet = Image.open(files["sheet"])
    assert sheet.text["comment"] == LABEL and "videogen_receipt" in sheet.text  # type: ignore[attr-defined]
    assert Image.open(files["spritesheet"]).size == (6 * SIZE, 3 * SIZE)
    row = server.service.media.find(done["file_id"], "local")
    assert row is not None and row.bytes == sum(path.stat().st_size for path in files.values())  # what expiry counts


def test_the_same_request_gives_the_same_bytes(server: LocalServer, done: dict) -> None:
    again = server.wait(server.submit(seed=3, prompt="a fox jumps in the snow, [Pan left]")["id"])
    assert content(server, again["id"]) == content(server, done["id"])


def test_ranges_of_a_clip(server: LocalServer, done: dict) -> None:
    whole = content(server, done["id"])
    reply = server.http.get(f"/v1/jobs/{done['id']}/content", headers={"range": "bytes=10-19"})
    assert reply.status_code == 206 and reply.content == whole[10:20]


def test_what_is_adjusted_is_said_and_strict_refuses_it(server: LocalServer) -> None:
    body = {"prompt": PROMPT, "width": 1280, "height": 720, "duration": 1.5, "fps": 25, "steps": 1}
    reply = server.http.post("/v1/estimates", json=body).json()
    said = " ".join(reply["adjusted"])
    assert "`width` and `height` 1280x720 became 32x32" in said and "`fps` 25 became 12" in said
    assert "`duration` 1.5 s became" in said
    assert reply["request"]["width"] == SIZE and reply["steps"] == 1
    refused = server.http.post("/v1/jobs", json={**body, "strict": True})
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert error["param"] in ("width", "fps") and "trained on" in error["message"]
    alone = server.http.post("/v1/estimates", json={"prompt": PROMPT, "height": 720}).json()["adjusted"]
    assert any(sentence.startswith("`height` 720 became 32x32") for sentence in alone)
    refused = server.http.post("/v1/jobs", json={"prompt": PROMPT, "height": 720, "strict": True}).json()["error"]
    assert refused["param"] == "height"
    long = server.http.post("/v1/estimates", json={"prompt": STILL, "num_frames": 10_000}).json()["adjusted"]
    assert "is beyond the 30 seconds" in long[0] and all(sentence.startswith("`num_frames` 10000") for sentence in long)


def test_words_are_read_unless_taken_literally(server: LocalServer) -> None:
    prompt = "a fox jumps in the snow at midnight"
    read = server.http.post("/v1/estimates", json={"prompt": prompt}).json()
    assert "'at midnight' was read as 'at night'." in read["adjusted"]
    assert read["request"]["prompt"].endswith("at night [Static shot]") and read["request"]["asked_prompt"] == prompt
    for literal in ({"literal_prompt": True}, {"strict": True}):
        kept = server.http.post("/v1/estimates", json={"prompt": prompt, **literal}).json()
        assert kept["request"]["prompt"] == prompt and kept["request"]["asked_prompt"] is None
        assert any("does not know 'midnight'" in sentence for sentence in kept["warnings"])
    refused = server.http.post("/v1/estimates", json={"prompt": prompt, "strict": True, "literal_prompt": False})
    assert refused.status_code == 422 and "was read as" in refused.json()["error"]["message"]
    short = server.http.post("/v1/estimates", json={"prompt": "a fox"}).json()
    assert (
        short["request"]["prompt"].startswith("a fox, staying in the forest")
        and short["request"]["asked_prompt"] == "a fox"
    )
    assert any("'staying in the forest'" in sentence for sentence in short["adjusted"])
    looked = server.http.post("/v1/prompts", json={"prompt": prompt}).json()
    assert looked["unknown"] == {} and looked["changes"][0] == "'at midnight' was read as 'at night'."


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": "a\0b"}, "prompt", "NUL"),
        ({"prompt": "a fox [Pan lefft]"}, None, "the nearest is [Pan left]"),
        ({"prompt": PROMPT, "sted": 3}, "sted", "not known here"),
        ({"prompt": PROMPT, "seed": -1}, "seed", "greater than or equal to 0"),
        ({"prompt": PROMPT, "steps": 5000}, "steps", "less than or equal to 1000"),
        ({"prompt": PROMPT, "camera": [[0.0] * 9]}, "camera", "must be [5, 9]"),
        ({"prompt": PROMPT, "camera": "Pan left", "duration": 1, "num_frames": 17}, "num_frames", "not both"),
        ({"prompt": PROMPT, "first_frame": "file_x"}, "first_frame", "id of an image you uploaded"),
        ({"prompt": PROMPT, "first_frame": "http://127.0.0.1/a.png"}, "first_frame", "fetches no remote pictures"),
        ({"prompt": PROMPT, "first_frame": "data:image/png;base64,AAAA"}, "first_frame", "is not one"),
        ({"prompt": PROMPT, "source": "video_" + "0" * 24}, "source", "completed job of yours"),
        ({"prompt": PROMPT, "subjects": ["file_x"]}, "subjects.0", "`subjects.0` must be the id"),
        ({"prompt": PROMPT, "guidance_scale": 1, "negative_prompt": "dark"}, "negative_prompt", "no effect"),
        ({"prompt": PROMPT, "callback_url": "http://10.0.0.1/"}, "callback_url", "private, loopback or link-local"),
    ],
)
def test_what_is_refused_names_its_argument(server: LocalServer, body: dict, param: str | None, words: str) -> None:
    body = json.loads(json.dumps(body))
    if isinstance(body.get("camera"), list) and server.service.planner.scale_factor_temporal == 8:
        words = "must be [3, 9]"
        body["camera"] = body["camera"] * 2
    reply = server.http.post("/v1/jobs", json=body)
    assert reply.status_code == 422, reply.text
    error = reply.json()["error"]
    assert words in error["message"] and error["param"] == param and error["type"] == "invalid_request_error"


def test_idempotency_key(server: LocalServer) -> None:
    headers = {"idempotency-key": "once"}
    bodies = [{"prompt": PROMPT, "first_frame": data_url(png()), "steps": 1}] * 2
    first, again = (server.http.post("/v1/jobs", json=body, headers=headers) for body in bodies)
    assert first.json()["id"] == again.json()["id"]
    other = server.http.post("/v1/jobs", json={"prompt": "a pig stays"}, headers=headers)
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_conflict"


def test_pictures_subjects_and_extension(server: LocalServer, done: dict) -> None:
    reply = server.http.post("/v1/uploads", files={"file": ("../../a.png", png(1), "image/png")})
    upload = reply.json()
    assert reply.status_code == 200 and (upload["kind"], upload["width"]) == ("image", 64)
    assert "/" not in upload["name"]
    shown = server.http.get(f"/v1/uploads/{upload['id']}/content")
    assert shown.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(shown.content)).size == (upload["width"], upload["height"])
    for unknown in ("file_" + "0" * 32, "..%2f..%2fkeys", done["file_id"]):  # the last is a clip
        assert server.http.get(f"/v1/uploads/{unknown}/content").status_code == 404
    image = server.submit(
        first_frame=upload["id"], last_frame=data_url(png(2)), keyframes=[{"time": 0.5, "image": upload["id"]}]
    )
    subject = server.submit(prompt="the subject jumps in the snow", subjects=[upload["id"]])
    longer = server.submit(source=done["id"], duration=0.7)
    image, subject, longer = (server.wait(job["id"]) for job in (image, subject, longer))
    assert [job["status"] for job in (image, subject, longer)] == ["completed"] * 3, (image, subject, longer)
    assert [picture["role"] for picture in image["request"]["pictures"]] == ["first", "last", "keyframe"]
    assert any("reduced to 32x32" in sentence for sentence in image["adjusted"])
    assert len(subject["result"]["identity"]) == 1
    assert longer["result"]["num_source_frames"] == 17 and longer["result"]["num_frames"] in (25, 21)


def test_what_becomes_of_a_picture_is_told_when_the_job_is_accepted(server: LocalServer) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(io.BytesIO(png(size=(64, 48)))).save(buffer, "JPEG", exif=exif)
    upload = server.http.post("/v1/uploads", files={"file": ("a.jpg", buffer.getvalue())}).json()["id"]
    told = [
        "`{}` was turned upright as its EXIF orientation says.",
        "`{}` was cropped at the centre from 48x64 to 48x48.",
        f"`{{}}` was reduced to {SIZE}x{SIZE}.",
    ]
    first = server.submit(prompt=STILL, first_frame=upload)
    assert first["adjusted"] == [sentence.format("first_frame") for sentence in told]
    openai = server.http.post("/v1/videos", json={"prompt": STILL, "input_reference": {"file_id": upload}}).json()
    assert openai["adjusted"] == [sentence.format("input_reference") for sentence in told]
    subject = server.submit(prompt="the subject jumps in the snow [Static shot]", subjects=[upload])
    assert subject["adjusted"][1:] == [sentence.format("subject 1") for sentence in told[1:]]
    for job in (first, openai, subject):
        assert server.wait(job["id"])["adjusted"] == job["adjusted"]


def test_an_uploaded_video_is_continued(server: LocalServer, done: dict) -> None:
    clip = content(server, done["id"])
    upload = server.http.post("/v1/uploads", files={"file": ("a.mp4", clip, "video/mp4")}).json()
    assert upload["kind"] == "video"
    job = server.wait(server.submit(source=upload["id"], num_frames=8)["id"])
    assert job["status"] == "completed" and job["result"]["num_frames"] == 25, job


def test_a_large_video_is_reduced_to_what_the_model_sees_and_that_is_said(server: LocalServer, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((5, 120, 200, 3), np.uint8), 12)
    upload = server.http.post("/v1/uploads", files={"file": ("a.mp4", (tmp_path / "a.mp4").read_bytes())}).json()
    assert upload["adjusted"] == [f"`file` was reduced to 53x{SIZE}."] and (upload["width"], upload["height"]) == (
        200,
        120,
    )
    with np.load(server.service.storage.upload(upload["id"], "video")) as kept:
        assert kept["frames"].shape == (5, SIZE, 53, 3)
    adjusted = server.http.post("/v1/estimates", json={"prompt": PROMPT, "source": upload["id"]}).json()["adjusted"]
    assert f"`source` was reduced to 53x{SIZE}." in adjusted


def test_an_uploaded_video_is_counted_at_the_rate_of_the_model(server: LocalServer, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", frames, 24)  # 5 frames at 12 per second
    upload = server.http.post("/v1/uploads", files={"file": ("a.mp4", (tmp_path / "a.mp4").read_bytes())}).json()
    job = server.wait(server.submit(source=upload["id"])["id"])
    assert job["status"] == "completed" and job["result"]["num_source_frames"] == 5, job
    overlap = extension_overlap(17, server.service.planner.scale_factor_temporal, 5)
    assert job["request"]["num_frames"] == 17 - overlap  # one window's worth
    assert job["num_steps"] == server.workers[0].generator.pipes["extend"].num_timesteps


def test_cancel_of_a_running_job_within_a_step_with_events(server: LocalServer) -> None:
    job = server.submit(steps=1000)
    server.wait(job["id"], "running")
    seen = []
    with server.http.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
                if "preview" in seen[-1] and seen[-1]["status"] == "running":
                    asked = time.monotonic()
                    server.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert seen[-1]["status"] == "cancelled" and time.monotonic() - asked < 10
    assert seen[-1]["step"] < 1000
    steps = [event["step"] for event in seen]
    assert steps == sorted(steps) and len(set(steps)) > 2
    preview = next(event["preview"] for event in seen if "preview" in event)
    kind, _, data = preview.partition(",")
    marked = Image.open(io.BytesIO(base64.b64decode(data))).info
    assert kind == "data:image/jpeg;base64"
    assert marked["comment"] == LABEL.encode() and b"trainedAlgorithmicMedia" in marked["xmp"]
    assert server.http.get(f"/v1/jobs/{job['id']}/content").status_code == 409


def test_the_events_of_a_job_that_is_deleted_end(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "KEEPALIVE_SECONDS", 5.0)
    blocker = server.submit(steps=1000, priority=50)
    job = server.submit()
    with server.http.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: ") and server.service.store.get(job["id"]):
                # at once, so that nobody sees it cancelled first
                assert server.service.store.cancel(job["id"], LOCAL.tenant)
                assert server.service.store.delete(job["id"], LOCAL.tenant)
            assert line != ": still here"
    server.http.delete(f"/v1/jobs/{blocker['id']}")


def test_delete_stops_a_running_job_and_removes_its_files(server: LocalServer) -> None:
    job = server.submit(steps=1000)
    server.wait(job["id"], "running")
    assert server.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert server.http.get(f"/v1/jobs/{job['id']}").status_code == 404
    ended = server.wait(server.submit(steps=1)["id"])
    path = server.service.storage.variant(ended["file_id"], "video")
    assert path.is_file()
    assert server.http.delete(f"/v1/jobs/{ended['id']}").status_code == 204 and not path.exists()


def test_batches_where_the_request_allows_it(server: LocalServer) -> None:
    server.wait(server.submit(seed=9, steps=2)["id"])  # what one takes alone is known
    long = server.submit(steps=300, priority=50)
    jobs = [server.submit(seed=seed, steps=2, batching=True) for seed in range(3)]
    assert server.wait(long["id"])["status"] == "completed"
    ended = [server.wait(job["id"]) for job in jobs]
    assert [job["status"] for job in ended] == ["completed"] * 3
    sizes = {json.loads(content(server, job["id"], "receipt"))["request"]["batch_size"] for job in ended}
    assert sizes == {3}
    assert len({job["result"]["frames_sha256"] for job in ended}) == 3


def test_callbacks_come_at_least_once_in_order_after_the_challenge(server: LocalServer, receiver: Hook) -> None:
    receiver.messages.clear()
    receiver.refuse = 1
    body = {"model": "videogen-tiny", "prompt": PROMPT, "callback_url": receiver.url}
    task = server.http.post("/v1/video_generation", json=body).json()["task_id"]
    server.wait(task)
    deadline = time.monotonic() + 30
    while len(receiver.messages) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [message["status"] for message in receiver.messages] == ["processing", "success"]
    assert [message["sequence"] for message in receiver.messages] == [0, 1]
    assert len({message["event_id"] for message in receiver.messages}) == 2
    assert receiver.messages[1]["task_id"] == task and receiver.messages[1]["video_width"] == SIZE
    receiver.echo = False
    reply = server.http.post("/v1/jobs", json={"prompt": PROMPT, "callback_url": receiver.url})
    receiver.echo = True
    assert reply.status_code == 422 and "challenge" in reply.json()["error"]["message"]


def test_words_and_rewriting(server: LocalServer) -> None:
    reply = server.http.post("/v1/prompts", json={"prompt": "a red vixen leaps in winter with a hat, [Zoom in]"}).json()
    assert "hat" in reply["unknown"] and reply["rewritten"] == "a fox jumps in the snow, [Zoom in]"
    assert "hat" in " ".join(reply["changes"])
    chinese = server.http.post("/v1/prompts", json={"prompt": "小狐狸在冰天雪地里跳来跳去"}).json()
    assert chinese["rewritten"] == "一个狐狸在雪地里跳"
    model = server.http.get("/v1/model").json()
    assert len(model["cameras"]) == 15 and model["suggestions"]["actors"]["fox"] == {"en": "a fox", "zh": "狐狸"}


def test_a_clip_that_stands_still_although_motion_was_asked_for_fails_with_a_reason(server: LocalServer) -> None:
    vae = server.workers[0].generator.pipes["text"].vae
    decode = vae.decode

    def frozen(latents: torch.Tensor):
        output = decode(latents)
        output.sample = output.sample[:, :, :1].expand_as(output.sample).contiguous()
        return output

    def not_finite(latents: torch.Tensor):
        output = decode(latents)
        output.sample = output.sample * float("nan")
        return output

    def black(latents: torch.Tensor):
        output = decode(latents)
        output.sample = output.sample * 0 - 1
        return output

    for broken, prompt, code in (
        (frozen, "a fox jumps in the snow", "frozen_clip"),
        (frozen, "a fox stays in the snow, [Pan left]", "frozen_clip"),
        (frozen, "a fox stays in the snow", None),
        (black, "a fox stays in the snow", "black_clip"),
        (black, "a fox stays in the snow at night", None),
        (not_finite, "a fox stays in the snow", "not_finite"),
    ):
        vae.decode = broken
        try:
            job = server.wait(server.submit(prompt=prompt)["id"])
        finally:
            vae.decode = decode
        assert (job["error"] or {}).get("code") == code, job
        assert job["status"] == ("completed" if code is None else "failed")


def test_a_served_clip_with_camera_vectors_replays_byte_for_byte(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from videogen.cli import main

    num_latents = 1 + 16 // server.service.planner.scale_factor_temporal
    vectors = [[0.5, 0.0, 0.0, 0.0, 0.0, 0.25 * index, 0.0, 0.0, 1.0] for index in range(num_latents)]
    job = server.wait(server.submit(camera=vectors, width=1280, height=720)["id"])
    path = tmp_path / "a.mp4"
    path.write_bytes(content(server, job["id"]))
    receipt = read_receipt(path)
    assert [list(row) for row in receipt.request.camera_vectors or ()] == vectors
    assert any("1280x720 became 32x32" in sentence for sentence in receipt.adjusted)
    assert main(["replay", str(path), "-o", str(tmp_path / "b.mp4"), "--model", str(server.settings.model)]) == 0
    assert "byte for byte" in capsys.readouterr().out


# MiniMax


def test_minimax_from_start_to_download(server: LocalServer) -> None:
    body = {"model": "T2V-01-Director", "prompt": "a red vixen leaps in winter", "duration": 6, "resolution": "768P"}
    created = server.http.post("/v1/video_generation", json=body).json()
    assert created["base_resp"] == {"status_code": 0, "status_msg": "success"}
    assert created["prompt"] == "a fox jumps in the snow [Static shot]"
    said = " ".join(created["adjusted"])
    assert (
        "T2V-01-Director is answered by" in said
        and "`resolution` 1366x768 became 32x32" in said
        and "`duration` 6 s became" in said
    )
    states = []
    while not states or states[-1] not in ("Success", "Fail"):
        query = server.http.get("/v1/query/video_generation", params={"task_id": created["task_id"]}).json()
        states.append(query["status"])
    assert states[-1] == "Success" and set(states) <= {"Preparing", "Queueing", "Processing", "Success"}
    assert (query["video_width"], query["video_height"]) == (SIZE, SIZE)
    found = server.http.get("/v1/files/retrieve", params={"file_id": query["file_id"]}).json()["file"]
    assert found["purpose"] == "video_generation" and found["filename"].endswith(".mp4")
    clip = httpx.get(found["download_url"], trust_env=False)
    assert clip.status_code == 200 and len(clip.content) == found["bytes"]
    direct = server.http.get("/v1/files/retrieve_content", params={"file_id": query["file_id"]})
    assert direct.content == clip.content
    forged = found["download_url"][:-4] + "0000"
    assert server.http.get(forged).json()["base_resp"]["status_code"] == 2013


def test_minimax_pictures_and_watermark(server: LocalServer) -> None:
    upload = server.http.post("/v1/files/upload", files={"file": ("a.png", png())}, data={"purpose": "video"}).json()
    body = {
        "model": "I2V-01",
        "first_frame_image": data_url(png(1)),
        "last_frame_image": upload["file"]["file_id"],
        "aigc_watermark": True,
        "prompt_optimizer": False,
    }
    created = server.http.post("/v1/video_generation", json=body).json()
    assert created["base_resp"]["status_code"] == 0 and any("`prompt` is empty" in s for s in created["adjusted"])
    job = server.wait(created["task_id"])
    assert job["status"] == "completed" and any("visible mark" in sentence for sentence in job["warnings"])
    assert {f"`{name}_frame_image` was reduced to {SIZE}x{SIZE}." for name in ("first", "last")} <= set(job["adjusted"])
    subject = {
        "model": "S2V-01",
        "prompt": "the subject jumps",
        "subject_reference": [{"type": "character", "image": [data_url(png(1))]}],
    }
    assert server.http.post("/v1/video_generation", json=subject).json()["base_resp"]["status_code"] == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "sora"}, "`model` must be one of"),
        ({"model": "I2V-01", "prompt": PROMPT}, "`first_frame_image` must be given"),
        ({"model": "S2V-01", "prompt": PROMPT}, "`subject_reference` must be given"),
        ({"model": "video-01"}, "`prompt` must be given"),
        ({"model": "video-01", "prompt": PROMPT, "resolution": "4K"}, "`resolution` must be one of 512P"),
        ({"model": "video-01", "prompt": PROMPT, "fps": 3}, "`fps` is not known here"),
        ({"model": "video-01", "prompt": PROMPT, "strict": True}, "answered by videogen-tiny"),
        (
            {"model": "videogen-tiny", "prompt": "a red vixen leaps", "prompt_optimizer": True, "strict": True},
            "rewritten",
        ),
        ({"prompt": PROMPT}, "`model` must be given"),
        ({"model": "I2V-01", "first_frame_image": "file_x"}, "`first_frame_image` must be the id"),
        (
            {
                "model": "videogen-tiny",
                "prompt": PROMPT,
                "resolution": "768P",
                "strict": True,
                "prompt_optimizer": False,
            },
            "`resolution` must be a size",
        ),
        (
            {"model": "S2V-01", "prompt": PROMPT, "subject_reference": [{"image": "file_x"}]},
            "`subject_reference.0` must be the id",
        ),
        ({"model": "video-01", "prompt": PROMPT, "subject_reference": [{"image": ["a"], "mask": "b"}]}, "mask"),
    ],
)
def test_minimax_refusals(server: LocalServer, body: dict, words: str) -> None:
    reply = server.http.post("/v1/video_generation", json=body)
    assert reply.status_code == 200
    answer = reply.json()["base_resp"]
    assert answer["status_code"] == 2013 and words in answer["status_msg"]


# OpenAI


def test_the_official_client_creates_polls_downloads_and_deletes(server: LocalServer, tmp_path: Path) -> None:
    openai = pytest.importorskip("openai", reason="the openai client is not installed (extra `dev`)")
    client = openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0, http_client=None)
    if not hasattr(client, "videos"):
        pytest.skip(f"openai {openai.__version__} has no client.videos; 3.54.0 has")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        video = client.videos.create(
            prompt=PROMPT, model="sora-2", seconds="4", size="1280x720", input_reference=("a.png", png(), "image/png")
        )
        assert video.status == "queued" and video.object == "video" and video.size == f"{SIZE}x{SIZE}"
        assert any("`model` sora-2 is answered" in sentence for sentence in video.adjusted)  # type: ignore[attr-defined]
        video = client.videos.poll(video.id, poll_interval_ms=50)
        assert video.status == "completed" and video.progress == 100 and video.error is None
        path = tmp_path / "a.mp4"
        client.videos.download_content(video.id).write_to_file(path)
        assert read_video(path).frames.shape[1:] == (SIZE, SIZE, 3)
        assert frames_sha256(read_video(path).frames)
        sprites = client.videos.download_content(video.id, variant="spritesheet").read()
        assert Image.open(io.BytesIO(sprites)).format == "JPEG"
        remix = client.videos.poll(
            client.videos.remix(video.id, prompt="a pig stays on the beach").id, poll_interval_ms=50
        )
        assert remix.remixed_from_video_id == video.id and remix.seed == video.seed  # type: ignore[attr-defined]
        longer = client.videos.extend(prompt=PROMPT, seconds="4", video=("a.mp4", path.read_bytes(), "video/mp4"))
        ids = [one.id for one in client.videos.list(limit=2)]
        assert video.id in ids and longer.id in ids  # the client walks through the pages
        assert client.videos.delete(longer.id).deleted and client.videos.delete(video.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.videos.retrieve(video.id)
        with pytest.raises(openai.BadRequestError, match="`size` must be width x height"):
            client.videos.create(prompt=PROMPT, size="huge")  # type: ignore[arg-type]


def test_openai_json_with_a_picture_by_address_or_id(server: LocalServer) -> None:
    body = {"prompt": PROMPT, "seconds": 1.5, "input_reference": {"image_url": data_url(png())}, "seed": 5}
    reply = server.http.post("/v1/videos", json=body).json()
    assert reply["seed"] == 5 and reply["seconds"] == "1.42" and reply["status"] == "queued"
    for bad, words in (
        ({"prompt": PROMPT, "seconds": "soon"}, "`seconds` must be a number"),
        ({"prompt": PROMPT, "model": "veo"}, "`model` must be"),
        ({"prompt": PROMPT, "input_reference": {}}, "either file_id or image_url"),
        ({"seconds": "4"}, "`prompt` must be given"),
    ):
        refused = server.http.post("/v1/videos", json=bad)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"], refused.text


def test_openai_sentences_name_its_own_arguments(server: LocalServer) -> None:
    body = {"prompt": PROMPT, "seconds": 4, "size": "1280x720", "input_reference": data_url(png())}
    job = server.http.post("/v1/videos", json=body).json()
    job = server.wait(job["id"])
    said = " ".join(job["adjusted"])
    assert "`size` 1280x720 became 32x32" in said and "`seconds` 4 s became" in said
    assert f"`input_reference` was reduced to {SIZE}x{SIZE}." in job["adjusted"]
    refused = server.http.post("/v1/videos", json={"prompt": PROMPT, "size": "1280x720", "strict": True}).json()[
        "error"
    ]
    assert refused["param"] == "size" and refused["message"].startswith("`size` must be a size")
    picture = job["request"]["pictures"][0]["file_id"]
    server.service.janitor.hold(picture, -1)
    assert server.service.janitor._remove(picture)
    remix = server.http.post(f"/v1/videos/{job['id']}/remix", json={"prompt": "a pig stays on the beach"})
    assert remix.status_code == 400 and remix.json()["error"]["param"] == "id"
    assert "`id` must be a video that can be made again" in remix.json()["error"]["message"]


def test_an_error_of_ours_blames_no_argument(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(server.service.store, "submit", broken)
    with pytest.raises(ValueError, match="a bug"):
        server.service.submit(LOCAL, "127.0.0.1", "videogen", Ask(prompt=PROMPT), {})


def test_lists_filter_over_all_dialects(server: LocalServer, done: dict) -> None:
    found = server.http.get("/v1/jobs", params={"q": "[Pan left]", "status": "completed", "limit": 100}).json()
    assert done["id"] in {job["id"] for job in found["data"]}
    assert all("[Pan left]" in job["prompt"] and job["status"] == "completed" for job in found["data"])
    for params in ({"dialect": "minimax"}, {"created_after": done["created_at"] + 1e6}, {"created_before": 1}):
        ids = {job["id"] for job in server.http.get("/v1/jobs", params={**params, "limit": 100}).json()["data"]}
        assert done["id"] not in ids, params
    page = server.http.get("/v1/jobs", params={"limit": 1}).json()
    assert page["has_more"] and len(page["data"]) == 1
    assert server.http.get("/v1/videos", params={"after": "video_none"}).status_code == 400


# Operation


def test_health_ready_metrics_and_the_openapi_document(server: LocalServer, done: dict) -> None:
    assert server.http.get("/health").json()["status"] == "ok"
    ready = server.http.get("/ready")
    assert ready.status_code == 200 and ready.json()["status"] == "ready"
    text = server.http.get("/metrics").text
    assert 'videogen_jobs{status="completed"}' in text and 'route="/v1/jobs/{job_id}"' in text
    document = server.http.get("/openapi.json").json()
    assert {"/v1/videos", "/v1/video_generation", "/v1/jobs/{job_id}/cancel"} <= set(document["paths"])
    assert "CreateVideo" in document["components"]["schemas"]
    assert "ValidationError" not in json.dumps(document)  # FastAPI's own, which is never sent
    unsaid = {
        f"{name}.{field}"
        for name in ("Ask", "Generation", "CreateVideo", "EstimateView", "WordsView")
        for field, schema in document["components"]["schemas"][name]["properties"].items()
        if "description" not in schema
    }
    assert unsaid == set()


def test_an_estimate_after_a_measurement(server: LocalServer, done: dict) -> None:
    request = {"prompt": "a fox jumps in the snow, [Pan left]"}
    reply = server.http.post("/v1/estimates", json=request).json()
    assert reply["basis"] == "measured" and 0 < reply["seconds"] < 60 and reply["memory_bytes"] > 10**7
    other = server.http.post("/v1/estimates", json={**request, "steps": 40}).json()
    assert other["basis"] == "scaled" and other["seconds"] > reply["seconds"]
    for name, value in (
        ("first_frame", data_url(png())),
        ("source", "http://127.0.0.1/a.mp4"),
        ("subjects", [data_url(png())]),
    ):
        refused = server.http.post("/v1/estimates", json={"prompt": "x", name: value})
        assert refused.status_code == 422 and refused.json()["error"]["param"].split(".")[0] == name
        assert "must be an id in an estimate" in refused.json()["error"]["message"]


def test_requests_of_other_pages_are_refused_without_keys(server: LocalServer) -> None:
    for headers, code in (
        ({"host": "evil.example"}, "wrong_host"),
        ({"origin": "https://evil.example"}, "wrong_origin"),
        ({"sec-fetch-site": "cross-site"}, "wrong_origin"),
    ):
        reply = server.http.post("/v1/jobs", json={"prompt": PROMPT}, headers=headers)
        assert reply.status_code == 403 and reply.json()["error"]["code"] == code
    own = server.http.post("/v1/estimates", json={"prompt": PROMPT}, headers={"origin": server.url})
    assert own.status_code == 200 and "default-src 'self'" in own.headers["content-security-policy"]


def test_oversized_bodies_and_unknown_paths(server: LocalServer) -> None:
    big = b"x" * (server.settings.max_body_bytes + 1)
    assert server.http.post("/v1/jobs", content=big).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(65):
            yield b"x" * 1024**2

    assert server.http.post("/v1/jobs", content=pieces()).status_code in (413, 400)
    for path in (
        "/v1/files/..%2f..%2fvideogen.db/content",
        "/v1/jobs/../../etc/passwd",
        "/studio/../app.py",
        "/nothing",
    ):
        assert server.http.get(path).status_code in (404, 422, 200)
        assert b"SQLite" not in server.http.get(path).content and b"def " not in server.http.get(path).content
    assert server.http.get("/v1/jobs/file_" + "0" * 24).status_code == 404
    deep = b"[" * 100_000
    assert server.http.post("/v1/videos", content=deep, headers={"content-type": "application/json"}).status_code == 400
    assert server.http.post("/v1/jobs", content=deep, headers={"content-type": "application/json"}).status_code in (
        400,
        422,
    )


# Client and command line


def test_the_command_line_submits_waits_lists_downloads_and_cancels(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from videogen.cli import main

    monkeypatch.setenv("VIDEOGEN_SERVER", server.url)
    picture = tmp_path / "a.png"
    picture.write_bytes(png())
    out = tmp_path / "a.mp4"
    assert main(["submit", PROMPT, "--image", str(picture), "--duration", "2", "--seed", "4", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"Wrote {out} (seed 4)" in printed.out and "`duration` 2 s became" in printed.err
    assert read_receipt(out).request.seed == 4
    name = printed.out.splitlines()[0]
    assert main(["status", name]) == 0 and "completed" in capsys.readouterr().out
    assert main(["status", "--limit", "2", "--json"]) == 0
    assert len([json.loads(text) for text in capsys.readouterr().out.splitlines()]) == 2
    assert main(["download", name, "-o", str(tmp_path / "b.png")]) == 0 and Image.open(tmp_path / "b.png").size[0] > 100
    assert main(["submit", PROMPT, "--steps", "1000"]) == 0
    running = capsys.readouterr().out.split()[-1]
    assert main(["cancel", running]) == 0 and "cancelled" in capsys.readouterr().out
    assert main(["download", running, "-o", str(tmp_path / "c.mp4")]) == 2 and "cancelled" in capsys.readouterr().err
    assert not (tmp_path / "c.mp4").exists()
    assert main(["submit", "a fox [Pan lefft]"]) == 2 and "nearest is [Pan left]" in capsys.readouterr().err
    assert (
        main(["status", "--server", "http://127.0.0.1:9", name]) == 1 and "does not answer" in capsys.readouterr().err
    )


def test_our_client_reads_every_spelling_of_a_state() -> None:
    from videogen.client import Client, callback_state

    spellings = {
        "Success": "completed",
        "success": "completed",
        "processing": "running",
        "Fail": "failed",
        "failed": "failed",
    }
    assert {told: callback_state({"status": told}) for told in spellings} == spellings
    with pytest.raises(ValueError, match="known state"):
        callback_state({})
    with pytest.raises(ValueError, match="must start with http"):
        Client("127.0.0.1")
