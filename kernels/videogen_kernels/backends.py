"""Which implementation of an operator runs: one check and one message for all of them."""

from __future__ import annotations

#: Implementations that operators may have one day, and why this version cannot run them.
_UNAVAILABLE = {
    "triton": "its Triton kernel is not part of this version",
    "xformers": "its xformers path is not part of this version",
    "flex": "its flex attention path is not part of this version",
}


def check_backend(op: str, backend: str, available: tuple[str, ...]) -> str:
    """Returns `backend` if the operator `op` can run it.

    Args:
        op: name of the operator, for the message.
        backend: what the caller asked for; "auto" leaves the choice to the operator.
        available: the names that can run here, without "auto".

    Raises:
        ValueError: the backend is unknown, or known but not runnable here; the message says why.
    """
    if backend == "auto" or backend in available:
        return backend
    allowed = ", ".join(repr(name) for name in ("auto", *available))
    reason = _UNAVAILABLE.get(backend, "there is no such backend")
    raise ValueError(f"`backend` of {op} must be one of {allowed}, got {backend!r} ({reason}); use 'auto'.")


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
