"""Modulated norm, gated residual, head norms, rotary: against plain formulas, gradients, properties."""

import pytest
import torch
import torch.nn.functional as F

from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm
from videogen_kernels.rotary import gated_head_norm, head_norm, norm_rotary, norm_rotary_positive, rotary


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=dtype)


@pytest.mark.parametrize("tokens_per_frame", [1, 21, 333])
@pytest.mark.parametrize("with_weight", [False, True], ids=["plain", "weight"])
def test_modulated_norm_equals_expanded_formula(tokens_per_frame, with_weight):
    x, scale, shift = normal(2, 3 * tokens_per_frame, 10), normal(2, 3, 10), normal(2, 3, 10, seed=1)
    weight = normal(10) if with_weight else None
    normed = F.rms_norm(x, (10,), weight, 1e-6)
    expected = normed * (1 + scale.repeat_interleave(tokens_per_frame, 1)) + shift.repeat_interleave(
        tokens_per_frame, 1
    )
    torch.testing.assert_close(modulated_norm(x, scale, shift, weight), expected)


def test_gated_residual_equals_expanded_formula():
    x, branch, gate = normal(2, 12, 5), normal(2, 12, 5, seed=1), normal(2, 4, 5)
    torch.testing.assert_close(gated_residual(x, branch, gate), x + branch * gate.repeat_interleave(3, 1))


@pytest.mark.parametrize("length", [1, 63, 1000])
def test_head_norms_equal_formula(length):
    x, weight, gate = normal(2, length, 3, 6), normal(6), normal(2, length, 3, 6, seed=1)
    expected = F.rms_norm(x, (6,), weight, 1e-6)
    torch.testing.assert_close(head_norm(x, weight), expected)
    torch.testing.assert_close(gated_head_norm(x, weight, gate), expected * torch.sigmoid(gate))


def test_gradients_are_right():
    def leaves(*tensors):
        return tuple(t.requires_grad_() for t in tensors)

    x, scale, shift = leaves(normal(2, 6, 4), normal(2, 3, 4), normal(2, 3, 4, seed=1))
    assert torch.autograd.gradcheck(lambda *t: modulated_norm(*t), (x, scale, shift))
    assert torch.autograd.gradcheck(
        lambda a, b, c, w: modulated_norm(a, b, c, w), (x, scale, shift, *leaves(normal(4)))
    )
    assert torch.autograd.gradcheck(gated_residual, leaves(normal(2, 6, 4), normal(2, 6, 4, seed=1), normal(2, 3, 4)))
    heads, weight, gate = leaves(normal(2, 3, 2, 4), normal(4), normal(2, 3, 2, 4, seed=1))
    assert torch.autograd.gradcheck(head_norm, (heads, weight))
    assert torch.autograd.gradcheck(gated_head_norm, (heads, weight, gate))
    angles = normal(3, 2)
    assert torch.autograd.gradcheck(lambda t: rotary(t, angles.cos(), angles.sin()), (heads,))


def test_bfloat16_is_one_rounding_away_and_keeps_dtypes():
    x, weight = normal(2, 50, 3, 8).bfloat16(), torch.ones(8)
    exact = F.rms_norm(x.double(), (8,), None, 1e-6)
    out = head_norm(x, weight)
    assert out.dtype == torch.bfloat16
    assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
    assert head_norm(x, weight, dtype=torch.float32).dtype == torch.float32
    stream = normal(2, 50, 8).bfloat16().requires_grad_()
    per_frame = torch.zeros(2, 5, 8)
    modulated_norm(stream, per_frame, per_frame, dtype=torch.float32).sum().backward()
    assert stream.grad.dtype == torch.bfloat16


def test_non_contiguous():
    x = normal(2, 3, 7, 6).permute(0, 2, 1, 3)
    weight, angles = normal(6), normal(7, 3)
    torch.testing.assert_close(head_norm(x, weight), head_norm(x.contiguous(), weight))
    cos, sin = angles.cos(), angles.sin()
    torch.testing.assert_close(rotary(x, cos, sin), rotary(x.contiguous(), cos, sin))
    x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(rotary(x, cos, sin), rotary(x.contiguous(), cos, sin))


def test_fused_forms_equal_their_parts_and_have_right_gradients():
    x, weight, angles = normal(2, 5, 3, 6).requires_grad_(), normal(6).requires_grad_(), normal(5, 3)
    cos, sin = angles.cos(), angles.sin()
    normed = head_norm(x, weight)
    assert torch.equal(norm_rotary(x, weight, cos, sin), rotary(normed, cos, sin))
    rotated, positive = norm_rotary_positive(x, weight, cos, sin, 0.5)
    assert torch.equal(rotated, rotary(normed, cos, sin)) and torch.equal(positive, normed.relu() + 0.5)
    assert torch.autograd.gradcheck(lambda *t: norm_rotary_positive(*t, cos, sin, 0.5), (x, weight))
    assert norm_rotary(x.float(), weight.float(), cos, sin, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_rotary_by_hand_keeps_lengths_and_depends_on_differences():
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    quarter = torch.full((1, 2), torch.pi / 2)
    torch.testing.assert_close(rotary(x, quarter.cos(), quarter.sin()).flatten(), torch.tensor([0.0, 1.0, -2.0, 0.0]))

    query, key = normal(1, 2, 1, 8), normal(1, 2, 1, 8, seed=1)
    query, key = query[:, :1].expand(1, 6, 1, 8), key[:, :1].expand(1, 6, 1, 8)  # the same content at 6 positions
    angles = torch.arange(6.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03])
    turned_q, turned_k = (rotary(t, angles.cos(), angles.sin()) for t in (query, key))
    torch.testing.assert_close(turned_q.norm(dim=-1), query.norm(dim=-1))
    own = torch.stack([angles, -angles])  # a table for each of two items
    turned = rotary(query.expand(2, -1, -1, -1), own.cos(), own.sin())
    assert torch.equal(turned[:1], turned_q) and torch.equal(turned[1:], rotary(query, angles.cos(), -angles.sin()))
    products = torch.einsum("blnk,bsnk->ls", turned_q, turned_k)
    torch.testing.assert_close(products[0, 2], products[3, 5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modulated_norm(torch.ones(1, 5, 4), torch.ones(1, 2, 4), torch.ones(1, 2, 4)), "`scale` must be"),
        (lambda: gated_residual(torch.ones(1, 4, 4), torch.ones(1, 4, 4), torch.ones(1, 2, 3)), "`gate` must be"),
        (lambda: head_norm(torch.ones(1, 4, 2, 4), torch.ones(2)), "`weight` must be"),
        (lambda: rotary(torch.ones(1, 4, 2, 3), torch.ones(4, 1), torch.ones(4, 1)), "K even"),
        (lambda: rotary(torch.ones(1, 4, 2, 4), torch.ones(3, 2), torch.ones(3, 2)), "`cos` and `sin`"),
    ],
    ids=["frames", "gate", "weight", "odd", "table"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, t: head_norm(x[:, :0], torch.ones(8)), ValueError, "`x` must be .* at least one token"),
        (lambda x, t: head_norm(x.int(), torch.ones(8)), TypeError, "`x` must be of a floating dtype"),
        (lambda x, t: rotary(x, t[0][:2], t[1]), ValueError, "`cos` and `sin` must be"),
        (lambda x, t: norm_rotary_positive(x, torch.ones(8), *t, floor=-1.0), ValueError, "`floor` must be at least 0"),
        (
            lambda x, t: head_norm(x, torch.ones(8), backend="native"),
            ValueError,
            "one of 'auto', 'reference', 'triton'",
        ),
        (lambda x, t: gated_head_norm(x, torch.ones(8), x[:, :2]), ValueError, "`gate` must have the shape"),
        (
            lambda x, t: modulated_norm(x[:, :, 0], *(torch.ones(1, n, 8) for n in (3, 2))),
            ValueError,
            "`shift` must have the shape of `scale`",
        ),
        (
            lambda x, t: modulated_norm(x[:, :, 0], *(torch.ones(1, 3, 8),) * 2, torch.ones(4)),
            ValueError,
            "`weight` must be",
        ),
        (
            lambda x, t: gated_residual(x[:, :, 0], x[:, :2, 0], torch.ones(1, 3, 8)),
            ValueError,
            "`branch` must have the shape",
        ),
        (lambda x, t: rms_norm(x[:, :0], torch.ones(8)), ValueError, "`x` must be .* at least one token"),
        (
            lambda x, t: rms_norm(x.double(), torch.ones(8), backend="triton"),
            ValueError,
            "'triton' of rms_norm needs",
        ),
    ],
)
def test_bad_input_of_every_kind_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.ones(1, 6, 2, 8), (torch.ones(6, 4), torch.ones(6, 4)))
