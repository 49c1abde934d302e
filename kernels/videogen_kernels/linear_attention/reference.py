"""Linear attention in plain PyTorch: state form, block-causal, recurrent, and the quadratic forms they are tested against.

Shapes: B batch, L tokens, N heads, K key width, V value width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

#: Added to the denominator; only matters where nothing has been written.
EPS = 1e-6


class LinearAttentionState(NamedTuple):
    """What the tokens so far have written; its size does not depend on their number."""

    key_value: Tensor  # [B, N, K, V], float32 or wider
    key_sum: Tensor | None  # [B, N, K], None without a denominator


def linear_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
) -> tuple[Tensor, LinearAttentionState]:
    """Two matrix products through the state; see the package for the arguments."""
    # Autocast would round the state to half precision.
    with torch.autocast(query.device.type, enabled=False):
        q, k, v, beta, q_den, k_den = _widen(query, key, value, gate, query_den, key_den)
        # Products of permuted views: head-major inputs, as `head_norm` and `rotary` leave them, are not copied.
        written = v if beta is None else v * beta[..., None]
        key_value = k.permute(0, 2, 3, 1) @ written.transpose(1, 2)  # [B, N, K, V]
        if initial_state is not None:
            key_value = key_value + initial_state.key_value
        out = q.transpose(1, 2) @ key_value  # [B, N, L, V]
        key_sum = None
        if q_den is not None and k_den is not None:
            if beta is None:
                key_sum = k_den.sum(1)  # [B, N, K]
            else:
                key_sum = (k_den.permute(0, 2, 3, 1) @ beta.transpose(1, 2)[..., None])[..., 0]
            if initial_state is not None and initial_state.key_sum is not None:
                key_sum = key_sum + initial_state.key_sum
            scale = q_den.transpose(1, 2) @ key_sum[..., None]  # [B, N, L, 1]
            out = out * (scale + EPS).reciprocal()
        out = out.transpose(1, 2)  # [B, L, N, V]
        return out.to(value.dtype), LinearAttentionState(key_value, key_sum)


def linear_attention_block_causal_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_size: int,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
) -> tuple[Tensor, LinearAttentionState]:
    """Block after block, each reading the state that includes itself."""
    outputs = []
    state = initial_state
    for start in range(0, max(query.shape[1], 1), block_size):  # no tokens: the state as it came
        block = slice(start, start + block_size)
        out, state = linear_attention_reference(
            query[:, block],
            key[:, block],
            value[:, block],
            None if gate is None else gate[:, block],
            None if query_den is None else query_den[:, block],
            None if key_den is None else key_den[:, block],
            state,
        )
        outputs.append(out)
    assert state is not None
    return torch.cat(outputs, dim=1), state


def linear_attention_recurrent_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
) -> tuple[Tensor, LinearAttentionState]:
    """Token after token: S += beta k v^T, z += beta k', out = q.S / q'.z."""
    q, k, v, beta, q_den, k_den = _widen(query, key, value, gate, query_den, key_den)
    batch, length, heads, key_width = q.shape
    if initial_state is None:
        key_value = q.new_zeros(batch, heads, key_width, v.shape[-1])
        key_sum = None if k_den is None else q.new_zeros(batch, heads, key_width)
    else:
        key_value, key_sum = initial_state
    outputs = []
    for i in range(length):
        weight = 1.0 if beta is None else beta[:, i, :, None]  # [B, N, 1]
        key_value = key_value + (weight * k[:, i])[..., None] * v[:, i, :, None]
        out = (q[:, i, :, :, None] * key_value).sum(2)  # [B, N, V]
        if q_den is not None and k_den is not None and key_sum is not None:
            key_sum = key_sum + weight * k_den[:, i]
            out = out / ((q_den[:, i] * key_sum).sum(-1, keepdim=True) + EPS)
        outputs.append(out)
    return torch.stack(outputs, dim=1).to(value.dtype), LinearAttentionState(key_value, key_sum)


def linear_attention_packed_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_size: int | None,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial_state: LinearAttentionState | None,
    cu_seqlens: Tensor,
) -> tuple[Tensor, LinearAttentionState]:
    """Sequence after sequence of one row; `block_size` None is bidirectional."""
    outputs, states = [], []
    for index, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        state = None
        if initial_state is not None:
            key_sum = initial_state.key_sum
            own = slice(index, index + 1)
            state = LinearAttentionState(initial_state.key_value[own], None if key_sum is None else key_sum[own])
        out, state = linear_attention_block_causal_reference(
            query[:, start:end],
            key[:, start:end],
            value[:, start:end],
            block_size or max(end - start, 1),
            None if gate is None else gate[:, start:end],
            None if query_den is None else query_den[:, start:end],
            None if key_den is None else key_den[:, start:end],
            state,
        )
        outputs.append(out)
        states.append(state)
    sums = [state.key_sum for state in states if state.key_sum is not None]
    return torch.cat(outputs, dim=1), LinearAttentionState(
        torch.cat([state.key_value for state in states]), torch.cat(sums) if sums else None
    )


def linear_attention_quadratic(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None = None,
    query_den: Tensor | None = None,
    key_den: Tensor | None = None,
    block_size: int | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """The same function as an explicit L x L weight matrix: an independent form for tests, never used by a model.

    Args:
        block_size: tokens in a causal block; None = bidirectional.
        cu_seqlens: where packed sequences begin, and L; None = each row is one sequence.
    """
    q, k, v, beta, q_den, k_den = _widen(query, key, value, gate, query_den, key_den)
    length = q.shape[1]
    token = torch.arange(length, device=q.device)
    bounds = torch.tensor([0, length], device=q.device) if cu_seqlens is None else cu_seqlens.to(torch.int64)
    sequence = torch.searchsorted(bounds, token, right=True) - 1
    visible = sequence[:, None] == sequence[None, :]
    if block_size is not None:
        block = (token - bounds[sequence]) // block_size
        visible = visible & (block[:, None] >= block[None, :])
    written = q.new_ones(q.shape[:3]) if beta is None else beta
    weights = torch.einsum("blnk,bsnk,bsn->bnls", q, k, written) * visible
    out = torch.einsum("bnls,bsnv->blnv", weights, v)
    if q_den is not None and k_den is not None:
        scale = torch.einsum("blnk,bsnk,bsn->bnls", q_den, k_den, written) * visible
        out = out / (scale.sum(-1).transpose(1, 2)[..., None] + EPS)
    return out.to(value.dtype)


def _widen(*tensors: Tensor | None) -> list:
    """All in one dtype: float32, or float64 where any input is."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return [None if t is None else t.to(dtype) for t in tensors]
