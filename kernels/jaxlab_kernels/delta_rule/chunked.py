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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab_kernels.delta_rule.reference import recurrence
from jaxlab_kernels.delta_rule.rule import Inputs, Rule, log_decays, operands

_matmul = functools.partial(jnp.matmul, precision="highest")
_einsum = functools.partial(jnp.einsum, precision="highest")


def chunked(
    rule: Rule,
    inputs: Inputs,
    *,
    scale: float,
    chunk_size: int | None = None,
    forward_by_tokens: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule by chunks, in XLA operations alone; see `reference.recurrence`.

    Args:
        rule: gives a, b and z.
        inputs: see `Inputs`.
        scale: factor of the output.
        chunk_size: C, a power of two; None: 32 for Dk >= 128, else 16, and less for a
            short sequence.
        forward_by_tokens: run the recurrence forwards; backwards it is chunks all the same.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].
    """
    length = inputs.v.shape[1]
    if length == 0:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    # A chunk's saved state is worth Dk tokens of values: larger states, longer chunks.
    default = 32 if inputs.k.shape[-1] >= 128 else 16
    size = chunk_size or min(default, 1 << (length - 1).bit_length())
    plan = _Plan(rule, scale, size, forward_by_tokens)
    out, state = _scan_chunks(plan, whole_chunks(inputs, size), inputs.initial_state)
    return out[:, :length], state


def whole_chunks(inputs: Inputs, size: int) -> tuple[jax.Array | None, ...]:
    """All but the initial state, with tokens of zeros after the last up to a multiple of size."""
    padding = -inputs.v.shape[1] % size
    arrays = tuple(inputs)[:-1]
    if not padding:
        return arrays
    return jax.tree.map(
        lambda x: jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2)), arrays
    )


class _Plan(NamedTuple):
    rule: Rule
    scale: float
    size: int
    forward_by_tokens: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(plan, arrays, state):
    return _forward(plan, arrays, state, keep_states=False)[0]


def _forward(plan, arrays, state, keep_states):
    one_chunk = _chunk_by_tokens if plan.forward_by_tokens else _chunk

    def step(state, n):
        new_state, out = one_chunk(plan, _take(arrays, n, plan.size), state)
        return new_state, (out, state if keep_states else None)

    state, (out, states) = jax.lax.scan(step, state, _chunk_ids(plan, arrays))
    return (_join(out), state), states


def _save(plan, arrays, state):
    result, states = _forward(plan, arrays, state, keep_states=True)
    return result, (arrays, states)


def _backward(plan, saved, cotangents):
    arrays, states = saved
    d_out, d_state = cotangents

    def step(d_state, n):
        state = jax.lax.dynamic_index_in_dim(states, n, 0, keepdims=False)
        chunk = functools.partial(_chunk, plan)
        _, pull = jax.vjp(chunk, _take(arrays, n, plan.size), state)
        d_chunk, d_state = pull((d_state, _take(d_out, n, plan.size)))
        return d_state, d_chunk

    d_state, d_arrays = jax.lax.scan(step, d_state, _chunk_ids(plan, arrays), reverse=True)
    return jax.tree.map(_join, d_arrays), d_state


_scan_chunks.defvjp(_save, _backward)


def _chunk_ids(plan, arrays) -> jax.Array:
    return jnp.arange(arrays[0].shape[1] // plan.size)


def _take(arrays, n, size: int):
    """Chunk n of every [B, T, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, n * size, size, axis=1), arrays)


def _join(x: jax.Array) -> jax.Array:
    """[N, B, C, ...] -> [B, N C, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _chunk_by_tokens(plan, arrays, state):
    """`_chunk` by the recurrence."""
    inputs = Inputs(*(*arrays, state))
    out, state = recurrence(plan.rule, inputs, scale=plan.scale)
    return state, out


def _chunk(plan, arrays, state):
    """One chunk [B, C, ...] and the state before it -> the state after it, out [B, C, HV, Dv]."""
    dtype = state.dtype
    q, k, v, log_decay, erase, write = arrays
    q, a, b, z = operands(plan.rule, dtype, q, k, v, erase, write)
    log_decay = log_decays(dtype, log_decay, v)
    head_major = [jnp.swapaxes(x, 1, 2) for x in (q * plan.scale, a, b, z, log_decay)]
    # Without the barrier every use of an operand slices, gates and transposes it again.
    q, a, b, z, log_decay = jax.lax.optimization_barrier(head_major)

    *levels, prefix, suffix = _decay_weights(log_decay)
    inner, outer = _decayed_products(a, q, b, levels)
    u = _solve(inner, z - _matmul(a * prefix, state))
    out = _matmul(q * prefix, state) + _matmul(outer, u)
    state = _scaled(prefix[:, :, -1, :, None], state)
    state += _einsum("bhjk,bhjv->bhkv", b * suffix, u)
    return state, jnp.swapaxes(out, 1, 2).astype(v.dtype)


def _decay_weights(log_decay: jax.Array) -> list[jax.Array]:
    """Exponentials of sums of log decays over spans of tokens.

    Of two tokens j < i let l be the highest bit in which their numbers differ, and m be i with
    the bits below l cleared. The decay between them is that over m..i, a weight of row i at
    level l, times that over j+1..m-1, a weight of column j at level l. So an exponent is always
    a sum over tokens between the two, never a difference of cumulated sums: nothing overflows,
    nothing cancels, and no later token takes part.

    Args:
        log_decay: [B, HV, C, Dk] or [B, HV, C, 1], C a power of two.

    Returns:
        log2(C) + 2 arrays shaped as log_decay, at most 1: the levels; then from the chunk's start
        up to and with the token; then after the token up to the chunk's end.
    """
    *front, size, _ = log_decay.shape
    spans = jnp.asarray(span_table(size).reshape(-1, size), log_decay.dtype)
    # With the batch axes of the other operand the product needs no transposition.
    sums = _matmul(jnp.broadcast_to(spans, (*front, *spans.shape)), log_decay)
    return list(jax.lax.split(jnp.exp(sums), [size] * (len(spans) // size), axis=sums.ndim - 2))


@functools.cache
def span_table(size: int) -> np.ndarray:
    """Bool [log2(size) + 2, size, size]: the tokens m that the exponent (level, i) sums."""
    i, m = np.indices((size, size))
    levels = []
    for level in range(size.bit_length() - 1):
        is_row = (i >> level) % 2 == 1
        levels.append((i >> level == m >> level) & np.where(is_row, m <= i, m > i))
    return np.stack([*levels, m <= i, m > i])


def _decayed_products(
    a: jax.Array, q: jax.Array, b: jax.Array, levels: list[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """L and P of the module's docstring, by blocks that double.

    Of two neighbouring blocks of h tokens the new pairs are the rows of the right one with the
    columns of the left one: one matrix product per level, of nothing but pairs that count.

    Args:
        a: [B, HV, C, Dk].
        q: [B, HV, C, Dk].
        b: [B, HV, C, Dk].
        levels: log2(C) arrays [B, HV, C, Dk or 1], see `_decay_weights`.

    Returns:
        L and P, each [B, HV, C, C], 0 above the diagonal.
    """
    *front, size, dim = b.shape
    outer = _matmul(q * b, jnp.ones((dim, 1), b.dtype)).reshape(*front, size, 1, 1)
    inner = jnp.zeros_like(outer)
    for level, weight in enumerate(levels):
        half = 1 << level
        until, since = _halves(weight, half)
        rows = jnp.concatenate([_halves(x, half)[1] * since for x in (a, q)], axis=-2)
        corner = _einsum("...id,...jd->...ij", rows, _halves(b, half)[0] * until)
        inner = _doubled(inner, corner[..., :half, :])
        outer = _doubled(outer, corner[..., half:, :])
    return inner.reshape(*front, size, size), outer.reshape(*front, size, size)


def _halves(x: jax.Array, half: int) -> tuple[jax.Array, jax.Array]:
    """[..., C, D] -> left and right halves [..., C / 2h, h, D] of the blocks of 2h tokens."""
    *front, size, dim = x.shape
    halves = jax.lax.split(x.reshape(*front, -1, 2, half, dim), (1, 1), axis=len(front) + 1)
    left, right = (x.reshape(*front, size // (2 * half), half, dim) for x in halves)
    return left, right


def _doubled(blocks: jax.Array, corner: jax.Array) -> jax.Array:
    """Lower triangular blocks [..., 2n, h, h] with corners [..., n, h, h] -> [..., n, 2h, 2h]."""
    upper, lower = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
    top = jnp.concatenate([upper, jnp.zeros_like(corner)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([corner, lower], axis=-1)], axis=-2)


_unit_lower_solve = functools.partial(
    jax.lax.linalg.triangular_solve, left_side=True, lower=True, unit_diagonal=True
)


@jax.custom_vjp
def _solve(lower: jax.Array, right: jax.Array) -> jax.Array:
    """(I + L)^-1 right, for L [B, HV, C, C] below its diagonal and right [B, HV, C, Dv]."""
    return _unit_lower_solve(lower, right)


def _solve_fwd(lower, right):
    solution = _unit_lower_solve(lower, right)
    return solution, (lower, solution)


def _solve_bwd(saved, cotangent):
    lower, solution = saved
    # One solve after the other: on a CPU each is cut into tasks for the threads on which it runs
    # itself, and waits for them; two at once on two threads wait for ever (jaxlib 0.10.2). Nothing
    # but data makes an order there. It also takes one solve where autodiff takes two.
    d_right = _unit_lower_solve(lower, cotangent + 0 * solution, transpose_a=True)
    d_lower = -_matmul(d_right, jnp.swapaxes(solution, -1, -2))
    return jnp.tril(d_lower, -1), d_right


_solve.defvjp(_solve_fwd, _solve_bwd)


@jax.custom_vjp
def _scaled(factors: jax.Array, state: jax.Array) -> jax.Array:
    """factors [B, HV, Dk or 1, 1] times state [B, HV, Dk, Dv]."""
    return factors * state


def _scaled_fwd(factors, state):
    return factors * state, (factors, state)


def _scaled_bwd(saved, d_out):
    factors, state = saved
    # As a matrix product: XLA's reduction is slow on a CPU when fused with what comes before it.
    d_factors = _matmul(d_out * state, jnp.ones((state.shape[-1], 1), state.dtype))
    if factors.shape[-2] == 1:
        d_factors = jnp.sum(d_factors, axis=-2, keepdims=True)
    return d_factors, d_out * factors


_scaled.defvjp(_scaled_fwd, _scaled_bwd)
