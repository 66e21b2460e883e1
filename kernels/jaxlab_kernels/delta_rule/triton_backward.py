"""Triton kernels of the gated delta rule, backwards; see README.md for the equations.

`scan_gradients` passes over the chunks in reverse and carries the gradient of the state; then
`pair_gradients` and `operand_gradients` take every chunk by itself. Conventions are those of
`triton_forward`.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl

from jaxlab_kernels.delta_rule.triton_forward import (
    load_decay,
    load_tokens,
    store_tokens,
    tile,
    tokens_of,
)
from jaxlab_kernels.delta_rule.triton_spans import (
    exponents,
    is_row,
    level_pairs,
    product,
    sibling_sums,
    widened,
)


@triton.jit
def scan_gradients(
    w, rows, columns, outer, total, d_out, d_last, T, H,
    d_edits, d_states, d_initial,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """du of every chunk and the gradient of the state after it; by (sequence and head, BV)."""
    program = tl.program_id(0)
    sequence = (program // (V // BV)).to(tl.int64)
    v = program % (V // BV) * BV
    chunks = tl.cdiv(T, BT)
    dtype = w.dtype.element_ty
    d_state = tl.load(tile(d_last, sequence, v, K, V, BV))
    for step in range(0, chunks):
        chunk = chunks - 1 - step
        index = sequence * chunks + chunk
        w_n = tl.load(tile(w, index, 0, BT, K, K))
        rows_n = tl.load(tile(rows, index, 0, BT, K, K))
        columns_n = tl.load(tile(columns, index, 0, BT, K, K))
        outer_n = tl.load(tile(outer, index, 0, BT, BT, BT))
        total_n = tl.load(total + index * K + tl.arange(0, K))
        token, valid = tokens_of(sequence, chunk, T, H, BT)
        d_out_n = load_tokens(d_out, token, valid, v, V, BV).to(dtype)
        known = d_state.to(dtype)
        tl.store(tile(d_states, index, v, K, V, BV), known)
        d_edit = product(tl.trans(outer_n), d_out_n, PRECISION)
        d_edit += product(columns_n, known, PRECISION)
        d_edit = d_edit.to(dtype)
        tl.store(tile(d_edits, index, v, BT, V, BV), d_edit)
        d_state = total_n[:, None] * d_state
        d_state += product(tl.trans(rows_n), d_out_n, PRECISION)
        d_state -= product(tl.trans(w_n), d_edit, PRECISION)
    tl.store(tile(d_initial, sequence, v, K, V, BV), d_state)


@triton.jit
def pair_gradients(
    x, edits, d_edits, d_out, T, H,
    d_z, d_inner, d_outer,
    V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dz = y = X^T du, dL = -tril(y u^T, -1), dP = tril(do u^T); by (sequence and head, chunk)."""
    index = tl.program_id(0).to(tl.int64)
    chunks = tl.cdiv(T, BT)
    token, valid = tokens_of(index // chunks, index % chunks, T, H, BT)
    dtype = x.dtype.element_ty
    solve = tl.trans(tl.load(tile(x, index, 0, BT, BT, BT)))
    of_inner = tl.zeros((BT, BT), tl.float32)
    of_outer = tl.zeros((BT, BT), tl.float32)
    for v in range(0, V, BV):
        d_edit = tl.load(tile(d_edits, index, v, BT, V, BV))
        edit = tl.trans(tl.load(tile(edits, index, v, BT, V, BV)))
        d_out_v = load_tokens(d_out, token, valid, v, V, BV).to(dtype)
        y = product(solve, d_edit, PRECISION).to(dtype)
        store_tokens(d_z, y, token, valid, v, V)
        of_inner -= product(y, edit, PRECISION)
        of_outer += product(d_out_v, edit, PRECISION)
    i = tl.arange(0, BT)
    of_inner = tl.where(i[:, None] > i[None, :], of_inner, 0.0)
    of_outer = tl.where(i[:, None] >= i[None, :], of_outer, 0.0)
    tl.store(tile(d_inner, index, 0, BT, BT, BT), of_inner.to(dtype))
    tl.store(tile(d_outer, index, 0, BT, BT, BT), of_outer.to(dtype))


@triton.jit
def level_gradients(
    q, a, b, d_inner, d_outer, exponent, d_q, d_a, d_b, of_rows, of_columns, of_totals,
    LEVEL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds what the pairs of one level give; levels are taken from the widest to the narrowest.

    of_rows and of_columns are gradients of the sums up to and after each token within blocks of
    2^(LEVEL + 1) tokens, of_totals that of the token's own block's sum. A sum over the wide block
    is that over the narrow one, plus its neighbour's total: hence the first line.
    """
    BT: tl.constexpr = q.shape[0]
    dtype = d_inner.dtype.element_ty
    row = is_row(LEVEL, BT)
    of_totals += sibling_sums(tl.where(row, of_rows, of_columns), LEVEL)
    pairs = level_pairs(LEVEL, BT)
    weight = tl.exp(exponent)
    # Loaded anew, not masked in registers: there the masks of all levels would be kept at once.
    inner = tl.load(d_inner, mask=pairs, other=0.0)
    outer = tl.load(d_outer, mask=pairs, other=0.0)
    column = (b * weight).to(dtype)
    of_a = product(inner, column, PRECISION) * weight
    of_q = product(outer, column, PRECISION) * weight
    of_b = product(tl.trans(inner), (a * weight).to(dtype), PRECISION)
    of_b += product(tl.trans(outer), (q * weight).to(dtype), PRECISION)
    of_b *= weight
    of_rows += of_a * a + of_q * q
    of_columns += of_b * b
    return d_q + of_q, d_a + of_a, d_b + of_b, of_rows, of_columns, of_totals


@triton.jit
def operand_gradients(
    q, a, b, g, d_out, d_z, edits, states, d_states, d_inner, d_outer, total, T, H,
    d_q, d_a, d_b, d_g,
    K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    LEVELS: tl.constexpr, HEAD_DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of q, a, b and g; a program per (sequence and head, chunk, BK channels).

    d_g is [B, T, H, K], and with HEAD_DECAY [B, T, H, K / BK], to be summed.
    """
    program = tl.program_id(0)
    block = program % (K // BK)
    k = block * BK
    index = (program // (K // BK)).to(tl.int64)
    chunks = tl.cdiv(T, BT)
    token, valid = tokens_of(index // chunks, index % chunks, T, H, BT)
    dtype = edits.dtype.element_ty
    i = tl.arange(0, BT)

    of_q = tl.zeros((BT, BK), tl.float32)
    of_a = tl.zeros((BT, BK), tl.float32)
    of_b = tl.zeros((BT, BK), tl.float32)
    of_total = tl.zeros((BK,), tl.float32)
    for v in range(0, V, BV):
        channel = v + tl.arange(0, BV)
        place = index * (K * V) + (k + tl.arange(0, BK))[:, None] * V + channel[None, :]
        state = tl.load(states + place)
        d_state = tl.load(d_states + place)
        y = load_tokens(d_z, token, valid, v, V, BV).to(dtype)
        d_out_v = load_tokens(d_out, token, valid, v, V, BV).to(dtype)
        edit = tl.load(tile(edits, index, v, BT, V, BV))
        of_q += product(d_out_v, tl.trans(state), PRECISION)
        of_a -= product(y, tl.trans(state), PRECISION)
        of_b += product(edit, tl.trans(d_state), PRECISION)
        of_total += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), axis=1)

    q_k = load_tokens(q, token, valid, k, K, BK).to(tl.float32)
    a_k = load_tokens(a, token, valid, k, K, BK).to(tl.float32)
    b_k = load_tokens(b, token, valid, k, K, BK).to(tl.float32)
    g_k = load_decay(g, token, valid, k, K, BK, HEAD_DECAY)
    # A list of tiles cannot be indexed by a level: they are written out.
    suffix = tl.zeros_like(g_k)
    e0 = exponents(g_k, suffix, 0)
    prefix, suffix = widened(g_k, suffix, g_k, 0)
    e1 = exponents(prefix, suffix, 1)
    prefix, suffix = widened(prefix, suffix, g_k, 1)
    e2 = exponents(prefix, suffix, 2)
    prefix, suffix = widened(prefix, suffix, g_k, 2)
    e3 = exponents(prefix, suffix, 3)
    prefix, suffix = widened(prefix, suffix, g_k, 3)
    if LEVELS > 4:
        e4 = exponents(prefix, suffix, 4)
        prefix, suffix = widened(prefix, suffix, g_k, 4)
    if LEVELS > 5:
        e5 = exponents(prefix, suffix, 5)
        prefix, suffix = widened(prefix, suffix, g_k, 5)

    of_q *= tl.exp(prefix)
    of_a *= tl.exp(prefix)
    of_b *= tl.exp(suffix)
    rows = of_q * q_k + of_a * a_k
    columns = of_b * b_k
    of_total *= tl.load(total + index * K + k + tl.arange(0, BK))
    totals = tl.zeros((BT, BK), tl.float32) + of_total[None, :]
    inner = tile(d_inner, index, 0, BT, BT, BT)
    outer = tile(d_outer, index, 0, BT, BT, BT)
    if LEVELS > 5:
        of_q, of_a, of_b, rows, columns, totals = level_gradients(
            q_k, a_k, b_k, inner, outer, e5, of_q, of_a, of_b, rows, columns, totals, 5, PRECISION
        )
    if LEVELS > 4:
        of_q, of_a, of_b, rows, columns, totals = level_gradients(
            q_k, a_k, b_k, inner, outer, e4, of_q, of_a, of_b, rows, columns, totals, 4, PRECISION
        )
    of_q, of_a, of_b, rows, columns, totals = level_gradients(
        q_k, a_k, b_k, inner, outer, e3, of_q, of_a, of_b, rows, columns, totals, 3, PRECISION
    )
    of_q, of_a, of_b, rows, columns, totals = level_gradients(
        q_k, a_k, b_k, inner, outer, e2, of_q, of_a, of_b, rows, columns, totals, 2, PRECISION
    )
    of_q, of_a, of_b, rows, columns, totals = level_gradients(
        q_k, a_k, b_k, inner, outer, e1, of_q, of_a, of_b, rows, columns, totals, 1, PRECISION
    )
    of_q, of_a, of_b, rows, columns, totals = level_gradients(
        q_k, a_k, b_k, inner, outer, e0, of_q, of_a, of_b, rows, columns, totals, 0, PRECISION
    )
    # A token's product with itself has no decay.
    same = tl.load(d_outer + index * (BT * BT) + i * (BT + 1)).to(tl.float32)[:, None]
    store_tokens(d_q, of_q + same * b_k, token, valid, k, K)
    store_tokens(d_a, of_a, token, valid, k, K)
    store_tokens(d_b, of_b + same * q_k, token, valid, k, K)
    of_g = rows + totals
    if HEAD_DECAY:
        tl.store(d_g + token * (K // BK) + block, tl.sum(of_g, axis=1), mask=valid)
    else:
        store_tokens(d_g, of_g, token, valid, k, K)
