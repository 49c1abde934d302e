"""What a mixer layer does between its input and output projections, as one operator each.

`linear_mixer` is qk-norm, rotary positions, gated linear attention, a depth-wise convolution beside it, and the gated
output norm. `softmax_mixer` is qk-norm, rotary positions, softmax attention and a gate per head; `cross_mixer` is qk-norm and
softmax attention to another sequence.

Backends: "reference" composes the operators of the other packages, each of which chooses its own backend (on CUDA tensors
Triton); "native" does one head of one item after another with everything in cache and in float32, forward and backward
(compiled C++, see `videogen_kernels.native`): several times as fast for the few hundred tokens a small model has. "auto" takes
it where it can run: inputs of one dtype, K a multiple of 16, up to 512 x 512 scores per head.

Shapes: B batch, L query tokens, S key tokens, N heads, K width of a head, n latent frames of h x w tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import announce, check_backend, choose_native
from videogen_kernels.mixers.native import attention_native, linear_mixer_native
from videogen_kernels.mixers.reference import cross_mixer_reference, linear_mixer_reference, softmax_mixer_reference
from videogen_kernels.native import runnable
from videogen_kernels.rotary import check_tables

__all__ = ["cross_mixer", "linear_mixer", "softmax_mixer"]

Backend = Literal["auto", "reference", "native"]

#: Scores per head up to which the native softmax keeps them in cache.
_MAX_SCORES = 512 * 512


def linear_mixer(
    qkvg: Tensor,
    gate: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    norm_out: Tensor,
    conv: Tensor,
    cos: Tensor,
    sin: Tensor,
    grid: tuple[int, int, int],
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Gated linear attention over all tokens plus a 3x3 convolution inside each latent frame, normed and gated.

    Args:
        qkvg: [B, L, 4, N, K]: query, key, value, output gate before its sigmoid.
        gate: [B, L, N], write gate before its sigmoid.
        norm_query: [K], qk-norm weight of the query.
        norm_key: [K], likewise of the key.
        norm_out: [K], weight of the norm of the output.
        conv: [N * K, 1, 3, 3], a filter per channel of the values.
        cos: [L, K/2], or [B, L, K/2] where items differ; see `videogen_kernels.rotary`.
        sin: likewise.
        grid: (n, h, w) with n * h * w = L.
        eps: of the norms.
        backend: see the package.

    Returns:
        [B, L, N * K] in the dtype of `qkvg`.

    Raises:
        ValueError: shapes that do not agree, or a backend that cannot run.
    """
    check_backend("linear_mixer", backend, ("reference", "native"))
    if qkvg.ndim != 5 or qkvg.shape[2] != 4 or 0 in qkvg.shape or qkvg.shape[1] != grid[0] * grid[1] * grid[2]:
        raise ValueError(
            f"`qkvg` must be [B, L, 4, N, K] with L >= 1 the product of `grid` {grid}, got {list(qkvg.shape)}; `grid` counts "
            "latent frames, rows and columns of tokens."
        )
    batch, length, _, heads, width = qkvg.shape
    if gate.shape != (batch, length, heads):
        raise ValueError(f"`gate` must be [B, L, N] = {[batch, length, heads]}, got {list(gate.shape)}.")
    if conv.shape != (heads * width, 1, 3, 3):
        raise ValueError(f"`conv` must be [N * K, 1, 3, 3] = {[heads * width, 1, 3, 3]}, got {list(conv.shape)}.")
    _check_norms(width, norm_query=norm_query, norm_key=norm_key, norm_out=norm_out)
    check_tables(cos, sin, batch, length, width)
    can_run = (
        width % 16 == 0 and gate.dtype == qkvg.dtype and runnable(qkvg, norm_query, norm_key, norm_out, conv, cos, sin)
    )
    native = choose_native("linear_mixer", backend, can_run)
    announce("linear_mixer", "native" if native else "reference")
    if native:
        return linear_mixer_native(qkvg, gate, norm_query, norm_key, norm_out, conv, cos, sin, grid, eps)
    return linear_mixer_reference(qkvg, gate, norm_query, norm_key, norm_out, conv, cos, sin, grid, eps)


def softmax_mixer(
    qkv: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    cos: Tensor,
    sin: Tensor,
    gate: Tensor | None = None,
    key_mask: Tensor | None = None,
    visible: Tensor | None = None,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Softmax self-attention with qk-norm, rotary positions and a gate per head.

    Args:
        qkv: [B, L, 3, N, K]: query, key, value.
        norm_query: [K], qk-norm weight of the query.
        norm_key: [K], likewise of the key.
        cos: [L, K/2], or [B, L, K/2] where items differ; see `videogen_kernels.rotary`.
        sin: likewise.
        gate: [B, L, N] before the sigmoid; None = no gate.
        key_mask: [B, L] bool, True = visible; None = all. A row with nothing visible gives 0.
        visible: [n, n] bool, which latent frame sees which; None = all. Not together with `key_mask`.
        eps: of the norms.
        backend: see the package.

    Returns:
        [B, L, N * K] in the dtype of `qkv`.

    Raises:
        ValueError: shapes that do not agree, or a backend that cannot run.
    """
    check_backend("softmax_mixer", backend, ("reference", "native"))
    if qkv.ndim != 5 or qkv.shape[2] != 3 or 0 in qkv.shape:
        raise ValueError(f"`qkv` must be [B, L, 3, N, K] with at least one token, got {list(qkv.shape)}.")
    batch, length, _, heads, width = qkv.shape
    if gate is not None and gate.shape != (batch, length, heads):
        raise ValueError(f"`gate` must be [B, L, N] = {[batch, length, heads]}, got {list(gate.shape)}.")
    if key_mask is not None and visible is not None:
        raise ValueError("`key_mask` and `visible` exclude each other; pass one.")
    _check_mask(key_mask, batch, length)
    if visible is not None and (
        visible.dtype != torch.bool
        or visible.ndim != 2
        or visible.shape[0] != visible.shape[1]
        or not len(visible)
        or length % len(visible)
    ):
        raise ValueError(
            f"`visible` must be bool [n, n] with L a multiple of n, got {visible.dtype} {list(visible.shape)} for L = {length}."
        )
    _check_norms(width, norm_query=norm_query, norm_key=norm_key)
    check_tables(cos, sin, batch, length, width)
    fits = width % 16 == 0 and length * length <= _MAX_SCORES and (gate is None or gate.dtype == qkv.dtype)
    native = choose_native(
        "softmax_mixer",
        backend,
        fits and runnable(qkv, norm_query, norm_key, gate, cos, sin, masks=(key_mask, visible)),
    )
    announce("softmax_mixer", "native" if native else "reference")
    if native:
        return attention_native(qkv, None, norm_query, norm_key, cos, sin, gate, key_mask, visible, eps)
    return softmax_mixer_reference(qkv, norm_query, norm_key, cos, sin, gate, key_mask, visible, eps)


def cross_mixer(
    query: Tensor,
    key_value: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    key_mask: Tensor | None = None,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Softmax attention with qk-norm to tokens of another sequence.

    Args:
        query: [B, L, N, K].
        key_value: [B, S, 2, N, K]: key, value.
        norm_query: [K], qk-norm weight of the query.
        norm_key: [K], likewise of the key.
        key_mask: [B, S] bool, True = visible; None = all. A row with nothing visible gives 0.
        eps: of the norms.
        backend: see the package.

    Returns:
        [B, L, N * K] in the dtype of `key_value`.

    Raises:
        ValueError: shapes that do not agree, or a backend that cannot run.
    """
    check_backend("cross_mixer", backend, ("reference", "native"))
    if query.ndim != 4 or 0 in query.shape:
        raise ValueError(f"`query` must be [B, L, N, K] with at least one token, got {list(query.shape)}.")
    batch, length, heads, width = query.shape
    if (
        key_value.ndim != 5
        or (key_value.shape[0], *key_value.shape[2:]) != (batch, 2, heads, width)
        or 0 in key_value.shape
    ):
        raise ValueError(
            f"`key_value` must be [B, S, 2, N, K] with B, N, K of `query` and S >= 1, got {list(key_value.shape)}."
        )
    _check_mask(key_mask, batch, key_value.shape[1])
    _check_norms(width, norm_query=norm_query, norm_key=norm_key)
    fits = width % 16 == 0 and length * key_value.shape[1] <= _MAX_SCORES and query.dtype == key_value.dtype
    native = choose_native(
        "cross_mixer", backend, fits and runnable(query, key_value, norm_query, norm_key, masks=(key_mask,))
    )
    announce("cross_mixer", "native" if native else "reference")
    if native:
        return attention_native(query, key_value, norm_query, norm_key, None, None, None, key_mask, None, eps)
    return cross_mixer_reference(query, key_value, norm_query, norm_key, key_mask, eps)


def _check_mask(key_mask: Tensor | None, batch: int, length: int) -> None:
    if key_mask is not None and (key_mask.shape != (batch, length) or key_mask.dtype != torch.bool):
        raise ValueError(
            f"`key_mask` must be {[batch, length]} and boolean, got {list(key_mask.shape)} of {key_mask.dtype}."
        )


def _check_norms(width: int, **norms: Tensor) -> None:
    for name, weight in norms.items():
        if weight.shape != (width,):
            raise ValueError(f"`{name}` must be [K] = [{width}], got {list(weight.shape)}.")
