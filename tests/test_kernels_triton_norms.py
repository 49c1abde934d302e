"""The Triton kernels of norms, residual and rotary against the references: outputs, every gradient, layouts, torch.compile."""

from __future__ import annotations

import pytest
import torch
from triton_tools import DEVICE, HALF_DTYPES, assert_as_exact_as_pytorch, memory_full_of_nan, needs_triton, normal

from videogen_kernels.backends import chosen_backends
from videogen_kernels.mixers import linear_mixer, softmax_mixer
from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm
from videogen_kernels.rotary import gated_head_norm, head_norm, norm_rotary, norm_rotary_positive, rotary

pytestmark = needs_triton


def backends(function, **settings):
    """The function on the kernels and on the reference."""
    return [lambda *leaves, b=b: function(*leaves, backend=b, **settings) for b in ("triton", "reference")]


def positive(*shape):
    return 1 + normal(*shape, scale=0.2)


def tables(*shape):
    """[L, K] for a batch that shares them, or [B, L, K]."""
    angles = normal(*shape[:-1], shape[-1] // 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize(("frames", "tokens", "width"), [(1, 1, 16), (3, 21, 10), (2, 63, 192), (1, 1000, 24)])
def test_modulated_norm_and_residual(frames, tokens, width):
    x, branch = normal(2, frames * tokens, width), normal(2, frames * tokens, width, seed=1)
    modulation = normal(2, frames, 6, width)  # its slices are what the model passes
    scale, shift = modulation[:, :, 0], modulation[:, :, 1]
    kernel, reference = backends(modulated_norm)
    assert_as_exact_as_pytorch(kernel, reference, (x, scale, shift), torch.float32)
    assert_as_exact_as_pytorch(kernel, reference, (x, scale, shift, positive(width)), torch.float32)
    assert chosen_backends()["modulated_norm"] == "triton"
    assert_as_exact_as_pytorch(*backends(rms_norm), (x, positive(width)), torch.float32)
    assert_as_exact_as_pytorch(*backends(gated_residual), (x, branch, scale), torch.float32)


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_norm_and_residual_in_half_precision(dtype):
    x, branch, scale, shift = normal(2, 30, 40), normal(2, 30, 40, seed=1), normal(2, 3, 40), normal(2, 3, 40, seed=1)
    assert_as_exact_as_pytorch(*backends(modulated_norm), (x, scale, shift), dtype, low=(0,))
    assert_as_exact_as_pytorch(*backends(gated_residual), (x, branch, scale), dtype, low=(1,))
    for result in (torch.float32, *HALF_DTYPES):
        ours, theirs = (call(x.to(dtype), scale, shift) for call in backends(modulated_norm, dtype=result))
        assert ours.dtype == theirs.dtype == result
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("length", [1, 63, 300])
@pytest.mark.parametrize("width", [6, 24, 64])
@pytest.mark.parametrize("shared", [False, True], ids=["own tables", "shared tables"])
def test_head_norms_and_rotary(length, width, shared):
    x, weight, gate = normal(2, length, 3, width), positive(width), normal(2, length, 3, width, seed=1)
    cos, sin = tables(length, width) if shared else tables(2, length, width)

    def double_tables(function, *settings):
        """The tables follow the precision of what they turn."""
        return [
            lambda *leaves, b=b: function(
                *leaves, *(t.to(leaves[0].dtype) if b == "reference" else t for t in (cos, sin)), *settings, backend=b
            )
            for b in ("triton", "reference")
        ]

    assert_as_exact_as_pytorch(*backends(head_norm), (x, weight), torch.float32)
    assert_as_exact_as_pytorch(*backends(gated_head_norm), (x, weight, gate), torch.float32)
    assert_as_exact_as_pytorch(*double_tables(rotary), (x,), torch.float32)
    assert_as_exact_as_pytorch(*double_tables(norm_rotary), (x, weight), torch.float32)
    assert_as_exact_as_pytorch(*double_tables(norm_rotary_positive, 0.01), (x, weight), torch.float32)
    assert chosen_backends()["norm_rotary_positive"] == "triton"


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
def test_head_norms_and_rotary_in_half_precision(dtype):
    x, weight, gate = normal(2, 20, 3, 16), positive(16), normal(2, 20, 3, 16, seed=1)
    cos, sin = tables(20, 16)
    for function, leaves, low, settings in (
        (head_norm, (x, weight), (0,), {}),
        (gated_head_norm, (x, weight, gate), (0, 2), {}),
        (norm_rotary, (x, weight), (0,), {"cos": cos, "sin": sin}),
        (norm_rotary_positive, (x, weight), (0,), {"cos": cos, "sin": sin, "floor": 0.01}),
    ):
        assert_as_exact_as_pytorch(*backends(function, **settings), leaves, dtype, low=low)


def test_odd_heads_are_normed_and_layouts_do_not_matter():
    x, weight, gate = normal(2, 9, 3, 7), positive(7), normal(2, 9, 3, 7, seed=1)
    assert_as_exact_as_pytorch(*backends(head_norm), (x, weight), torch.float32)
    expected = head_norm(x, weight, backend="triton"), gated_head_norm(x, weight, gate, backend="triton")
    packed = torch.stack([x, gate, x], 2)[:, :, 0]  # as a projection leaves query, key and value
    head_major = x.transpose(1, 2).contiguous().transpose(1, 2)
    last_strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    for strided in (packed, head_major, last_strided):
        assert torch.equal(head_norm(strided, weight, backend="triton"), expected[0])
        assert torch.equal(gated_head_norm(strided, weight, gate, backend="triton"), expected[1])
    stream, modulation = normal(2, 12, 8), normal(2, 3, 8)
    strided = stream.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(
        modulated_norm(strided, modulation, modulation, backend="triton"),
        modulated_norm(stream, modulation, modulation, backend="triton"),
    )


def test_not_a_number_stays_visible():
    x = normal(1, 4, 16)
    x[0, 2, 3] = torch.nan
    zeros = torch.zeros(1, 1, 16, device=DEVICE)
    with memory_full_of_nan():
        out = modulated_norm(x, zeros, zeros, backend="triton")
    assert out[0, 2].isnan().all() and out[0, [0, 1, 3]].isfinite().all()


def test_compile_sees_through_all_of_them():
    x, weight, cos_sin = normal(1, 6, 2, 8), positive(8), tables(6, 8)
    stream, modulation = normal(1, 6, 16), normal(1, 3, 16)
    leaves = [t.requires_grad_() for t in (x, weight, stream, modulation)]

    def loss(x, weight, stream, modulation):
        rotated, denominator = norm_rotary_positive(x, weight, *cos_sin, 0.01, backend="triton")
        y = gated_head_norm(rotated + rotary(denominator, *cos_sin, backend="triton"), weight, x, backend="triton")
        y = y + head_norm(norm_rotary(x, weight, *cos_sin, backend="triton"), weight, backend="triton")
        stream = modulated_norm(stream, modulation, modulation.sin(), backend="triton")
        return gated_residual(stream, y.flatten(2), modulation, backend="triton").square().sum()

    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_operators_are_registered_correctly():
    x, weight, (cos, sin) = normal(1, 6, 2, 8).requires_grad_(), positive(8).requires_grad_(), tables(6, 8)
    stream, modulation = normal(1, 6, 16).requires_grad_(), normal(1, 3, 16).requires_grad_()
    head_norm(x, weight, backend="triton")
    modulated_norm(stream, modulation, modulation, backend="triton")
    ops = torch.ops.videogen
    for op, arguments in (
        (ops.norm_rotary, (x, weight, cos, sin, 1e-6, 0.01, torch.float32)),
        (ops.norm_rotary, (x, None, cos, sin, 1e-6, None, torch.float16)),
        (ops.gated_head_norm, (x, weight, x, 1e-6, torch.float32)),
        (ops.modulated_norm, (stream, modulation, None, 1e-6, torch.float16)),
        (ops.gated_residual, (stream, stream, modulation)),
    ):
        torch.library.opcheck(
            op, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
        )


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")
def test_mixers_of_a_gpu_choose_the_kernels_and_agree_with_the_cpu():
    qkvg, gate, cos_sin = normal(1, 48, 4, 2, 32), normal(1, 48, 2), tables(48, 32)
    weights = [positive(32) for _ in range(3)]
    conv = normal(64, 1, 3, 3, scale=0.3)
    here = linear_mixer(qkvg, gate, *weights, conv, *cos_sin, grid=(3, 4, 4))
    assert {chosen_backends()[op] for op in ("linear_attention", "norm_rotary_positive")} == {"triton"}
    arguments = [t.cpu() for t in (qkvg, gate, *weights, conv, *cos_sin)]
    there = linear_mixer(*arguments, grid=(3, 4, 4), backend="reference")
    torch.testing.assert_close(here.cpu(), there, atol=1e-4, rtol=1e-3)
    here = softmax_mixer(qkvg[:, :, :3], *weights[:2], *cos_sin)
    there = softmax_mixer(arguments[0][:, :, :3], *arguments[2:4], *arguments[6:], backend="reference")
    torch.testing.assert_close(here.cpu(), there, atol=1e-4, rtol=1e-3)
