"""The bodies of the TPU kernels: one chunk of one head, forwards and backwards.

The equations are those of the README, with states transposed. All products have float32's
accuracy. A level of `chunked.span_table` gives the pairs of tokens of two neighbouring blocks as a
product of all rows and all columns under a mask: a whole product fills the matrix unit, where
products of small blocks would leave it idle.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


def forward(table, q, a, b, z, g, initial, out, state, *states):
    """One chunk, refs.

    Args:
        table: [(log2(C) + 2) C, C], `chunked.span_table`.
        q: [C, Dk], times scale.
        a: [C, Dk].
        b: [C, Dk].
        z: [C, Dv].
        g: [C, Dk], log decays.
        initial: [Dv, Dk], the state before the head's first chunk.
        out: [C, Dv], written.
        state: [Dv, Dk], carried from chunk to chunk.
        *states: nothing, or [Dv, Dk], written: the state before the chunk.
    """

    @pl.when(pl.program_id(1) == 0)
    def _():
        state[...] = initial[...]

    for before in states:
        before[...] = state[...]
    q, a, b, before = q[...], a[...], b[...], state[...]
    levels, prefix, suffix = _weights(table[...], g[...])
    inverse, outer = _products(q, a, b, levels)
    u = _dot(inverse, z[...] - _dot(a * prefix, before, 1, 1))
    out[...] = (_dot(q * prefix, before, 1, 1) + _dot(outer, u)).astype(out.dtype)
    state[...] = before * prefix[-1:] + _dot(u, b * suffix, 0, 0)


def backward(table, q, a, b, z, g, state, d_out, d_last, dq, da, db, dz, dg, d_state):
    """One chunk, refs; the last chunk of the head comes first.

    Args:
        table: see `forward`.
        q: see `forward`.
        a: see `forward`.
        b: see `forward`.
        z: see `forward`.
        g: see `forward`.
        state: [Dv, Dk], before the chunk.
        d_out: [C, Dv].
        d_last: [Dv, Dk], of the state after the head's last chunk.
        dq: [C, Dk], written.
        da: [C, Dk], written.
        db: [C, Dk], written.
        dz: [C, Dv], written.
        dg: [C, Dk], written.
        d_state: [Dv, Dk], carried: of the state after the chunk, then of the state before it.
    """

    @pl.when(pl.program_id(1) == 0)
    def _():
        d_state[...] = d_last[...]

    q, a, b, before, d_after = q[...], a[...], b[...], state[...], d_state[...]
    d_out = d_out[...].astype(jnp.float32)
    levels, prefix, suffix = _weights(table[...], g[...])
    inverse, outer = _products(q, a, b, levels)
    u = _dot(inverse, z[...] - _dot(a * prefix, before, 1, 1))

    du = _dot(outer, d_out, 0, 0) + _dot(b * suffix, d_after, 1, 1)
    y = _dot(inverse, du, 0, 0)
    dz[...] = y
    d_state[...] = _dot(d_out, q * prefix, 0, 0) + d_after * prefix[-1:] - _dot(y, a * prefix, 0, 0)
    # By the exponents of prefix and suffix; the last row of prefix also decays the state.
    q_prefix, a_prefix = _dot(d_out, before) * prefix, -_dot(y, before) * prefix
    b_suffix = _dot(u, d_after) * suffix
    rows = jax.lax.broadcasted_iota(jnp.int32, q.shape, 0)
    d_decay = jnp.sum(d_after * before, axis=0, keepdims=True) * prefix[-1:]
    d_prefix = q * q_prefix + a * a_prefix + jnp.where(rows == q.shape[0] - 1, d_decay, 0.0)
    # A token's product with itself has no exponent.
    own = jnp.sum(d_out * u, axis=1, keepdims=True)
    total_q, total_a, total_b = q_prefix + own * b, a_prefix, b_suffix + own * q

    d_outer, d_inner = _dot(d_out, u, 1, 1), -_dot(y, u, 1, 1)
    d_exponents = []
    for level, weight in enumerate(levels):
        is_pair = _is_pair(level, q.shape[0])
        outer_l, inner_l = (jnp.where(is_pair, x, 0.0) for x in (d_outer, d_inner))
        columns = b * weight
        q_l, a_l = _dot(outer_l, columns) * weight, _dot(inner_l, columns) * weight
        b_l = (_dot(outer_l, q * weight, 0, 0) + _dot(inner_l, a * weight, 0, 0)) * weight
        total_q, total_a, total_b = total_q + q_l, total_a + a_l, total_b + b_l
        d_exponents.append(q * q_l + a * a_l + b * b_l)
    dq[...], da[...], db[...] = total_q, total_a, total_b
    dg[...] = _dot(table[...], jnp.concatenate([*d_exponents, d_prefix, b * b_suffix]), 0, 0)


def _weights(table: jax.Array, g: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """The levels, prefix and suffix of `chunked.span_table`, each [C, Dk], at most 1."""
    weights = jnp.exp(_dot(table, g))
    *levels, prefix, suffix = jnp.split(weights, table.shape[0] // g.shape[0])
    return levels, prefix, suffix


def _products(
    q: jax.Array, a: jax.Array, b: jax.Array, levels: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """(I + L)^-1 and P, [C, C].

    Blocks of the inverse double with the levels: with X the inverse of the blocks of h tokens and
    L the pairs of two neighbours, X - X L X is the inverse of the blocks of 2h, as L X L = 0.
    """
    size = b.shape[0]
    is_own = _is_own(size)
    outer = jnp.where(is_own, jnp.sum(q * b, axis=1, keepdims=True), 0.0)
    inverse = jnp.where(is_own, 1.0, 0.0)
    for level, weight in enumerate(levels):
        rows = jnp.concatenate([q * weight, a * weight])
        pairs = jnp.split(_dot(rows, b * weight, 1, 1), 2)
        is_pair = _is_pair(level, size)
        corner, inner = (jnp.where(is_pair, x, 0.0) for x in pairs)
        outer += corner
        inverse -= _dot(inverse, _dot(inner, inverse)) if level else inner
    return inverse, outer


def _indices(size: int) -> tuple[jax.Array, jax.Array]:
    shape = (size, size)
    iota = jax.lax.broadcasted_iota
    return iota(jnp.int32, shape, 0), iota(jnp.int32, shape, 1)


def _is_own(size: int) -> jax.Array:
    i, j = _indices(size)
    return i == j


def _is_pair(level: int, size: int) -> jax.Array:
    """Bool [C, C]: j < i, and the level is the highest bit in which they differ."""
    i, j = _indices(size)
    return (((i ^ j) >> level) == 1) & (i > j)


def _dot(x: jax.Array, y: jax.Array, x_axis: int = 1, y_axis: int = 0) -> jax.Array:
    """Product over one axis of each, as exact as float32."""
    return jax.lax.dot_general(
        x, y, (((x_axis,), (y_axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip
