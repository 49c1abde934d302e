"""The suite around the checkers: prompt lists, statistics, interrupted runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from videogen.data.stage import ClipSpec, held_out_pairs, rungs
from videogen.data.video import read_video
from videogen.evaluation import stage_suite
from videogen.evaluation.clip_jobs import load_results
from videogen.evaluation.stage_shape import DEFAULT_SHAPE, clip_shape
from videogen.evaluation.stage_suite import (
    KINDS,
    SuiteSettings,
    build_prompts,
    chance,
    clip_seed,
    format_table,
    load_prompts,
    model_folder,
    run_suite,
    suite_hash,
    summarise,
    true_clip,
)
from videogen.evaluation.statistics import wilson


@pytest.mark.parametrize("split", ["dev", "test"])
def test_lists_are_balanced_and_honest(split):
    for rung, vocabulary in rungs().items():
        prompts = load_prompts(split, rung)
        assert len({prompt.id for prompt in prompts}) == len(prompts) == 350
        assert {prompt.kind for prompt in prompts[:7]} == set(KINDS)
        for prompt in prompts:
            spec = ClipSpec.from_json(prompt.spec)
            assert spec.scene in vocabulary.scenes
            assert bool(held_out_pairs(spec)) == (prompt.kind == "pairs") or prompt.kind == "strangers"
            assert ("identity" in prompt.asked) == (prompt.reference is not None) == (prompt.kind == "strangers")


@pytest.mark.parametrize("split", ["dev", "test"])
def test_lists_are_made_by_this_grammar(split):
    assert build_prompts(split) == [prompt for rung in rungs() for prompt in load_prompts(split, rung)]


def test_dev_and_test_differ():
    assert len({suite_hash(split, rung) for split in ("dev", "test") for rung in rungs()}) == 2 * len(rungs())
    dev = {prompt.prompt for prompt in load_prompts("dev", "rung4")}
    test = {prompt.prompt for prompt in load_prompts("test", "rung4")}
    assert len(dev & test) < 0.02 * len(dev)


def test_seeds_belong_to_the_prompt():
    first, second = load_prompts("dev", "rung1", 2)
    assert clip_seed(first, 0) == clip_seed(first, 0)
    assert len({clip_seed(first, 0), clip_seed(first, 1), clip_seed(second, 0)}) == 3


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="`split` must be 'dev' or 'test', got 'train'"):
        load_prompts("train", "rung1")
    with pytest.raises(ValueError, match="`num_prompts` must be between 1 and 350, got 400"):
        load_prompts("dev", "rung1", 400)
    with pytest.raises(ValueError, match="`rung` must be one of rung1"):
        load_prompts("dev", "rung9")


def test_wilson():
    low, high = wilson(270, 300)
    assert (round(low, 3), round(high, 3)) == (0.861, 0.929)
    assert wilson(300, 300)[0] == pytest.approx(0.987, abs=1e-3)


def _result(prompt: str, seed: int, right: bool, seen: str) -> dict:
    return {
        "clip": f"{prompt}-{seed}",
        "prompt": prompt,
        "kind": "seen",
        "seed": seed,
        "right": {"scene": right, "count": True},
        "seen": {"scene": seen, "count": 1},
        "asked": {"scene": prompt, "count": 1},
    }


def test_intervals_are_over_prompts():
    names = [f"p{i}" for i in range(40)]
    results = [_result(name, seed, index % 2 == 0, name) for index, name in enumerate(names) for seed in range(4)]
    summary = summarise(results)
    assert summary["scene"]["accuracy"] == 0.5 and summary["scene"]["n"] == 160
    # Clips of a prompt agree: the interval is that of 40, not of 160 observations (half-width 0.155, not 0.077).
    assert summary["scene"]["high"] - summary["scene"]["low"] == pytest.approx(0.31, abs=0.03)
    assert summary["all"] == summary["scene"]
    assert summary["count"]["high"] == 1 and summary["count"]["low"] == pytest.approx(0.912, abs=2e-3)
    assert summary["shuffled"]["scene"] < 0.1 and summary["shuffled"]["count"] == 1
    assert "scene" in format_table(summary, ceiling=summary)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    settings = SuiteSettings(num_prompts=3, seeds=1, source="renders", batch_size=2)
    summary = run_suite(settings, tmp_path)
    assert summary["all"]["accuracy"] == 1 and summary["all"]["n"] == 3
    path = tmp_path / "results-0.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:40])  # as after an interruption
    assert len(load_results(tmp_path)) == 1
    calls = []
    again = run_suite(settings, tmp_path, report=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert json.dumps(again) == json.dumps(summary)
    with pytest.raises(ValueError, match="`folder` must be new or belong to the same run"):
        run_suite(SuiteSettings(num_prompts=3, seeds=1, source="renders", split="test"), tmp_path)


def test_verdicts_of_other_checkers_or_another_model_are_not_taken(tmp_path, monkeypatch):
    settings = SuiteSettings(num_prompts=1, seeds=1, source="renders")
    about = run_suite(settings, tmp_path / "run")["about"]
    monkeypatch.setattr(stage_suite, "checkers_version", lambda: about["checkers"] + 1)
    with pytest.raises(ValueError, match=r"must be new or belong to the same run, got .*, which differs in checkers;"):
        run_suite(settings, tmp_path / "run")
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"numbers")
    (model / "scheduler_config.json").write_text('{"shift": 1.0}')
    before = stage_suite.model_hashes("model", str(model))
    (model / "scheduler_config.json").write_text('{"shift": 3.0}')
    after = stage_suite.model_hashes("model", str(model))
    assert before["weights"] == after["weights"] and before["model_sha256"] != after["model_sha256"]
    assert set(stage_suite.model_hashes("renders", str(model)).values()) == {None}


def test_one_device_makes_the_clips_that_processes_make(tmp_path):
    settings = SuiteSettings(num_prompts=3, seeds=1, source="tokenizer", batch_size=2)
    run_suite(settings, tmp_path / "processes")
    run_suite(replace(settings, device="cpu:0"), tmp_path / "device")  # any name but "cpu" counts as a device
    assert load_results(tmp_path / "device") == load_results(tmp_path / "processes") != {}
    clips = sorted(path.name for path in (tmp_path / "processes" / "clips").iterdir())
    assert len(clips) == 3
    for name in clips:
        frames = [read_video(tmp_path / kind / "clips" / name).frames for kind in ("processes", "device")]
        assert np.array_equal(*frames)


def test_the_truth_may_take_the_first_steps(tmp_path):
    settings = SuiteSettings(num_prompts=2, seeds=1, kinds=("seen",), num_inference_steps=20, true_steps=19)
    summary = run_suite(settings, tmp_path)
    prompts, shape = load_prompts("dev", "rung1", 2), clip_shape(model_folder(""))
    assert summary["scene"]["n"] == 2 and summary["scene"]["accuracy"] == 1
    for prompt in prompts:  # one step from a noise level of 0.05 is hardly more than the tokenizer's reconstruction
        made = read_video(tmp_path / "clips" / f"{prompt.id}-0.mp4").frames / 255
        assert np.mean((made - true_clip(prompt.id, 0, shape) / 255) ** 2) < 10**-2
    with pytest.raises(ValueError, match="`true_steps` must leave a step to the model, got 20"):
        run_suite(replace(settings, true_steps=20), tmp_path / "all")
    for change in ({"source": "renders"}, {"kinds": KINDS}, {"true_steps": -1}):
        with pytest.raises(ValueError, match="`true_steps` must be 0, or a number of steps with the source 'model'"):
            run_suite(replace(settings, **change), tmp_path / "refused")


def test_chance_follows_from_the_prompts():
    results = [_result(name, 0, True, name) for name in ("snow", "snow", "beach", "city")]
    # Of the 12 ordered pairs of different prompts, two ask for the same scene.
    assert chance(results) == {
        "scene": pytest.approx(2 / 12, abs=1e-4),
        "count": 1,
        "all": pytest.approx(2 / 12, abs=1e-4),
    }
    always_snow = [{**result, "seen": {"scene": "snow", "count": 1}} for result in results]
    assert summarise(always_snow)["shuffled"]["scene"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rung", "num_prompts", "shape"), [("rung1", 100, clip_shape(model_folder(""))), ("rung4", 150, DEFAULT_SHAPE)]
)
def test_shuffled_prompts_fall_to_chance(rung, num_prompts, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_suite, "clip_shape", lambda _: shape)
    settings = SuiteSettings(
        rung=rung, num_prompts=num_prompts, seeds=1, source="renders", kinds=("seen", "pairs", "words")
    )
    shuffled = run_suite(settings, tmp_path)["shuffled"]
    expected = chance(list(load_results(tmp_path).values()))
    assert set(shuffled) == set(expected)
    assert {key: shuffled[key] - expected[key] for key in expected if abs(shuffled[key] - expected[key]) > 0.03} == {}
