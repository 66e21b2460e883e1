"""Triton kernels of the gated delta rule, forwards; see README.md for the equations.

First every chunk by itself (`prepare`), then one pass over the chunks that carries the state
(`scan_outputs`, or `scan_states` followed by `outputs` over all chunks at once).

Arguments are pointers to contiguous arrays: q, a, b [B, T, H, K], z and out [B, T, H, V],
g [B, T, H, K] float32 (HEAD_DECAY: [B, T, H]), states [B, H, K, V] float32. What passes between
kernels is by chunks of BT tokens, padded with tokens that do nothing: [B, H, N, BT, ...].
The programs of all kernels lie on the first grid axis, which is the one without a limit of 65535.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl

from jaxlab_kernels.delta_rule.triton_spans import (
    exponents,
    level_pairs,
    product,
    whole_spans,
    widened,
)


@triton.jit
def tokens_of(sequence, chunk, T, H, BT: tl.constexpr):
    """Number of the (batch, time, head) of each token of a chunk [BT], and whether there is one."""
    time = chunk * BT + tl.arange(0, BT)
    return (sequence // H * T + time) * H + sequence % H, time < T


@triton.jit
def load_tokens(pointer, token, valid, first, D: tl.constexpr, BD: tl.constexpr):
    """[BT, BD]: channels first .. first + BD of tokens; 0 where there is no token."""
    channel = first + tl.arange(0, BD)
    return tl.load(pointer + token[:, None] * D + channel[None, :], mask=valid[:, None], other=0.0)


@triton.jit
def store_tokens(pointer, x, token, valid, first, D: tl.constexpr):
    """The inverse of `load_tokens`."""
    channel = first + tl.arange(0, x.shape[1])
    tl.store(
        pointer + token[:, None] * D + channel[None, :],
        x.to(pointer.dtype.element_ty),
        mask=valid[:, None],
    )


@triton.jit
def load_decay(g, token, valid, first, K: tl.constexpr, BK: tl.constexpr,
               HEAD_DECAY: tl.constexpr):  # fmt: skip
    """[BT, BK] float32; one decay per head is repeated over channels."""
    if HEAD_DECAY:
        x = tl.load(g + token, mask=valid, other=0.0)[:, None]
        x = tl.broadcast_to(x, (x.shape[0], BK))
    else:
        x = load_tokens(g, token, valid, first, K, BK)
    return x.to(tl.float32)


@triton.jit
def tile(pointer, index, first, ROWS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """Pointers to columns first .. first + BD of matrix `index` of an array [..., ROWS, D]."""
    row = tl.arange(0, ROWS)[:, None]
    column = first + tl.arange(0, BD)[None, :]
    return pointer + index.to(tl.int64) * (ROWS * D) + row * D + column


@triton.jit
def inverse(inner, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)^-1 of a strictly lower triangular L [BT, BT], by blocks that double.

    [[A, 0], [C, B]]^-1 has the corner -B^-1 C A^-1. Powers of L would lose every digit.
    """
    BT: tl.constexpr = inner.shape[0]
    i = tl.arange(0, BT)
    x = tl.where(i[:, None] == i[None, :], 1.0, tl.where(level_pairs(0, BT), -inner, 0.0))
    for level in tl.static_range(1, LEVELS):
        corner = tl.where(level_pairs(level, BT), inner, 0.0)
        right = product(corner, x, PRECISION)
        x -= product(x, right, PRECISION)
    return x


@triton.jit
def prepare(
    q, a, b, z, g, T, H,
    w, u, rows, columns, outer, solve, total,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    LEVELS: tl.constexpr, HEAD_DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Everything of a chunk that needs no state; a program per (sequence and head, chunk).

    With G the sum of g from the chunk's start and X = (I + L)^-1, it writes w = X (a e^G),
    u = X z, rows = q e^G, columns = b e^(G_end - G), outer = P, solve = X, total = e^G_end.
    """
    chunks = tl.cdiv(T, BT)
    program = tl.program_id(0)
    sequence = (program // chunks).to(tl.int64)
    chunk = program % chunks
    index = sequence * chunks + chunk
    token, valid = tokens_of(sequence, chunk, T, H, BT)
    i = tl.arange(0, BT)
    dtype = q.dtype.element_ty

    inner = tl.zeros((BT, BT), tl.float32)
    scores = tl.zeros((BT, BT), tl.float32)
    for k in range(0, K, BK):
        q_k = load_tokens(q, token, valid, k, K, BK).to(tl.float32)
        a_k = load_tokens(a, token, valid, k, K, BK).to(tl.float32)
        b_k = load_tokens(b, token, valid, k, K, BK).to(tl.float32)
        g_k = load_decay(g, token, valid, k, K, BK, HEAD_DECAY)
        diagonal = tl.sum(q_k * b_k, axis=1)
        scores += tl.where(i[:, None] == i[None, :], diagonal[:, None], 0.0)
        prefix = g_k
        suffix = tl.zeros_like(g_k)
        for level in tl.static_range(LEVELS):
            weight = tl.exp(exponents(prefix, suffix, level))
            column = tl.trans((b_k * weight).to(dtype))
            pairs = level_pairs(level, BT)
            pair = product((a_k * weight).to(dtype), column, PRECISION)
            inner += tl.where(pairs, pair, 0.0)
            pair = product((q_k * weight).to(dtype), column, PRECISION)
            scores += tl.where(pairs, pair, 0.0)
            prefix, suffix = widened(prefix, suffix, g_k, level)
    tl.store(tile(outer, index, 0, BT, BT, BT), scores.to(dtype))
    x = inverse(inner, LEVELS, PRECISION).to(dtype)
    tl.store(tile(solve, index, 0, BT, BT, BT), x)

    for k in range(0, K, BK):
        q_k = load_tokens(q, token, valid, k, K, BK).to(tl.float32)
        a_k = load_tokens(a, token, valid, k, K, BK).to(tl.float32)
        b_k = load_tokens(b, token, valid, k, K, BK).to(tl.float32)
        g_k = load_decay(g, token, valid, k, K, BK, HEAD_DECAY)
        prefix, suffix = whole_spans(g_k, LEVELS)
        since = tl.exp(prefix)
        read = product(x, (a_k * since).to(dtype), PRECISION)
        tl.store(tile(w, index, k, BT, K, BK), read.to(dtype))
        tl.store(tile(rows, index, k, BT, K, BK), (q_k * since).to(dtype))
        tl.store(tile(columns, index, k, BT, K, BK), (b_k * tl.exp(suffix)).to(dtype))
        tl.store(total + index * K + k + tl.arange(0, BK), tl.exp(tl.sum(g_k, axis=0)))
    for v in range(0, V, BV):
        z_v = load_tokens(z, token, valid, v, V, BV).to(dtype)
        target = product(x, z_v, PRECISION)
        tl.store(tile(u, index, v, BT, V, BV), target.to(dtype))


@triton.jit
def scan_outputs(
    w, u, rows, columns, outer, total, initial, T, H,
    out, last,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The pass over chunks with outputs; a program per (sequence and head, BV channels)."""
    program = tl.program_id(0)
    sequence = (program // (V // BV)).to(tl.int64)
    v = program % (V // BV) * BV
    chunks = tl.cdiv(T, BT)
    dtype = w.dtype.element_ty
    state = tl.load(tile(initial, sequence, v, K, V, BV))
    for chunk in range(0, chunks):
        index = sequence * chunks + chunk
        w_n = tl.load(tile(w, index, 0, BT, K, K))
        u_n = tl.load(tile(u, index, v, BT, V, BV)).to(tl.float32)
        rows_n = tl.load(tile(rows, index, 0, BT, K, K))
        columns_n = tl.load(tile(columns, index, 0, BT, K, K))
        outer_n = tl.load(tile(outer, index, 0, BT, BT, BT))
        total_n = tl.load(total + index * K + tl.arange(0, K))
        known = state.to(dtype)
        edit = (u_n - product(w_n, known, PRECISION)).to(dtype)
        read = product(rows_n, known, PRECISION)
        read += product(outer_n, edit, PRECISION)
        token, valid = tokens_of(sequence, chunk, T, H, BT)
        store_tokens(out, read, token, valid, v, V)
        state = total_n[:, None] * state
        state += product(tl.trans(columns_n), edit, PRECISION)
    tl.store(tile(last, sequence, v, K, V, BV), state)


@triton.jit
def scan_states(
    w, u, columns, total, initial, T, H,
    edits, states, last,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The same without outputs: keeps u - W S and the state before each chunk."""
    program = tl.program_id(0)
    sequence = (program // (V // BV)).to(tl.int64)
    v = program % (V // BV) * BV
    chunks = tl.cdiv(T, BT)
    dtype = w.dtype.element_ty
    state = tl.load(tile(initial, sequence, v, K, V, BV))
    for chunk in range(0, chunks):
        index = sequence * chunks + chunk
        w_n = tl.load(tile(w, index, 0, BT, K, K))
        u_n = tl.load(tile(u, index, v, BT, V, BV)).to(tl.float32)
        columns_n = tl.load(tile(columns, index, 0, BT, K, K))
        total_n = tl.load(total + index * K + tl.arange(0, K))
        known = state.to(dtype)
        tl.store(tile(states, index, v, K, V, BV), known)
        edit = (u_n - product(w_n, known, PRECISION)).to(dtype)
        tl.store(tile(edits, index, v, BT, V, BV), edit)
        state = total_n[:, None] * state
        state += product(tl.trans(columns_n), edit, PRECISION)
    tl.store(tile(last, sequence, v, K, V, BV), state)


@triton.jit
def outputs(
    rows, outer, edits, states, T, H,
    out,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(q e^G) S + P u; a program per (sequence and head, chunk, BV channels)."""
    program = tl.program_id(0)
    v = program % (V // BV) * BV
    index = (program // (V // BV)).to(tl.int64)
    chunks = tl.cdiv(T, BT)
    rows_n = tl.load(tile(rows, index, 0, BT, K, K))
    state = tl.load(tile(states, index, v, K, V, BV))
    read = product(rows_n, state, PRECISION)
    outer_n = tl.load(tile(outer, index, 0, BT, BT, BT))
    edit = tl.load(tile(edits, index, v, BT, V, BV))
    read += product(outer_n, edit, PRECISION)
    token, valid = tokens_of(index // chunks, index % chunks, T, H, BT)
    store_tokens(out, read, token, valid, v, V)
