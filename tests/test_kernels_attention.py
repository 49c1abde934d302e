"""Softmax attention: against a plain formula, masks, windows of frames, gradients."""

import pytest
import torch

from videogen_kernels.attention import attention, windowed_attention


def make_inputs(length=9, keys=7, heads=2, key_width=8, value_width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    shapes = [(2, length, heads, key_width), (2, keys, heads, key_width), (2, keys, heads, value_width)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def plain(query, key, value, allowed=None):
    scores = torch.einsum("blnk,bsnk->bnls", query, key) / query.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.einsum("bnls,bsnv->blnv", scores.softmax(-1), value)


@pytest.mark.parametrize("backend", ["auto", "reference", "sdpa"])
@pytest.mark.parametrize("length", [1, 63, 1000])
def test_full_attention_equals_the_formula(backend, length):
    query, key, value = make_inputs(length, keys=length)
    torch.testing.assert_close(attention(query, key, value, backend=backend), plain(query, key, value))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_masked_keys_are_absent_and_an_all_masked_row_gives_zero(backend):
    query, key, value = make_inputs()
    mask = torch.tensor([[True, True, False, True, False, False, False], [False] * 7])
    out = attention(query, key, value, mask, backend=backend)
    torch.testing.assert_close(out[:1], plain(query[:1], key[:1], value[:1], mask[0]))
    assert torch.equal(out[1], torch.zeros_like(out[1]))

    key.requires_grad_()
    attention(query, key, value, mask, backend=backend).sum().backward()
    assert key.grad.isfinite().all() and key.grad[:, 4:].abs().max() == 0


def test_gradients_are_right():
    query, key, value = (t[:1, :4].requires_grad_() for t in make_inputs(4, 4, key_width=4))
    mask = torch.tensor([[True, True, False, True]])
    visible = torch.tensor([[True, False], [True, True]])
    assert torch.autograd.gradcheck(lambda *t: attention(*t, mask, backend="reference"), (query, key, value))
    assert torch.autograd.gradcheck(lambda *t: windowed_attention(*t, visible), (query, key, value))


@pytest.mark.parametrize("tokens_per_frame", [1, 4])
def test_windowed_equals_the_masked_formula(tokens_per_frame):
    frames = 6
    query, key, value = make_inputs(frames * tokens_per_frame, frames * tokens_per_frame)
    index = torch.arange(frames)
    visible = (index[:, None] - index[None]).abs() <= 1
    visible[:, 0] = True
    token_mask = visible.repeat_interleave(tokens_per_frame, 0).repeat_interleave(tokens_per_frame, 1)
    expected = plain(query, key, value, token_mask)
    torch.testing.assert_close(windowed_attention(query, key, value, visible), expected)


def test_frames_outside_the_window_change_nothing_bit_for_bit():
    query, key, value = make_inputs(20, 20, dtype=torch.float32)
    index = torch.arange(5)
    visible = (index[:, None] - index[None]).abs() <= 1
    before = windowed_attention(query, key, value, visible)
    key[:, 16:], value[:, 16:] = 3.0, -2.0  # frame 4
    after = windowed_attention(query, key, value, visible)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:16], after[:, 12:16])


def test_a_frame_that_sees_nothing_gives_zero():
    query, key, value = make_inputs(4, 4)
    out = windowed_attention(query, key, value, torch.tensor([[True, True], [False, False]]))
    assert torch.equal(out[:, 2:], torch.zeros_like(out[:, 2:]))


def test_non_contiguous_and_bfloat16():
    query, key, value = make_inputs(30, 30, dtype=torch.float32)
    strided = [t.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3) for t in (query, key, value)]
    torch.testing.assert_close(attention(*strided), attention(query, key, value))
    half = [t.bfloat16() for t in (query, key, value)]
    exact = plain(*(t.double() for t in half))
    unfused = (plain(*half).double() - exact).abs().max()  # scores rounded to bfloat16, as ours are
    for backend in ("reference", "sdpa"):
        assert (attention(*half, backend=backend).double() - exact).abs().max() <= 2 * unfused + 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: attention(q, k[:, :3], v), "`value` must be"),
        (lambda q, k, v: attention(q[:, :0], k, v), "at least one token"),
        (lambda q, k, v: attention(q, k, v, torch.ones(2, 3, dtype=torch.bool)), "`key_mask` must be"),
        (lambda q, k, v: attention(q, k, v, torch.ones(2, 7)), "boolean"),
        (lambda q, k, v: attention(q, k, v, backend="xformers"), "xformers"),
        (lambda q, k, v: windowed_attention(q, k, v, torch.ones(2, 2, dtype=torch.bool)), "multiple of n"),
    ],
    ids=["value", "no_tokens", "mask_shape", "mask_dtype", "backend", "frames"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make_inputs())
