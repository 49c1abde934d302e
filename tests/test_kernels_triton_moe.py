"""The Triton kernels of the mixture of experts against the loop over experts: outputs, every gradient, edges."""

from __future__ import annotations

import pytest
import torch
from triton_tools import DEVICE, HALF_DTYPES, assert_as_exact_as_pytorch, memory_full_of_nan, needs_triton, normal

from videogen_kernels import moe
from videogen_kernels.backends import chosen_backends

pytestmark = needs_triton


def make_indices(tokens, num_experts=4, top_k=2, kind="random"):
    if kind == "one_takes_all":
        return torch.tensor([[2, 3]], device=DEVICE).expand(tokens, 2)[:, :top_k]
    allowed = num_experts - (kind == "empty_expert")  # the last gets none
    return normal(tokens, allowed).topk(top_k).indices


def make_leaves(tokens, width=24, hidden=8, num_experts=4, top_k=2):
    return [
        normal(tokens, width),
        normal(num_experts, width, 2 * hidden, scale=width**-0.5),
        normal(num_experts, hidden, width, scale=hidden**-0.5),
        normal(tokens, top_k).sigmoid(),
    ]


def run(indices, backend):
    return lambda x, w_in, w_out, weights: moe.experts(x, w_in, w_out, indices, weights, backend=backend)


@pytest.mark.parametrize("tokens", [1, 63, 150])
@pytest.mark.parametrize("kind", ["random", "empty_expert", "one_takes_all"])
def test_equals_the_loop_with_every_gradient(tokens, kind):
    indices = make_indices(tokens, kind=kind)
    leaves = make_leaves(tokens)
    assert_as_exact_as_pytorch(run(indices, "triton"), run(indices, "reference"), leaves, torch.float32)
    assert chosen_backends()["moe.experts"] == "triton"
    w_in = leaves[1].requires_grad_()
    moe.experts(leaves[0], w_in, *leaves[2:3], indices, leaves[3], backend="triton").sum().backward()
    unused = set(range(4)) - set(indices.flatten().tolist())
    assert all((w_in.grad[expert] == 0).all() for expert in unused)


@pytest.mark.parametrize(
    ("width", "hidden", "num_experts", "top_k"), [(80, 70, 3, 1), (10, 100, 5, 3), (130, 17, 1, 1)]
)
def test_widths_that_fill_no_tile_and_other_numbers_of_experts(width, hidden, num_experts, top_k):
    indices = make_indices(40, num_experts, top_k)
    leaves = make_leaves(40, width, hidden, num_experts, top_k)
    assert_as_exact_as_pytorch(run(indices, "triton"), run(indices, "reference"), leaves, torch.float32)


def test_half_precision_is_as_exact_as_pytorch():
    indices = make_indices(90)
    kernel, reference = run(indices, "triton"), run(indices, "reference")
    for dtype in HALF_DTYPES:
        assert_as_exact_as_pytorch(kernel, reference, make_leaves(90, 32, 48), dtype, low=(0, 1, 2))


def test_the_same_bits_every_time_and_for_a_token_alone():
    indices, (x, w_in, w_out, weights) = make_indices(30), make_leaves(30)
    together = moe.experts(x, w_in, w_out, indices, weights, backend="triton")
    assert torch.equal(together, moe.experts(x, w_in, w_out, indices, weights, backend="triton"))
    for i in (0, 17):
        one = slice(i, i + 1)
        alone = moe.experts(x[one], w_in, w_out, indices[one], weights[one], backend="triton")
        torch.testing.assert_close(alone, together[one], atol=1e-6, rtol=1e-6)


def test_non_contiguous_and_without_gradients():
    indices, (x, w_in, w_out, weights) = make_indices(20), make_leaves(20)
    expected = moe.experts(x, w_in, w_out, indices, weights, backend="reference")
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in (x, w_in, w_out)]
    with torch.no_grad(), memory_full_of_nan():
        ours = moe.experts(*strided, indices.T.contiguous().T, weights.T.contiguous().T, backend="triton")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 2), (3, 7, 10), (500, 6)])
def test_swiglu(shape):
    for dtype in (torch.float32, *HALF_DTYPES):
        assert_as_exact_as_pytorch(
            lambda x: moe.swiglu(x, backend="triton"),
            lambda x: moe.swiglu(x, backend="reference"),
            [normal(*shape)],
            dtype,
        )
    assert moe.swiglu(torch.full((1, 4), torch.nan, device=DEVICE), backend="triton").isnan().all()


def test_compile_sees_through():
    indices, leaves = make_indices(12), [leaf.requires_grad_() for leaf in make_leaves(12)]

    def loss(x, w_in, w_out, weights):
        out = moe.experts(x, w_in, w_out, indices, weights, backend="triton")
        return moe.swiglu(out, backend="triton").square().sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.library.opcheck(
        torch.ops.videogen.experts,
        (*leaves[:3], indices, leaves[3], True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_float64_cannot_run():
    leaves = [leaf.double() for leaf in make_leaves(5)]
    with pytest.raises(ValueError, match="needs float32, bfloat16 or float16"):
        run(make_indices(5), "triton")(*leaves)
