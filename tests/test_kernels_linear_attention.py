"""Linear attention: state form = block-causal = recurrent = quadratic; gradients; edges."""

import pytest
import torch

from videogen_kernels.backends import chosen_backends
from videogen_kernels.linear_attention import (
    LinearAttentionState,
    linear_attention,
    linear_attention_block_causal,
    linear_attention_recurrent,
)
from videogen_kernels.linear_attention.reference import linear_attention_quadratic


def make_inputs(batch=2, length=12, heads=2, key_width=6, value_width=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(width):
        return torch.randn(batch, length, heads, width, generator=generator, dtype=dtype)

    query, key, value = normal(key_width), normal(key_width), normal(value_width)
    gate = torch.rand(batch, length, heads, generator=generator, dtype=dtype)
    return query, key, value, gate, normal(key_width).abs() + 0.1, normal(key_width).abs() + 0.1


@pytest.mark.parametrize("length", [1, 63, 1000])
@pytest.mark.parametrize("with_denominator", [True, False], ids=["denominator", "plain"])
@pytest.mark.parametrize("with_gate", [True, False], ids=["gate", "no_gate"])
def test_state_form_equals_quadratic_form(length, with_denominator, with_gate):
    query, key, value, gate, query_den, key_den = make_inputs(length=length)
    gate = gate if with_gate else None
    pair = (query_den, key_den) if with_denominator else (None, None)
    expected = linear_attention_quadratic(query, key, value, gate, *pair)
    torch.testing.assert_close(linear_attention(query, key, value, gate, *pair), expected)


@pytest.mark.parametrize("block_size", [1, 5, 21, 63, 100])
def test_block_causal_equals_masked_quadratic_form_and_chunked_calls(block_size):
    inputs = make_inputs(length=63)
    query, key, value, gate, query_den, key_den = inputs
    expected = linear_attention_quadratic(query, key, value, gate, query_den, key_den, block_size)
    out, state = linear_attention_block_causal(
        query, key, value, block_size, gate, query_den, key_den, return_state=True
    )
    torch.testing.assert_close(out, expected)

    carried, parts = None, []
    for start in range(0, 63, block_size):
        part, carried = linear_attention(
            *(t[:, start : start + block_size] for t in inputs), initial_state=carried, return_state=True
        )
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), expected)
    torch.testing.assert_close(carried.key_value, state.key_value)
    torch.testing.assert_close(carried.key_sum, state.key_sum)


def test_recurrent_equals_blocks_of_one_token_and_carries_its_state():
    inputs = make_inputs(length=10)
    query, key, value, gate, query_den, key_den = inputs
    expected = linear_attention_block_causal(query, key, value, 1, gate, query_den, key_den)
    first, state = linear_attention_recurrent(*(t[:, :4] for t in inputs), return_state=True)
    second = linear_attention_recurrent(*(t[:, 4:] for t in inputs), initial_state=state)
    torch.testing.assert_close(torch.cat([first, second], 1), expected)


@pytest.mark.parametrize("block_size", [None, 5, 1], ids=["bidirectional", "blocks", "recurrent"])
def test_packed_sequences_equal_single_ones_and_their_quadratic_form(block_size):
    bounds = torch.tensor([0, 3, 3, 20, 30])
    inputs = make_inputs(batch=1, length=30)
    state = LinearAttentionState(torch.rand(4, 2, 6, 5).double(), torch.rand(4, 2, 6).double())

    def run(inputs, state, **settings):
        names = dict(zip(("query", "key", "value", "gate", "query_den", "key_den"), inputs, strict=True))
        if block_size is None:
            return linear_attention(**names, initial_state=state, return_state=True, **settings)
        if block_size == 1:
            return linear_attention_recurrent(**names, initial_state=state, return_state=True, **settings)
        return linear_attention_block_causal(
            **names, block_size=block_size, initial_state=state, return_state=True, **settings
        )

    expected = linear_attention_quadratic(*inputs, block_size, bounds)
    torch.testing.assert_close(run(inputs, None, cu_seqlens=bounds)[0], expected)
    out, final = run(inputs, state, cu_seqlens=bounds)
    for i, (start, end) in enumerate(((0, 3), (3, 3), (3, 20), (20, 30))):
        own = LinearAttentionState(state.key_value[i : i + 1], state.key_sum[i : i + 1])
        if start == end:  # nothing was written
            assert torch.equal(final.key_value[i : i + 1], own.key_value)
            continue
        alone, after = run([t[:, start:end] for t in inputs], own)
        torch.testing.assert_close(out[:, start:end], alone)
        torch.testing.assert_close(final.key_value[i : i + 1], after.key_value)
        torch.testing.assert_close(final.key_sum[i : i + 1], after.key_sum)


def test_mixed_precisions_are_widened_to_the_widest():
    inputs = make_inputs()
    mixed = [inputs[0], *(t.float() for t in inputs[1:])]
    out = linear_attention(*mixed)
    assert out.dtype == torch.float32  # that of value
    torch.testing.assert_close(out, linear_attention(*inputs).float())


def test_gradients_are_right():
    inputs = [t.requires_grad_() for t in make_inputs(batch=1, length=5, heads=2, key_width=3, value_width=2)]
    assert torch.autograd.gradcheck(linear_attention, inputs)
    assert torch.autograd.gradcheck(lambda q, k, v: linear_attention_block_causal(q, k, v, 2), inputs[:3])


def test_tokens_with_gate_zero_are_absent():
    query, key, value, gate, query_den, key_den = make_inputs(length=8)
    gate[:, 5:] = 0
    whole = linear_attention(query, key, value, gate, query_den, key_den)
    short = linear_attention(*(t[:, :5] for t in (query, key, value, gate, query_den, key_den)))
    torch.testing.assert_close(whole[:, :5], short)
    nothing = linear_attention(query, key, value, torch.zeros_like(gate), query_den, key_den)
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_non_contiguous_inputs_and_bfloat16_with_float32_state():
    inputs = make_inputs(length=200, dtype=torch.float32)
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in inputs]
    torch.testing.assert_close(linear_attention(*strided), linear_attention(*inputs))

    half = [t.bfloat16() for t in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = linear_attention(*half, return_state=True)
    assert out.dtype == torch.bfloat16 and state.key_value.dtype == torch.float32
    exact = linear_attention(*(t.float() for t in half))
    assert (out.float() - exact).abs().max() <= exact.abs().max() * 2**-8  # one rounding of the result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": (0, 3, slice(None), slice(None))}, "`value` must be"),
        ({"gate": (slice(1),)}, "`gate` must be"),
        (
            {"backend": "triton"},
            "`backend` 'triton' of linear_attention needs .*; use 'auto'",
        ),  # float64, or not installed
        ({"backend": "magic"}, "one of 'auto', 'reference', 'triton', got 'magic'"),
        ({"query_den": None}, "must be given together"),
        ({"length": 0}, "at least one token"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("query", "key", "value", "gate", "query_den", "key_den")
    arguments = dict(zip(names, make_inputs(length=change.get("length", 4)), strict=True))
    if "value" in change:
        arguments["value"] = arguments["value"][:, :2]
    if "gate" in change:
        arguments["gate"] = arguments["gate"][:1]
    if "query_den" in change:
        arguments["query_den"] = None
    if "backend" in change:
        arguments["backend"] = change["backend"]
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"value": torch.zeros(1, 4, 2, 5, dtype=torch.int64)}, TypeError, "`value` must be of a floating dtype"),
        ({"cu_seqlens": torch.tensor([0, 3])}, ValueError, r"end with the 4 tokens of `query`, got \[0, 3\]"),
        ({"cu_seqlens": torch.tensor([0, 3, 2, 4])}, ValueError, "never fall"),
        ({"cu_seqlens": torch.tensor([0.0, 4.0])}, TypeError, "`cu_seqlens` must be int32 or int64"),
        ({"cu_seqlens": torch.tensor([4])}, ValueError, r"`cu_seqlens` must be \[S \+ 1\]"),
        ({"initial_state": LinearAttentionState(torch.zeros(1, 2, 6, 4), None)}, ValueError, "key_value` must be"),
        ({"initial_state": LinearAttentionState(torch.zeros(1, 2, 6, 5), None)}, ValueError, "key_sum` must be given"),
        (
            {"initial_state": LinearAttentionState(torch.zeros(1, 2, 6, 5), torch.zeros(1, 2, 5))},
            ValueError,
            "key_sum` must be",
        ),
        (
            {"initial_state": LinearAttentionState(torch.zeros(1, 2, 6, 5).half(), torch.zeros(1, 2, 6).half())},
            TypeError,
            "float32 or float64",
        ),
    ],
)
def test_bad_sequences_states_and_dtypes_are_named(changes, error, message):
    names = ("query", "key", "value", "gate", "query_den", "key_den")
    arguments = dict(zip(names, make_inputs(batch=1, length=4), strict=True)) | changes
    with pytest.raises(error, match=message):
        linear_attention(**arguments)
    with pytest.raises(ValueError, match="`block_size` must be at least 1 token, got 0"):
        linear_attention_block_causal(*make_inputs(length=4)[:3], block_size=0)


def test_it_says_what_it_chose(caplog):
    inputs = make_inputs(length=4)
    linear_attention_recurrent(*inputs, backend="reference")
    with caplog.at_level("DEBUG", logger="videogen_kernels.backends"):
        linear_attention(*inputs)
        linear_attention(*inputs)
    assert chosen_backends()["linear_attention"] == "reference"
    assert sum("linear_attention runs on" in message for message in caplog.messages) <= 1
