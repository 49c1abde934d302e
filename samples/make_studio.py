"""Screenshots of the studio in headless Chromium: `python samples/make_studio.py [--chromium /usr/bin/chromium]`.

Starts `videogen serve` with the shipped model in a temporary folder, makes the clips that the pictures show through its API, and writes
`samples/studio/*.png`. Needs the extra `server`, playwright and a Chromium. `--steps 4 --output /tmp/studio` is a quick look at the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).resolve().parent / "studio"
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
PROMPTS = [
    ("a fox stays in the snow", 11), ("a whale moves left on the beach at sunset", 2), ("a rocket stays in the city at night", 5),
    ("a frog jumps in the forest", 4), ("a penguin moves right in the snow at sunset", 7), ("a car moves left in the city", 1),
    ("an owl stays in the forest at night", 3), ("一只狐狸在海滩上跳", 6), ("a pig stays on the beach", 9), ("a balloon jumps in the snow, [Pan left]", 8),
    ("a unicorn moves right in the forest at sunset", 12), ("a chick stays in the city", 10),
]  # fmt: skip
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def call(path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def wait_for(condition: Any, seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.3)


def shot(page: Page, path: Path, full: bool = False) -> None:
    page.mouse.move(700, 5)
    page.evaluate("document.activeElement?.blur()")
    page.wait_for_timeout(300)
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' }); document.querySelector('.composer')?.scrollTo(0, 0)")
    page.wait_for_function(
        "[...document.images].every(i => i.complete || i.getBoundingClientRect().top > innerHeight)", timeout=60_000
    )
    page.wait_for_timeout(300)
    page.screenshot(path=path, full_page=full, animations="disabled", timeout=300_000)


def shots(page: Page, folder: Path) -> None:
    """The pictures, one after the other on one page."""
    page.set_default_timeout(300_000)
    page.goto(URL)
    page.wait_for_selector(".card")
    page.fill("#prompt", "a fox with a hat jumps in the snow at night")
    page.click("[data-camera='Pan left']")
    page.click("[data-camera='Zoom in']")
    page.click("#sequence button")
    page.click("[data-camera='Static shot']")
    page.wait_for_selector("#words p")
    for seed in range(3):
        call("/v1/jobs", {"prompt": PROMPTS[seed][0], "seed": seed, "steps": 400})  # still at work in all pictures
    page.wait_for_selector(".job .look img", timeout=120_000)
    wait_for(lambda: page.evaluate("document.querySelector('#estimate').textContent.length > 3"))
    page.wait_for_timeout(1500)
    shot(page, folder / "light.png")
    page.click("#theme")
    page.wait_for_timeout(400)
    shot(page, folder / "dark.png")
    page.click("#language")
    page.fill("#prompt", "夜里,一个企鹅在雪地里跳")
    page.wait_for_timeout(1500)
    shot(page, folder / "chinese.png")
    page.click("#language")
    page.click("#theme")
    page.set_viewport_size({"width": 390, "height": 844})
    page.fill("#prompt", "a whale moves left on the beach")
    page.wait_for_timeout(1000)
    shot(page, folder / "phone.png", full=True)
    page.set_viewport_size({"width": 1440, "height": 900})
    for left in call("/v1/jobs?limit=100&status=queued&status=running")["data"]:
        call(f"/v1/jobs/{left['id']}/cancel", {})
    page.click(".card .open")
    wait_for(lambda: page.evaluate("document.querySelector('#detail video').currentTime > 0.3"))
    page.wait_for_timeout(1500)
    shot(page, folder / "detail.png")
    page.keyboard.press("Escape")
    for pick in page.query_selector_all(".card .pick")[:3]:
        pick.check(force=True)
    page.click("#compare")
    page.wait_for_timeout(1500)
    shot(page, folder / "compare.png")
    page.goto(URL + "/docs")
    page.wait_for_selector("details")
    page.click("summary:has-text('/v1/video_generation')")
    shot(page, folder / "docs.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument(
        "--data", type=Path, help="keep the server's data here; clips that are there are not made again"
    )
    parser.add_argument("--steps", type=int, help="of each clip; by default as the model says")
    parser.add_argument("--output", type=Path, default=OUT, help="folder for the pictures")
    options = parser.parse_args()
    options.output.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder)
        code = "import sys; from videogen.cli import main; sys.exit(main(sys.argv[1:]))"
        server = subprocess.Popen([sys.executable, "-c", code, "serve", "--port", str(PORT), "--data", str(data)])
        try:
            wait_for(lambda: call("/ready")["status"] == "ready")
            for left in call("/v1/jobs?limit=100&status=queued&status=running")["data"]:
                call(f"/v1/jobs/{left['id']}/cancel", {})
            if not call("/v1/jobs?limit=1&status=completed")["data"]:
                steps = {} if options.steps is None else {"steps": options.steps}
                ids = [call("/v1/jobs", {"prompt": prompt, "seed": seed, **steps})["id"] for prompt, seed in PROMPTS]
                wait_for(lambda: all(call(f"/v1/jobs/{one}")["finished_at"] for one in ids))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light", locale="en-US")
                page.on("pageerror", lambda error: print("page error:", error))
                page.on("console", lambda message: print("console:", message.text) if message.type == "error" else None)
                shots(page, options.output)
                browser.close()
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
