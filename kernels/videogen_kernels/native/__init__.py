"""Fused CPU operators in C++, compiled with the machine's own compiler on first use.

A small model on a CPU waits for element-wise passes, not for matrix products: a norm, a gate or a rotary embedding written
in PyTorch reads and writes its tensor several times. `ops.cpp` does each in one pass; PyTorch keeps the large products. The
library is compiled once per machine (a few seconds) into the user's cache folder. Without a compiler, `library` is None and
the operators' "auto" backend stays with PyTorch.

Loops are shared among the threads of PyTorch's own OpenMP library, which importing torch makes visible to others: a second pool of
threads would take the cores from the first. Where that does not work, each function runs on one thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["call", "library", "runnable"]

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("ops.cpp")
# Everything of -ffast-math that leaves NaN and infinity alone.
_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
    "-fPIC",
    "-fvisibility=hidden",
]
_DTYPES = (torch.float32, torch.bfloat16)
#: Where functions run on one thread: with more than this many, PyTorch's own threads are worth more than fewer passes.
_MAX_THREADS = 4


def runnable(*tensors: Tensor | None, masks: Sequence[Tensor | None] = ()) -> bool:
    """Whether the library can take these tensors, float32 or bfloat16, and masks: on the CPU, outside `torch.compile`; few threads, if it
    uses one."""
    if torch.compiler.is_compiling():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    given_masks = [mask for mask in masks if mask is not None]
    if not all(t.device.type == "cpu" for t in (*given, *given_masks)) or not all(t.dtype in _DTYPES for t in given):
        return False
    if (lib := library()) is None:
        return False
    return bool(lib.threads()) or torch.get_num_threads() <= _MAX_THREADS


def call(name: str, *args: Tensor | float | None) -> None:
    """Calls a function of `ops.cpp`: tensors go as addresses, ints as int64, floats as float32, None as a null pointer.

    Tensors must have the layout that the function documents; those are checked by the callers, not here.
    """
    lib = library()
    assert lib is not None, "`call` needs a library; ask `runnable` first"
    values: list[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float] = []
    for arg in args:
        if arg is None:
            values.append(ctypes.c_void_p(None))
        elif isinstance(arg, Tensor):
            values.append(ctypes.c_void_p(arg.data_ptr()))
        elif isinstance(arg, float):
            values.append(ctypes.c_float(arg))
        else:
            values.append(ctypes.c_int64(arg))
    getattr(lib, name)(*values)


def suffix(*tensors: Tensor) -> str:
    """The letters that the names of `ops.cpp` carry for these dtypes: f for float32, h for bfloat16."""
    return "".join("h" if tensor.dtype == torch.bfloat16 else "f" for tensor in tensors)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library; None where there is no compiler, or it fails."""
    compiler = next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
    if compiler is None or os.name == "nt":
        logger.debug("no C++ compiler: CPU operators stay with PyTorch")
        return None
    try:
        return ctypes.CDLL(str(_build(compiler, ["-fopenmp"])))
    except (OSError, subprocess.SubprocessError) as error:  # PyTorch has another OpenMP, or none
        logger.debug("the CPU operators use one thread: %s", error)
    try:
        return ctypes.CDLL(str(_build(compiler, [])))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("compiling the CPU operators failed, PyTorch's are used instead: %s", error)
        return None


def _build(compiler: str, more_flags: list[str]) -> Path:
    """Compiles `ops.cpp` unless the cache has it: one file per source, flags, compiler and processor."""
    tune = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    command = [compiler, *_FLAGS, *more_flags, tune]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    parts = [_SOURCE.read_text(encoding="utf-8"), " ".join(command), version, _processor()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    path = _cache_folder() / f"ops-{key}.so"
    if not path.is_file():
        # Another process may compile at the same time: each writes a file of its own, the last one is kept.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            compiled, fresh = Path(folder) / "ops.o", Path(folder) / "ops.so"
            # Linked without -fopenmp: the library must take the OpenMP that PyTorch has loaded, not bring the compiler's.
            for step in ([*command, "-c", str(_SOURCE), "-o"], [compiler, "-shared", str(compiled), "-o"]):
                target = compiled if "-c" in step else fresh
                subprocess.run([*step, str(target)], check=True, capture_output=True, text=True)
            fresh.replace(path)
    return path


def _cache_folder() -> Path:
    home = Path(os.path.expanduser("~"))  # stays "~" where there is none
    own = [home / ".cache" / "videogen"] if home.is_absolute() else []
    for folder in (*own, Path(tempfile.gettempdir()) / f"videogen-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    raise OSError("no writable cache folder")


def _processor() -> str:
    """What `native` compiles for: model and features of the processor."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
