"""GPUs, precision and compilers: settings for training, and copies from the host that do not wait."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def indexed(device: str | torch.device) -> torch.device:
    """The device with its number, so that equal devices are equal keys: "cuda" is the current GPU."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The array on a device.

    On the way to a GPU it passes through page-locked memory, and the host runs on: a plain copy would wait until the GPU has
    done all it was given before. On a CPU it may share its memory with `array`.
    """
    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@lru_cache(maxsize=8)
def bfloat16_pays(device_type: str) -> bool:
    """Whether matrix products are faster in bfloat16 than in float32 on this kind of device, "cpu" or "cuda".

    On CPUs it is measured, once a process and in milliseconds: with matrix instructions for bfloat16 products are several times
    faster, but some processors with avx512_bf16 take twice as long for them as for float32 ones.
    """
    if device_type != "cpu":
        return True
    factors = [
        (torch.ones(768, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    best = [float("inf")] * 2
    for repetition in range(10):
        for kind, (rows, columns) in enumerate(factors):
            start = time.perf_counter()
            torch.mm(rows, columns)
            if repetition:  # the first product of a shape compiles code
                best[kind] = min(best[kind], time.perf_counter() - start)
    return best[1] < 0.85 * best[0]


def settle_precision(wanted: str, device_type: str, before: str | None = None) -> str:
    """ "bf16" or "no" for a run's `mixed_precision`: "auto" is what the resumed run did `before`, or what is faster here."""
    if wanted != "auto":
        return wanted
    return before or ("bf16" if bfloat16_pays(device_type) else "no")


@contextmanager
def training_precision() -> Iterator[None]:
    """Within, what autocast leaves in float32 is multiplied in TF32 on a GPU. Without a GPU nothing changes."""
    before = torch.get_float32_matmul_precision()
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def prepare_compiler() -> None:
    """Settings for `torch.compile` in training: what cannot be compiled runs as it is, and torch says so.

    Raises:
        ValueError: there is no C++ compiler.
    """
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        raise ValueError("`compile` needs a C++ compiler, none was found; install g++ or set `compile: false`.")
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = True
