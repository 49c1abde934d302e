"""Estimates of memory, time and spreading; slow: against real runs of the small models on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videogen.benchmark.measure import run_case
from videogen.cli import main
from videogen.planning import estimate as planning
from videogen.planning.counts import Grid
from videogen.planning.estimate import Request, make_estimate
from videogen.planning.hardware import (
    GPUS,
    Machine,
    Rates,
    copy_bandwidth,
    matmul_rate,
    named_gpu,
    this_machine,
    unmeasured,
)
from videogen.planning.specs import SHIPPED_FOLDER, load_spec

BF16 = torch.bfloat16
CLIP = Request(num_frames=149, height=720, width=1280, fps=25.0)


def test_a_six_second_clip_of_the_base_model() -> None:
    spec = load_spec("base")
    estimate = make_estimate(spec, CLIP, named_gpu("h100"), BF16)
    assert estimate.grid == Grid(38, 45, 80, 64) and estimate.grid.tokens == 136_800
    assert estimate.fits and estimate.total_seconds == pytest.approx(sum(estimate.seconds.values()))
    # two operations per active parameter and token, and what attention adds
    products = 2 * estimate.active_parameters["transformer"] * estimate.grid.tokens
    assert 1.0 < sum(estimate.flops.values()) / products < 2.0
    assert estimate.memory["weights"] == 2 * sum(estimate.parameters.values())
    longer = make_estimate(spec, replace(CLIP, num_frames=297), named_gpu("h100"), BF16)
    assert 1.9 < longer.seconds["denoising"] / estimate.seconds["denoising"] < 2.1, "a windowed hybrid is linear"
    unguided = make_estimate(spec, replace(CLIP, guidance=False), named_gpu("h100"), BF16)
    assert unguided.seconds["denoising"] == pytest.approx(estimate.seconds["denoising"] / 2, rel=0.05)
    text = "\n".join(planning.describe(estimate))
    assert "136,800 (38 latent frames of 45 x 80)" in text and "1.43 B of 4.21 B" in text and "not measured" in text


def test_a_model_is_spread_until_it_fits() -> None:
    machine = named_gpu("H200")
    estimate = make_estimate(load_spec("minimax-01"), CLIP, machine, BF16)
    assert not estimate.fits
    devices = [one.devices for one in estimate.spread]
    assert devices == [devices[0] * 2**k for k in range(4)] and devices[0] >= 8
    assert devices[0] * machine.memory > estimate.memory["weights"]
    assert all(one.bytes_per_device < machine.memory for one in estimate.spread)
    asked = make_estimate(load_spec("base"), CLIP, machine, BF16, devices=4).spread
    assert [(one.devices, one.sequence, one.sharded) for one in asked] == [(4, 4, False)]
    assert asked[0].bytes_moved > 0
    alone = make_estimate(load_spec("base"), CLIP, machine, BF16, devices=1).spread[0]
    assert alone.bytes_moved == 0 and alone.seconds > asked[0].seconds


@pytest.mark.parametrize("name", GPUS)
def test_named_gpus(name: str) -> None:
    machine = named_gpu(name)
    assert 0 < machine.rates.matmul < GPUS[name].matmul and machine.link > 0 and "not measured" in machine.basis
    with pytest.raises(ValueError, match="`device` must be 'this' or one of a100, h100"):
        named_gpu("gtx970")


def test_models_that_do_not_exist_or_do_not_agree(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`model` must be .* a name \(base, bench, large, minimax-01, tiny\), got 'huge'"
    ):
        load_spec("huge")
    path = tmp_path / "odd.yaml"
    path.write_text("transformer: {width: 32, depth: 3}\ntext_encoder: {}\n")
    with pytest.raises(ValueError, match=r"`transformer.depth` of 'odd' is not a setting of VideoTransformer"):
        load_spec(path)
    path.write_text("width: 32\n")
    with pytest.raises(ValueError, match="must be a YAML file with `transformer`"):
        load_spec(path)
    with pytest.raises(ValueError, match="`width` must be a positive multiple of 16 pixels, got 1282; use 1280"):
        make_estimate(load_spec("base"), replace(CLIP, width=1282), named_gpu("h100"), BF16)


def test_the_shipped_model_is_read_from_its_folder() -> None:
    spec = load_spec(SHIPPED_FOLDER)
    assert spec.vocabulary is not None and spec.transformer["latent_channels"] == spec.tokenizer["latent_channels"]


def test_what_does_not_fit_comes_with_advice() -> None:
    spec = load_spec("bench")
    small = Machine("small", 1.2e9, Rates(*[1e12] * 9), 0.0, True, "a test")
    request = Request(num_frames=401, height=512, width=512, fps=24.0)
    estimate = make_estimate(spec, request, small, torch.float32)
    assert not estimate.fits
    advice = planning.advice(spec, estimate, small, torch.float32)
    frames = int(re.search(r"at most (\d+) frames", advice).group(1))  # type: ignore[union-attr]
    assert (frames - 1) % 4 == 0
    assert make_estimate(spec, replace(request, num_frames=frames), small, torch.float32).fits
    assert not make_estimate(spec, replace(request, num_frames=frames + 4), small, torch.float32).fits
    tiny = replace(small, memory=6e8)
    hopeless = make_estimate(spec, request, tiny, torch.float32)
    assert "the weights alone" in planning.advice(spec, hopeless, tiny, torch.float32)


def test_the_machine_at_hand_is_measured() -> None:
    device = torch.device("cpu")
    assert matmul_rate(torch.float32, device, size=128, seconds=0.01) > 1e8
    assert copy_bandwidth(device, size=1 << 20, seconds=0.01) > 1e8
    machine = unmeasured()
    assert machine.here and 1e8 < machine.memory < 1e14


def test_plan_prints_everything_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    common = ["plan", "--model", "base", "--duration", "6", "--size", "1280x720", "--fps", "25"]
    assert main([*common, "--device", "l40s", "--json", str(path)]) == 0
    printed, notes = capsys.readouterr()
    assert "Adjusted: `duration` 6 s became" in notes
    for word in ("Tokens", "Parameters", "Operations", "Memory", "Time", "NVIDIA L40S"):
        assert word in printed
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["grid"]["num_frames"] == 38 and values["fits"] is True and values["total_seconds"] > 0
    assert values["adjusted"] == [notes.strip().removeprefix("Adjusted: ")]
    assert main([*common, "--device", "gtx970"]) == 2
    assert main([*common, "--devices", "4"]) == 2
    assert "`--devices` must go with a named `--device`" in capsys.readouterr().err
    assert main([*common, "--device", "l40s", "--dtype", "bfloat16"]) == 0
    assert main([*common, "--device", "l40s", "--dtype", "float32"]) == 2
    assert "`--dtype` must be bfloat16 for a named `--device`, got float32 for l40s" in capsys.readouterr().err
    assert main(["plan", "--model", "base", "--duration", "6", "--size", "1280x720"]) == 2
    assert "`fps` must be given" in capsys.readouterr().err


def test_plan_of_a_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SHIPPED_FOLDER, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "model" / "fast").mkdir(exist_ok=True)
    (tmp_path / "model" / "fast" / "config.json").write_text('{"num_inference_steps": 3, "guidance_scale": 1.0}')
    path = tmp_path / "plan.json"
    common = ["plan", "--model", str(tmp_path / "model"), "--device", "l40s", "--json", str(path)]
    steps = {}
    for quality in ("fast", "high"):
        assert main([*common, "--quality", quality]) == 0
        steps[quality] = json.loads(path.read_text(encoding="utf-8"))["request"]["num_inference_steps"]
    known = json.loads((SHIPPED_FOLDER / "vocabulary.json").read_text(encoding="utf-8"))
    assert steps == {"fast": 3, "high": known["num_inference_steps"]}
    assert main([*common, "--quality", "best"]) == 2
    assert "`quality` must be 'fast' or 'high', got 'best'" in capsys.readouterr().err


def test_generate_refuses_what_cannot_fit_and_announces_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from videogen.cli import plan

    spec = load_spec(SHIPPED_FOLDER)
    settings = dict.fromkeys(
        (
            "duration",
            "num_frames",
            "height",
            "width",
            "fps",
            "num_inference_steps",
            "guidance_scale",
            "guidance_interval",
        )
    )
    request = plan.resolve_request(spec, settings)
    settings |= {"num_inference_steps": 4, "guidance_interval": (0.5, 1.0)}  # 1, 0.75 and 0.5 of 1, 0.75, 0.5 and 0.25
    assert plan.resolve_request(spec, settings).evaluations == 3.5
    plan.announce(spec, request)
    assert capsys.readouterr().err == "", "a short run says nothing"
    monkeypatch.setattr(plan, "_SLOWEST", 1.0)
    monkeypatch.setattr(plan, "LONG_SECONDS", 1e-3)
    plan.announce(spec, request)
    assert "Tokens" in capsys.readouterr().err
    monkeypatch.setattr("videogen.planning.hardware.usable_memory", lambda: 1e8)
    with pytest.raises(ValueError, match=r"do not fit this machine: it needs .* use a smaller model"):
        plan.announce(spec, request)


#: On one thread and in processor time, which other programs on the machine hardly move; the calibration is timed by the same clock.
RUN = """
import time
time.perf_counter = time.process_time
import json, sys, torch
import videogen_pipelines.base
from videogen.benchmark.backbone import build_videogen
from videogen.benchmark.measure import peak_memory, reset_peak_memory
from videogen.planning.counts import Grid
from videogen.planning.estimate import Request, activation_bytes, evaluation_seconds, kept_bytes
from videogen.planning.hardware import measure_rates, resident_memory
from videogen.planning.specs import load_spec
name, frames, height, width, batch, dtype = sys.argv[1], *map(int, sys.argv[2:6]), getattr(torch, sys.argv[6])
spec, grid, device = load_spec(name), Grid(frames, height, width, 64), torch.device("cpu")
rates = measure_rates(spec.transformer, spec.tokenizer, grid, batch, dtype, device)
program = resident_memory()
run = build_videogen(spec.transformer, grid, batch, dtype, device)
run()
reset_peak_memory(device)
times = []
while len(times) < 3 or sum(times) < 2:
    started = time.perf_counter()
    run()
    times.append(time.perf_counter() - started)
times.sort()
weights = sum(p.numel() for p in run.model.parameters()) * dtype.itemsize
print(json.dumps({
    "seconds": times[len(times) // 2], "peak": peak_memory(device),
    "estimated_seconds": evaluation_seconds(spec.transformer, grid, batch, rates, dtype.itemsize),
    "estimated_peak": program + weights + activation_bytes(spec.transformer, grid, batch, dtype.itemsize, True)
    + kept_bytes(spec.transformer, grid, batch, dtype.itemsize),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "frames", "height", "width", "batch", "dtype"),
    [
        ("tiny", 5, 6, 6, 2, "float32"),
        ("bench", 8, 32, 32, 1, "bfloat16"),
        ("bench", 16, 32, 32, 1, "bfloat16"),
        ("bench", 4, 32, 32, 2, "float32"),
    ],
)
def test_estimates_against_real_runs(name: str, frames: int, height: int, width: int, batch: int, dtype: str) -> None:
    """Time within 25 %, memory within 10 %, in one of three attempts."""
    attempts = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        command = [sys.executable, "-c", RUN, name, *map(str, (frames, height, width, batch)), dtype]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        found = json.loads(result.stdout.splitlines()[-1])
        time_error = found["estimated_seconds"] / found["seconds"] - 1
        memory_error = found["estimated_peak"] / found["peak"] - 1
        attempts.append((time_error, memory_error, found))
        if abs(time_error) < 0.25 and abs(memory_error) < 0.1:
            return
    raise AssertionError(f"time and memory are off in every attempt: {attempts}")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "frames"), [(256, 65), (384, 33), (512, 17)])
def test_decoding_against_real_runs(size: int, frames: int) -> None:
    """Memory within 10 %, time within 25 % where the machine is quiet (best of three)."""
    spec = load_spec(SHIPPED_FOLDER)
    request = Request(num_frames=frames, height=size, width=size, fps=24.0)
    attempts = []
    for _ in range(3):
        machine = this_machine(spec.transformer, spec.tokenizer, planning.make_grid(spec, request), 1, torch.float32)
        estimate = make_estimate(spec, request, machine, torch.float32)
        arguments = {"model": "videogen", "mode": "decode", "size": size, "frames": frames}
        row = run_case("tokenizer", arguments)
        time_error = estimate.seconds["decoding"] / row["seconds"] - 1
        memory_error = (row["base_bytes"] + estimate.memory["decoding"]) / row["peak_bytes"] - 1
        attempts.append((time_error, memory_error))
        if abs(time_error) < 0.25 and abs(memory_error) < 0.1:
            return
    raise AssertionError(f"time and memory are off in every attempt: {attempts}")
