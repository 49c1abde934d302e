"""Sampling: files, manifest, interruption, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from videogen.cli import main
from videogen.data.video import read_video
from videogen.evaluation import sampling
from videogen.evaluation.clip_jobs import load_results
from videogen.evaluation.collection import file_sha256, load_collection, read_manifest
from videogen.evaluation.sampling import SamplingSettings, _claim, sample_suite
from videogen.evaluation.spread import JobFailed, spread
from videogen.evaluation.stage_shape import clip_shape
from videogen.evaluation.stage_suite import model_folder
from videogen.evaluation.suite import Entry, Suite, clip_seed, load_suite

RENDERS = SamplingSettings(source="renders", samples=2)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples") / "run"
    suite = load_suite("stage").first(2)
    return folder, suite, sample_suite(suite, folder, RENDERS)


def test_files_and_manifest(sampled) -> None:
    folder, suite, report = sampled
    assert (report.total, report.made, report.kept, report.failed, report.unexpected) == (4, 4, 0, (), ())
    prompt = suite.entries[0].prompt
    manifest = read_manifest(folder)
    line = manifest[f"{prompt}-1.mp4"]
    clip = folder / "videos" / f"{prompt}-1.mp4"
    assert line["sha256"] == file_sha256(clip) and line["seed"] == clip_seed(suite.entries[0], 1)
    video = read_video(clip)
    shape = clip_shape(model_folder(""))
    assert len(video.frames) == line["num_frames"] == shape.num_frames and line["size"] == [96, 96]
    assert video.fps == line["fps"] == shape.fps
    assert {path.suffix for path in (folder / "videos").iterdir()} == {
        ".mp4"
    }  # VBench looks at the first file's suffix
    about = json.loads((folder / "sampling.json").read_text())
    assert about["suite"] == "stage-dev-rung1" and about["partial"] and about["suite_sha256"] == suite.sha256()
    assert json.loads((folder / "full_info.json").read_text())[0]["prompt_en"] == prompt
    collection = load_collection(folder)
    assert len(collection.present()) == 4 and load_collection(folder / "videos").root == folder


def test_an_interrupted_run_goes_on(sampled, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sampled[0], folder)
    files = sorted((folder / "videos").iterdir())
    before = [path.read_bytes() for path in files]
    files[0].unlink()
    files[1].write_bytes(before[1][:1000])  # cut off by a full disk
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-30])  # and its last line lost
    lost = json.loads("[" + ",".join(sampled[0].joinpath("manifest.jsonl").read_text().splitlines()) + "]")[-1]["file"]
    counts = []
    report = sample_suite(sampled[1], folder, RENDERS, report=lambda done, total: counts.append(done))
    made = len({files[0].name, files[1].name, lost})
    assert report.made == made and report.kept == 4 - made and counts[-1] == 4
    assert [path.read_bytes() for path in files] == before
    assert sample_suite(sampled[1], folder, RENDERS).made == 0


def test_a_folder_belongs_to_one_run(sampled) -> None:
    folder, suite, _ = sampled
    with pytest.raises(
        ValueError,
        match=r"`out` must be new or belong to the same run, got .*, which differs in flickering_samples, samples;",
    ):
        sample_suite(suite, folder, SamplingSettings(source="renders", samples=3, flickering_samples=3))
    with pytest.raises(ValueError, match="differs in prompts, suite_sha256"):
        sample_suite(load_suite("stage").first(3), folder, RENDERS)


def test_a_run_with_a_guidance_interval_goes_on(tmp_path) -> None:
    settings = SamplingSettings(samples=1, guidance_interval=(0.5, 1.0))
    suite = load_suite("stage").first(1)
    assert _claim(tmp_path / "run", suite, settings, {}) == _claim(tmp_path / "run", suite, settings, {})


def test_a_folder_from_before_there_was_a_quality_goes_on(sampled, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(sampled[0], folder)
    about = json.loads((folder / "sampling.json").read_text())
    assert about.pop("quality") is None
    (folder / "sampling.json").write_text(json.dumps(about))
    assert sample_suite(sampled[1], folder, RENDERS).made == 0
    (folder / "sampling.json").write_text(json.dumps({**about, "quality": "high"}))
    with pytest.raises(ValueError, match="differs in quality;"):
        sample_suite(sampled[1], folder, RENDERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 9), ("fps", 24.0), ("height", 128), ("width", 128), ("seed", 1), ("num_inference_steps", 2),
        ("guidance_scale", 3.0), ("guidance_interval", (0.0, 0.5)), ("quality", "high"),
    ],
)  # fmt: skip
def test_renders_have_none_of_the_models_settings(tmp_path, name: str, value) -> None:
    with pytest.raises(ValueError, match=f"`source` renders draws clips as their prompts say, without {name}; leave"):
        sample_suite(load_suite("stage").first(1), tmp_path / "run", replace(RENDERS, **{name: value}))
    assert not (tmp_path / "run").exists()


def test_other_pictures_make_another_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "spread", lambda *arguments: iter(()))  # no clip has to be made for this
    suite = Suite(name="mine", entries=(Entry(prompt="a cat", image="cat.png"),), total=1)
    for place, colour in (("white", "white"), ("black", "black")):
        (tmp_path / place).mkdir()
        Image.new("RGB", (32, 32), colour).save(tmp_path / place / "cat.png")
    settings, folder = SamplingSettings(samples=1), tmp_path / "run"
    sample_suite(suite, folder, settings, images=tmp_path / "white")
    sample_suite(suite, folder, settings, images=tmp_path / "white")
    sample_suite(suite, folder, settings)  # it has the pictures
    with pytest.raises(ValueError, match="differs in pictures_sha256; choose another folder"):
        sample_suite(suite, folder, settings, images=tmp_path / "black")
    assert file_sha256(folder / "pictures" / "cat.png") == file_sha256(tmp_path / "white" / "cat.png")


def test_refusals(tmp_path) -> None:
    plain = Suite(name="mine", entries=(Entry(prompt="a cat"),), total=1)
    with pytest.raises(ValueError, match="`source` renders needs prompts of Stage"):
        sample_suite(plain, tmp_path / "a", RENDERS)
    with pytest.raises(ValueError, match="`samples`, `flickering_samples` and `workers` must be at least 1"):
        sample_suite(plain, tmp_path / "a", SamplingSettings(samples=0))
    with pytest.raises(ValueError, match="`quality` must be 'fast' or 'high', got 'best'"):
        sample_suite(plain, tmp_path / "a", SamplingSettings(quality="best"))
    assert not (tmp_path / "a").exists()
    for name, message in (
        ("frame.png", "`images` must be a folder that holds frame.png"),
        ("../frame.png", "`image_name` must be a file name"),
    ):
        suite = Suite(name="mine", entries=(Entry(prompt="a cat", image=name),), total=1)
        with pytest.raises(ValueError, match=message):
            sample_suite(suite, tmp_path / name.replace("/", "_"), SamplingSettings(), images=tmp_path)


def test_a_model_that_cannot_be_loaded_is_one_error(tmp_path) -> None:
    (tmp_path / "weights").mkdir()
    suite = Suite(name="mine", entries=(Entry(prompt="a cat"),), total=1)
    with pytest.raises((ValueError, OSError)):
        sample_suite(suite, tmp_path / "out", SamplingSettings(model=str(tmp_path / "weights")))
    assert read_manifest(tmp_path / "out") == {}


def test_line_ends_inside_a_text_do_not_end_its_line(tmp_path) -> None:
    prompt = "a cat\u2028and a dog\u0085in the snow"
    line = json.dumps({"file": "a-0.mp4", "clip": "a-0", "prompt": prompt}, ensure_ascii=False)
    for name in ("manifest.jsonl", "results-0.jsonl"):
        (tmp_path / name).write_text(line + "\n" + line[:20], encoding="utf-8")
    assert read_manifest(tmp_path)["a-0.mp4"]["prompt"] == prompt
    assert load_results(tmp_path)["a-0"]["prompt"] == prompt


def _double(number: int) -> int:
    if number == 3:
        raise ValueError("three is\ntoo much")
    return 2 * number


def _fatal(number: int) -> int:
    import os

    if number == 2:
        os._exit(9)
    return 2 * number


def test_jobs_that_fail_cost_only_themselves() -> None:
    done = dict(spread(_double, [1, 2, 3, 4]))
    assert {index: value for index, value in done.items() if index != 2} == {0: 2, 1: 4, 3: 8}
    assert isinstance(done[2], JobFailed) and str(done[2]) == "ValueError: three is too much"
    with pytest.raises(ValueError, match="`workers` must be at least 1"):
        next(spread(_double, [1], workers=0))


@pytest.mark.slow
def test_a_job_that_kills_its_process_costs_only_itself() -> None:
    found = list(spread(_fatal, list(range(6)), workers=2))
    assert sorted(index for index, _ in found) == list(range(6))
    values = dict(found)
    assert isinstance(values.pop(2), JobFailed) and values == {0: 0, 1: 2, 3: 6, 4: 8, 5: 10}


@pytest.mark.slow
def test_the_model_makes_the_same_clip_alone_and_in_any_company(tmp_path, capsys) -> None:
    listed = [
        {"prompt_en": "a fox jumps in the snow", "dimension": ["object_class"]},
        {"prompt_en": "x" * 2500, "dimension": ["object_class"]},
        {"prompt_en": "a pig/cow", "prompt_used": "a pig stays in the city", "dimension": ["scene"]},
    ]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(listed))
    common = ["--samples", "1", "--steps", "1", "--quality", "high", "-o"]
    assert main(["evaluate", "sample", "--suite", str(path), *common, str(tmp_path / "all")]) == 1
    said = capsys.readouterr()
    assert "3 clips of 3 prompts: 2 made, 0 there before, 1 failed." in said.out
    assert "must have at most 2000 characters" in said.err
    assert "2 prompts cannot name a file as they are" in said.out
    alone = ["evaluate", "sample", "--suite", str(path), "--dimensions", "scene", *common, str(tmp_path / "one")]
    assert main(alone) == 0
    (clip,) = (tmp_path / "one" / "videos").iterdir()
    assert clip.name.startswith("a pig_cow~")
    assert clip.read_bytes() == (tmp_path / "all" / "videos" / clip.name).read_bytes()
    line = read_manifest(tmp_path / "all")[clip.name]
    assert line["prompt"] == "a pig/cow" and line["prompt_used"] == "a pig stays in the city"
    assert (line["settings"]["num_inference_steps"], line["settings"]["quality"]) == (1, "high")
    assert json.loads((tmp_path / "all" / "sampling.json").read_text())["quality"] == "high"
