"""The studio in real headless Chromium: every button does what it says, and nothing comes from another host."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="the `server` extra is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright import sync_api as playwright_api
from server_tools import SIZE, LocalServer, make_model, png

from videogen.data.video import write_video

pytestmark = pytest.mark.slow

CHROMIUM = (
    os.environ.get("CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
    or shutil.which("google-chrome")
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 600_000


def until(page: Any, expression: str) -> None:
    """Wait until an expression of the page is true (`wait_for_function` needs eval, which the page's policy forbids)."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("studio")
    with LocalServer(folder / "data", make_model(folder / "tiny"), rate_limit=100_000) as running:
        yield running
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; set CHROMIUM to one")
    with playwright_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, server: LocalServer) -> Iterator[Any]:
    """A page of the studio; at its end it must have asked no other host and have thrown nothing."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, locale="en-US", color_scheme="light", accept_downloads=True
    )
    found = context.new_page()
    found.set_default_timeout(PATIENCE)
    hosts: set[str] = set()
    problems: list[str] = []
    found.on(
        "request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None
    )
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on(
        "console",
        lambda message: (
            problems.append(message.text) if message.type == "error" and "422" not in message.text else None
        ),
    )
    found.goto(server.url)
    found.wait_for_selector(".camera")
    yield found
    context.close()
    assert hosts == {server.url.split("/")[2]} and problems == []


def test_from_a_prompt_to_a_downloaded_clip(page: Any, server: LocalServer, tmp_path: Path) -> None:
    assert page.locator(".camera").count() == 15
    page.fill("#prompt", "a fox jumps in the snow with a hat")
    page.wait_for_selector("mark:has-text('hat')", state="attached")
    assert "hat" in page.inner_text("#words")
    page.click("#rewrite")
    page.click("#words button:has-text('Use it')")
    assert page.input_value("#prompt") == "a fox jumps in the snow"
    page.click(".chip:has-text('at night')")
    assert page.input_value("#prompt") == "a fox jumps in the snow at night"
    page.click(".chip:has-text('pig')")
    assert page.input_value("#prompt") == "a pig jumps in the snow at night"
    page.click("[data-camera='Pan left']")
    page.click("#sequence button:has-text('then')")
    page.click("[data-camera='Zoom in']")
    page.fill("#seed", "7")
    until(page, "document.querySelector('#estimate').textContent.includes('2 steps')")
    page.keyboard.press("Control+Enter")
    card = page.wait_for_selector(".card")
    job = server.http.get("/v1/jobs?limit=1").json()["data"][0]
    assert job["request"]["camera"] == "[Pan left] [Zoom in]" and job["request"]["seed"] == 7
    card.query_selector(".open").click()
    assert page.inner_text("#detail-title") == "a pig jumps in the snow at night"
    for variant, suffix in (("video", ".mp4"), ("gif", ".gif"), ("sheet", ".png"), ("receipt", ".json")):
        with page.expect_download() as download:
            page.click(f"[data-variant='{variant}']")
        path = tmp_path / f"a{suffix}"
        download.value.save_as(path)
        assert path.stat().st_size > 300, variant
    assert json.loads((tmp_path / "a.json").read_text())["request"]["seed"] == 7
    page.click("#detail button:has-text('Another seed')")
    until(page, "document.querySelectorAll('.card').length === 2")
    page.click(".card .open >> nth=0")
    page.click("#detail button:has-text('Continue this clip')")
    page.wait_for_selector("#continuing:not([hidden])")
    page.click("#generate")
    until(page, "document.querySelectorAll('.card').length === 3")
    newest = server.http.get("/v1/jobs?limit=1").json()["data"][0]
    assert newest["request"]["task"] == "extend"


def test_progress_with_preview_and_cancel(page: Any, server: LocalServer) -> None:
    page.fill("#prompt", "a fox stays in the snow")
    page.click("details summary")
    page.fill("#steps", "1000")
    page.click("#generate")
    page.wait_for_selector(".job .look img[src^='data:image/jpeg']")
    assert float(page.locator(".job progress").first.evaluate("bar => bar.value")) >= 0
    page.click(".job button:has-text('Cancel')")
    until(page, "document.querySelector('.job small').textContent === 'cancelled'")
    assert server.http.get("/v1/jobs?limit=1").json()["data"][0]["status"] == "cancelled"


def test_pictures_by_choice_and_by_drop(page: Any, server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    page.set_input_files("[data-role='first_frame'] input", tmp_path / "a.png")
    page.wait_for_selector("[data-role='first_frame'].filled img")
    transfer = page.evaluate_handle(
        """bytes => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], 'b.png', {type: 'image/png'})); return data; }""",
        list(png(2)),
    )
    page.dispatch_event("[data-role='last_frame']", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("[data-role='last_frame'].filled img")
    page.fill("#prompt", "a fox stays in the snow")
    page.click("#generate")
    page.wait_for_selector(".card:has-text('a fox stays in the snow')")
    newest = server.http.get("/v1/jobs?limit=1").json()["data"][0]
    assert [picture["role"] for picture in newest["request"]["pictures"]] == ["first", "last"]
    for role in ("first_frame", "last_frame"):
        page.click(f"[data-role='{role}'] .off")
    page.click(".card .open")
    page.click("#detail button:has-text('Use these settings')")
    for role in ("first_frame", "last_frame"):
        image = page.wait_for_selector(f"[data-role='{role}'].filled img")
        until(page, f"document.querySelector(\"[data-role='{role}'] img\").naturalWidth > 0")
        assert newest["request"]["pictures"][role == "last_frame"]["file_id"] in image.get_attribute("src")
    (tmp_path / "no.png").write_text("hello")
    page.set_input_files("[data-role='subject'] input", tmp_path / "no.png")
    page.wait_for_selector("#problem:not([hidden])")
    assert "picture" in page.inner_text("#problem")
    page.click("[data-role='first_frame'] .off")
    assert page.locator("[data-role='first_frame'] img").count() == 0
    page.dispatch_event(
        "#gallery", "drop", {"dataTransfer": transfer}
    )  # beside its place: the first frame, and not another page
    page.wait_for_selector("[data-role='first_frame'].filled img")
    page.set_input_files("[data-role='subject'] input", tmp_path / "a.png")
    page.click(".chip:has-text('the subject')")
    assert page.input_value("#prompt") == "the subject stays in the snow [Static shot]"
    assert page.locator("[data-role='first_frame'] img").count() == 0  # the model takes one or the other


def test_the_settings_of_a_clip_are_all_taken_over(page: Any, server: LocalServer, tmp_path: Path) -> None:
    def upload(content: bytes) -> str:
        return server.http.post("/v1/uploads", files={"file": ("a", content)}).json()["id"]

    write_video(tmp_path / "a.mp4", np.zeros((9, SIZE, SIZE, 3), np.uint8) + 99, 12)
    video, pictures = upload((tmp_path / "a.mp4").read_bytes()), [upload(png(seed)) for seed in range(2)]
    num_latents = 1 + 16 // server.service.planner.scale_factor_temporal
    camera = [[0.5, *[0.0] * 7, 1.0]] * num_latents
    guided = {"guidance_scale": 2.0, "guidance_interval": [0.2, 0.8], "receipt_images": False}
    for body in (
        {"source": video, "prompt": "a boat stays on the beach"},
        {
            "keyframes": [{"time": 0.5, "image": pictures[0]}],
            "camera": camera,
            "prompt": "a tree stays on the beach",
            **guided,
        },
        {"subjects": pictures, "prompt": "the subject stays on the beach [Static shot]"},
    ):
        made = server.wait(server.submit(**body)["id"])
        assert made["status"] == "completed", made
        page.reload()
        page.click(f".card:has-text('{body['prompt']}') .open")
        page.click("#detail button:has-text('Use these settings')")
        page.wait_for_selector("#carried:not([hidden])" if "source" not in body else "#continuing:not([hidden])")
        if "subjects" in body:
            page.wait_for_selector("[data-role='subject'].filled img")
        page.click("#generate")
        cards = f"[...document.querySelectorAll('.card')].filter(card => card.textContent.includes('{body['prompt']}'))"
        until(page, f"{cards}.length === 2")
        assert server.http.get("/v1/jobs?limit=1").json()["data"][0]["request"] == made["request"]
        page.click(f".card[data-id='{made['id']}'] .open")
        page.click("#detail button:has-text('Another seed')")
        until(page, f"{cards}.length === 3")
        again = server.http.get("/v1/jobs?limit=1").json()["data"][0]["request"]
        assert again["seed"] != made["request"]["seed"]
        assert {**again, "seed": made["request"]["seed"]} == made["request"]


def test_search_compare_keyboard_and_delete(page: Any, server: LocalServer) -> None:
    for seed in range(2):
        server.wait(server.submit(prompt="a whale stays on the beach", seed=seed, steps=1)["id"])
    page.reload()
    page.wait_for_selector(".card")
    page.keyboard.press("/")
    page.keyboard.type("whale")
    until(page, "[...document.querySelectorAll('.card p')].every(text => text.textContent.includes('whale'))")
    page.keyboard.press("Escape")
    page.locator(".card .open").first.focus()
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    page.wait_for_selector("#compare:not([disabled])")
    page.keyboard.press("c")
    assert page.locator("#comparison video").count() == 2
    until(page, "[...document.querySelectorAll('#comparison video')].every(video => video.currentTime > 0)")
    page.keyboard.press("Space")
    until(page, "[...document.querySelectorAll('#comparison video')].every(video => video.paused)")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.keyboard.press("Escape")
    before = page.locator(".card").count()
    page.locator(".card .open").first.focus()
    page.keyboard.press("Enter")
    first = page.evaluate("document.querySelector('#detail video').src")
    page.keyboard.press("ArrowRight")
    until(page, f"!['', '{first}'].includes(document.querySelector('#detail video').src)")
    page.keyboard.press("ArrowLeft")
    page.click("#detail .danger")
    assert page.inner_text("#detail .danger") == "Really delete?"
    page.click("#detail .danger")
    until(page, f"document.querySelectorAll('.card').length === {before - 1}")


def test_older_clips_after_the_oldest_shown_was_deleted(page: Any, server: LocalServer) -> None:
    prompt = "a horse stays on the beach"
    made = [server.wait(server.submit(prompt=prompt, seed=seed, steps=1)["id"])["id"] for seed in range(4)]
    time.sleep(6)  # what ended in the last five seconds is told to every page that begins to listen, asked for or not

    pages = re.compile(r"/v1/jobs\?.*limit=24")

    def smaller(route: Any) -> None:
        route.continue_(url=route.request.url.replace("limit=24", "limit=2"))

    page.route(pages, smaller)
    page.reload()
    page.wait_for_selector(".card")
    page.fill("#search", "horse")
    until(page, "document.querySelectorAll('.card').length === 2")
    assert server.http.delete(f"/v1/jobs/{made[2]}").status_code == 204  # elsewhere, say in another tab
    page.click("#load-more")
    until(page, f"document.querySelector('.card[data-id={made[0]}]') !== null")

    page.route(pages, lambda route: route.fulfill(status=422, json={"error": {"message": "not now"}}))
    page.fill("#search", "horse stays")
    page.wait_for_selector("#problem:not([hidden])")
    assert "not now" in page.inner_text("#problem")
    page.unroute(pages)
    page.fill("#search", "horse")
    page.wait_for_selector("#problem[hidden]", state="attached")


def test_what_ended_while_nobody_told_is_found_again(page: Any, server: LocalServer) -> None:
    page.route("**/v1/events", lambda route: route.fulfill(status=200, body=": videogen\n\n"))  # breaks at once
    page.reload()
    page.wait_for_selector("#state[data-state=ready]")
    blocker = server.submit(steps=1000, priority=50)
    done = server.submit(prompt="a duck stays on the beach", steps=1)
    until(page, "document.querySelectorAll('#queue .job').length === 2")
    server.http.post(f"/v1/jobs/{blocker['id']}/cancel")
    until(page, f"document.querySelector('.card[data-id={done['id']}]') !== null")
    until(page, "document.querySelectorAll('#queue .job:not(.failed) progress:not([hidden])').length === 0")


def test_chinese_dark_and_phone_width(page: Any, server: LocalServer) -> None:
    page.click("#language")
    assert page.inner_text("#generate span") == "生成" and page.evaluate("document.documentElement.lang") == "zh-CN"
    page.click(".chip:has-text('狐狸')")
    page.click(".chip:has-text('雪地里')")
    assert "狐狸" in page.input_value("#prompt")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.reload()
    page.wait_for_selector(".camera")
    assert (
        page.inner_text("#generate span") == "生成"
        and page.evaluate("document.documentElement.dataset.theme") == "dark"
    )
    labels = page.evaluate("[...document.querySelectorAll('[data-i18n-label]')].map(e => e.getAttribute('aria-label'))")
    assert len(labels) >= 6 and not any(text.isascii() for text in labels)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    small = page.evaluate(
        "[...document.querySelectorAll('button, .drop')].filter(e => e.offsetParent && e.offsetHeight < 20).length"
    )
    assert small == 0


def test_sentences_of_the_server_are_chinese_in_the_chinese_page(page: Any, server: LocalServer) -> None:
    def upload(picture: Image.Image) -> Any:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return server.http.post("/v1/uploads", files={"file": ("a.png", buffer.getvalue(), "image/png")}).json()

    def estimate(**body: Any) -> Any:
        return server.http.post("/v1/estimates", json={"prompt": "a fox jumps in the snow", **body}).json()

    sentences = upload(Image.new("RGBA", (100, 60)))["adjusted"]
    sentences += estimate(width=1280, height=720, fps=25, duration=0.9)["adjusted"]
    subject = upload(Image.new("RGB", (100, 60)))["id"]
    sentences += estimate(prompt="the subject jumps in the snow", subjects=[subject])["adjusted"]
    sentences += estimate(prompt="狐狸")["adjusted"] + estimate(prompt="狐狸, [Pan left]")["adjusted"]
    sentences += estimate(num_frames=15)["adjusted"] + estimate(camera="[Pan left,Pan left]")["adjusted"]
    made = server.wait(server.submit(prompt="a fox plays chess, [Push in]", steps=1)["id"])
    sentences += made["warnings"]
    refused = [
        upload(Image.new("RGB", (1, 1))),
        upload(Image.new("RGB", (900, 10))),
        server.http.post("/v1/uploads", files={"file": ("a.png", b"hello", "image/png")}).json(),
        estimate(prompt="a fox [Pan lefft]"),
        estimate(prompt="a fox [Pan left,Pan right]"),
        estimate(prompt=" "),
    ]
    assert all("error" in reply for reply in refused), refused
    sentences += [reply["error"]["message"] for reply in refused]
    assert len(sentences) >= 14
    both = page.evaluate(
        """async sentences => {
            const { say } = await import("/studio/sentences.js"), { setLanguage } = await import("/studio/i18n.js");
            const english = sentences.map(say);
            setLanguage("zh");
            return [english, sentences.map(say), say("`prompt` must not be empty. `seed` was eaten.")];
        }""",
        sentences,
    )
    assert both[0] == [sentence.replace("`", "") for sentence in sentences]
    for sentence, chinese in zip(sentences, both[1], strict=True):
        assert not chinese.isascii() and " the " not in chinese, (sentence, chinese)
    assert both[2] == "提示词不能为空。seed was eaten."  # what it does not know stays


def test_what_the_server_refuses_is_said(page: Any) -> None:
    page.fill("#prompt", "a fox [Pan lefft]")
    page.wait_for_selector("#problem:not([hidden])")
    assert "the nearest is [Pan left]" in page.inner_text("#problem")


def test_the_api_page_lists_every_route(page: Any, server: LocalServer) -> None:
    page.goto(server.url + "/docs")
    page.wait_for_selector("details")
    paths = server.http.get("/openapi.json").json()["paths"]
    assert page.locator("h2").all_inner_texts() == [
        "MiniMax", "OpenAI videos", "Jobs", "Operation", "Bodies and answers",
    ]  # fmt: skip
    assert page.locator(".operation").count() == sum(len(verbs) for verbs in paths.values())
    page.click(".schema:has-text('EstimateView') summary")
    assert "Denoising steps over all windows." in page.inner_text(".schema[open]")


def test_with_keys_the_studio_asks_for_one(browser: Any, tmp_path: Path) -> None:
    from videogen.server.auth import add_key

    key = add_key(tmp_path / "keys.json", "me")
    with LocalServer(
        tmp_path / "data", make_model(tmp_path / "tiny"), num_workers=0, api_key_file=tmp_path / "keys.json"
    ) as server:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(server.url)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", key)
        page.click("#key-dialog .primary")
        page.wait_for_selector(".camera")
        page.fill("#prompt", "a fox stays")
        page.click("#generate")
        page.wait_for_selector(".job")
        page.close()
