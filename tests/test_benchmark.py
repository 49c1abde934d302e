"""`videogen benchmark`: what its cases build, how they are measured and ordered, and what the reports say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tokenizer3d.autoencoder import CausalVideoAutoencoder
from tokenizer3d.shapes import num_latent_frames
from videogen.benchmark import backbone, clip, clip_profile, measure, ops, report, tokenizer
from videogen.benchmark.measure import Budget, CaseFailed
from videogen.cli import main
from videogen.models.transformer import VideoTransformer
from videogen.planning.counts import Grid, transformer_flops, transformer_parameters
from videogen.planning.specs import SHIPPED_FOLDER, load_spec

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
GRID = Grid(2, 4, 4, text_tokens=5)
SMALL = {
    **load_spec("bench").transformer,
    "width": 32,
    "num_heads": 2,
    "head_dim": 16,
    "text_width": 24,
    "dense_hidden": 32,
    "expert_hidden": 16,
    "shared_hidden": 16,
    "num_experts": 4,
}


def test_lengths_and_models_are_checked() -> None:
    assert backbone.parse_lengths("8K, 1024,100K,1K") == [1024, 8192, 102400]
    for wrong in ("1000", "x", "0K", ""):
        with pytest.raises(ValueError, match="`--lengths` must be multiples of 1024 tokens such as 1K,8K,128K"):
            backbone.parse_lengths(wrong)
    assert backbone.parse_models(None) == list(backbone.MODELS)
    with pytest.raises(ValueError, match=r"`--models` must be of videogen, .* got 'sora'"):
        backbone.parse_models("videogen,sora")


@pytest.mark.parametrize("name", backbone.MODELS)
def test_every_model_runs(name: str) -> None:
    run = backbone.build(name, SMALL, GRID, torch.float32, CPU, train=False)
    out = run()
    assert out.shape == (1, 64, 2, 4, 4) and bool(torch.isfinite(out).all())


def test_the_small_model_has_as_many_parameters_as_its_peer() -> None:
    c = load_spec("bench").transformer
    small = backbone.model_config("videogen-small", c)
    with torch.device("meta"):
        peer = backbone._sana(c, 32)
    parameters = sum(parameter.numel() for parameter in peer.parameters())
    assert sum(transformer_parameters(small).values()) == pytest.approx(parameters, rel=0.03)


def test_a_training_step_reaches_every_weight() -> None:
    torch.manual_seed(0)
    run = backbone.build("videogen", SMALL, GRID, torch.bfloat16, CPU, train=True)
    assert float(run()) > 0
    missing = [name for name, parameter in run.model.named_parameters() if parameter.grad is None]
    assert not missing
    with pytest.raises(ValueError, match="`train` must be off for 'wan'"):
        backbone.build("wan", SMALL, GRID, torch.bfloat16, CPU, train=True)


def test_random_weights_are_finite_and_spread_over_the_experts() -> None:
    model = backbone.random_model(VideoTransformer, SMALL, torch.bfloat16, CPU)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    assert {router.weight.dtype for router in model.routers()} == {torch.float32}
    run = backbone.build_videogen({**SMALL, "num_experts": 4}, Grid(4, 8, 8), 1, torch.float32, CPU)
    run()
    assert float(run.model.expert_load().max()) < 0.6  # type: ignore[operator]


def test_blocks_and_the_rest_are_the_whole() -> None:
    c = {**SMALL, "feed_forwards": ["dense", "moe", "moe", "moe"]}
    kinds = backbone.block_kinds(c)
    assert kinds == {"linear+dense+text": 1, "linear+moe": 1, "linear+moe+text": 1, "softmax+moe": 1}
    total = 0.0
    for kind, layers in {**kinds, "rest": 1}.items():
        run, flops = backbone.build_block(kind, c, GRID, torch.float32, CPU)
        assert bool(torch.isfinite(run()).all())
        total += layers * flops
    assert total == sum(transformer_flops(c, GRID).values())


@pytest.mark.parametrize("name", ["wan", "cosmos"])
def test_other_tokenizers_have_our_size_and_compression(name: str) -> None:
    with torch.device("meta"):
        ours = CausalVideoAutoencoder()
    other = tokenizer.build(name).eval()
    for part in ("encoder", "decoder"):
        counts = [sum(p.numel() for p in getattr(model, part).parameters()) for model in (ours, other)]
        assert counts[1] == pytest.approx(counts[0], rel=0.12)
    with torch.no_grad():
        latents = other.encode(torch.zeros(1, 3, 5, 32, 32), return_dict=False)[0].mode()
        assert latents.shape == (1, 64, 2, 2, 2)
        assert other.decode(latents, return_dict=False)[0].shape == (1, 3, 5, 32, 32)


@pytest.mark.parametrize("op", ops.CASES)
def test_every_operator_is_right_and_runs_backward(op: str) -> None:
    generator = torch.Generator().manual_seed(0)
    case = ops.CASES[op]
    tensors = case.make(1, lambda *shape: torch.randn(shape, generator=generator))
    learnt = [t.requires_grad_() for t in tensors if t.is_floating_point() and t.shape != (1024, ops.K // 2)]
    out = case.run("auto", tensors)
    ops.check(op, case, out, tensors)
    out.sum().backward()
    assert sum(t.grad is not None for t in learnt) >= 1 and case.bytes(1024) > 0
    with pytest.raises(ops.WrongResult, match=f"{op} is off by"):
        ops.check(op, case, out * 1.2, tensors)
    with pytest.raises(ValueError, match="backend"):
        case.run("no such backend", tensors)


MEASURED = """
import json, torch
from videogen.benchmark import measure
block = 64 * 2**20
row = measure.measure(lambda: torch.ones(block // 4), torch.device("cpu"), torch.float32)  # touched, so that it is resident
print(json.dumps({**row, "block": block}))
"""


def test_measure_reports_time_memory_and_the_machine() -> None:
    """In a process of its own, as always: what an allocator has kept from before would hide the block."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["seconds_min"] <= row["seconds"] <= row["seconds_max"] and row["repeats"] >= 1 and row["warm"]
    assert 0.7 * row["block"] < row["peak_bytes"] - row["base_bytes"] < 2.5 * row["block"]
    assert row["matmul_flops"] > 1e8


def test_a_slow_first_run_stands_alone_unless_it_must_be_warm(monkeypatch) -> None:
    times = iter([90.0, 80.0])
    monkeypatch.setattr(measure, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr(measure, "run_seconds", lambda *_: next(times))
    row = measure.measure(lambda: None, CPU, torch.float32)
    assert (row["seconds"], row["repeats"], row["warm"]) == (90.0, 1, False)
    times = iter([90.0, 80.0])
    row = measure.measure(lambda: None, CPU, torch.float32, warm=True)
    assert (row["seconds"], row["repeats"], row["warm"]) == (80.0, 1, True)


def test_budget() -> None:
    assert Budget(None).left() == float("inf") and Budget(None).timeout() is None
    assert 55 < Budget(1.0).left() <= 60
    with pytest.raises(ValueError, match="`--max-minutes` must be above 0, got 0"):
        Budget(0)


def test_what_the_goals_speak_of_comes_first_and_what_is_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []

    def process(kind: str, arguments: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        if arguments["model"] == "wan":
            raise CaseFailed("killed by signal 9")
        done.append((arguments["model"], arguments["tokens"]))
        return {**arguments, "seconds": 1.0, "peak_bytes": 1}

    said: list[str] = []
    monkeypatch.setattr(backbone, "run_in_process", process)
    models = ["videogen", "softmax-dense-total", "wan"]
    rows = list(backbone.run([1024, 8192, 131072], models, train=False, budget=Budget(None), say=said.append))
    assert done[:3] == [("videogen", 8192), ("videogen", 131072), ("softmax-dense-total", 131072)]
    assert [row["train"] for row in rows] == [False] * 6 and sum(
        "failed: killed by signal 9" in line for line in said
    ) == 3
    done.clear()
    monkeypatch.setattr(backbone, "matmul_rate", lambda *_: 1e9)  # a very slow machine
    list(backbone.run([1024, 262144], models[:2], train=False, budget=Budget(5), say=said.append))
    assert ("softmax-dense-total", 262144) not in done
    assert any("softmax-dense-total, 262,144 tokens: left out, would take about" in line for line in said)


def test_the_step_of_the_shipped_size_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def process(kind: str, arguments: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        asked.append(arguments)
        return {**arguments, "seconds": 1.0, "peak_bytes": 1, "items_per_second": 16.0}

    monkeypatch.setattr(backbone, "run_in_process", process)
    list(backbone.run([1024], ["videogen"], budget=Budget(None), say=lambda sentence: None))
    assert [(one["config"], one["train"]) for one in asked] == [("bench", False), ("bench", True), ("tiny", True)]
    recipe = yaml.safe_load((ROOT / "configs" / "train" / "t2v_tiny_cpu.yaml").read_text(encoding="utf-8"))
    num_frames = num_latent_frames(recipe["data"]["num_frames"])
    assert asked[-1]["shape"] == (recipe["batch_size"], num_frames, 96 // 16, 96 // 16)
    run = backbone.build("videogen", load_spec("tiny").transformer, Grid(2, 3, 3), torch.bfloat16, CPU, True, batch=2)
    assert float(run()) > 0


def fake_rows() -> list[dict[str, Any]]:
    rows = []
    for model, power in (
        ("videogen", 1.0),
        ("videogen-small", 0.9),
        ("softmax-dense-total", 1.7),
        ("softmax-dense-active", 1.5),
        ("sana-video", 1.1),
    ):
        for tokens in (8192, 102400, 131072):
            rows.append(
                {
                    "benchmark": "backbone",
                    "model": model,
                    "tokens": tokens,
                    "mode": "forward",
                    "block": None,
                    "config": "bench",
                    "seconds": (tokens / 1000) ** power,
                    "peak_bytes": 10**9 + tokens * 1000,
                    "base_bytes": 10**9,
                    "parameters": 10**6,
                    "matmul_flops": 1e11,
                    "matmul_fraction": 0.4,
                }
            )
    return rows


ENVIRONMENT = {
    "date": "2030-01-02 03:04 UTC",
    "machine": "a machine",
    "cores": 2,
    "threads": 2,
    "free_memory": 10**10,
    "load": 0.1,
    "system": "Linux",
    "python": "3.12",
    "versions": {"torch": "2"},
    "cuda": None,
    "commit": "abc",
}


def test_the_report_judges_the_goals_and_draws_the_curves(tmp_path: Path) -> None:
    rows = fake_rows()
    goals = {what: (measured, verdict) for what, _, measured, verdict in report.goals(rows)}
    ratio = 131.072**0.7
    assert goals["cost against the softmax twin of equal total parameters, 128K tokens"] == (f"{ratio:.2f}x", "met")
    assert goals["time per token at 128K against 8K"] == ("1.00x", "met")
    assert goals["speed against `sana-video`, 8K tokens"] == (f"{8.192**0.1:.2f}x", "**missed**")
    assert goals["speed against `sana-video`, 16K tokens"] == ("not measured", "")
    assert goals["equal total parameters: speed against `sana-video`, 8K tokens"] == (f"{8.192**0.2:.2f}x", "met")
    files = report.write_report(
        "backbone", rows, tmp_path, ENVIRONMENT, "videogen benchmark backbone", ["wan: left out"]
    )
    assert [path.name for path in files] == [f"backbone-2030-01-02.{kind}" for kind in ("json", "png", "md")]
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    text = files[2].read_text(encoding="utf-8")
    for part in (
        "videogen benchmark backbone",
        "a machine",
        "| 128K |",
        "![curves](backbone-2030-01-02.png)",
        "- wan: left out",
    ):
        assert part in text
    assert json.loads(files[0].read_text(encoding="utf-8")) == rows


def test_reports_of_the_other_benchmarks(tmp_path: Path) -> None:
    timed = {
        "seconds": 0.5,
        "seconds_min": 0.4,
        "seconds_max": 0.6,
        "peak_bytes": 2e9,
        "base_bytes": 1e9,
        "matmul_flops": 1e11,
    }
    blocks = [
        {**timed, "config": "base", "block": "linear+moe", "layers": 3, "tokens": 8192, "matmul_fraction": 0.5},
        {
            **timed,
            "config": "base",
            "block": "whole",
            "layers": 1,
            "tokens": 8192,
            "seconds": 1.6,
            "sum_of_blocks": 1.5,
        },
    ]
    pictures = [
        {
            **timed,
            "model": model,
            "mode": "decode",
            "size": 256,
            "frames": 17,
            "frames_per_second": rate,
            "parameters": 5e6,
        }
        for model, rate in (("videogen", 30.0), ("wan", 10.0))
    ]
    operators = [
        {
            **timed,
            "model": "moe.experts",
            "backend": backend,
            "tokens": 1024,
            "mode": "forward",
            "bandwidth_fraction": 0.2,
        }
        for backend in ("reference", "auto")
    ]
    clips = [
        {**timed, "model": "videogen --help", "part": "command", "seconds": 0.3},
        {**timed, "model": "videogen", "part": "warm", "seconds": 3.5, "frames": 33, "fps": 16.0},
        {**timed, "model": "videogen", "part": "denoise", "calls": 20},
    ]
    expected = {
        "blocks": (blocks, "-6.2% (goal: within 10 %; met)"),
        "tokenizer": (pictures, "3.00x"),
        "ops": (operators, "| `moe.experts` | auto | 500 |"),
        "clip": (clips, "| the same clip again, warm | <= 3 s | 3.50 s | **missed** |"),
    }
    for kind, (rows, sentence) in expected.items():
        files = report.write_report(kind, rows, tmp_path, ENVIRONMENT, "command", [])
        assert sentence in files[-1].read_text(encoding="utf-8"), kind
    assert "The clip has 33 frames, 2.06 s." in files[-1].read_text(encoding="utf-8")


def test_a_case_runs_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    command = ["benchmark", "backbone", "--lengths", "1K", "--models", "videogen", "--config", "tiny", "--no-train"]
    assert main([*command, "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    assert (row["model"], row["tokens"]) == ("videogen", 1024) and row["seconds"] > 0
    assert row["peak_bytes"] >= row["base_bytes"] > 10**8 and 0 < row["matmul_fraction"] < 1.5
    capsys.readouterr()
    for wrong in (["--lengths", "7"], ["--dtype", "int8"], ["--max-minutes", "0"]):
        assert main(["benchmark", "backbone", *wrong]) == 2
        assert f"`{wrong[0]}` must be" in capsys.readouterr().err


def test_blocks_are_measured_at_one_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "blocks", "--config", "tiny", "--dtype", "float32", "--tokens", "1K,2K"]) == 2
    assert "`--tokens` must be one length, got 1K,2K; run the command once for each." in capsys.readouterr().err


def test_a_case_that_fails_says_why() -> None:
    with pytest.raises(CaseFailed, match="`kind` must be one of backbone"):
        measure.run_case("weather", {})


def test_parts_of_a_clip_are_timed() -> None:
    watch = clip_profile.Stopwatch()

    class Thing:
        def double(self, value: int) -> int:
            return 2 * value

    thing = Thing()
    watch.watch(thing, "double", "doubling")
    assert thing.double(3) == 6 and thing.double(4) == 8
    assert len(watch.times["doubling"]) == 2 and all(seconds >= 0 for seconds in watch.times["doubling"])


def test_the_clock_of_a_clip_starts_before_anything_heavy() -> None:
    code = "import sys, videogen.benchmark.clip_profile; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_the_clip_of_the_shipped_model_is_profiled() -> None:
    rows = list(clip.run(repeats=1, budget=Budget(None), say=lambda sentence: None))
    parts = {row["part"]: row for row in rows}
    known = json.loads((SHIPPED_FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
    for part in ("import torch", "import diffusers", "load", "text", "denoise", "decode", "write", "cold", "warm"):
        assert parts[part]["seconds"] > 0
        assert (parts[part]["frames"], parts[part]["fps"]) == (known["num_frames"][-1], known["fps"][0])
    assert parts["denoise"]["calls"] > parts["decode"]["calls"]
    inside = sum(parts[part]["seconds"] for part in ("text", "denoise", "decode", "write"))
    assert inside < parts["cold"]["seconds"] + parts["warm"]["seconds"]


@pytest.mark.slow
def test_help_comes_within_half_a_second() -> None:
    code = "import sys; from videogen.cli import main; main(['--help'])"
    seconds = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.5, "processor time of the process, which another program cannot lengthen"
