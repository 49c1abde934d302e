"""The compiled CPU operators against plain PyTorch: outputs and every gradient, edges, and what happens without a compiler."""

import ctypes
import shutil
from types import SimpleNamespace

import pytest
import torch

from videogen_kernels import backends, mixers, moe, native
from videogen_kernels.modulated_norm import gated_residual, modulated_norm, rms_norm

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C++ compiler on this machine")


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale


def gradients(function, leaves, **settings):
    """The output and the gradients of its product with a fixed direction."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    out = function(*leaves, **settings)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def check(function, leaves, tolerance=2e-5, low=(), **settings):
    """Native = reference in float32; with the leaves `low` in bfloat16 it is at most twice as far from float32."""
    exact = gradients(function, leaves, backend="reference", **settings)
    ours = gradients(function, leaves, backend="native", **settings)
    for index, (a, b) in enumerate(zip(ours, exact, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).norm() <= tolerance * b.norm() + 1e-5, f"output or gradient {index}"
    if not low:
        return
    rounded = [leaf.bfloat16() if i in low else leaf for i, leaf in enumerate(leaves)]
    plain = gradients(function, rounded, backend="reference", **settings)
    ours = gradients(function, rounded, backend="native", **settings)
    for index, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert a.dtype == b.dtype
        assert (a.float() - c).norm() <= 2 * (b.float() - c).norm() + 0.02 * c.norm() + 1e-4, f"bfloat16, {index}"


def tables(*shape):
    """[L, K] for a batch that shares them, or [B, L, K]."""
    angles = normal(*shape[:-1], shape[-1] // 2)
    return angles.cos(), angles.sin()


def positive(*shape):
    return 1 + normal(*shape, scale=0.2)


@needs_compiler
@pytest.mark.parametrize(("frames", "tokens", "width"), [(1, 1, 16), (3, 21, 10), (2, 333, 192)])
def test_norms_and_residual(frames, tokens, width):
    x, branch = normal(2, frames * tokens, width), normal(2, frames * tokens, width, seed=1)
    modulation = normal(2, frames, 6, width)  # its slices are what the model passes
    scale, shift = modulation[:, :, 0], modulation[:, :, 1]
    check(modulated_norm, (x, scale, shift), low=(0,))
    check(modulated_norm, (x, scale, shift, positive(width)), low=(0,))
    check(gated_residual, (x, branch, scale), low=(1,))
    check(rms_norm, (x, positive(width)), low=(0,))
    low = modulated_norm(x, scale, shift, dtype=torch.bfloat16, backend="native")
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), modulated_norm(x, scale, shift, backend="reference"), atol=1e-6, rtol=2**-8)


@needs_compiler
@pytest.mark.parametrize(
    ("grid", "heads", "width"), [((1, 1, 1), 1, 16), ((1, 7, 9), 2, 32), ((5, 6, 6), 3, 64), ((4, 25, 10), 1, 48)]
)
def test_linear_mixer(grid, heads, width):
    length = grid[0] * grid[1] * grid[2]
    leaves = (
        normal(2, length, 4, heads, width),
        normal(2, length, heads),
        positive(width),
        positive(width),
        positive(width),
        normal(heads * width, 1, 3, 3, scale=0.3),
    )
    for cos, sin in (tables(length, width), tables(2, length, width)):
        check(mixers.linear_mixer, leaves, 1e-4, low=(0, 1), cos=cos, sin=sin, grid=grid)


@needs_compiler
@pytest.mark.parametrize("length", [1, 63, 180, 500])
@pytest.mark.parametrize("with_gate", [False, True], ids=["plain", "gate"])
@pytest.mark.parametrize("shared", [False, True], ids=["own tables", "shared tables"])
def test_softmax_mixer(length, with_gate, shared):
    leaves = [normal(2, length, 3, 2, 32), positive(32), positive(32)]
    cos, sin = tables(length, 32) if shared else tables(2, length, 32)

    def run(qkv, norm_query, norm_key, gate=None, **settings):
        return mixers.softmax_mixer(qkv, norm_query, norm_key, cos, sin, gate, **settings)

    if with_gate:
        leaves.append(normal(2, length, 2))
    check(run, leaves, 1e-4, low=(0, 3))
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[0] = False  # nothing to see: 0
    check(run, leaves, 1e-4, key_mask=mask)
    assert (run(*leaves, key_mask=mask, backend="native")[0] == 0).all()


@needs_compiler
def test_softmax_mixer_with_a_window_of_frames():
    visible = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
    visible[3] = False
    leaves = (normal(2, 60, 3, 2, 16), positive(16), positive(16), normal(2, 60, 2))
    for cos, sin in (tables(60, 16), tables(2, 60, 16)):

        def run(qkv, norm_query, norm_key, gate, backend, cos=cos, sin=sin):
            return mixers.softmax_mixer(qkv, norm_query, norm_key, cos, sin, gate, visible=visible, backend=backend)

        check(run, leaves, 1e-4, low=(0, 3))
        assert (run(*leaves, "native")[:, 36:48] == 0).all()


@needs_compiler
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (100, 7), (9, 70)])
def test_cross_mixer(queries, keys):
    leaves = (normal(3, queries, 2, 64), normal(3, keys, 2, 2, 64), positive(64), positive(64))
    mask = torch.arange(keys) < torch.tensor([keys, 1, 0])[:, None]
    check(mixers.cross_mixer, leaves, 1e-4, low=(0, 1), key_mask=mask)
    assert (mixers.cross_mixer(*leaves, key_mask=mask, backend="native")[2] == 0).all()


@needs_compiler
@pytest.mark.parametrize("tokens", [1, 63, 1000])
@pytest.mark.parametrize("kind", ["random", "one_takes_all"])
def test_experts(tokens, kind):
    indices = normal(tokens, 5).topk(2).indices if kind == "random" else torch.tensor([[3, 1]]).expand(tokens, 2)
    leaves = (
        normal(tokens, 24),
        normal(5, 24, 16, scale=0.2),
        normal(5, 8, 24, scale=0.3),
        normal(tokens, 2).sigmoid(),
    )

    def run(x, w_in, w_out, weights, backend):
        return moe.experts(x, w_in, w_out, indices, weights, backend=backend)

    check(run, leaves, low=(0, 1, 2))
    unused = sorted(set(range(5)) - set(indices.flatten().tolist()))
    assert all((gradients(run, leaves, backend="native")[2][expert] == 0).all() for expert in unused)
    check(moe.swiglu, (normal(tokens, 10),), low=(0,))


@needs_compiler
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_route(top_k):
    logits, bias = normal(200, 8, scale=2.0), normal(8, scale=0.1)
    expected, ours = (moe.route(logits, bias, top_k, backend=backend) for backend in ("reference", "native"))
    assert torch.equal(expected[0], ours[0])
    check(lambda x, backend: moe.route(x, bias, top_k, backend=backend)[1], (logits,))
    check(moe.router_logits, (normal(200, 24), normal(8, 24)), low=(0,))
    far = torch.tensor([[-200.0, -300.0, 0.0]])  # sigmoids that underflow
    assert torch.isfinite(moe.route(far, None, 3, backend="native")[1]).all()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_not_a_number_of_one_call_never_reaches_the_next(dtype):
    """Scratch memory is kept between calls, and no length here is a multiple of the vector's 16."""

    def leaves(keys):
        return (
            normal(3, 9, 2, 16).to(dtype),
            normal(3, keys, 2, 2, 16).to(dtype),
            positive(16),
            positive(16),
            normal(2, 15, 4, 2, 16).to(dtype),
            normal(2, 15, 2).to(dtype),
            normal(32, 1, 3, 3),
        )

    def run(query, key_value, norm_query, norm_key, qkvg, beta, conv):
        keys = key_value.shape[1]
        cross = mixers.cross_mixer(
            query,
            key_value,
            norm_query,
            norm_key,
            torch.arange(keys) < torch.tensor([[keys], [1], [0]]),
            backend="native",
        )
        cos, sin = tables(15, 16)
        linear = mixers.linear_mixer(
            qkvg, beta, norm_query, norm_key, norm_key, conv, cos, sin, (1, 3, 5), backend="native"
        )
        visible = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
        softmax = mixers.softmax_mixer(
            qkvg[:, :, :3], norm_query, norm_key, cos, sin, beta, visible=visible, backend="native"
        )
        return torch.cat([out.flatten() for out in (cross, linear, softmax)])

    before = gradients(run, leaves(7))
    poisoned = [torch.full_like(leaf, torch.nan) for leaf in leaves(100)]
    assert gradients(run, poisoned)[0].isnan().any()
    for one, other in zip(before, gradients(run, leaves(7)), strict=True):
        assert one.isfinite().all() and torch.equal(one, other)


def everything():
    """Outputs and gradients of every operator, large enough to be shared among threads."""
    x, width, grid = normal(2, 600, 96), 32, (6, 10, 10)
    modulation, choices, norms = normal(2, 6, 2, 96), normal(1200, 8), [positive(width) for _ in range(3)]
    cos, sin = tables(600, width)
    linear = (normal(2, 600, 4, 3, width), normal(2, 600, 3), *norms, normal(96, 1, 3, 3, scale=0.3))
    indices, weights = moe.route(choices, None, 2, backend="native")
    experts = (x.view(1200, 96), normal(8, 96, 64, scale=0.1), normal(8, 32, 96, scale=0.1))
    own = dict(zip(("cos", "sin"), tables(2, 600, width), strict=True))
    return [
        *gradients(mixers.linear_mixer, linear, **own, grid=grid, backend="native"),
        *gradients(modulated_norm, (x, modulation[:, :, 0], modulation[:, :, 1]), backend="native"),
        *gradients(gated_residual, (x, normal(2, 600, 96, seed=1), modulation[:, :, 0]), backend="native"),
        *gradients(moe.swiglu, (x,), backend="native"),
        *gradients(mixers.linear_mixer, linear, cos=cos, sin=sin, grid=grid, backend="native"),
        *gradients(
            mixers.cross_mixer, (normal(2, 600, 3, width), normal(2, 20, 2, 3, width), *norms[:2]), backend="native"
        ),
        *gradients(moe.router_logits, (experts[0], normal(8, 96)), backend="native"),
        *(indices, weights),
        *gradients(moe.experts, experts, expert_indices=indices, expert_weights=weights, backend="native"),
    ]


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(one, everything(), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_without_openmp_the_same_on_one_thread(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_cache_folder", lambda: tmp_path)
    expected = everything()
    serial = ctypes.CDLL(str(native._build(shutil.which("g++") or shutil.which("c++"), [])))
    assert not serial.threads()
    monkeypatch.setattr(native, "library", lambda: serial)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(everything(), expected, strict=True))


@needs_compiler
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_the_default_dtype_of_torch_changes_nothing(default):
    x, modulation = normal(2, 6, 32), normal(2, 3, 2, 32)
    leaves = [x, modulation[:, :, 0], modulation[:, :, 1]]
    qkv, norms = normal(1, 6, 3, 2, 16), [positive(16), positive(16)]
    cos, sin = tables(6, 16)
    logits = normal(6, 4)

    def both(function, leaves, **settings):
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        out = function(*leaves, backend="native", **settings)
        return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]

    def everything():
        norm, residual = both(modulated_norm, leaves), both(gated_residual, [x, x, leaves[1]])
        attention = both(mixers.softmax_mixer, [qkv, *norms], cos=cos, sin=sin, gate=None)
        return [*norm, *residual, *attention, *moe.route(logits, None, 2, backend="native")]

    before = everything()
    torch.set_default_dtype(default)
    try:
        after = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(before, after, strict=True))


@needs_compiler
def test_strides_of_an_axis_of_one_mean_nothing():
    x, branch = normal(3, 4, 32), normal(3, 4, 32, seed=1)
    gate = normal(1, 3, 32).transpose(0, 1)  # [3, 1, 32] whose middle stride is that of another axis
    torch.testing.assert_close(gated_residual(x, branch, gate), x + branch * gate)
    key_value = normal(1, 3, 2, 2, 16).transpose(0, 1)  # [3, 1, 2, 2, 16]
    arguments = normal(3, 5, 2, 16), key_value, positive(16), positive(16)
    exact = mixers.cross_mixer(*arguments, backend="reference")
    torch.testing.assert_close(mixers.cross_mixer(*arguments, backend="native"), exact, atol=1e-5, rtol=1e-5)


@needs_compiler
def test_a_whole_number_may_be_eps():
    x, weight = normal(4, 32), positive(32)
    exact = rms_norm(x, weight, eps=1.0, backend="reference")
    torch.testing.assert_close(rms_norm(x, weight, eps=1, backend="native"), exact)


def test_without_a_home_the_library_is_kept_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(native.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    assert native._cache_folder().parent == tmp_path


@needs_compiler
def test_not_a_number_stays_visible():
    x = normal(1, 4, 16)
    x[0, 2, 3] = torch.nan
    out = modulated_norm(x, torch.zeros(1, 1, 16), torch.zeros(1, 1, 16), dtype=torch.bfloat16, backend="native")
    assert out[0, 2].isnan().all() and out[0, [0, 1, 3]].isfinite().all()
    assert moe.swiglu(torch.full((1, 4), torch.nan), backend="native").isnan().all()


def test_without_a_compiler_everything_runs_in_pytorch(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert not native.runnable(torch.zeros(1))
    leaves = (normal(1, 6, 2, 16), normal(1, 4, 2, 2, 16), positive(16), positive(16))
    assert mixers.cross_mixer(*leaves).shape == (1, 6, 32)
    with pytest.raises(ValueError, match="`backend` 'native' of cross_mixer needs"):
        mixers.cross_mixer(*leaves, backend="native")


def test_what_cannot_run_stays_with_pytorch(monkeypatch):
    assert not native.runnable(torch.zeros(1, dtype=torch.float64)) and not native.runnable(
        torch.zeros(1, device="meta")
    )
    one_thread = SimpleNamespace(threads=lambda: 0)  # a library without OpenMP
    monkeypatch.setattr(native, "library", lambda: one_thread)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert not native.runnable(torch.zeros(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert native.runnable(torch.zeros(1))
    assert backends.choose_native("op", "auto", can_run=False) is False


def test_a_failing_compiler_is_reported_and_not_fatal(monkeypatch, tmp_path, caplog):
    compiler = tmp_path / "g++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 1 || exit 3\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(native.shutil, "which", lambda name: str(compiler))
    monkeypatch.setattr(native, "_cache_folder", lambda: tmp_path)
    assert native.library.__wrapped__() is None
    assert "compiling the CPU operators failed" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, kv, n, t: mixers.cross_mixer(q, kv[:, :, :1], n, n), "`key_value` must be"),
        (lambda q, kv, n, t: mixers.cross_mixer(q, kv, n[:3], n), "`norm_query` must be"),
        (lambda q, kv, n, t: mixers.cross_mixer(q, kv, n, n, torch.ones(1, 4)), "`key_mask` must be"),
        (lambda q, kv, n, t: mixers.softmax_mixer(kv, n, n, *t), "`qkv` must be"),
        (lambda q, kv, n, t: mixers.softmax_mixer(normal(1, 4, 3, 2, 16), n, n, t[0][:2], t[1]), "`cos` and `sin`"),
        (
            lambda q, kv, n, t: mixers.softmax_mixer(normal(1, 4, 3, 2, 16), n, n, *t, visible=torch.ones(3, 3)),
            "`visible` must be",
        ),
        (
            lambda q, kv, n, t: mixers.linear_mixer(
                normal(1, 4, 4, 2, 16), normal(1, 4, 2), n, n, n, normal(32, 1, 3, 3), *t, grid=(1, 2, 3)
            ),
            "`qkvg` must be",
        ),
    ],
    ids=["key_value", "norm", "mask", "qkv", "tables", "visible", "grid"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(1, 6, 2, 16), normal(1, 4, 2, 2, 16), positive(16), tables(4, 16))
