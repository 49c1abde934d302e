"""Which implementation of an operator runs: one check, one choice and one message for all of them.

`chosen_backends()` tells what every operator ran last, and the logger of this module says so at debug level whenever an
operator changes its choice.
"""

from __future__ import annotations

import logging
import os
import shutil
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["announce", "check_backend", "choose_native", "choose_triton", "chosen_backends"]

logger = logging.getLogger(__name__)

_HAS_TRITON = find_spec("triton") is not None
_chosen: dict[str, str] = {}


def check_backend(op: str, backend: str, available: tuple[str, ...]) -> str:
    """Returns `backend` if the operator `op` has it.

    Args:
        op: name of the operator, for the message.
        backend: what the caller asked for; "auto" leaves the choice to the operator.
        available: the names that the operator knows, without "auto".

    Raises:
        ValueError: the operator has no such backend.
    """
    if backend == "auto" or backend in available:
        return backend
    allowed = ", ".join(repr(name) for name in ("auto", *available))
    raise ValueError(f"`backend` of {op} must be one of {allowed}, got {backend!r}; use 'auto'.")


def announce(op: str, backend: str) -> None:
    """Notes that `op` runs on `backend`, and logs it when that is news."""
    if torch.compiler.is_compiling() or _chosen.get(op) == backend:
        return
    _chosen[op] = backend
    logger.debug("%s runs on backend %r", op, backend)


def chosen_backends() -> dict[str, str]:
    """The backend that each operator called so far ran on last, by the operator's name."""
    return dict(_chosen)


def choose_native(op: str, backend: str, can_run: bool) -> bool:
    """Whether the compiled CPU operator runs: where it can, unless another backend was asked for.

    Raises:
        ValueError: it was asked for and cannot run.
    """
    if backend == "native" and not can_run:
        raise ValueError(
            f"`backend` 'native' of {op} needs float32 or bfloat16 tensors on the CPU, a C++ compiler and at most 4 threads "
            "outside torch.compile; use 'reference'."
        )
    return can_run and backend in ("auto", "native")


def choose_triton(op: str, backend: str, tensors: tuple[Tensor | None, ...], unsupported: str | None = None) -> bool:
    """Whether the Triton kernels run: on CUDA tensors where they can, unless another backend was asked for.

    Args:
        op: name of the operator.
        backend: what the caller asked for.
        tensors: everything the kernels would read; the first is not None.
        unsupported: what about the other arguments the kernels cannot do, as "needs ..., got ..."; None = nothing.

    Raises:
        ValueError: they were asked for and cannot run.
    """
    if backend not in ("auto", "triton"):
        return False
    first = tensors[0]
    assert first is not None
    if backend == "auto" and not first.is_cuda:
        return False
    reason = _triton_refusal(tensors) or unsupported
    if backend == "triton" and reason is not None:
        raise ValueError(f"`backend` 'triton' of {op} {reason}; use 'auto'.")
    return reason is None


@lru_cache(maxsize=1)
def _has_c_compiler() -> bool:
    return bool(os.environ.get("CC")) or any(shutil.which(name) for name in ("gcc", "clang"))


def _triton_refusal(tensors: tuple[Tensor | None, ...]) -> str | None:
    if not _HAS_TRITON:
        return "needs the package triton, which is not installed (pip install 'videogen-moe[cuda]')"
    from videogen_kernels.triton_runtime import INTERPRETED

    if not INTERPRETED and not _has_c_compiler():
        return "needs a C compiler (gcc or clang, or $CC), which Triton builds its launchers with, and finds none"
    device = "cpu" if INTERPRETED else "cuda"
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != device:
            where = "on the CPU (Triton's interpreter is on)" if INTERPRETED else "on a CUDA device"
            return f"needs tensors {where}, got {tensor.device}"
        if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"needs float32, bfloat16 or float16, got {tensor.dtype}"
    return None
