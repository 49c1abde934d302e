"""What the tests of the Triton kernels share: where they run, memory full of NaN, and errors measured against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

#: Compiled where there is a GPU, else in the interpreter (see conftest.py).
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

#: The interpreter multiplies bfloat16 wrongly and cuts it off where a GPU rounds.
HALF_DTYPES = (torch.float16, torch.bfloat16) if DEVICE == "cuda" else (torch.float16,)

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed (pip install 'videogen-moe[cuda]')"
)


@contextmanager
def memory_full_of_nan() -> Iterator[None]:
    """Every `torch.empty` is NaN, so that what a kernel forgets to write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal float32 values that depend on shape and seed only, the same on every device."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale).to(DEVICE)


def outputs_and_gradients(function: Callable[..., Tensor | Sequence[Tensor]], leaves: Sequence[Tensor]) -> list[Tensor]:
    """What `function` returns, and the gradients of its product with fixed directions."""
    leaves = [leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_() for leaf in leaves]
    returned = function(*leaves)
    outputs = [returned] if isinstance(returned, Tensor) else list(returned)
    total = torch.zeros((), dtype=torch.float64, device=DEVICE)
    for out in outputs:
        total = total + (out.double() * torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out)).sum()
    gradients = torch.autograd.grad(total, leaves)
    return [*(out.detach() for out in outputs), *gradients]


def assert_as_exact_as_pytorch(
    kernel: Callable[..., Tensor | Sequence[Tensor]],
    reference: Callable[..., Tensor | Sequence[Tensor]],
    leaves: Sequence[Tensor],
    dtype: torch.dtype,
    plain: Callable[..., Tensor | Sequence[Tensor]] | None = None,
    low: Sequence[int] | None = None,
) -> None:
    """Outputs of `kernel` are at most twice, gradients three times, as far from float64 as PyTorch's in the same dtype.

    Distances are those of whole tensors, so that one unlucky rounding does not decide; one wrong entry still does, as it is
    millions of times larger. Besides, four units of what float32 resolves are free.

    Args:
        kernel: takes the leaves, returns one or more tensors.
        reference: the same in PyTorch; run in float64 for the truth.
        leaves: float32.
        dtype: of the leaves `low` (None = all) in the two runs that are compared.
        plain: what PyTorch is measured with; None = `reference`.
    """
    rounded = [leaf.to(dtype) if low is None or i in low else leaf for i, leaf in enumerate(leaves)]
    exact = outputs_and_gradients(reference, [leaf.double() for leaf in rounded])
    theirs = outputs_and_gradients(plain or reference, rounded)
    with memory_full_of_nan():
        ours = outputs_and_gradients(kernel, rounded)
    assert len(ours) == len(theirs) == len(exact)
    free = 4 * torch.finfo(torch.float32).eps
    for index, (a, b, c) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"output or gradient {index}: {a.dtype}, expected {b.dtype}"
        assert a.isfinite().all(), f"output or gradient {index} holds memory that was never written"
        factor = 2 if index < len(ours) - len(leaves) else 3
        error, allowed = (a.double() - c).norm(), factor * (b.double() - c).norm() + free * c.norm()
        assert error <= allowed, f"output or gradient {index}: off by {error:.2e}, allowed {allowed:.2e}"
