"""The report: one file, no network, nothing from outside runs in it, and its clips play in a real browser."""

from __future__ import annotations

import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from videogen.data.video import write_video
from videogen.evaluation.report import write_report
from videogen.evaluation.report.confusion import confusion, label
from videogen.evaluation.report.plots import curves, distribution, radar
from videogen.evaluation.score import score_folder

HOSTILE = 'a <script>alert(1)</script> & "cat" {{body}} \''


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    videos = root / "clips"
    videos.mkdir()
    generator = np.random.default_rng(0)
    for index, name in enumerate(("a fox", "a bear", HOSTILE.replace("/", "_"))):
        base = generator.integers(40, 200, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
        frames = np.stack([np.roll(base, 2 * step * index, axis=1) for step in range(12)]).astype(np.uint8)
        write_video(videos / f"{name}-0.mp4", frames, 12.0)
    (videos / "broken-0.mp4").write_bytes(b"nothing")
    names = ["temporal_flickering", "motion_smoothness@dis", "dynamic_degree@dis", "subject_consistency@pixels"]
    results = score_folder(videos, dimensions=names, baseline_clips=2)
    for item in results["dynamic_degree@dis"][1]:  # as a Stage metric has it
        item |= {"asked": "spins", "seen": None if item["index"] else ["stays"]}
    write_report(root / "report.html", results, videos)
    return root / "report.html", (root / "report.html").read_text(encoding="utf-8")


def test_the_page_is_complete_and_self_contained(page) -> None:
    _, text = page
    for title in ("Scores", "VBench's dimensions", "What is there and what is not", "How the clips were made"):
        assert f"<h2>{title}</h2>" in text
    assert "{{" not in re.sub(r"\{\{body\}\}", "", text)  # all that is left is a prompt's own text
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", text) and "http" not in re.sub(r"http-equiv", "", text)
    assert "default-src 'none'" in text
    for model in ("MiniMax-Video-01", "Veo 3", "Kling", "Gen-3", "Sora", "HunyuanVideo", "CogVideoX-5B"):
        assert f"{model} (published)" in text
    assert "broken-0.mp4: `video` must be a readable video file" in text
    assert "it needs DINO ViT-B/16" in text and "<b>temporal_flickering</b>" not in text
    assert len(re.findall(r"<video ", text)) == 4 * 3


def test_prompts_are_text_and_nothing_else(page) -> None:
    _, text = page
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == 2 and text.count("</script>") == 2


def test_every_clip_is_in_the_page_once(page) -> None:
    _, text = page
    assert text.count('"kind": "video/mp4"') == 3


def test_clips_beyond_the_limit_are_named_only(page, tmp_path) -> None:
    from videogen.evaluation.report.page import build_page

    clips = page[0].parent / "clips"
    results = score_folder(clips, dimensions=["temporal_flickering"], baseline_clips=0)
    text = build_page(results, clips, max_megabytes=0.0)
    assert "<video" not in text and '<div class="absent">a fox-0.mp4</div>' in text


def test_plots_are_drawings_that_parse() -> None:
    picture = distribution([0.1, 0.5, 0.5, 0.9], 0.5, 0.4, 0.6, {"frozen": 1.0, "noise <b>": 0.0})
    root = ElementTree.fromstring(picture)
    heights = [float(bar.get("height")) for bar in root.iter("rect") if bar.get("class") == "bar"]
    assert len(heights) == 3 and max(heights) == 2 * min(heights)  # two of four clips at 0.5
    assert len([line for line in root.iter("line") if "mark" in line.get("class")]) == 2
    points = ElementTree.fromstring(curves([[0.0, 1.0], [1.0, 0.0, 1.0]], "a & b")).findall("polyline")
    assert len(points) == 3 and len(points[-1].get("points").split()) == 3
    web = ElementTree.fromstring(radar(["a", "b", "c"], {"m": {"a": 1.0, "b": 0.5, "c": 0.0}}, {"b": 0.7}))
    corners = web.find("polygon").get("points").split()
    assert corners[0] == "320.0,120.0" and corners[2] == "320.0,320.0"
    assert len([c for c in web.iter("circle") if c.get("class") == "own"]) == 1


def test_confusion() -> None:
    items = [
        {"asked": "spins", "seen": "spins", "video_results": True},
        {"asked": "spins", "seen": "stays", "video_results": False},
        {"asked": "spins", "seen": None, "video_results": False},
        {"asked": "fox", "seen": ["fox", "cow"], "video_results": True},
        {"video_results": 0.0, "error": "missing"},
    ]
    table = confusion(items)
    assert table == {"spins": {"spins": 1, "stays": 1, "unclear": 1}, "fox": {"fox": 1}}
    assert label([["Zoom in", "Pan left"], ["Static shot"]]) == "Pan left + Zoom in, then Static shot"
    assert label(["pig", "fox"]) == "fox and pig"


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1100, 390])
def test_scores_fit_the_screen(page, width) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (in the extra dev)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.goto(page[0].as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        cells = tab.locator("table.scores td").all()
        assert len(cells) == 4 * 10
        boxes = [cell.bounding_box() for cell in cells]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path (Debian: apt-get install chromium)")
def test_clips_play_in_a_browser_without_network(page) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (in the extra dev)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
        tab = context.new_page()
        asked, said = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.goto(page[0].as_uri())
        video = tab.locator("video").first
        video.scroll_into_view_if_needed()
        tab.wait_for_function("() => document.querySelector('video').currentTime > 0.1", timeout=60_000)
        assert tab.evaluate(
            "() => [document.querySelector('video').videoWidth, document.querySelector('video').error]"
        ) == [64, None]
        assert tab.locator("video").count() == 12 and tab.locator("svg.radar polygon").count() == 7
        assert tab.locator("svg.plot").count() == 4 and tab.locator("table.confusion").count() == 1
        box = tab.locator("svg.radar").bounding_box()
        assert box["width"] > 300 and box["height"] > 300
        assert all(url.startswith(("file:", "blob:", "data:")) for url in asked), asked
        assert said == []
        browser.close()
