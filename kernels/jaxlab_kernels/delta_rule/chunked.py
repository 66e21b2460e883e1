"""The chunk form: matrix products over chunks of C tokens, one state passed between chunks.

With G_i the sum of log decays up to token i of the chunk and S the state at its start,

    L_ij = sum_d a_i b_j e^(G_i - G_j)  (i > j)      P_ij = sum_d q_i b_j e^(G_i - G_j)  (i >= j)
    u = (I + L)^-1 (z - (a e^G) S)
    out = (q e^G) S + P u                             S <- e^G_C S + (b e^(G_C - G))^T u.

The solve is triangular: powers of L overflow for equal keys (a 64-block of them loses every
digit). Memory of the backward pass is the inputs and one state per chunk; a chunk's own arrays
are computed again.
"""

import functools

import jax
import jax.numpy as jnp

from jaxlab_kernels.delta_rule.rule import Inputs, Rule, decays, operands

Chunk = tuple[jax.Array, ...]

_einsum = functools.partial(jnp.einsum, precision="highest")


def chunked(
    rule: Rule, inputs: Inputs, *, scale: float, chunk_size: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule by chunks, in XLA operations alone; see `reference.recurrence`.

    Args:
      rule: gives a, b and z.
      inputs: see `Inputs`.
      scale: factor of the output.
      chunk_size: C, a power of two; None: 32, or less for a short sequence.

    Returns:
      out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].
    """
    length = inputs.v.shape[1]
    if length == 0:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    size = chunk_size or min(32, 1 << (length - 1).bit_length())
    arrays = inputs._replace(initial_state=None)
    padding = -length % size
    if padding:
        arrays = jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)), arrays
        )
    out, state = _scan_chunks(rule, scale, size, arrays, inputs.initial_state)
    return out[:, :length], state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan_chunks(rule, scale, size, arrays, state):
    return _forward(rule, scale, size, arrays, state, keep_states=False)[0]


def _forward(rule, scale, size, arrays, state, keep_states):
    def step(state, n):
        new_state, out = _chunk(rule, scale, _take(arrays, n, size), state)
        return new_state, (out, state if keep_states else None)

    state, (out, states) = jax.lax.scan(step, state, _chunk_ids(arrays, size))
    return (_join(out), state), states


def _save(rule, scale, size, arrays, state):
    result, states = _forward(rule, scale, size, arrays, state, keep_states=True)
    return result, (arrays, states)


def _backward(rule, scale, size, saved, cotangents):
    arrays, states = saved
    d_out, d_state = cotangents

    def step(d_state, n):
        chunk = functools.partial(_chunk, rule, scale)
        state = jax.lax.dynamic_index_in_dim(states, n, 0, keepdims=False)
        _, pull = jax.vjp(chunk, _take(arrays, n, size), state)
        d_chunk, d_state = pull((d_state, _take(d_out, n, size)))
        return d_state, d_chunk

    d_state, d_arrays = jax.lax.scan(step, d_state, _chunk_ids(arrays, size), reverse=True)
    return jax.tree.map(_join, d_arrays), d_state


_scan_chunks.defvjp(_save, _backward)


def _chunk_ids(arrays: Inputs, size: int) -> jax.Array:
    return jnp.arange(arrays.v.shape[1] // size)


def _take(arrays, n, size: int):
    """Chunk n of every [B, T, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, n * size, size, axis=1), arrays)


def _join(x: jax.Array) -> jax.Array:
    """[N, B, C, ...] -> [B, N C, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _chunk(rule, scale, arrays: Inputs, state):
    """One chunk [B, C, ...] and the state before it -> the state after it, out [B, C, HV, Dv]."""
    dtype = state.dtype
    q, a, b, z = operands(rule, dtype, arrays.q, arrays.k, arrays.v, arrays.erase, arrays.write)
    decay = decays(dtype, arrays.log_decay, arrays.v)
    q, a, b, z, decay = (jnp.swapaxes(x, 1, 2) for x in (q * scale, a, b, z, decay))

    rows = jnp.stack([a, q], axis=-2)
    pairs, prefix, suffix = decayed_products(rows, b, decay)
    read = _einsum("bhirk,bhkv->bhirv", rows * prefix[..., None, :], state)
    u = jax.lax.linalg.triangular_solve(
        pairs[..., 0, :], z - read[..., 0, :], left_side=True, lower=True, unit_diagonal=True
    )
    out = read[..., 1, :] + _einsum("bhij,bhjv->bhiv", pairs[..., 1, :], u)
    total = jnp.swapaxes(prefix[..., -1:, :], -1, -2)
    state = total * state + _einsum("bhjk,bhjv->bhkv", b * suffix, u)
    return state, jnp.swapaxes(out, 1, 2).astype(arrays.v.dtype)


def decayed_products(
    rows: jax.Array, columns: jax.Array, decay: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inner products of every row with every earlier column, decayed by the tokens between.

    Blocks double: two neighbours of h tokens become one, whose new pairs are a row of the right
    half and a column of the left half. Their decay is the product of the right half's up to the
    row with the left half's after the column. So a decay is always a product of the factors
    between two tokens, each at most 1, and never a quotient or a difference of cumulated ones:
    nothing overflows, nothing cancels, and no later token takes part.

    Args:
      rows: [..., C, R, D], R rows per token; row 0 does not meet the column of its own token.
      columns: [..., C, D].
      decay: [..., C, D] or [..., C, 1], in [0, 1].

    Returns:
      products [..., C, R, C], 0 above the diagonal; the decay from the start of the chunk up to
      and with each token, and that after each token to the end, both shaped as decay.
    """
    *front, length, count, _ = rows.shape
    own = jnp.sum(rows[..., 1:, :] * columns[..., None, :], axis=-1)
    own = jnp.concatenate([jnp.zeros_like(own[..., :1]), own], axis=-1)
    products = own.reshape(*front, length, 1, count, 1)
    prefix, suffix = decay, jnp.ones_like(decay)
    half = 1
    while half < length:
        (prefix_left, prefix_right), (suffix_left, suffix_right), (_, right), (left, _) = (
            _halves(x, half, len(front)) for x in (prefix, suffix, rows, columns)
        )
        corner = _einsum(
            "...ird,...jd->...irj", right * prefix_right[..., None, :], left * suffix_left
        )
        upper, lower = products[..., 0::2, :, :, :], products[..., 1::2, :, :, :]
        products = jnp.concatenate(
            [
                jnp.concatenate([upper, jnp.zeros_like(corner)], axis=-1),
                jnp.concatenate([corner, lower], axis=-1),
            ],
            axis=-3,
        )
        prefix = jnp.concatenate([prefix_left, prefix_left[..., -1:, :] * prefix_right], axis=-2)
        suffix = jnp.concatenate([suffix_left * prefix_right[..., -1:, :], suffix_right], axis=-2)
        prefix, suffix = (x.reshape(decay.shape) for x in (prefix, suffix))
        half *= 2
    return products.reshape(*front, length, count, length), prefix, suffix


def _halves(x: jax.Array, half: int, front: int) -> tuple[jax.Array, jax.Array]:
    """[..., C, ...] -> the left and the right halves [..., C / 2h, h, ...] of blocks of 2h."""
    x = x.reshape(*x.shape[:front], -1, 2, half, *x.shape[front + 1 :])
    left, right = (jax.lax.index_in_dim(x, i, front + 1, keepdims=False) for i in (0, 1))
    return left, right
