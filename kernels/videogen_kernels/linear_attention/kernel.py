"""Linear attention in Triton, forward and backward, as operators that `torch.compile` can look through.

The tokens of every sequence are cut into pieces, in three steps each way: every piece is summed into a state of its own, the
states are added up along the sequence in a fixed order, and every piece reads the sum that belongs to it. What that sum is
makes the mode:

- bidirectional: the sum of the whole sequence;
- blocks of more than 64 tokens: the sum up to the last piece of the own block;
- blocks of up to 64 tokens, one token included: the sum of the pieces before, and inside the piece, which then holds whole
  blocks, the masked products of queries and keys.

Backward does the same with queries and output gradients in the place of keys and values, and adds up from the end.

A state is stored as one vector of W = K * V (+ K with a denominator) float32 numbers. Packed sequences and batches go the
same way; nothing is copied to the host, so a launch does not wait for the device.

Shapes: B batch, L tokens, N heads, K key width, V value width, S sequences (B, or those that are packed), P pieces.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from videogen_kernels.linear_attention.reference import EPS
from videogen_kernels.triton_runtime import autotune, dot_precision, on_device

__all__ = ["linear_attention_triton"]

#: Tokens of a tile; blocks up to this size are masked inside it.
TILE = 64
#: Pieces of longer blocks hold at most this many tokens; those of a bidirectional sequence at most four times as many.
_PIECE = 256


class Pieces(NamedTuple):
    """Where the pieces lie, all on the device."""

    table: Tensor  # [P, 5] int32: first token, end, sequence, state to read, state to read in backward
    bounds: Tensor  # [S, 2] int32: first piece of each sequence, end


def _plan(lengths: Tensor, starts: Tensor, num_pieces: int, block_size: int, piece: int) -> Pieces:
    """Cuts sequences of `lengths` [S] tokens, at `starts` [S], into pieces.

    Pieces beyond those that are needed are empty. States of a sequence with n pieces lie at n + 1 places, before the first
    piece, after it, and so on (in backward: from the first piece on, ..., after the last); bidirectional ones have one.
    """
    if block_size == 0:
        group, parts = piece, 1
    elif block_size <= TILE:
        group = piece = TILE // block_size * block_size
        parts = 1
    else:
        group, parts = block_size, -(-block_size // piece)
    counts = (lengths + group - 1) // group * parts  # [S]
    ends = counts.cumsum(0)
    index = torch.arange(num_pieces, device=lengths.device)
    sequence = torch.searchsorted(ends, index, right=True).clamp_max_(len(lengths) - 1)
    first = (ends - counts)[sequence]
    local = index - first
    start = local // parts * group + local % parts * piece
    end = torch.minimum(torch.minimum(start + piece, (local // parts + 1) * group), lengths[sequence])
    start = torch.minimum(start, end)
    if block_size == 0:
        read = read_back = sequence
    elif block_size <= TILE:
        read = index + sequence
        read_back = read + 1
    else:
        read_back = first + local // parts * parts + sequence
        read = read_back + parts
    start, end = start + starts[sequence], end + starts[sequence]
    table = torch.stack([start, end, sequence, read, read_back], 1).to(torch.int32)
    return Pieces(table, torch.stack([ends - counts, ends], 1).to(torch.int32))


@lru_cache(maxsize=64)
def _plan_batch(batch: int, length: int, block_size: int, piece: int, device: torch.device) -> Pieces:
    # Kept between calls, which may lie outside this one's inference mode.
    with torch.inference_mode(False):
        lengths = torch.full((batch,), length, device=device)
        num_pieces = batch * _pieces_per(length, block_size, piece)
        return _plan(lengths, torch.zeros_like(lengths), num_pieces, block_size, piece)


def _plan_packed(cu_seqlens: Tensor, length: int, block_size: int, piece: int) -> Pieces:
    # Whatever the numbers are, no kernel may look outside the tensors.
    bounds = cu_seqlens.to(torch.int64).clamp(0, length).cummax(0).values
    lengths = bounds.diff()
    # Every sequence may add one shorter piece, or block, to those that the tokens fill.
    extra = (len(lengths) - 1) * _pieces_per(1, block_size, piece)
    return _plan(lengths, bounds[:-1], _pieces_per(length, block_size, piece) + extra, block_size, piece)


def _pieces_per(length: int, block_size: int, piece: int) -> int:
    if block_size == 0:
        return -(-length // piece)
    if block_size <= TILE:
        return -(-length // (TILE // block_size * block_size))
    return -(-length // block_size) * -(-block_size // piece)


def _piece_size(tokens: int, heads: int, block_size: int) -> int:
    """Enough pieces to fill a device, and few enough that their states are small beside the tokens."""
    if block_size:
        return _PIECE
    return min(4 * _PIECE, max(TILE, triton.next_power_of_2(tokens * heads // 1024)))


#: Pieces with masked products hold one tile, so there is nothing to load ahead, and wide heads fill the shared memory.
_ONE_STAGE: list[tuple[dict[str, int], int, int]] = [({}, 4, 1), ({}, 8, 1)]


# ---- kernels -----------------------------------------------------------------------------------------------------------


@triton.jit
def _load_rows(ptr, row, head, tokens, inside, widths, WIDTH: tl.constexpr, sb, sl, sn):
    """[tokens, widths] of one head as float32, 0 outside; the last stride is 1."""
    offsets = row * sb + head * sn + tokens.to(tl.int64)[:, None] * sl + widths[None, :]
    return tl.load(ptr + offsets, mask=inside[:, None] & (widths < WIDTH)[None, :], other=0.0).to(tl.float32)


@autotune([({}, 4, 3), ({}, 4, 2), ({}, 8, 3), ({}, 8, 2)], key=["K", "V", "HAS_DEN"])
@triton.jit
def _sum_pieces(
    a_ptr,  # [B, L, N, K]
    b_ptr,  # [B, L, N, V]
    scale_ptr,  # [B, L, N] float32, of b
    c_ptr,  # [B, L, N, K]
    weight_ptr,  # [B, L, N] float32, of c
    table_ptr,
    out_ptr,  # [P, N, W]
    length,
    a_sb, a_sl, a_sn, b_sb, b_sl, b_sn, c_sb, c_sl, c_sn,
    N: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILE: tl.constexpr,
    PACKED: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_DEN: tl.constexpr, HAS_WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """For every piece: sum of a (scale b)^T, and sum of weight c."""
    piece = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(table_ptr + piece * 5)
    end = tl.load(table_ptr + piece * 5 + 1)
    row = tl.load(table_ptr + piece * 5 + 2).to(tl.int64)
    if PACKED:
        row = row * 0
    ks = tl.arange(0, BK)
    vs = tl.program_id(2) * BV + tl.arange(0, BV)
    total = tl.zeros([BK, BV], dtype=tl.float32)
    total_c = tl.zeros([BK], dtype=tl.float32)
    for first in range(start, end, TILE):
        tokens = first + tl.arange(0, TILE)
        inside = tokens < end
        per_token = (row * length + tokens) * N + head
        a = _load_rows(a_ptr, row, head, tokens, inside, ks, K, a_sb, a_sl, a_sn)
        b = _load_rows(b_ptr, row, head, tokens, inside, vs, V, b_sb, b_sl, b_sn)
        if HAS_SCALE:
            b *= tl.load(scale_ptr + per_token, mask=inside, other=0.0)[:, None]
        total += tl.dot(tl.trans(a), b, input_precision=PRECISION)
        if HAS_DEN:
            c = _load_rows(c_ptr, row, head, tokens, inside, ks, K, c_sb, c_sl, c_sn)
            if HAS_WEIGHT:
                c *= tl.load(weight_ptr + per_token, mask=inside, other=0.0)[:, None]
            total_c += tl.sum(c, 0)
    W: tl.constexpr = K * V + K if HAS_DEN else K * V
    out = out_ptr + (piece * N + head) * W
    tl.store(out + ks[:, None] * V + vs[None, :], total, mask=(ks < K)[:, None] & (vs < V)[None, :])
    if HAS_DEN:
        first_columns = tl.program_id(2) == 0
        if first_columns:
            tl.store(out + K * V + ks, total_c, mask=ks < K)


@triton.jit
def _add_up(
    sums_ptr,  # [P, N, W]
    initial_ptr,  # [S, N, W]
    bounds_ptr,
    out_ptr,  # [S, N, W], or with ALL [P + S, N, W]
    W,
    N: tl.constexpr, BLOCK: tl.constexpr, HAS_INITIAL: tl.constexpr, REVERSE: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Running sums of the pieces of a sequence, from its start or from its end; without ALL, the total alone."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < W
    first = tl.load(bounds_ptr + sequence * 2)
    last = tl.load(bounds_ptr + sequence * 2 + 1)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    if HAS_INITIAL:
        total += tl.load(initial_ptr + (sequence * N + head) * W + columns, mask=mask, other=0.0)
    if ALL:
        edge = last if REVERSE else first
        tl.store(out_ptr + ((edge + sequence) * N + head) * W + columns, total, mask=mask)
    for step in range(0, last - first):
        piece = (last - 1 - step if REVERSE else first + step).to(tl.int64)
        total += tl.load(sums_ptr + (piece * N + head) * W + columns, mask=mask, other=0.0)
        if ALL:
            place = (piece if REVERSE else piece + 1) + sequence
            tl.store(out_ptr + (place * N + head) * W + columns, total, mask=mask)
    if not ALL:
        tl.store(out_ptr + (sequence * N + head) * W + columns, total, mask=mask)


@autotune([({}, 4, 2), ({}, 4, 3), ({}, 8, 2), ({}, 8, 3), *_ONE_STAGE], key=["K", "V", "HAS_DEN", "MASKED"])
@triton.jit
def _read_states(
    q_ptr, k_ptr, v_ptr,
    beta_ptr,  # [B, L, N] float32
    qd_ptr, kd_ptr,
    states_ptr, table_ptr,
    out_ptr,  # [B, L, N, V]
    inverse_ptr,  # [B, L, N] float32
    length, block_size, eps,
    q_sb, q_sl, q_sn, k_sb, k_sl, k_sn, v_sb, v_sl, v_sn, qd_sb, qd_sl, qd_sn, kd_sb, kd_sl, kd_sn,
    N: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILE: tl.constexpr,
    PACKED: tl.constexpr, HAS_BETA: tl.constexpr, HAS_DEN: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = q S / (q' z + eps), plus what a token sees inside its piece."""
    piece = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(table_ptr + piece * 5)
    end = tl.load(table_ptr + piece * 5 + 1)
    row = tl.load(table_ptr + piece * 5 + 2).to(tl.int64)
    if PACKED:
        row = row * 0
    W: tl.constexpr = K * V + K if HAS_DEN else K * V
    if start < end:
        state = states_ptr + (tl.load(table_ptr + piece * 5 + 3).to(tl.int64) * N + head) * W
        ks = tl.arange(0, BK)
        vs = tl.program_id(2) * BV + tl.arange(0, BV)
        s = tl.load(state + ks[:, None] * V + vs[None, :], mask=(ks < K)[:, None] & (vs < V)[None, :], other=0.0)
        if HAS_DEN:
            z = tl.load(state + K * V + ks, mask=ks < K, other=0.0)
        for first in range(start, end, TILE):
            tokens = first + tl.arange(0, TILE)
            inside = tokens < end
            per_token = (row * length + tokens) * N + head
            q = _load_rows(q_ptr, row, head, tokens, inside, ks, K, q_sb, q_sl, q_sn)
            out = tl.dot(q, s, input_precision=PRECISION)
            if HAS_DEN:
                qd = _load_rows(qd_ptr, row, head, tokens, inside, ks, K, qd_sb, qd_sl, qd_sn)
                scale = tl.sum(qd * z[None, :], 1)
            if MASKED:
                block = (tokens - start) // block_size
                seen = (block[:, None] >= block[None, :]) & inside[None, :]
                k = _load_rows(k_ptr, row, head, tokens, inside, ks, K, k_sb, k_sl, k_sn)
                v = _load_rows(v_ptr, row, head, tokens, inside, vs, V, v_sb, v_sl, v_sn)
                written = seen.to(tl.float32)
                if HAS_BETA:
                    written *= tl.load(beta_ptr + per_token, mask=inside, other=0.0)[None, :]
                scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * written
                out += tl.dot(scores, v, input_precision=PRECISION)
                if HAS_DEN:
                    kd = _load_rows(kd_ptr, row, head, tokens, inside, ks, K, kd_sb, kd_sl, kd_sn)
                    scale += tl.sum(tl.dot(qd, tl.trans(kd), input_precision=PRECISION) * written, 1)
            if HAS_DEN:
                inverse = 1.0 / (scale + eps)
                out *= inverse[:, None]
                if tl.program_id(2) == 0:
                    tl.store(inverse_ptr + per_token, inverse, mask=inside)
            tl.store(
                out_ptr + per_token[:, None] * V + vs[None, :],
                out.to(out_ptr.dtype.element_ty),
                mask=inside[:, None] & (vs < V)[None, :],
            )


@autotune([({}, 4, 2), ({}, 8, 2)], key=["V"])
@triton.jit
def _scale_gradient(
    grad_ptr, out_ptr, inverse_ptr, result_ptr, length, rows, g_sb, g_sl, g_sn,
    N: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of the denominator, -(grad . out) / denominator, for each token and head."""
    index = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = index < rows
    token = index // N
    vs = tl.arange(0, BV)
    mask = inside[:, None] & (vs < V)[None, :]
    source = token // length * g_sb + token % length * g_sl + index % N * g_sn
    grad = tl.load(grad_ptr + source[:, None] + vs[None, :], mask=mask, other=0.0).to(tl.float32)
    out = tl.load(out_ptr + index[:, None] * V + vs[None, :], mask=mask, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_ptr + index, mask=inside, other=0.0)
    tl.store(result_ptr + index, -tl.sum(grad * out, 1) * inverse, mask=inside)


@autotune([({}, 4, 2), ({}, 8, 2), *_ONE_STAGE], key=["K", "V", "HAS_DEN", "MASKED"])
@triton.jit
def _grad_query(
    grad_ptr, k_ptr, v_ptr, beta_ptr, kd_ptr, inverse_ptr,
    dscale_ptr,  # [B, L, N] float32
    states_ptr, table_ptr,
    dq_ptr, dqd_ptr,  # [B, L, N, K]
    length, block_size,
    g_sb, g_sl, g_sn, k_sb, k_sl, k_sn, v_sb, v_sl, v_sn, kd_sb, kd_sl, kd_sn,
    N: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILE: tl.constexpr,
    PACKED: tl.constexpr, HAS_BETA: tl.constexpr, HAS_DEN: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq = dn S^T, dq' = dscale z, plus what comes from inside the piece; dn is the gradient of the numerator."""
    piece = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(table_ptr + piece * 5)
    end = tl.load(table_ptr + piece * 5 + 1)
    row = tl.load(table_ptr + piece * 5 + 2).to(tl.int64)
    if PACKED:
        row = row * 0
    W: tl.constexpr = K * V + K if HAS_DEN else K * V
    if start < end:
        state = states_ptr + (tl.load(table_ptr + piece * 5 + 3).to(tl.int64) * N + head) * W
        ks = tl.arange(0, BK)
        for first in range(start, end, TILE):
            tokens = first + tl.arange(0, TILE)
            inside = tokens < end
            per_token = (row * length + tokens) * N + head
            dq = tl.zeros([TILE, BK], dtype=tl.float32)
            products = tl.zeros([TILE, TILE], dtype=tl.float32)
            for v_first in tl.static_range(0, V, BV):
                vs = v_first + tl.arange(0, BV)
                dn = _load_rows(grad_ptr, row, head, tokens, inside, vs, V, g_sb, g_sl, g_sn)
                if HAS_DEN:
                    dn *= tl.load(inverse_ptr + per_token, mask=inside, other=0.0)[:, None]
                s = tl.load(
                    state + ks[:, None] * V + vs[None, :], mask=(ks < K)[:, None] & (vs < V)[None, :], other=0.0
                )
                dq += tl.dot(dn, tl.trans(s), input_precision=PRECISION)
                if MASKED:
                    v = _load_rows(v_ptr, row, head, tokens, inside, vs, V, v_sb, v_sl, v_sn)
                    products += tl.dot(dn, tl.trans(v), input_precision=PRECISION)
            if MASKED:
                block = (tokens - start) // block_size
                written = ((block[:, None] >= block[None, :]) & inside[None, :]).to(tl.float32)
                if HAS_BETA:
                    written *= tl.load(beta_ptr + per_token, mask=inside, other=0.0)[None, :]
                k = _load_rows(k_ptr, row, head, tokens, inside, ks, K, k_sb, k_sl, k_sn)
                dq += tl.dot(products * written, k, input_precision=PRECISION)
            target = per_token[:, None] * K + ks[None, :]
            mask = inside[:, None] & (ks < K)[None, :]
            tl.store(dq_ptr + target, dq.to(dq_ptr.dtype.element_ty), mask=mask)
            if HAS_DEN:
                z = tl.load(state + K * V + ks, mask=ks < K, other=0.0)
                dqd = tl.zeros([TILE, BK], dtype=tl.float32) + z[None, :]
                if MASKED:
                    kd = _load_rows(kd_ptr, row, head, tokens, inside, ks, K, kd_sb, kd_sl, kd_sn)
                    dqd += tl.dot(written, kd, input_precision=PRECISION)
                dqd *= tl.load(dscale_ptr + per_token, mask=inside, other=0.0)[:, None]
                tl.store(dqd_ptr + target, dqd.to(dqd_ptr.dtype.element_ty), mask=mask)


@autotune([({}, 4, 2), ({}, 8, 2), *_ONE_STAGE], key=["K", "V", "HAS_DEN", "MASKED"])
@triton.jit
def _grad_key_value(
    grad_ptr, q_ptr, k_ptr, v_ptr, beta_ptr, qd_ptr, kd_ptr, inverse_ptr, dscale_ptr,
    dstates_ptr, table_ptr,
    dk_ptr, dv_ptr, dbeta_ptr, dkd_ptr,
    length, block_size,
    g_sb, g_sl, g_sn, q_sb, q_sl, q_sn, k_sb, k_sl, k_sn, v_sb, v_sl, v_sn,
    qd_sb, qd_sl, qd_sn, kd_sb, kd_sl, kd_sn,
    N: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILE: tl.constexpr,
    PACKED: tl.constexpr, HAS_BETA: tl.constexpr, HAS_DEN: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """With D, d the gradient of the states that see a token: dk = beta D v, dv = beta D^T k, dk' = beta d, and

    dbeta = v D^T k + k' d; plus what comes from queries inside the piece."""
    piece = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start = tl.load(table_ptr + piece * 5)
    end = tl.load(table_ptr + piece * 5 + 1)
    row = tl.load(table_ptr + piece * 5 + 2).to(tl.int64)
    if PACKED:
        row = row * 0
    W: tl.constexpr = K * V + K if HAS_DEN else K * V
    if start < end:
        dstate = dstates_ptr + (tl.load(table_ptr + piece * 5 + 4).to(tl.int64) * N + head) * W
        ks = tl.arange(0, BK)
        for first in range(start, end, TILE):
            tokens = first + tl.arange(0, TILE)
            inside = tokens < end
            per_token = (row * length + tokens) * N + head
            k = _load_rows(k_ptr, row, head, tokens, inside, ks, K, k_sb, k_sl, k_sn)
            if HAS_BETA:
                beta = tl.load(beta_ptr + per_token, mask=inside, other=0.0)
                dbeta = tl.zeros([TILE], dtype=tl.float32)
            if MASKED:
                q = _load_rows(q_ptr, row, head, tokens, inside, ks, K, q_sb, q_sl, q_sn)
                block = (tokens - start) // block_size
                # [queries, keys]
                seen = ((block[:, None] >= block[None, :]) & inside[:, None] & inside[None, :]).to(tl.float32)
                scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * seen
                products = tl.zeros([TILE, TILE], dtype=tl.float32)
            dk = tl.zeros([TILE, BK], dtype=tl.float32)
            for v_first in tl.static_range(0, V, BV):
                vs = v_first + tl.arange(0, BV)
                v = _load_rows(v_ptr, row, head, tokens, inside, vs, V, v_sb, v_sl, v_sn)
                d = tl.load(
                    dstate + ks[:, None] * V + vs[None, :], mask=(ks < K)[:, None] & (vs < V)[None, :], other=0.0
                )
                dk += tl.dot(v, tl.trans(d), input_precision=PRECISION)
                dv = tl.dot(k, d, input_precision=PRECISION)
                if MASKED:
                    dn = _load_rows(grad_ptr, row, head, tokens, inside, vs, V, g_sb, g_sl, g_sn)
                    if HAS_DEN:
                        dn *= tl.load(inverse_ptr + per_token, mask=inside, other=0.0)[:, None]
                    dv += tl.dot(tl.trans(scores), dn, input_precision=PRECISION)
                    products += tl.dot(dn, tl.trans(v), input_precision=PRECISION)
                if HAS_BETA:
                    dbeta += tl.sum(v * dv, 1)
                    dv *= beta[:, None]
                tl.store(
                    dv_ptr + per_token[:, None] * V + vs[None, :],
                    dv.to(dv_ptr.dtype.element_ty),
                    mask=inside[:, None] & (vs < V)[None, :],
                )
            if MASKED:
                dk += tl.dot(tl.trans(products * seen), q, input_precision=PRECISION)
            if HAS_BETA:
                dk *= beta[:, None]
            target = per_token[:, None] * K + ks[None, :]
            mask = inside[:, None] & (ks < K)[None, :]
            tl.store(dk_ptr + target, dk.to(dk_ptr.dtype.element_ty), mask=mask)
            if HAS_DEN:
                dz = tl.load(dstate + K * V + ks, mask=ks < K, other=0.0)
                dkd = tl.zeros([TILE, BK], dtype=tl.float32) + dz[None, :]
                if MASKED:
                    qd = _load_rows(qd_ptr, row, head, tokens, inside, ks, K, qd_sb, qd_sl, qd_sn)
                    qd *= tl.load(dscale_ptr + per_token, mask=inside, other=0.0)[:, None]
                    dkd += tl.dot(tl.trans(seen), qd, input_precision=PRECISION)
                if HAS_BETA:
                    kd = _load_rows(kd_ptr, row, head, tokens, inside, ks, K, kd_sb, kd_sl, kd_sn)
                    dbeta += tl.sum(kd * dkd, 1)
                    dkd *= beta[:, None]
                tl.store(dkd_ptr + target, dkd.to(dkd_ptr.dtype.element_ty), mask=mask)
            if HAS_BETA:
                tl.store(dbeta_ptr + per_token, dbeta, mask=inside)


# ---- launches ----------------------------------------------------------------------------------------------------------


class _Layout:
    """What forward and backward launch with: the pieces, the sizes, and the inputs as rows of stride 1."""

    def __init__(self, query: Tensor, value: Tensor, cu_seqlens: Tensor | None, block_size: int, has_den: bool):
        batch, length, heads, key_width = query.shape
        value_width = value.shape[-1]
        piece = _piece_size(batch * length, heads, block_size)
        if cu_seqlens is None:
            self.pieces = _plan_batch(batch, length, block_size, piece, query.device)
        else:
            self.pieces = _plan_packed(cu_seqlens, length, block_size, piece)
        self.num_pieces, self.num_sequences = len(self.pieces.table), len(self.pieces.bounds)
        self.heads, self.length, self.block_size = heads, length, block_size
        self.state_width = key_width * value_width + (key_width if has_den else 0)
        self.running = block_size > 0
        block_k = max(16, triton.next_power_of_2(key_width))
        self.block_v = max(16, min(triton.next_power_of_2(value_width), 128 if block_k <= 64 else 64))
        self.value_blocks = triton.cdiv(value_width, self.block_v)
        self.sizes: dict[str, Any] = {
            "N": heads,
            "K": key_width,
            "V": value_width,
            "BK": block_k,
            "BV": self.block_v,
            "TILE": TILE,
            "PACKED": cu_seqlens is not None,
            "HAS_DEN": has_den,
        }

    def sum_pieces(
        self, a: Tensor, b: Tensor, scale: Tensor | None, c: Tensor | None, weight: Tensor | None, precision: str
    ) -> Tensor:
        out = a.new_empty(self.num_pieces, self.heads, self.state_width, dtype=torch.float32)
        _sum_pieces[(self.num_pieces, self.heads, self.value_blocks)](
            *(a, b, scale, c, weight, self.pieces.table, out, self.length),
            *(*_strides(a), *_strides(b), *_strides(c)),
            **self.sizes,
            HAS_SCALE=scale is not None,
            HAS_WEIGHT=weight is not None,
            PRECISION=precision,
        )
        return out

    def add_up(self, sums: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
        places = self.num_sequences + (self.num_pieces if self.running else 0)
        out = sums.new_empty(places, self.heads, self.state_width)
        if self.running and self.sizes["PACKED"]:
            out.zero_()  # places of pieces that turned out not to be needed
        block = min(1024, triton.next_power_of_2(self.state_width))
        _add_up[(self.num_sequences, self.heads, triton.cdiv(self.state_width, block))](
            *(sums, initial, self.pieces.bounds, out, self.state_width),
            N=self.heads,
            BLOCK=block,
            HAS_INITIAL=initial is not None,
            REVERSE=reverse,
            ALL=self.running,
        )
        return out

    def edge(self, states: Tensor, last: bool) -> Tensor:
        """The states after the last, or before the first, piece of each sequence: [S, N, W]."""
        if not self.running:
            return states.clone()
        places = self.pieces.bounds[:, 1 if last else 0] + torch.arange(self.num_sequences, device=states.device)
        return states.index_select(0, places)


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    if tensor is None:
        return 0, 0, 0
    assert tensor.stride(3) == 1
    return tensor.stride(0), tensor.stride(1), tensor.stride(2)


def _rows(tensor: Tensor | None) -> Tensor | None:
    """The tensor, copied if the entries of its last axis are not neighbours."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(torch.float32).contiguous()


_FORWARD = (
    "(Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? query_den, Tensor? key_den, Tensor? initial, "
    "Tensor? cu_seqlens, int block_size) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad, Tensor? grad_state, Tensor query, Tensor key, Tensor value, Tensor? gate, Tensor? query_den, "
    "Tensor? key_den, Tensor? cu_seqlens, int block_size, Tensor out, Tensor states, Tensor inverse) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("videogen::linear_attention", mutates_args=(), schema=_FORWARD)
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns out [B, L, N, V], the last state [S, N, W], the states that were read, and 1 / denominator [B, L, N].

    `block_size` 0 is bidirectional. The third is empty then: it is the second; the fourth is empty without a denominator.
    """
    q, k, v, qd, kd = (_rows(t) for t in (query, key, value, query_den, key_den))
    assert q is not None and k is not None and v is not None
    beta = _wide(gate)
    layout = _Layout(q, v, cu_seqlens, block_size, qd is not None)
    precision = dot_precision(q, k, v)
    # Packed sequences need not cover every token: what belongs to none is 0.
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    inverse = q.new_empty(q.shape[:3] if qd is not None else 0, dtype=torch.float32)
    if cu_seqlens is not None:
        out.zero_()
        inverse.zero_()
    with on_device(q):
        sums = layout.sum_pieces(k, v, beta, kd, beta, precision)
        states = layout.add_up(sums, _wide(initial), reverse=False)
        _read_states[(layout.num_pieces, layout.heads, layout.value_blocks)](
            *(q, k, v, beta, qd, kd, states, layout.pieces.table, out, inverse, layout.length, block_size, EPS),
            *(*_strides(q), *_strides(k), *_strides(v), *_strides(qd), *_strides(kd)),
            **layout.sizes,
            HAS_BETA=beta is not None,
            MASKED=0 < block_size <= TILE,
            PRECISION=precision,
        )
    if layout.running:
        return out, layout.edge(states, last=True), states, inverse
    return out, states, states.new_empty(0), inverse


@_forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, length, heads, key_width = query.shape
    has_den = query_den is not None
    width = key_width * value.shape[-1] + (key_width if has_den else 0)
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if block_size == 0:
        states = query.new_empty(0, dtype=torch.float32)
    else:
        if cu_seqlens is None:
            pieces = batch * _pieces_per(length, block_size, _PIECE)
        else:
            pieces = _pieces_per(length, block_size, _PIECE) + (sequences - 1) * _pieces_per(1, block_size, _PIECE)
        states = query.new_empty(pieces + sequences, heads, width, dtype=torch.float32)
    return (
        torch.empty(value.shape, dtype=value.dtype, device=value.device),
        query.new_empty(sequences, heads, width, dtype=torch.float32),
        states,
        query.new_empty(query.shape[:3] if has_den else 0, dtype=torch.float32),
    )


@torch.library.custom_op("videogen::linear_attention_backward", mutates_args=(), schema=_BACKWARD)
def _backward(
    grad: Tensor,
    grad_state: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    cu_seqlens: Tensor | None,
    block_size: int,
    out: Tensor,
    states: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, gate, query_den, key_den and the initial state; empty where there is no input."""
    g, q, k, v, qd, kd = (_rows(t) for t in (grad, query, key, value, query_den, key_den))
    assert g is not None and q is not None and k is not None and v is not None
    beta = _wide(gate)
    has_den = qd is not None
    layout = _Layout(q, v, cu_seqlens, block_size, has_den)
    precision = dot_precision(q, k, v)
    fill = torch.empty if cu_seqlens is None else torch.zeros

    def like(tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return q.new_empty(0)
        return fill(tensor.shape, dtype=tensor.dtype, device=tensor.device)

    dq, dk, dv, dqd, dkd = (like(t) for t in (q, k, v, qd, kd))
    dbeta = like(beta)
    denominator = inverse if has_den else None
    flags = {"HAS_BETA": beta is not None, "MASKED": 0 < block_size <= TILE, "PRECISION": precision}
    table = layout.pieces.table
    with on_device(q):
        dscale = None
        if has_den:
            dscale = torch.empty_like(inverse)
            rows = inverse.numel()
            _scale_gradient[(triton.cdiv(rows, 16),)](
                *(g, out, inverse, dscale, layout.length, rows, *_strides(g)),
                N=layout.heads,
                V=v.shape[-1],
                BV=triton.next_power_of_2(v.shape[-1]),
                ROWS=16,
            )
        sums = layout.sum_pieces(q, g, denominator, qd, dscale, precision)
        dstates = layout.add_up(sums, _wide(grad_state), reverse=True)
        grid = (layout.num_pieces, layout.heads)
        _grad_query[grid](
            *(g, k, v, beta, kd, denominator, dscale, states, table, dq, dqd, layout.length, block_size),
            *(*_strides(g), *_strides(k), *_strides(v), *_strides(kd)),
            **layout.sizes,
            **flags,
        )
        _grad_key_value[grid](
            *(g, q, k, v, beta, qd, kd, denominator, dscale, dstates, table, dk, dv, dbeta, dkd),
            *(layout.length, block_size),
            *(*_strides(g), *_strides(q), *_strides(k), *_strides(v), *_strides(qd), *_strides(kd)),
            **layout.sizes,
            **flags,
        )
    dgate = dbeta if gate is None else dbeta.to(gate.dtype)
    return dq, dk, dv, dgate, dqd, dkd, layout.edge(dstates, last=False)


@_backward.register_fake
def _(
    grad: Tensor,
    grad_state: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    cu_seqlens: Tensor | None,
    block_size: int,
    out: Tensor,
    states: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, ...]:
    def like(tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return query.new_empty(0)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)

    heads, key_width = query.shape[2:]
    width = key_width * value.shape[-1] + (0 if query_den is None else key_width)
    sequences = query.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    grad_initial = query.new_empty(sequences, heads, width, dtype=torch.float32)
    return (*(like(t) for t in (query, key, value, gate, query_den, key_den)), grad_initial)


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    *tensors, initial, cu_seqlens, block_size = inputs
    out, final, states, inverse = output
    ctx.set_materialize_grads(False)
    ctx.block_size, ctx.has_initial = block_size, initial is not None
    ctx.save_for_backward(*tensors, cu_seqlens, out, states if block_size else final, inverse)


def _apply_backward(
    ctx: Any, grad: Tensor | None, grad_state: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    *tensors, cu_seqlens, out, states, inverse = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(out)
    *grads, grad_initial = torch.ops.videogen.linear_attention_backward(
        grad, grad_state, *tensors, cu_seqlens, ctx.block_size, out, states, inverse
    )
    given = [g if t is not None else None for g, t in zip(grads, tensors, strict=True)]
    return *given, grad_initial if ctx.has_initial else None, None, None


_forward.register_autograd(_apply_backward, setup_context=_setup_context)


def linear_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_size: int | None,
    gate: Tensor | None,
    query_den: Tensor | None,
    key_den: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns out [B, L, N, V] and the state [S, N, W]; `initial` likewise. `block_size` None is bidirectional."""
    out, state, _, _ = torch.ops.videogen.linear_attention(
        query, key, value, gate, query_den, key_den, initial, cu_seqlens, block_size or 0
    )
    return out, state
