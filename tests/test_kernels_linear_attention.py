"""Linear attention: state form = block-causal = recurrent = quadratic; gradients; edges."""

import pytest
import torch

from videogen_kernels.linear_attention import (
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
        ({"backend": "triton"}, "Triton kernel is not part of this version"),
        ({"backend": "magic"}, "no such backend"),
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
