"""Time and peak memory of one case, each in a process of its own.

Peak memory is the largest resident set while the case runs (`VmHWM` of Linux, set back before the first run; on a GPU what PyTorch's allocator
counts). A process per case keeps one case's caches and fragments out of the next one's peak. `peak_bytes` holds everything: the program (Python and
the libraries), weights and activations; `base_bytes` is what the process held before the first run.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from videogen.planning.hardware import available_memory, matmul_rate, processor_name, resident_memory, run_seconds

Row = dict[str, Any]
"""One result: `model`, `tokens`, `seconds` (median), `peak_bytes`, and what else the benchmark says about it."""

#: Runs are repeated until there are this many, unless they take longer than this together.
REPEATS, REPEAT_SECONDS = 5, 12.0
#: A first run that took longer than this stands as the result. (Below, it is not counted: on a CPU the gigabytes of a long sequence, touched for
#: the first time, cost seconds that no later evaluation pays.)
SINGLE_RUN_SECONDS = 60.0


def reset_peak_memory(device: torch.device) -> None:
    """Start counting the peak anew from what is held now; without effect where the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory(device: torch.device) -> int:
    """Bytes held at the peak since `reset_peak_memory` (since the start where that has no effect)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def measure(
    run: Callable[[], Any], device: torch.device, dtype: torch.dtype = torch.bfloat16, warm: bool = False
) -> Row:
    """Time and peak memory of `run`, and the machine's own matrix products right before and after; `warm`: never a first run alone.

    Returns:
        `seconds` (median), `seconds_min`, `seconds_max`, `repeats`, `warm` (whether a first run was left out), `peak_bytes`,
        `base_bytes`, and `matmul_flops`: operations per second of a product of 1024 x 1024 matrices in `dtype`.
    """
    before = matmul_rate(dtype, device)
    base = int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else resident_memory()
    reset_peak_memory(device)
    first = run_seconds(run, device)
    times = [first]
    warm = warm or first <= SINGLE_RUN_SECONDS
    if warm:
        times = [run_seconds(run, device)]
        while len(times) < REPEATS and sum(times) + median(times) <= REPEAT_SECONDS:
            times.append(run_seconds(run, device))
    peak = peak_memory(device)
    after = matmul_rate(dtype, device)
    return {
        "seconds": median(times),
        "seconds_min": min(times),
        "seconds_max": max(times),
        "repeats": len(times),
        "warm": warm,
        "peak_bytes": peak,
        "base_bytes": base,
        "matmul_flops": (before + after) / 2,
    }


class CaseFailed(RuntimeError):
    """A case that did not give a result; the message is the last line it wrote."""


def run_case(kind: str, arguments: Mapping[str, Any], timeout: float | None = None) -> Row:
    """Run one case in a process of its own.

    Args:
        kind: module of `videogen.benchmark` whose `run_case` runs it.
        arguments: for that function, as JSON can hold them.
        timeout: seconds after which it is given up.

    Raises:
        CaseFailed: it ended with an error, was killed (for memory, for instance) or took too long.
    """
    command = [
        sys.executable,
        "-m",
        "videogen.benchmark.worker",
        json.dumps({"kind": kind, "arguments": dict(arguments)}),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CaseFailed(f"took longer than {timeout:.0f} s") from None
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        reason = (
            f"killed by signal {-result.returncode}" if result.returncode < 0 else lines[-1] if lines else "no message"
        )
        raise CaseFailed(reason)
    return json.loads(result.stdout.strip().splitlines()[-1])


class Budget:
    """Minutes that a benchmark may take; None = as long as it takes."""

    def __init__(self, max_minutes: float | None):
        if max_minutes is not None and max_minutes <= 0:
            raise ValueError(f"`--max-minutes` must be above 0, got {max_minutes:g}.")
        self.end = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def left(self) -> float:
        """Seconds."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def timeout(self) -> float | None:
        """For one case: what is left, but at least a minute."""
        return None if self.end is None else max(60.0, self.left())


def environment(device: torch.device) -> dict[str, Any]:
    """Where and when: date, machine, threads, versions, commit."""
    cuda = device.type == "cuda"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": torch.cuda.get_device_name(device) if cuda else processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "free_memory": available_memory(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in ("torch", "diffusers", "triton", "xformers") if (found := _version(name))},
        "cuda": torch.version.cuda if cuda else None,
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of the checkout that this runs from, with '+' when files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        asked = [["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
        head, changed = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed.strip() else "")


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows as JSON, one a line; written whole or not at all."""
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
