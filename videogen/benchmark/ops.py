"""Every operator on the shapes of the configuration `bench` at 8K tokens: each backend that can run, forward and backward, beside a baseline.

An operator that computes the wrong thing is not timed: each result is compared with float32 first. Rows say which share of the machine's matrix
products (operators that compute) or of its copy bandwidth (operators that move) was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videogen.benchmark.measure import Budget, CaseFailed, Row, best_device, measure
from videogen.benchmark.measure import run_case as run_in_process
from videogen.planning.hardware import copy_bandwidth
from videogen_kernels import moe
from videogen_kernels.attention import attention, windowed_attention
from videogen_kernels.linear_attention import linear_attention
from videogen_kernels.mixers import cross_mixer, linear_mixer, softmax_mixer
from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm
from videogen_kernels.rotary import head_norm, rotary

#: Backends that an operator may have; those that it refuses here are left out.
BACKENDS = ("auto", "reference", "native", "triton", "grouped_mm", "sdpa", "xformers", "flex")

# Width, heads, head width, hidden width, experts, chosen, text tokens, tokens of a frame's side: those of `bench`.
D, N, K, H, E, TOP, S, SIDE = 512, 8, 64, 512, 16, 2, 64, 32


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Attributes:
        make: (frames, random tensors) -> its tensors; those of them that are floating get gradients.
        run: (backend, tensors) -> result.
        flops: tokens -> operations forward; 0 = it only moves data.
        bytes: tokens -> bytes read and written forward, for an element of two bytes.
        tolerance: of the result against float32, relative to its largest value.
    """

    make: Callable[[int, Callable[..., Tensor]], list[Tensor]]
    run: Callable[[str, list[Tensor]], Tensor]
    flops: Callable[[int], float]
    bytes: Callable[[int], float]
    tolerance: float = 0.04


def _tables(tokens: int) -> list[Tensor]:
    angles = torch.arange(tokens * (K // 2), dtype=torch.float32).view(tokens, K // 2) * 1e-3
    return [angles.cos(), angles.sin()]


def _grid(tokens: int) -> tuple[int, int, int]:
    return tokens // SIDE**2, SIDE, SIDE


def _visible(frames: int, window: int = 2) -> Tensor:
    index = torch.arange(frames)
    near = (index[:, None] - index[None]).abs() <= window
    return near | (index == 0)[None] | (index == 0)[:, None]


def _plain(function: Callable[..., Any]) -> Callable[[str, Sequence[Any]], Tensor]:
    """An operator that takes its tensors in order, and the backend by name."""
    return lambda backend, t: function(*t, backend=backend)


def _routed(t: list[Tensor]) -> tuple[Tensor, Tensor]:
    return moe.route(moe.router_logits(t[0], t[3].float()), None, TOP)


CASES: dict[str, Case] = {
    "matmul": Case(
        lambda n, v: [v(n * SIDE**2, D), v(4 * D, D) / D**0.5],
        lambda backend, t: _only("auto", backend, lambda: F.linear(*t)),
        lambda tokens: 8.0 * tokens * D * D,
        lambda tokens: 2.0 * 5 * tokens * D,
    ),
    "linear_mixer": Case(
        lambda n, v: [
            v(1, n * SIDE**2, 4, N, K),
            v(1, n * SIDE**2, N),
            *(v(K) * 0 + 1 for _ in range(3)),
            v(N * K, 1, 3, 3) * 0.1,
            *_tables(n * SIDE**2),
        ],
        lambda backend, t: _plain(linear_mixer)(backend, [*t, _grid(t[0].shape[1])]),
        lambda tokens: 4.0 * tokens * N * K * (K + 1) + 18.0 * tokens * N * K,
        lambda tokens: 2.0 * 5 * tokens * N * K,
    ),
    "linear_attention": Case(
        lambda n, v: [*(v(1, n * SIDE**2, N, K) for _ in range(3)), v(1, n * SIDE**2, N).sigmoid()],
        _plain(linear_attention),
        lambda tokens: 4.0 * tokens * N * K * K,
        lambda tokens: 2.0 * 4 * tokens * N * K,
    ),
    "softmax_mixer": Case(
        lambda n, v: [
            v(1, n * SIDE**2, 3, N, K),
            v(K) * 0 + 1,
            v(K) * 0 + 1,
            *_tables(n * SIDE**2),
            v(1, n * SIDE**2, N),
        ],
        _plain(softmax_mixer),
        lambda tokens: 4.0 * tokens**2 * N * K,
        lambda tokens: 2.0 * 4 * tokens * N * K,
    ),
    "attention": Case(
        lambda n, v: [v(1, n * SIDE**2, N, K) for _ in range(3)],
        _plain(attention),
        lambda tokens: 4.0 * tokens**2 * N * K,
        lambda tokens: 2.0 * 4 * tokens * N * K,
    ),
    "windowed_attention": Case(
        lambda n, v: [*(v(1, n * SIDE**2, N, K) for _ in range(3)), _visible(n)],
        _plain(windowed_attention),
        lambda tokens: 4.0 * float(_visible(tokens // SIDE**2).sum()) * SIDE**4 * N * K,
        lambda tokens: 2.0 * 4 * tokens * N * K,
    ),
    "cross_mixer": Case(
        lambda n, v: [v(1, n * SIDE**2, N, K), v(1, S, 2, N, K), v(K) * 0 + 1, v(K) * 0 + 1],
        _plain(cross_mixer),
        lambda tokens: 4.0 * tokens * S * N * K,
        lambda tokens: 2.0 * 2 * tokens * N * K,
    ),
    "moe.experts": Case(
        lambda n, v: [v(n * SIDE**2, D), v(E, D, 2 * H) / D**0.5, v(E, H, D) / H**0.5, v(E, D) / D**0.5],
        lambda backend, t: _plain(moe.experts)(backend, [*t[:3], *_routed(t)]),
        lambda tokens: 6.0 * tokens * TOP * D * H + 2.0 * tokens * D * E,
        lambda tokens: 2.0 * tokens * (2 * D + TOP * (2 * D + 3 * H)),
    ),
    "moe.swiglu": Case(
        lambda n, v: [v(n * SIDE**2, 2 * H)],
        _plain(moe.swiglu),
        lambda tokens: 0.0,
        lambda tokens: 2.0 * 3 * tokens * H,
    ),
    "modulated_norm": Case(
        lambda n, v: [v(1, n * SIDE**2, D), v(1, n, D), v(1, n, D)],
        _plain(modulated_norm),
        lambda tokens: 0.0,
        lambda tokens: 2.0 * 2 * tokens * D,
    ),
    "gated_residual": Case(
        lambda n, v: [v(1, n * SIDE**2, D), v(1, n * SIDE**2, D), v(1, n, D)],
        _plain(gated_residual),
        lambda tokens: 0.0,
        lambda tokens: 2.0 * 3 * tokens * D,
    ),
    "rms_norm": Case(
        lambda n, v: [v(1, n * SIDE**2, D), v(D) * 0 + 1],
        _plain(rms_norm),
        lambda tokens: 0.0,
        lambda tokens: 2.0 * 2 * tokens * D,
    ),
    "head_norm and rotary": Case(
        lambda n, v: [v(1, n * SIDE**2, N, K), v(K) * 0 + 1, *_tables(n * SIDE**2)],
        lambda backend, t: _plain(rotary)(backend, [_plain(head_norm)(backend, t[:2]), *t[2:]]),
        lambda tokens: 0.0,
        lambda tokens: 2.0 * 2 * tokens * N * K,
    ),
}


def _only(name: str, backend: str, run: Callable[[], Tensor]) -> Tensor:
    if backend != name:
        raise ValueError(f"`backend` must be {name!r}.")
    return run()


class WrongResult(AssertionError):
    """An operator disagrees with its float32 reference: it is not worth timing."""


def run_case(op: str, tokens: int, dtype: str = "bfloat16") -> Row:
    """`rows` of one operator: every backend that can run here, forward, and forward and backward; `refused` says why others cannot.

    They share a process (peaks are counted anew for each), so that they are compared within seconds of each other.
    """
    rows, refused = [], {}
    for backend in BACKENDS:
        # The score matrix of a long sequence would not fit into memory, and flex attention writes it out on a CPU.
        writes_scores = backend == "reference" or (backend == "flex" and best_device().type == "cpu")
        if writes_scores and op in ("attention", "windowed_attention") and tokens > 2048:
            refused[backend] = "it would write the scores of a long sequence out"
            continue
        for train in (False, True):
            try:
                rows.append(_measure_backend(op, backend, tokens, train, dtype))
            except ValueError as error:
                refused[backend] = str(error)
                break
    return {"rows": rows, "refused": refused}


def _measure_backend(op: str, backend: str, tokens: int, train: bool, dtype: str) -> Row:
    case, device, element = CASES[op], best_device(), getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for tensor in case.make(tokens // SIDE**2, lambda *shape: torch.randn(shape, generator=generator)):
        is_table = tensor.shape == (tokens, K // 2)  # of rotary positions: float32, not learnt
        learnt = tensor.is_floating_point() and not is_table
        tensors.append(tensor.to(device, element if learnt else tensor.dtype).requires_grad_(train and learnt))
    with torch.no_grad():
        out = case.run(backend, tensors)
    check(op, case, out, tensors)
    grad = torch.randn(out.shape, generator=generator).to(device, out.dtype)

    def forward() -> None:
        with torch.no_grad():
            case.run(backend, tensors)

    def step() -> None:
        for tensor in tensors:
            tensor.grad = None
        case.run(backend, tensors).backward(grad)

    bandwidth = copy_bandwidth(device)
    row: Row = {"benchmark": "ops", "model": op, "backend": backend, "tokens": tokens}
    row |= {"mode": "train" if train else "forward", "dtype": dtype}
    row |= measure(step if train else forward, device, element)
    times = 3 if train else 1  # a backward pass is twice the work
    if case.flops(tokens):
        row["flops"] = times * case.flops(tokens)
        row["matmul_fraction"] = row["flops"] / row["seconds"] / row["matmul_flops"]
    row["bytes"] = times * case.bytes(tokens) * element.itemsize / 2
    row["copy_bandwidth"] = bandwidth
    row["bandwidth_fraction"] = row["bytes"] / row["seconds"] / bandwidth
    return row


def check(op: str, case: Case, out: Tensor, tensors: Sequence[Tensor]) -> None:
    """Compare with PyTorch's own in float32.

    Raises:
        WrongResult: not finite, or further off than the rounding of the inputs explains.
    """
    backend = "auto" if op == "matmul" else "sdpa" if op in ("attention", "windowed_attention") else "reference"
    wide = [tensor.detach().float() if tensor.is_floating_point() else tensor for tensor in tensors]
    with torch.no_grad():
        expected = case.run(backend, wide)
    error = float((out.detach().float() - expected).abs().max() / expected.abs().max())
    if not error < case.tolerance:
        raise WrongResult(f"{op} is off by {error:.3g} of its largest value; at most {case.tolerance:g} is rounding")


def run(
    lengths: Sequence[int] = (1024, 8192),
    ops: Sequence[str] = tuple(CASES),
    *,
    dtype: str = "bfloat16",
    budget: Budget,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Rows of every operator and backend at every length, forward and backward.

    Raises:
        ValueError: an operator that does not exist.
    """
    unknown = [op for op in ops if op not in CASES]
    if unknown:
        raise ValueError(f"`--ops` must be of {', '.join(CASES)}, got {unknown[0]!r}.")
    for tokens in lengths:
        for op in ops:
            name = f"{op}, {tokens:,} tokens"
            if budget.left() < 10:
                say(f"{name}: left out, no time is left")
                continue
            try:
                found = run_in_process("ops", {"op": op, "tokens": tokens, "dtype": dtype}, budget.timeout())
            except CaseFailed as error:
                say(f"{name}: failed: {error}")
                continue
            times = [
                f"{row['backend']} {1e3 * row['seconds']:.3g} ms" for row in found["rows"] if row["mode"] == "forward"
            ]
            say(f"{name}: {', '.join(times)}")
            yield from found["rows"]
