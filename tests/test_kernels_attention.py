"""Softmax attention: against a plain formula, masks, windows of frames, gradients."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from videogen_kernels.attention import attention, windowed_attention
from videogen_kernels.attention.fused import packed_keys
from videogen_kernels.backends import chosen_backends


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


@pytest.mark.parametrize("tokens_per_frame", [30, 64, 200])
def test_flex_equals_the_groups_of_frames(tokens_per_frame):
    """Blocks of 128 tokens that hold many frames, whole frames, and parts of one; with a first frame that all see."""
    index = torch.arange(6)
    visible = (index[:, None] - index).abs() <= 1
    visible[:, 0] = True
    visible[4] = False
    length = 6 * tokens_per_frame
    query, key, value = make_inputs(length, length, heads=1, key_width=16, value_width=16, dtype=torch.float32)
    expected = windowed_attention(query, key, value, visible, backend="reference")
    torch.testing.assert_close(windowed_attention(query, key, value, visible, backend="flex"), expected)
    assert chosen_backends()["windowed_attention"] == "flex"


@pytest.mark.parametrize("keys", [7, 300])
def test_flex_equals_the_reference_for_texts_of_varying_length(keys):
    query, key, value = make_inputs(9, keys, key_width=16, value_width=16, dtype=torch.float32)
    mask = torch.arange(keys) < torch.tensor([keys // 2, 0])[:, None]
    for given in (None, mask, mask.flip(1)):
        expected = attention(query, key, value, given, backend="reference")
        torch.testing.assert_close(attention(query, key, value, given, backend="flex"), expected)


def test_flex_takes_learnt_tensors_where_no_gradient_is_wanted():
    query, key, value = (
        t.requires_grad_() for t in make_inputs(9, 9, key_width=16, value_width=16, dtype=torch.float32)
    )
    with torch.no_grad():
        torch.testing.assert_close(attention(query, key, value, backend="flex"), attention(query, key, value))


@pytest.mark.skipif(
    find_spec("xformers") is None, reason="xformers is not installed (pip install 'videogen-moe[cuda]')"
)
def test_xformers_packs_what_sdpa_masks():
    """Its kernels need a GPU; what they are given, its mask written out, is compared with SDPA here."""
    query, key, value = make_inputs(9, 7, dtype=torch.float32)
    key_mask = torch.tensor([[True, False, True, True, False, False, False], [False, True] * 3 + [True]])
    *packed, mask = packed_keys(query, key, value, key_mask)
    written_out = mask.materialize((1, 18, int(key_mask.sum())))
    out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in packed), attn_mask=written_out[:, None])
    expected = attention(query, key, value, key_mask, backend="sdpa")
    torch.testing.assert_close(out.transpose(1, 2).view_as(expected), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["xformers", "flex"])
def test_on_a_gpu_all_backends_agree(backend):
    if backend == "xformers":
        pytest.importorskip("xformers")
    query, key, value = (t.cuda().half() for t in make_inputs(300, 77, key_width=64, value_width=64))
    mask = torch.arange(77, device="cuda") < torch.tensor([50, 3], device="cuda")[:, None]
    expected = attention(query, key, value, mask, backend="sdpa")
    torch.testing.assert_close(attention(query, key, value, mask, backend=backend), expected, atol=2e-3, rtol=2e-2)


def test_dtypes_that_differ_are_named():
    query, key, value = make_inputs()
    with pytest.raises(TypeError, match=r"`value` must have the dtype of `query` torch\.float64, got torch\.float32"):
        attention(query, key, value.float())
    with pytest.raises(TypeError, match="`query` must be of a floating dtype"):
        attention(query.int(), key.int(), value.int())


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
        (lambda q, k, v: attention(q, k, v, backend="xformers"), "'xformers' of attention needs .*; use 'auto'"),
        (
            lambda q, k, v: attention(q, k.requires_grad_(), v, backend="flex"),
            "'flex' of attention has no backward pass",
        ),
        (
            lambda q, k, v: windowed_attention(q.requires_grad_(), q, q, torch.ones(1, 1).bool(), backend="flex"),
            "'flex' of windowed_attention has no backward pass on a CPU; use 'auto'",
        ),
        (
            lambda q, k, v: attention(q, k, v, backend="triton"),
            "one of 'auto', 'reference', 'sdpa', 'xformers', 'flex'",
        ),
        (lambda q, k, v: windowed_attention(q, k, v, torch.ones(1, 1)), "and boolean"),
        (lambda q, k, v: windowed_attention(q, k, v, torch.ones(0, 0, dtype=torch.bool)), "`visible` must be"),
        (lambda q, k, v: windowed_attention(q, k, v, torch.ones(2, 2, dtype=torch.bool)), "multiple of n"),
    ],
    ids=[
        "value",
        "no_tokens",
        "mask_shape",
        "mask_dtype",
        "xformers",
        "flex",
        "windowed_flex",
        "backend",
        "visible",
        "no_frames",
        "frames",
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make_inputs())
