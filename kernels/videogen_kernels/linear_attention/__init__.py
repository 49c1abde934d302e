"""Gated linear attention: bidirectional, block-causal and recurrent, with an explicit float32 state, also of packed sequences.

`out_i = q_i . S / (q'_i . z + eps)` with `S = sum_j beta_j k_j v_j^T` and `z = sum_j beta_j k'_j`. The numerator's pair
(q, k) is usually rotated and may be negative; the denominator's pair (q', k') is positive and not rotated, as in
SANA-Video 2.0 (arXiv 2607.21553). Unlike there, the write gate beta weighs the denominator too: a token with gate 0 is
then absent altogether, and padding costs nothing but its zero.

Cost and memory grow linearly with the number of tokens; the state does not grow at all.

Backends: "reference" is PyTorch, two matrix products through the state; "triton" the kernels of `kernel.py`, for float32,
bfloat16 and float16, K up to 128 and V up to 256. "auto" takes "triton" for CUDA tensors where it can run.

Shapes: B batch, L tokens, N heads, K key width, V value width, S sequences: B, or as many as are packed into one row.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from videogen_kernels.backends import announce, check_backend, choose_triton
from videogen_kernels.linear_attention.reference import (
    LinearAttentionState,
    linear_attention_block_causal_reference,
    linear_attention_packed_reference,
    linear_attention_recurrent_reference,
    linear_attention_reference,
)

__all__ = [
    "LinearAttentionState",
    "linear_attention",
    "linear_attention_block_causal",
    "linear_attention_recurrent",
]

Backend = Literal["auto", "reference", "triton"]

#: Widest keys and values that the Triton kernels take: their tiles must fit into the shared memory of a GPU.
_MAX_TRITON_WIDTHS = (128, 256)


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
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Every token reads what all tokens of its sequence in this call, and the carried state, have written.

    With no carried state this is bidirectional attention over the sequence; called block after block with
    `initial_state` and `return_state` it is block-causal attention over the stream.

    Args:
        query: [B, L, N, K], any float dtype.
        key: [B, L, N, K].
        value: [B, L, N, V].
        gate: [B, L, N] in 0..1, how strongly a token writes; None = 1.
        query_den: [B, L, N, K] >= 0, the un-rotated query of the denominator; None = no denominator.
        key_den: [B, L, N, K] >= 0, given exactly when `query_den` is.
        initial_state: what earlier blocks have written, `key_value` [S, N, K, V] and with a denominator `key_sum`
            [S, N, K]; None = nothing.
        return_state: also return the state after this block.
        backend: see the package.
        cu_seqlens: [S + 1] int32 or int64, with B = 1: sequence i is the tokens `cu_seqlens[i]` to `cu_seqlens[i + 1]`
            (excluded), so it starts with 0, never falls and ends with L; equal neighbours are an empty sequence. The
            values are checked on the CPU only (on a device that would wait for it); there, tokens outside give 0.

    Returns:
        [B, L, N, V] in the dtype of `value`; with `return_state`, also the state (always at least float32).
        If all gates are 0 and there is no state, the output is 0.

    Raises:
        ValueError: shapes that do not agree, zero tokens, or a backend that cannot run.
        TypeError: tensors that are not of a floating dtype (`cu_seqlens`: of an integer one).
    """
    return _run(
        "linear_attention",
        None,
        *(query, key, value, gate, query_den, key_den, initial_state, return_state, backend, cu_seqlens),
    )


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
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Tokens read their own block and all earlier ones. Arguments as `linear_attention`.

    Args:
        block_size: tokens in a block (for video: the tokens of one latent frame), >= 1; the last block of a sequence may
            be shorter.
    """
    if block_size < 1:
        raise ValueError(
            f"`block_size` must be at least 1 token, got {block_size}; use the tokens of one latent frame."
        )
    return _run(
        "linear_attention_block_causal",
        block_size,
        *(query, key, value, gate, query_den, key_den, initial_state, return_state, backend, cu_seqlens),
    )


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
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Causal attention token by token: a token reads itself and all earlier ones. Arguments as `linear_attention`.

    The reference takes one token after another; the kernels take pieces of 64 at once, with the same result.
    """
    return _run(
        "linear_attention_recurrent",
        1,
        *(query, key, value, gate, query_den, key_den, initial_state, return_state, backend, cu_seqlens),
    )


def _run(
    op: str,
    block_size: int | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
    return_state: bool,
    backend: str,
    cu_seqlens: Tensor | None,
) -> Tensor | tuple[Tensor, LinearAttentionState]:
    """Checks, chooses and calls; `block_size` None is bidirectional."""
    check_backend(op, backend, ("reference", "triton"))
    _check(query, key, value, gate, query_den, key_den, initial_state, cu_seqlens)
    key_width, value_width = query.shape[3], value.shape[3]
    unsupported = None
    if key_width > _MAX_TRITON_WIDTHS[0] or value_width > _MAX_TRITON_WIDTHS[1]:
        limits = "K of at most {} and V of at most {}".format(*_MAX_TRITON_WIDTHS)
        unsupported = f"needs {limits}, got {key_width} and {value_width}"
    state = initial_state or LinearAttentionState(None, None)  # type: ignore[arg-type]
    tensors = (query, key, value, gate, query_den, key_den, *state, cu_seqlens)
    if choose_triton(op, backend, tensors, unsupported):
        announce(op, "triton")
        from videogen_kernels.linear_attention.kernel import linear_attention_triton

        initial = None
        if initial_state is not None:
            parts = [t.flatten(2) for t in initial_state if t is not None]
            initial = torch.cat([t.to(torch.float32) for t in parts], dim=2)  # [S, N, W]
        out, flat = linear_attention_triton(
            query, key, value, block_size, gate, query_den, key_den, initial, cu_seqlens
        )
        width = key_width * value_width
        new_state = LinearAttentionState(
            flat[..., :width].unflatten(-1, (key_width, value_width)), None if query_den is None else flat[..., width:]
        )
        return (out, new_state) if return_state else out
    announce(op, "reference")
    inputs = (gate, query_den, key_den, initial_state)
    if cu_seqlens is not None:
        out, new_state = linear_attention_packed_reference(query, key, value, block_size, *inputs, cu_seqlens)
    elif op == "linear_attention_recurrent":
        out, new_state = linear_attention_recurrent_reference(query, key, value, *inputs)
    elif block_size is None:
        out, new_state = linear_attention_reference(query, key, value, *inputs)
    else:
        out, new_state = linear_attention_block_causal_reference(query, key, value, block_size, *inputs)
    return (out, new_state) if return_state else out


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
    cu_seqlens: Tensor | None,
) -> None:
    if query.ndim != 4 or 0 in query.shape:
        raise ValueError(f"`query` must be [B, L, N, K] with at least one token, got {list(query.shape)}.")
    if key.shape != query.shape:
        raise ValueError(f"`key` must have the shape of `query` {list(query.shape)}, got {list(key.shape)}.")
    if value.ndim != 4 or value.shape[:3] != query.shape[:3] or value.shape[3] == 0:
        raise ValueError(f"`value` must be [B, L, N, V] with B, L, N of `query` and V >= 1, got {list(value.shape)}.")
    if gate is not None and gate.shape != query.shape[:3]:
        raise ValueError(f"`gate` must be [B, L, N] = {list(query.shape[:3])}, got {list(gate.shape)}.")
    if (query_den is None) != (key_den is None):
        raise ValueError("`query_den` and `key_den` must be given together; pass both, or neither for no denominator.")
    named = (
        ("query", query),
        ("key", key),
        ("value", value),
        ("gate", gate),
        ("query_den", query_den),
        ("key_den", key_den),
    )
    for name, tensor in named:
        if tensor is None:
            continue
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"`{name}` must be of a floating dtype, got {tensor.dtype}; convert it with .float().")
        if name.endswith("_den") and tensor.shape != query.shape:
            raise ValueError(f"`{name}` must have the shape of `query` {list(query.shape)}, got {list(tensor.shape)}.")
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, query)
    if initial_state is not None:
        sequences = query.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        _check_state(initial_state, sequences, query, value, query_den is not None)


def _check_cu_seqlens(cu_seqlens: Tensor, query: Tensor) -> None:
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"`cu_seqlens` must be int32 or int64, got {cu_seqlens.dtype}; convert it with .int().")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or query.shape[0] != 1:
        raise ValueError(
            f"`cu_seqlens` must be [S + 1] with S >= 1, for a `query` of one row [1, L, N, K], got "
            f"{list(cu_seqlens.shape)} for {list(query.shape)}; put the sequences one after another into one row."
        )
    if cu_seqlens.device.type != "cpu" or torch.compiler.is_compiling():
        return
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != query.shape[1] or bool((cu_seqlens.diff() < 0).any()):
        raise ValueError(
            f"`cu_seqlens` must start with 0, never fall and end with the {query.shape[1]} tokens of `query`, got "
            f"{cu_seqlens.tolist()}; it is the running sum of the lengths, after a 0."
        )


def _check_state(
    state: LinearAttentionState, sequences: int, query: Tensor, value: Tensor, has_denominator: bool
) -> None:
    expected = [sequences, query.shape[2], query.shape[3], value.shape[3]]
    if list(state.key_value.shape) != expected:
        raise ValueError(
            f"`initial_state.key_value` must be [S, N, K, V] = {expected}, got {list(state.key_value.shape)}; pass the "
            "state that the block before returned."
        )
    if has_denominator != (state.key_sum is not None):
        raise ValueError(
            "`initial_state.key_sum` must be given exactly when `query_den` and `key_den` are; pass the state of a call "
            "with the same arguments."
        )
    if state.key_sum is not None and list(state.key_sum.shape) != expected[:3]:
        raise ValueError(
            f"`initial_state.key_sum` must be [S, N, K] = {expected[:3]}, got {list(state.key_sum.shape)}; pass the state "
            "that the block before returned."
        )
    if any(t is not None and t.dtype not in (torch.float32, torch.float64) for t in state):
        raise TypeError(
            f"`initial_state` must be float32 or float64, got {state.key_value.dtype}; a state in half precision forgets."
        )
