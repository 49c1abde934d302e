"""Comparing twins: what is measured, paired and put into the table."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_training_files

from videogen.evaluation import twins
from videogen.training.config import TrainConfig
from videogen.training.trainer import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    write_training_files(folder)
    for name, seed, mixer in (("shipped", 0, "linear"), ("softmax", 0, "softmax"), ("shipped", 1, "linear")):
        raw = {
            "seed": seed,
            "output": str(folder / "runs" / f"{name}-{seed}"),
            "tokenizer": str(folder / "vae"),
            "model": str(folder / "model.yaml"),
            "transformer": {"mixers": [mixer, mixer]},
            "data": {
                "num_clips": 24, "num_validation": 6, "shard_size": 12, "cache": str(folder / "cache"), "seed": 5,
                "num_frames": 5, "height": 32, "width": 32, "mid_clip_share": 0.0,
            },
            "text": {"vocab_size": 300, "corpus_size": 20},
            "tasks": {"text": 1.0},
            "batch_size": 4,
            "mixed_precision": "no",
            "schedule": {"num_steps": 2, "warmup_steps": 1},
            "log": {"metrics_every": 1, "validate_every": 0, "sample_every": 0, "checkpoint_every": 0},
        }  # fmt: skip
        train(TrainConfig.model_validate(raw))
    return folder / "runs"


def test_runs_are_compared_on_the_same_clips_and_noise(runs, monkeypatch):
    monkeypatch.setattr(twins, "TIMED_CLIPS", 2)
    report = {"actor": {"accuracy": 0.5, "low": 0.2, "high": 0.8, "n": 10}, "all": {"accuracy": 0.2, "n": 10}}
    (runs / "softmax-0" / "stage.json").write_text(json.dumps(report))
    base, other = twins.compare(runs, "shipped", say=lambda text: None)
    assert (base.name, len(base.losses), base.difference) == ("shipped", 2, 0.0)
    assert other.difference == pytest.approx(other.losses[0] - base.losses[0], abs=1e-6)
    assert other.low < other.difference < other.high
    assert other.right["actor"][0] == 0.5 and other.right["all"][3] == 10
    assert base.parameters != other.parameters and min(base.forward, base.step, other.forward, other.step) > 0
    table = twins.markdown([base, other])
    assert "`softmax`" in table and "50 (24 .. 76)" in table and "1.00x" in table
    with pytest.raises(ValueError, match="`base` must be one of shipped, softmax, got 'dense'"):
        twins.compare(runs, "dense")


def test_differences_are_paired_by_clip_and_seed():
    generator = np.random.default_rng(0)
    base = {seed: generator.normal(1.0, 0.5, (40, 3)) for seed in (0, 1, 2)}
    other = {seed: base[seed] + 0.1 + generator.normal(0, 0.01, (40, 3)) for seed in (0, 1)}
    mean, low, high = twins.paired_difference(other, base)
    assert mean == pytest.approx(0.1, abs=0.005) and 0.09 < low < high < 0.11
    with pytest.raises(ValueError, match="must share a seed"):
        twins.paired_difference({7: base[0]}, base)


def test_the_table_says_what_its_interval_is_over():
    """Each clip's mean over two runs is surer than either run is; the committed table is what the committed numbers give."""
    folder = Path(__file__).parents[1] / "samples" / "twins"
    found = [twins.Twin(**twin) for twin in json.loads((folder / "twins.json").read_text())]
    table = twins.markdown(found)
    assert "mean difference (95 % interval over clips, not over runs)" in table.splitlines()[0]
    assert table + "\n" == (folder / "twins.md").read_text()


def test_a_folder_without_runs_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="`runs` must be a folder of finished runs"):
            twins.find_runs(folder)


def test_calls_are_timed_in_turn():
    order: list[str] = []
    seconds = twins.time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, runs=2)
    assert order == ["a", "b"] * 3 and set(seconds) == {"a", "b"}
