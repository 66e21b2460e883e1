"""Triton kernels of the gated delta rule, forwards; see README.md for the equations.

First every chunk by itself (`pair_products`, `solve`), then one pass over the chunks that carries
the state (`scan_outputs`, or `scan_states` followed by `outputs` over all chunks at once).

Arguments are pointers to contiguous arrays: q, a, b [B, T, H, K], z and out [B, T, H, V],
g [B, T, H, K] float32 (HEAD_DECAY: [B, T, H]), states [B, H, K, V] float32. What passes between
kernels is by chunks of BT tokens, padded with tokens that do nothing: [B, H, N, BT, ...].
The programs of all kernels lie on the first grid axis, which is the one without a limit of 65535.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl

from jaxlab_kernels.delta_rule.triton_spans import (
    level_pairs,
    prefix_sums,
    product,
    suffix_sums,
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
def pair_products(
    q, a, b, g, T, H,
    inner, outer,
    K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, LEVELS: tl.constexpr,
    HEAD_DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """L and P of a chunk; a program per (sequence and head, chunk).

    A level at a time, its rows and columns packed into BT / 2 of each, and its pairs written where
    they belong: no tile has the size of the chunk, and no mask waits in registers.
    """
    HALF: tl.constexpr = BT // 2
    chunks = tl.cdiv(T, BT)
    index = tl.program_id(0).to(tl.int64)
    sequence = index // chunks
    start = index % chunks * BT
    first = (sequence // H * T + start) * H + sequence % H
    matrix = index * (BT * BT)
    r = tl.arange(0, HALF)
    for level in tl.static_range(LEVELS):
        column = ((r >> level) << (level + 1)) + (r & ((1 << level) - 1))
        row = column + (1 << level)
        is_last = (r & ((1 << level) - 1)) == (1 << level) - 1
        of_a = tl.zeros((HALF, HALF), tl.float32)
        of_q = tl.zeros((HALF, HALF), tl.float32)
        for k in range(0, K, BK):
            valid = start + row < T
            token = first + row * H
            q_k = load_tokens(q, token, valid, k, K, BK).to(tl.float32)
            a_k = load_tokens(a, token, valid, k, K, BK).to(tl.float32)
            since = load_decay(g, token, valid, k, K, BK, HEAD_DECAY)
            since = tl.exp(prefix_sums(since, 1 << level))
            b_k = load_tokens(b, first + column * H, start + column < T, k, K, BK).to(tl.float32)
            follows = (start + column + 1 < T) & (is_last == 0)
            until = load_decay(g, first + (column + 1) * H, follows, k, K, BK, HEAD_DECAY)
            until = tl.exp(suffix_sums(until, 1 << level))
            decayed = tl.trans((b_k * until).to(b.dtype.element_ty))
            of_a += product((a_k * since).to(a.dtype.element_ty), decayed, PRECISION)
            of_q += product((q_k * since).to(q.dtype.element_ty), decayed, PRECISION)
        place = matrix + row[:, None] * BT + column[None, :]
        same = (r >> level)[:, None] == (r >> level)[None, :]
        tl.store(inner + place, of_a, mask=same)
        tl.store(outer + place, of_q.to(outer.dtype.element_ty), mask=same)

    i = tl.arange(0, BT)
    diagonal = tl.zeros((BT,), tl.float32)
    for k in range(0, K, BK):
        valid = start + i < T
        q_k = load_tokens(q, first + i * H, valid, k, K, BK).to(tl.float32)
        b_k = load_tokens(b, first + i * H, valid, k, K, BK).to(tl.float32)
        diagonal += tl.sum(q_k * b_k, axis=1)
    zero = tl.zeros((BT, BT), tl.float32).to(outer.dtype.element_ty)
    above = i[:, None] < i[None, :]
    tl.store(outer + matrix + i * (BT + 1), diagonal.to(outer.dtype.element_ty))
    tl.store(outer + matrix + i[:, None] * BT + i[None, :], zero, mask=above)


@triton.jit
def inverse(inner, BT: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)^-1 by blocks that double, of pointers [BT, BT] to L below the diagonal.

    [[A, 0], [C, B]]^-1 has the corner -B^-1 C A^-1. Powers of L would lose every digit.
    """
    i = tl.arange(0, BT)
    identity = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    x = identity - tl.load(inner, mask=level_pairs(0, BT), other=0.0)
    for level in tl.static_range(1, LEVELS):
        corner = tl.load(inner, mask=level_pairs(level, BT), other=0.0)
        x -= product(x, product(corner, x, PRECISION), PRECISION)
    return x


@triton.jit
def solve(
    inner, q, a, b, z, g, T, H,
    x, w, u, rows, columns, total,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    LEVELS: tl.constexpr, HEAD_DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What else of a chunk needs no state; a program per (sequence and head, chunk).

    With G the sum of g from the chunk's start it writes x = (I + L)^-1, w = x (a e^G), u = x z,
    rows = q e^G, columns = b e^(G_end - G), total = e^G_end.
    """
    chunks = tl.cdiv(T, BT)
    index = tl.program_id(0).to(tl.int64)
    chunk = index % chunks
    token, valid = tokens_of(index // chunks, chunk, T, H, BT)
    i = tl.arange(0, BT)
    follows = (chunk * BT + i + 1 < T) & (i < BT - 1)
    dtype = q.dtype.element_ty
    inverted = inverse(tile(inner, index, 0, BT, BT, BT), BT, LEVELS, PRECISION).to(dtype)
    tl.store(tile(x, index, 0, BT, BT, BT), inverted)
    for v in range(0, V, BV):
        z_v = load_tokens(z, token, valid, v, V, BV)
        target = product(inverted, z_v, PRECISION)
        tl.store(tile(u, index, v, BT, V, BV), target.to(dtype))
    for k in range(0, K, BK):
        a_k = load_tokens(a, token, valid, k, K, BK).to(tl.float32)
        g_k = load_decay(g, token, valid, k, K, BK, HEAD_DECAY)
        since = tl.exp(prefix_sums(g_k, BT))
        read = product(inverted, (a_k * since).to(dtype), PRECISION)
        tl.store(tile(w, index, k, BT, K, BK), read.to(dtype))
        q_k = load_tokens(q, token, valid, k, K, BK).to(tl.float32)
        tl.store(tile(rows, index, k, BT, K, BK), (q_k * since).to(dtype))
        tl.store(total + index * K + k + tl.arange(0, BK), tl.exp(tl.sum(g_k, axis=0)))
        b_k = load_tokens(b, token, valid, k, K, BK).to(tl.float32)
        after = load_decay(g, token + H, follows, k, K, BK, HEAD_DECAY)
        until = tl.exp(suffix_sums(after, BT))
        tl.store(tile(columns, index, k, BT, K, BK), (b_k * until).to(dtype))


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
