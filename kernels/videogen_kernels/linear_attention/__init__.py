"""Gated linear attention: bidirectional, block-causal and recurrent, with an explicit float32 state.

`out_i = q_i . S / (q'_i . z + eps)` with `S = sum_j beta_j k_j v_j^T` and `z = sum_j beta_j k'_j`. The numerator's pair
(q, k) is usually rotated and may be negative; the denominator's pair (q', k') is positive and not rotated, as in
SANA-Video 2.0 (arXiv 2607.21553). Unlike there, the write gate beta weighs the denominator too: a token with gate 0 is
then absent altogether, and padding costs nothing but its zero.

Cost and memory grow linearly with the number of tokens; the state does not grow at all.

Shapes: B batch, L tokens, N heads, K key width, V value width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from videogen_kernels.backends import check_backend
from videogen_kernels.linear_attention.reference import (
    LinearAttentionState,
    linear_attention_block_causal_reference,
    linear_attention_recurrent_reference,
    linear_attention_reference,
)

__all__ = [
    "LinearAttentionState",
    "linear_attention",
    "linear_attention_block_causal",
    "linear_attention_recurrent",
]

Backend = Literal["auto", "reference"]


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None = None,
    query_den: Tensor | None = None,
    key_den: Tensor | None = None,
    initial_state: LinearAttentionState | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Every token reads what all tokens of this call, and the carried state, have written.

    With no carried state this is bidirectional attention over the sequence; called block after block with
    `initial_state` and `return_state` it is block-causal attention over the stream.

    Args:
        query: [B, L, N, K], any float dtype.
        key: [B, L, N, K].
        value: [B, L, N, V].
        gate: [B, L, N] in 0..1, how strongly a token writes; None = 1.
        query_den: [B, L, N, K] >= 0, the un-rotated query of the denominator; None = no denominator.
        key_den: [B, L, N, K] >= 0, given exactly when `query_den` is.
        initial_state: what earlier blocks have written; None = nothing.
        return_state: also return the state after this block.
        backend: "auto" or "reference".

    Returns:
        [B, L, N, V] in the dtype of `value`; with `return_state`, also the state (always at least float32).
        If all gates are 0 and there is no state, the output is 0.

    Raises:
        ValueError: shapes that do not agree, zero tokens, or a backend that cannot run.
    """
    check_backend("linear_attention", backend, ("reference",))
    _check_shapes(query, key, value, gate, query_den, key_den)
    out, state = linear_attention_reference(query, key, value, gate, query_den, key_den, initial_state)
    return (out, state) if return_state else out


def linear_attention_block_causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_size: int,
    gate: Tensor | None = None,
    query_den: Tensor | None = None,
    key_den: Tensor | None = None,
    initial_state: LinearAttentionState | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Tokens read their own block and all earlier ones. Arguments as `linear_attention`.

    Args:
        block_size: tokens in a block (for video: the tokens of one latent frame), >= 1; the last block may be shorter.
    """
    check_backend("linear_attention_block_causal", backend, ("reference",))
    _check_shapes(query, key, value, gate, query_den, key_den)
    if block_size < 1:
        raise ValueError(
            f"`block_size` must be at least 1 token, got {block_size}; use the tokens of one latent frame."
        )
    out, state = linear_attention_block_causal_reference(
        query, key, value, block_size, gate, query_den, key_den, initial_state
    )
    return (out, state) if return_state else out


def linear_attention_recurrent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None = None,
    query_den: Tensor | None = None,
    key_den: Tensor | None = None,
    initial_state: LinearAttentionState | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Causal attention token by token: a token reads itself and all earlier ones. Arguments as `linear_attention`."""
    check_backend("linear_attention_recurrent", backend, ("reference",))
    _check_shapes(query, key, value, gate, query_den, key_den)
    out, state = linear_attention_recurrent_reference(query, key, value, gate, query_den, key_den, initial_state)
    return (out, state) if return_state else out


def _check_shapes(
    query: Tensor, key: Tensor, value: Tensor, gate: Tensor | None, query_den: Tensor | None, key_den: Tensor | None
) -> None:
    if query.ndim != 4 or 0 in query.shape:
        raise ValueError(f"`query` must be [B, L, N, K] with at least one token, got {list(query.shape)}.")
    if key.shape != query.shape:
        raise ValueError(f"`key` must have the shape of `query` {list(query.shape)}, got {list(key.shape)}.")
    if value.ndim != 4 or value.shape[:3] != query.shape[:3]:
        raise ValueError(f"`value` must be [B, L, N, V] with B, L, N of `query`, got {list(value.shape)}.")
    if gate is not None and gate.shape != query.shape[:3]:
        raise ValueError(f"`gate` must be [B, L, N] = {list(query.shape[:3])}, got {list(gate.shape)}.")
    if (query_den is None) != (key_den is None):
        raise ValueError("`query_den` and `key_den` must be given together; pass both, or neither for no denominator.")
    for name, tensor in (("query_den", query_den), ("key_den", key_den)):
        if tensor is not None and tensor.shape != query.shape:
            raise ValueError(f"`{name}` must have the shape of `query` {list(query.shape)}, got {list(tensor.shape)}.")
