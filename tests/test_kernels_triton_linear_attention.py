"""The Triton kernels of linear attention against the reference: every mode, outputs, states and every gradient."""

from __future__ import annotations

import pytest
import torch
from triton_tools import DEVICE, HALF_DTYPES, assert_as_exact_as_pytorch, memory_full_of_nan, needs_triton, normal

from videogen_kernels.backends import chosen_backends
from videogen_kernels.linear_attention import (
    LinearAttentionState,
    linear_attention,
    linear_attention_block_causal,
    linear_attention_recurrent,
)
from videogen_kernels.linear_attention.reference import linear_attention_quadratic

pytestmark = needs_triton


def make_leaves(batch, length, heads, key_width, value_width, sequences=None, state=True):
    """query, key, value, gate, query_den, key_den and the two parts of a state."""
    size = (batch, length, heads)
    leaves = [
        normal(*size, key_width, scale=0.5),
        normal(*size, key_width, scale=0.5, seed=1),
        normal(*size, value_width),
        normal(*size).sigmoid(),
        normal(*size, key_width, seed=2).abs() + 0.1,
        normal(*size, key_width, seed=3).abs() + 0.1,
    ]
    if state:
        sequences = sequences or batch
        leaves += [normal(sequences, heads, key_width, value_width), normal(sequences, heads, key_width).abs()]
    return leaves


def run(mode, backend, block_size=None, cu_seqlens=None):
    """The mode as a function of the leaves, returning output and state."""

    def call(query, key, value, gate=None, query_den=None, key_den=None, *state):
        settings = {"gate": gate, "query_den": query_den, "key_den": key_den, "return_state": True}
        settings["initial_state"] = LinearAttentionState(*state) if state else None
        settings["backend"], settings["cu_seqlens"] = backend, cu_seqlens
        if block_size is not None:
            settings["block_size"] = block_size
        out, new = mode(query, key, value, **settings)
        return (out, new.key_value) if new.key_sum is None else (out, *new)

    return call


MODES = {
    "bidirectional": (linear_attention, None),
    "blocks": (linear_attention_block_causal, 100),
    "long_blocks": (linear_attention_block_causal, 300),
    "small_blocks": (linear_attention_block_causal, 36),
    "recurrent": (linear_attention_recurrent, None),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [1, 63, 130])
def test_every_mode_equals_the_reference_with_all_gradients(mode, length):
    function, block_size = MODES[mode]
    leaves = make_leaves(1, length, 1, 24, 17)
    kernel, reference = (run(function, backend, block_size) for backend in ("triton", "reference"))
    assert_as_exact_as_pytorch(kernel, reference, leaves, torch.float32)
    assert chosen_backends()[function.__name__] == "triton"


@pytest.mark.parametrize("mode", ["bidirectional", "small_blocks", "blocks"])
@pytest.mark.parametrize("leaves", [3, 4, 6], ids=["plain", "gate", "denominator"])
def test_without_gate_denominator_or_state(mode, leaves):
    function, block_size = MODES[mode]
    kernel, reference = (run(function, backend, block_size) for backend in ("triton", "reference"))
    assert_as_exact_as_pytorch(kernel, reference, make_leaves(2, 70, 2, 16, 16)[:leaves], torch.float32)


@pytest.mark.parametrize("mode", ["bidirectional", "small_blocks"])
def test_half_precision_is_as_exact_as_pytorch_and_the_state_stays_float32(mode):
    function, block_size = MODES[mode]

    def plain(query, key, value, gate, query_den, key_den):
        """The quadratic form in half precision throughout."""
        weights = torch.einsum("blnk,bsnk,bsn->bnls", query, key, gate.to(query.dtype)).to(query.dtype)
        scale = torch.einsum("blnk,bsnk,bsn->bnls", query_den, key_den, gate.to(query.dtype))
        if block_size is not None:
            block = torch.arange(query.shape[1], device=DEVICE) // block_size
            visible = block[:, None] >= block
            weights, scale = weights * visible, scale * visible
        out = torch.einsum("bnls,bsnv->blnv", weights, value) / scale.sum(-1).transpose(1, 2)[..., None]
        return out

    def kernel(*leaves):
        out, state, _ = run(function, "triton", block_size)(*leaves)
        assert state.dtype == torch.float32
        return out

    def reference(*leaves):
        return run(function, "reference", block_size)(*leaves)[0]

    leaves = make_leaves(1, 90, 2, 32, 16, state=False)
    for dtype in HALF_DTYPES:
        assert_as_exact_as_pytorch(kernel, reference, leaves, dtype, plain, low=(0, 1, 2, 4, 5))


@pytest.mark.parametrize("mode", ["bidirectional", "blocks", "small_blocks", "recurrent"])
def test_packed_sequences_equal_the_reference_and_their_own_quadratic_form(mode):
    function, block_size = MODES[mode]
    bounds = torch.tensor([0, 1, 1, 71, 200], dtype=torch.int32, device=DEVICE)
    kernel, reference = (run(function, backend, block_size, bounds) for backend in ("triton", "reference"))
    leaves = make_leaves(1, 200, 1, 16, 16, sequences=4)
    assert_as_exact_as_pytorch(kernel, reference, leaves, torch.float32)
    with memory_full_of_nan():
        ours = kernel(*leaves[:6])[0]
    blocks = 1 if mode == "recurrent" else block_size
    expected = linear_attention_quadratic(*leaves[:6], blocks, bounds)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_wide_values_are_cut_into_blocks():
    function, _ = MODES["bidirectional"]
    kernel, reference = (run(function, backend) for backend in ("triton", "reference"))
    assert_as_exact_as_pytorch(kernel, reference, make_leaves(1, 20, 1, 80, 150), torch.float32)
    kernel, reference = (run(linear_attention_block_causal, backend, 7) for backend in ("triton", "reference"))
    assert_as_exact_as_pytorch(kernel, reference, make_leaves(1, 20, 1, 80, 150), torch.float32)


def test_chunk_by_chunk_with_a_carried_state_is_block_causal():
    leaves = make_leaves(1, 60, 2, 16, 16, state=False)
    whole = linear_attention_block_causal(
        *leaves[:3], 20, gate=leaves[3], query_den=leaves[4], key_den=leaves[5], backend="triton"
    )
    state, parts = None, []
    for start in range(0, 60, 20):
        inputs = [leaf[:, start : start + 20] for leaf in leaves]
        part, state = linear_attention(*inputs, initial_state=state, return_state=True, backend="triton")
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_head_major_and_strided_inputs():
    leaves = make_leaves(2, 40, 2, 16, 16, state=False)
    kernel = run(linear_attention, "triton")
    head_major = [leaf.transpose(1, 2).contiguous().transpose(1, 2) for leaf in leaves]
    last_strided = [leaf.transpose(1, -1).contiguous().transpose(1, -1) for leaf in leaves]
    expected = kernel(*leaves)
    for strided in (head_major, last_strided):
        for ours, theirs in zip(kernel(*strided), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_compile_sees_through():
    leaves = [leaf.requires_grad_() for leaf in make_leaves(1, 20, 1, 16, 16, state=False)]

    def loss(*inputs):
        out = linear_attention_block_causal(*inputs[:3], 5, *inputs[3:], backend="triton")
        return (out * 2).square().sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_operators_are_registered_correctly():
    leaves = make_leaves(1, 20, 1, 16, 16, state=False)
    linear_attention(*leaves, backend="triton")
    inputs = (*(leaf.requires_grad_() for leaf in leaves), None, None)
    for block_size in (0, 5, 80):
        torch.library.opcheck(
            torch.ops.videogen.linear_attention,
            (*inputs, block_size),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"query": torch.zeros(1, 4, 1, 300), "key": torch.zeros(1, 4, 1, 300)},
            "needs K of at most 128 and V of at most 256, got 300",
        ),
        ({"query": torch.zeros(1, 4, 1, 8, dtype=torch.float64)}, "needs float32, bfloat16 or float16"),
    ],
    ids=["width", "dtype"],
)
def test_what_the_kernels_cannot_do_is_said(change, message):
    arguments = {"query": torch.zeros(1, 4, 1, 8), "key": torch.zeros(1, 4, 1, 8), "value": torch.zeros(1, 4, 1, 8)}
    arguments = {name: tensor.to(DEVICE) for name, tensor in (arguments | change).items()}
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments, backend="triton")
    assert linear_attention(**arguments).shape == (1, 4, 1, 8)  # "auto" finds another way
