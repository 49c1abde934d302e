"""What a mixer layer does between its input and output projections, as one operator each.

`linear_mixer` is qk-norm, rotary positions, gated linear attention, a depth-wise convolution beside it, and the gated
output norm. `softmax_mixer` is qk-norm, rotary positions, softmax attention and a gate per head; with keys from elsewhere
and no positions it is cross-attention.

Backends: "reference" composes the operators of the other packages; "native" does one head of one item after another with
everything in cache and in float32, forward and backward (compiled C++, see `videogen_kernels.native`): several times as fast
for the few hundred tokens a small model has. "auto" takes it where it can run: inputs of one dtype, K
a multiple of 16, up to 512 x 512 scores per head.

Shapes: B batch, L query tokens, S key tokens, N heads, K width of a head, n latent frames of h x w tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from videogen_kernels.backends import check_backend, choose_native
from videogen_kernels.mixers.native import linear_mixer_native, softmax_mixer_native
from videogen_kernels.mixers.reference import linear_mixer_reference, softmax_mixer_reference
from videogen_kernels.native import runnable

__all__ = ["linear_mixer", "softmax_mixer"]

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
        cos: [L, K/2], see `videogen_kernels.rotary`.
        sin: [L, K/2].
        grid: (n, h, w) with n * h * w = L.
        eps: of the norms.
        backend: see the package.

    Returns:
        [B, L, N * K] in the dtype of `qkvg`.

    Raises:
        ValueError: shapes that do not agree, or a backend that cannot run.
    """
    check_backend("linear_mixer", backend, ("reference", "native"))
    if qkvg.ndim != 5 or qkvg.shape[2] != 4 or qkvg.shape[1] != grid[0] * grid[1] * grid[2]:
        raise ValueError(f"`qkvg` must be [B, L, 4, N, K] with L the product of `grid` {grid}, got {list(qkvg.shape)}.")
    batch, length, _, heads, width = qkvg.shape
    if gate.shape != (batch, length, heads):
        raise ValueError(f"`gate` must be [B, L, N] = {[batch, length, heads]}, got {list(gate.shape)}.")
    if conv.shape != (heads * width, 1, 3, 3):
        raise ValueError(f"`conv` must be [N * K, 1, 3, 3] = {[heads * width, 1, 3, 3]}, got {list(conv.shape)}.")
    _check_norms(width, norm_query=norm_query, norm_key=norm_key, norm_out=norm_out)
    _check_tables(cos, sin, length, width)
    can_run = width % 16 == 0 and gate.dtype == qkvg.dtype and runnable(qkvg, norm_query, norm_key, norm_out, conv)
    if choose_native("linear_mixer", backend, can_run):
        return linear_mixer_native(qkvg, gate, norm_query, norm_key, norm_out, conv, cos, sin, grid, eps)
    return linear_mixer_reference(qkvg, gate, norm_query, norm_key, norm_out, conv, cos, sin, grid, eps)


def softmax_mixer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    norm_query: Tensor,
    norm_key: Tensor,
    gate: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    key_mask: Tensor | None = None,
    visible: Tensor | None = None,
    eps: float = 1e-6,
    backend: Backend = "auto",
) -> Tensor:
    """Softmax attention of normed, turned queries to normed, turned keys, with a gate per head.

    Args:
        query: [B, L, N, K], before its norm.
        key: [B, S, N, K], before its norm.
        value: [B, S, N, K].
        norm_query: [K], qk-norm weight of the query.
        norm_key: [K], likewise of the key.
        gate: [B, L, N] before the sigmoid; None = no gate.
        cos: [L, K/2] with S = L; None = no positions.
        sin: [L, K/2], given exactly when `cos` is.
        key_mask: [B, S] bool, True = visible; None = all. A row with nothing visible gives 0.
        visible: [n, n] bool, which latent frame sees which, with S = L; None = all. Not together with `key_mask`.
        eps: of the norms.
        backend: see the package.

    Returns:
        [B, L, N * K] in the dtype of `value`.

    Raises:
        ValueError: shapes that do not agree, or a backend that cannot run.
    """
    check_backend("softmax_mixer", backend, ("reference", "native"))
    if query.ndim != 4 or key.ndim != 4 or value.shape != key.shape or 0 in query.shape or key.shape[1] == 0:
        raise ValueError(
            f"`query` must be [B, L, N, K], `key` and `value` [B, S, N, K] with at least one token, got "
            f"{list(query.shape)}, {list(key.shape)} and {list(value.shape)}."
        )
    batch, length, heads, width = query.shape
    if (key.shape[0], *key.shape[2:]) != (batch, heads, width):
        raise ValueError(f"`key` must be [B, S, N, K] with B, N, K of `query`, got {list(key.shape)}.")
    if gate is not None and gate.shape != (batch, length, heads):
        raise ValueError(f"`gate` must be [B, L, N] = {[batch, length, heads]}, got {list(gate.shape)}.")
    if key_mask is not None and visible is not None:
        raise ValueError("`key_mask` and `visible` exclude each other; pass one.")
    if key_mask is not None and (key_mask.shape != key.shape[:2] or key_mask.dtype.is_floating_point):
        raise ValueError(
            f"`key_mask` must be [B, S] = {list(key.shape[:2])} and boolean, got {list(key_mask.shape)} of {key_mask.dtype}."
        )
    if visible is not None and (visible.ndim != 2 or visible.shape[0] != visible.shape[1] or length % len(visible)):
        raise ValueError(
            f"`visible` must be [n, n] with L a multiple of n, got {list(visible.shape)} for L = {length}."
        )
    if (visible is not None or cos is not None) and key.shape[1] != length:
        raise ValueError(f"`key` must have the {length} tokens of `query`, got {key.shape[1]}.")
    if (cos is None) != (sin is None):
        raise ValueError("`cos` and `sin` must be given together; pass both, or neither for no positions.")
    _check_norms(width, norm_query=norm_query, norm_key=norm_key)
    if cos is not None and sin is not None:
        _check_tables(cos, sin, length, width)
    same = query.dtype == key.dtype == value.dtype and (gate is None or gate.dtype == query.dtype)
    short = length * key.shape[1] <= _MAX_SCORES
    can_run = width % 16 == 0 and same and short and runnable(query, norm_query, norm_key)
    if choose_native("softmax_mixer", backend, can_run):
        return softmax_mixer_native(query, key, value, norm_query, norm_key, gate, cos, sin, key_mask, visible, eps)
    return softmax_mixer_reference(query, key, value, norm_query, norm_key, gate, cos, sin, key_mask, visible, eps)


def _check_norms(width: int, **norms: Tensor) -> None:
    for name, weight in norms.items():
        if weight.shape != (width,):
            raise ValueError(f"`{name}` must be [K] = [{width}], got {list(weight.shape)}.")


def _check_tables(cos: Tensor, sin: Tensor, length: int, width: int) -> None:
    if cos.shape != (length, width // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"`cos` and `sin` must be [L, K/2] = {[length, width // 2]}, got {list(cos.shape)} and {list(sin.shape)}."
        )
