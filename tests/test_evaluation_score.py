"""Scoring folders: VBench's shape, broken clips, resumption, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videogen.cli import main
from videogen.data.video import write_video
from videogen.evaluation.collection import load_collection
from videogen.evaluation.sampling import SamplingSettings, sample_suite
from videogen.evaluation.score import meta_of, score_folder
from videogen.evaluation.suite import load_suite

CHEAP = ["temporal_flickering", "dynamic_degree@dis", "subject_consistency@pixels"]


def clip(seed: int, count: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    base = generator.integers(60, 190, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    return np.stack([np.clip(base + 2 * index, 0, 255) for index in range(count)]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two prompts with two clips each, one of which cannot be decoded, one is another's twin and one is short; and a stray file."""
    videos = tmp_path / "videos-of-a-model"
    videos.mkdir()
    write_video(videos / "a cat-0.mp4", clip(0), 8.0)
    write_video(videos / "a cat-1.mp4", clip(1, 4), 8.0)
    write_video(videos / "a dog-0.mp4", clip(0), 8.0)
    (videos / "a dog-1.mp4").write_bytes(b"no video at all")
    write_video(videos / "a stray-0.mp4", clip(3), 8.0)
    listed = [{"prompt_en": prompt, "dimension": ["dynamic_degree"]} for prompt in ("a cat", "a dog", "a bird")]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    return videos


def test_shape_is_vbenchs(folder) -> None:
    results = score_folder(folder, dimensions=CHEAP, baseline_clips=1)
    assert list(results) == [*CHEAP, "meta"]
    assert all(isinstance(value, list) and len(value) == 2 for value in results.values())
    score, items = results["temporal_flickering"]
    good = {item["video_path"]: item for item in items}["a cat-0.mp4"]
    assert (
        good["video_results"] == pytest.approx(1 - 2 / 255, abs=2e-3)
        and good["prompt"] == "a cat"
        and good["index"] == 0
    )
    assert len(items) == 5 and score == pytest.approx(np.mean([item["video_results"] for item in items]))
    json.dumps(results)  # ready for a file


def test_nothing_is_left_out_in_silence(folder) -> None:
    results = score_folder(folder, dimensions=CHEAP, prompts=folder.parent / "list.json", baseline_clips=0)
    found = meta_of(results)["integrity"]
    assert (found["expected"], found["present"]) == (6, 4)
    assert [item["file"] for item in found["missing"]] == ["a bird-0.mp4", "a bird-1.mp4"]
    assert [item["file"] for item in found["undecodable"]] == ["a dog-1.mp4"]
    assert "must be a readable video file" in found["undecodable"][0]["reason"]
    assert str(folder) not in json.dumps(results)
    assert found["short"] == [{"file": "a cat-1.mp4", "frames": 4, "expected": 6}]
    assert found["duplicates"] == [["a cat-0.mp4", "a dog-0.mp4"]] and found["unexpected"] == ["a stray-0.mp4"]
    score, items = results["subject_consistency@pixels"]
    broken = [item for item in items if "error" in item]
    assert len(broken) == 3 and all(item["video_results"] == 0 for item in broken)
    assert score == pytest.approx(3 / 6, abs=0.01)  # three of six clips are there, and nearly constant
    assert meta_of(results)["metrics"]["subject_consistency@pixels"]["broken"] == 3


def test_judged_clips_are_not_judged_again(folder) -> None:
    calls: list[tuple[int, int]] = []
    first = score_folder(folder, dimensions=CHEAP, baseline_clips=2, report=lambda *c: calls.append(c))
    assert calls[0] == (0, 5) and calls[-1] == (5, 5)
    calls.clear()
    again = score_folder(folder, dimensions=CHEAP, baseline_clips=2, report=lambda *c: calls.append(c))
    assert calls == [(5, 5)] and json.dumps(again) == json.dumps(first)
    scores = folder.parent / "videos-of-a-model.scores.jsonl"
    assert not (folder / scores.name).exists()  # the folder itself holds clips and nothing else
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:3]) + "\n" + lines[3][:50])  # as after an interruption
    calls.clear()
    assert json.dumps(
        score_folder(folder, dimensions=CHEAP, baseline_clips=2, report=lambda *c: calls.append(c))
    ) == json.dumps(first)
    assert calls[0] == (3, 5)
    write_video(folder / "a cat-0.mp4", clip(9), 8.0)  # another clip under the same name
    calls.clear()
    changed = score_folder(
        folder, dimensions=[*CHEAP, "imaging_quality@simple"], baseline_clips=2, report=lambda *c: calls.append(c)
    )
    assert calls[0] == (1, 5)  # the undecodable one stays so; the others lack the new metric
    assert "imaging_quality@simple" in changed


def test_baselines_stand_beside_every_metric(folder) -> None:
    about = meta_of(score_folder(folder, dimensions=CHEAP))["metrics"]
    frozen = about["temporal_flickering"]["baselines"]["frozen"]
    assert frozen == {"score": 1.0, "clips": 4}
    assert about["dynamic_degree@dis"]["baselines"]["frozen"]["score"] == 0
    assert about["temporal_flickering"]["baselines"]["noise"]["score"] < 0.8
    assert set(about["subject_consistency@pixels"]["baselines"]) == {"frozen", "shuffled", "noise"}


def test_lists_give_each_dimension_its_prompts(folder) -> None:
    listed = [
        {"prompt_en": "a cat", "dimension": ["dynamic_degree"]},
        {"prompt_en": "a dog", "dimension": ["subject_consistency"]},
    ]
    path = folder.parent / "list.json"
    path.write_text(json.dumps(listed))
    results = score_folder(folder, dimensions=CHEAP, prompts=path, baseline_clips=0)
    prompts = {name: {item["prompt"] for item in results[name][1]} for name in CHEAP}
    assert prompts["dynamic_degree@dis"] == {"a cat"} and prompts["subject_consistency@pixels"] == {"a dog"}
    assert prompts["temporal_flickering"] == {"a cat", "a dog"}  # no prompt is meant for it
    everything = score_folder(folder, dimensions=CHEAP, prompts=path, baseline_clips=0, all_clips=True)
    assert len(everything["dynamic_degree@dis"][1]) == 4


@pytest.mark.parametrize("samples", [None, 2])
def test_prompts_that_test_flickering_have_clips_of_their_own_number(tmp_path, samples: int | None) -> None:
    listed = [
        {"prompt_en": "a still cat", "dimension": ["temporal_flickering"]},
        {"prompt_en": "a dog", "dimension": ["dynamic_degree"]},
        {"prompt_en": "a bird", "dimension": ["dynamic_degree"]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    clips = tmp_path / "clips"
    clips.mkdir()
    named = [f"a still cat-{index}" for index in range(25)] + ["a dog-0", "a dog-1", "a bird-0", "screen-2024"]
    for name in named:
        (clips / f"{name}.mp4").touch()
    collection = load_collection(clips, tmp_path / "list.json", samples)
    assert [clip.file for clip in collection.clips] == [
        *(f"a still cat-{index}.mp4" for index in range(25)),
        *(f"a {animal}-{index}.mp4" for animal in ("dog", "bird") for index in range(2)),
    ]
    assert collection.unexpected == ("screen-2024.mp4",)
    assert (collection.about["samples"], collection.about["flickering_samples"]) == (2, 25)


def test_too_short_a_clip_costs_its_score(tmp_path) -> None:
    write_video(tmp_path / "still-0.mp4", clip(0, 1), 8.0)
    results = score_folder(tmp_path, dimensions=CHEAP[:1], scores=tmp_path / "kept.jsonl", baseline_clips=0)
    assert results["temporal_flickering"][1][0]["error"] == "it has 1 frames, 2 are needed"
    assert results["temporal_flickering"][0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "subject_consistency",
            "`dimensions` subject_consistency cannot be computed: it needs DINO ViT-B/16.*use subject_consistency@efflite0",
        ),
        ("aesthetic_quality", "nothing stands in for taste"),
        ("sharpness", "`dimensions` must be among temporal_flickering"),
        ("scene@stage", "`dimensions` scene@stage fits none of these prompts"),
        ("i2v_subject@pixels", "fits none of these prompts"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_reason(folder, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_folder(folder, dimensions=[name])


def test_pictures_that_prompts_name_must_be_there(folder) -> None:
    from PIL import Image

    listed = [
        {"prompt_en": prompt, "image_name": "cat.png", "dimension": ["i2v_subject"]} for prompt in ("a cat", "a dog")
    ]
    path = folder.parent / "list.json"
    path.write_text(json.dumps(listed))
    name = "i2v_subject@pixels"
    with pytest.raises(
        ValueError, match=f"{name} cannot be computed: it needs the picture cat.png in .*; give its place with --images"
    ):
        score_folder(folder, dimensions=[name], prompts=path)
    (folder.parent / "pictures").mkdir()
    Image.fromarray(clip(0)[0]).save(folder.parent / "pictures" / "cat.png")
    results = score_folder(
        folder, dimensions=[name], prompts=path, pictures=folder.parent / "pictures", baseline_clips=1
    )
    items = {item["video_path"]: item for item in results[name][1]}
    assert items["a cat-0.mp4"]["video_results"] > 0.97 and items["a cat-0.mp4"]["first_frame"] > 0.97
    assert items["a cat-1.mp4"]["first_frame"] < 0.9


def test_other_versions_of_a_metric_are_not_kept(folder, monkeypatch) -> None:
    from dataclasses import replace

    from videogen.evaluation import score as module

    score_folder(folder, dimensions=CHEAP[:2], baseline_clips=1)
    calls: list[tuple[int, int]] = []
    newer = {
        name: replace(metric, version=2) if name == CHEAP[1] else metric for name, metric in module.METRICS.items()
    }
    monkeypatch.setattr(module, "METRICS", newer)
    score_folder(folder, dimensions=CHEAP[:1], baseline_clips=1, report=lambda *c: calls.append(c))
    assert calls == [(5, 5)]
    score_folder(folder, dimensions=CHEAP[:2], baseline_clips=1, report=lambda *c: calls.append(c))
    assert calls[1] == (1, 5) and calls[-1] == (5, 5)


def test_clips_are_judged_anew_against_another_picture_or_prompt(folder) -> None:
    from PIL import Image

    path, pictures, name = folder.parent / "list.json", folder.parent / "pictures", "i2v_subject@pixels"
    pictures.mkdir()
    Image.fromarray(clip(0)[0]).save(pictures / "cat.png")
    path.write_text(json.dumps([{"prompt_en": "a cat", "image_name": "cat.png"}]))

    def scored() -> tuple[float, tuple[int, int]]:
        calls: list[tuple[int, int]] = []
        found = score_folder(
            folder, dimensions=[name], prompts=path, pictures=pictures, report=lambda *c: calls.append(c)
        )
        return found[name][1][0]["video_results"], calls[0]

    first, _ = scored()
    assert scored() == (first, (2, 2))
    Image.fromarray(255 - clip(0)[0]).save(pictures / "cat.png")
    other, judged = scored()
    assert judged == (0, 2) and other < first - 0.1
    path.write_text(json.dumps([{"prompt_en": "a cat", "image_name": "cat.png", "auxiliary_info": {"color": "red"}}]))
    assert scored() == (other, (0, 2)) and scored() == (other, (2, 2))


def test_a_metric_that_failed_is_tried_again(folder, monkeypatch) -> None:
    from dataclasses import replace

    from videogen.evaluation import score as module

    def fails(sample):
        raise OSError("no memory left")

    (name,) = CHEAP[:1]
    monkeypatch.setattr(module, "METRICS", {name: replace(module.METRICS[name], measure=fails, min_frames=5)})
    results = score_folder(folder, dimensions=[name], baseline_clips=0)
    errors = {item["video_path"]: item["error"] for item in results[name][1]}
    assert errors["a cat-0.mp4"] == "OSError: no memory left" and "5 are needed" in errors["a cat-1.mp4"]
    works = {name: replace(module.METRICS[name], measure=lambda sample: module.Value(0.5))}
    monkeypatch.setattr(module, "METRICS", works)
    calls: list[tuple[int, int]] = []
    results = score_folder(folder, dimensions=[name], baseline_clips=0, report=lambda *c: calls.append(c))
    assert calls[0] == (2, 5)  # the short one and the one that cannot be decoded stay as they are
    assert [item["video_results"] for item in results[name][1]] == [0.5, 0, 0.5, 0, 0.5]


def test_folders_that_hold_no_clips(tmp_path) -> None:
    with pytest.raises(ValueError, match="`workers` and `ray` must not both be given"):
        score_folder(tmp_path, workers=2, ray="auto")
    with pytest.raises(ValueError, match="`folder` must hold clips"):
        score_folder(tmp_path)
    with pytest.raises(ValueError, match="`folder` must be a folder of clips"):
        score_folder(tmp_path / "none")


def test_command(folder, capsys) -> None:
    out = folder.parent / "results.json"
    assert (
        main(
            [
                "evaluate",
                "score",
                str(folder),
                "--dimensions",
                ",".join(CHEAP),
                "--json",
                str(out),
                "--baseline-clips",
                "1",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert "temporal_flickering" in said.out and "5 of 5 clips are there." in said.out
    assert "1 cannot be decoded (count as 0): a dog-1.mp4" in said.out
    assert "scoring: 5 of 5 clips" in said.err
    written = json.loads(out.read_text())
    assert written["temporal_flickering"][0] > 0.7 and len(out.read_text().splitlines()) == 3 * 7 + 5
    assert (
        main(["evaluate", "score", str(folder), "--dimensions", CHEAP[0], "--baseline-clips", "1", "--markdown"]) == 0
    )
    assert "| `temporal_flickering` | " in capsys.readouterr().out
    assert main(["evaluate", "score", str(folder), "--html", "report.txt"]) == 2
    assert "`--html` must end in one of .html" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_give_what_one_gives(folder) -> None:
    alone = score_folder(folder, dimensions=CHEAP, baseline_clips=2, scores=folder.parent / "one.jsonl")
    several = score_folder(folder, dimensions=CHEAP, baseline_clips=2, scores=folder.parent / "two.jsonl", workers=2)
    assert json.dumps(alone) == json.dumps(several)


@pytest.mark.slow
def test_sample_and_score_say_what_evaluate_stage_says(tmp_path) -> None:
    from videogen.evaluation.stage_suite import SuiteSettings, run_suite

    suite = load_suite("stage", kinds=["seen", "pairs", "words"]).first(3)
    sample_suite(suite, tmp_path / "samples", SamplingSettings(source="renders", samples=1))
    results = score_folder(tmp_path / "samples", baseline_clips=1)
    summary = meta_of(results)["stage"]
    other = run_suite(SuiteSettings(num_prompts=3, seeds=1, source="renders"), tmp_path / "stage")
    assert {key: value for key, value in other.items() if key != "about"} == summary
    assert results["all@stage"][0] == 1 and results["scene@stage"][0] == 1
    assert meta_of(results)["partial"]
    # A frozen clip keeps its scene and loses its motion; noise has nothing.
    baselines = meta_of(results)["metrics"]["scene@stage"]["baselines"]
    assert baselines["frozen"]["score"] == 1 and baselines["noise"]["score"] == 0
