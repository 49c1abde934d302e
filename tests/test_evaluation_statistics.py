"""Intervals, tests and the comparison of two models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from videogen.cli import main
from videogen.evaluation.compare import compare, format_comparison
from videogen.evaluation.statistics import clustered_interval, correlation_interval, holm, sign_flip_test, wilson


def test_wilson() -> None:
    low, high = wilson(270, 300)
    assert (round(low, 3), round(high, 3)) == (0.861, 0.929)
    assert wilson(300, 300)[0] == pytest.approx(0.987, abs=1e-3)


def test_clips_of_a_prompt_count_as_one_observation() -> None:
    generator = np.random.default_rng(0)
    prompts = [[float(value)] * 5 for value in generator.normal(0.5, 0.1, 100)]
    interval = clustered_interval(prompts)
    half = (interval.high - interval.low) / 2
    assert half == pytest.approx(1.96 * 0.1 / np.sqrt(100), rel=0.15)  # not over sqrt(500)
    assert (interval.num_values, interval.num_groups) == (500, 100)
    assert interval == clustered_interval(prompts)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(40):
        prompts = [list(0.5 + generator.normal(0, 0.1) + generator.normal(0, 0.05, 3)) for _ in range(30)]
        interval = clustered_interval(prompts)
        hits += interval.low <= 0.5 <= interval.high
    assert 33 <= hits <= 40


def test_edges_of_intervals() -> None:
    assert clustered_interval([[1.0]] * 40, proportion=True).low == pytest.approx(
        0.912, abs=2e-3
    )  # Wilson's: no collapse to a point
    several = clustered_interval([[1.0, 1.0]] * 40, proportion=True)
    assert several.low == pytest.approx(0.912, abs=2e-3) and several.num_values == 80
    assert clustered_interval([[0.3, 0.4]]) == clustered_interval([[0.3, 0.4]], seed=5)
    assert clustered_interval([[0.3, 0.4]]).low is None
    assert clustered_interval([[0.0]] * 10).high == 0  # differences of 0, not a share of successes
    with pytest.raises(ValueError, match="`groups` must hold at least one value each"):
        clustered_interval([[1.0], []])


def test_correlations() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=60)
    measured = truth + generator.normal(size=60)
    noisy = correlation_interval(truth, measured)
    assert noisy.low is not None and noisy.high is not None
    assert noisy.mean == pytest.approx(np.corrcoef(truth, measured)[0, 1])
    # Fisher's interval: half-width 1.96 / sqrt(57) of the inverse hyperbolic tangent.
    centre, half = np.arctanh(noisy.mean), 1.96 / np.sqrt(57)
    assert noisy.low == pytest.approx(np.tanh(centre - half), abs=0.06)
    assert noisy.high == pytest.approx(np.tanh(centre + half), abs=0.06)
    assert correlation_interval([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).mean == pytest.approx(-1)
    assert correlation_interval([1, 2], [1, 2]).low is None
    nothing = correlation_interval([1, 2, 3, 4, 5, 6], [2] * 6)
    assert (nothing.mean, nothing.low) == (0.0, None)
    with pytest.raises(ValueError, match="`a` and `b` must be as many"):
        correlation_interval([1], [])


def test_sign_flips() -> None:
    assert sign_flip_test([1.0, 1.0, 1.0]) == pytest.approx(2 / 8)  # exact: + + + and - - -
    assert sign_flip_test([1.0, -1.0]) == 1
    assert sign_flip_test([0.0] * 30) == 1
    assert sign_flip_test([0.1] * 30) == pytest.approx(1 / 10_001)  # never 0
    many = np.random.default_rng(0).normal(0.05, 0.1, 60)
    t = many.mean() / (many.std(ddof=1) / np.sqrt(60))
    assert t > 2.5 and sign_flip_test(many) < 0.02


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def results(shift: float, seeds: int = 2, prompts: int = 20, seed_base: int = 0) -> dict:
    generator = np.random.default_rng(3)
    quality, flicker = [], []
    for prompt in range(prompts):
        for index in range(seeds):
            name = {"video_path": f"videos/p{prompt}-{index}.mp4", "prompt": f"p{prompt}", "index": index}
            name["seed"] = seed_base + index
            base = generator.uniform(0.3, 0.6)
            quality.append({**name, "video_results": base + shift * (0.5 + generator.uniform())})
            flicker.append({**name, "video_results": base + generator.normal(0, 0.001) * (shift > 0)})
    table = {"imaging_quality@simple": quality, "temporal_flickering": flicker}
    return {key: [float(np.mean([item["video_results"] for item in items])), items] for key, items in table.items()}


def test_comparison_finds_what_is_there_and_nothing_else() -> None:
    found = compare(results(0.0), results(0.05))
    better, same = found.metrics["imaging_quality@simple"], found.metrics["temporal_flickering"]
    assert better.difference == pytest.approx(0.05, abs=0.01) and better.low < 0.05 < better.high and better.low > 0
    assert better.significant and not same.significant and better.prompts == 20 and better.clips == 40
    assert better.p_holm == pytest.approx(min(1.0, 2 * better.p))
    assert "imaging_quality@simple" in format_comparison(found) and found.unpaired == {}


def test_pairs_need_equal_seeds_and_common_clips() -> None:
    a, b = results(0.0), results(0.05, seed_base=100)
    with pytest.raises(
        ValueError, match="must be made from the same seeds, got others for 40 clips of imaging_quality@simple"
    ):
        compare(a, b)
    assert compare(a, b, any_seed=True).metrics["temporal_flickering"].clips == 40
    fewer = compare(a, results(0.05, prompts=15))
    assert fewer.metrics["temporal_flickering"].clips == 30 and fewer.unpaired["temporal_flickering"] == 10
    with pytest.raises(ValueError, match="`B` must share a metric with `A`"):
        compare(a, {"other": [1.0, []]})
    other = {"temporal_flickering": [1.0, [{"video_path": "q-0.mp4", "video_results": 1.0}]]}
    with pytest.raises(ValueError, match="`B` must share clips"):
        compare(a, other)


def test_files_of_vbench_itself_are_paired_by_name() -> None:
    a = {"temporal_flickering": [0.9, [{"video_path": f"x/a cat-{i}.mp4", "video_results": 0.9} for i in range(3)]]}
    b = {"temporal_flickering": [0.8, [{"video_path": f"y/a cat-{i}.mp4", "video_results": 0.8} for i in range(3)]]}
    row = compare(a, b).metrics["temporal_flickering"]
    assert row.prompts == 1 and row.clips == 3 and row.low is None and row.difference == pytest.approx(-0.1)


def test_command(tmp_path, capsys) -> None:
    for name, shift in (("a", 0.0), ("b", 0.05)):
        (tmp_path / f"{name}.json").write_text(json.dumps(results(shift)))
    arguments = [
        "evaluate",
        "compare",
        str(tmp_path / "a.json"),
        str(tmp_path / "b.json"),
        "--json",
        str(tmp_path / "c.json"),
    ]
    assert main(arguments) == 0
    assert "p (Holm)" in capsys.readouterr().out
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["metrics"]["imaging_quality@simple"]["p_holm"] < 0.05
