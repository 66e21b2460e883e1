"""The chunk form: matrix products over chunks of C tokens, one state passed between chunks.

With G_i the sum of log decays up to token i of the chunk and S the state at its start,

    L_ij = sum_d a_i b_j e^(G_i - G_j)  (i > j)      P_ij = sum_d q_i b_j e^(G_i - G_j)  (i >= j)
    u = (I + L)^-1 (z - (a e^G) S)
    out = (q e^G) S + P u                             S <- e^G_C S + (b e^(G_C - G))^T u.

The inverse is put together from those of blocks that double: powers of L overflow for equal keys
(a 64-block of them loses every digit). Memory of the backward pass is the inputs, u, the inverse
and one state per chunk; a chunk's other arrays are computed again.
"""

import functools
from typing import Any, NamedTuple

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
        chunk_size: C, a power of two; None: 16, where gradients are taken 32 for Dk >= 128, and
            less for a short sequence.
        forward_by_tokens: run the recurrence, where no gradients are taken.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].
    """
    length = inputs.v.shape[1]
    if 0 in inputs.v.shape:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    # A chunk's saved state is worth Dk tokens of values: larger states, longer chunks.
    saved = 32 if inputs.k.shape[-1] >= 128 else 16
    longest = 1 << (length - 1).bit_length()
    size, saved_size = (chunk_size or min(n, longest) for n in (16, saved))
    plan = _Plan(rule, scale, size, saved_size, forward_by_tokens)
    return _scan_chunks(plan, tuple(inputs)[:-1], inputs.initial_state)


def whole_chunks(arrays: Any, size: int) -> Any:
    """A tree of [B, T, ...] with tokens of zeros after the last up to a multiple of size."""

    def padded(x):
        return jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))

    return jax.tree.map(padded, arrays)


class _Plan(NamedTuple):
    rule: Rule
    scale: float
    size: int
    saved_size: int  # where gradients are taken
    forward_by_tokens: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(plan, arrays, state):
    if plan.forward_by_tokens:
        return recurrence(plan.rule, Inputs(*(*arrays, state)), scale=plan.scale)
    return _forward(plan, plan.size, arrays, state, keep=False)[0]


def _forward(plan, size, arrays, state, keep):
    """(out, last state), and with keep the state before every chunk and its solution."""

    def step(state, n):
        new_state, out, solution = _chunk(plan, _take(arrays, n, size), state)
        return new_state, (out, (state, solution) if keep else None)

    length = arrays[0].shape[1]
    arrays = whole_chunks(arrays, size)
    state, (out, kept) = jax.lax.scan(step, state, _chunk_ids(size, arrays))
    return (_join(out)[:, :length], state), kept


def _save(plan, arrays, state):
    result, kept = _forward(plan, plan.saved_size, arrays, state, keep=True)
    return result, (arrays, kept)


def _backward(plan, saved, cotangents):
    arrays, kept = saved
    size, length = plan.saved_size, arrays[0].shape[1]
    d_out, d_state = cotangents
    arrays, d_out = whole_chunks((arrays, d_out), size)

    def step(d_state, n):
        state, solution = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, n, 0, keepdims=False), kept
        )

        def chunk(arrays, state):
            return _chunk(plan, arrays, state, solution)[:2]

        _, pull = jax.vjp(chunk, _take(arrays, n, size), state)
        d_chunk, d_state = pull((d_state, _take(d_out, n, size)))
        return d_state, d_chunk

    d_state, d_arrays = jax.lax.scan(step, d_state, _chunk_ids(size, arrays), reverse=True)
    return jax.tree.map(lambda x: _join(x)[:, :length], d_arrays), d_state


_scan_chunks.defvjp(_save, _backward)


def _chunk_ids(size, arrays) -> jax.Array:
    return jnp.arange(arrays[0].shape[1] // size)


def _take(arrays, n, size: int):
    """Chunk n of every [B, T, ...]."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, n * size, size, axis=1), arrays)


def _join(x: jax.Array) -> jax.Array:
    """[N, B, C, ...] -> [B, N C, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _chunk(plan, arrays, state, solution=None):
    """One chunk [B, C, ...] and the state before it.

    Args:
        plan: see `_Plan`.
        arrays: the chunk's inputs.
        state: [B, HV, Dk, Dv].
        solution: (I + L)^-1 [B, HV, C, C] and u [B, HV, C, Dv], where they are known: only u's
            gradient is then computed.

    Returns:
        The state after the chunk, out [B, C, HV, Dv], and the solution.
    """
    dtype = state.dtype
    q, k, v, log_decay, erase, write = arrays
    q, a, b, z = operands(plan.rule, dtype, q, k, v, erase, write)
    log_decay = log_decays(dtype, log_decay, v)
    head_major = [jnp.swapaxes(x, 1, 2) for x in (q * plan.scale, a, b, z, log_decay)]
    # Without the barrier every use of an operand slices, gates and transposes it again.
    q, a, b, z, log_decay = jax.lax.optimization_barrier(head_major)

    *levels, prefix, suffix = _decay_weights(log_decay)
    products = _products_of_heads if log_decay.shape[-1] == 1 else _products_of_channels
    inner, outer = products(a, q, b, levels)
    size = a.shape[2]
    from_state = _product(jnp.concatenate([a * prefix, q * prefix], axis=2), state)
    rhs = z - from_state[:, :, :size]
    if solution is None:
        inverse = _inverse(inner)
        u = _product(inverse, rhs)
    else:
        inverse, u = solution
        u = _solved(inner, rhs, inverse, u)
    out = from_state[:, :, size:] + _product(outer, u)
    state = _scaled(prefix[:, :, -1, :, None], state)
    state += _updates(b * suffix, u)
    return state, jnp.swapaxes(out, 1, 2).astype(v.dtype), (inverse, u)


@jax.custom_vjp
def _decay_weights(log_decay: jax.Array) -> list[jax.Array]:
    """Decays over spans of tokens.

    Args:
        log_decay: [B, HV, C, Dk] or [B, HV, C, 1], C a power of two.

    Returns:
        2 log2(C) + 2 arrays, at most 1. For h = 1, 2, ... a pair [B, HV, C / 2h, h, Dk or 1]: of
        two neighbouring blocks of h tokens, the decay after a token of the left one up to the
        border, and that from the border up to and with a token of the right one. Then, shaped as
        log_decay, that from the chunk's start up to and with a token, and that after it up to the
        chunk's end.
    """
    # By products of decays between two tokens, never quotients of cumulated ones: nothing
    # overflows, nothing cancels, and no later token takes part.
    shape = log_decay.shape
    *front, size, width = shape
    prefix = jnp.exp(log_decay)
    suffix = jnp.ones_like(prefix)
    weights, half = [], 1
    is_right = jnp.arange(2)[:, None, None] == 1
    while half < size:
        (left, right), (after, _) = _halves(prefix, half), _halves(suffix, half)
        weights += [after, right]
        blocks = (*front, -1, 2, half, width)
        prefix = prefix.reshape(blocks) * jnp.where(is_right, left[..., None, -1:, :], 1)
        suffix = suffix.reshape(blocks) * jnp.where(is_right, 1, right[..., None, -1:, :])
        prefix, suffix = prefix.reshape(shape), suffix.reshape(shape)
        half *= 2
    return [*weights, prefix, suffix]


def _decay_weights_fwd(log_decay):
    # By sums between tokens here: for the gradient the same table adds up what each sum receives.
    *front, size, width = log_decay.shape
    sums = _matmul(_repeated(_spans(size), log_decay), log_decay)
    sizes = [size // 2] * (2 * (size.bit_length() - 1)) + [size, size]
    flat = jax.lax.split(jnp.exp(sums), sizes, axis=len(front))
    weights = [
        x.reshape(*front, -1, 1 << n // 2, width) if n < len(flat) - 2 else x
        for n, x in enumerate(flat)
    ]
    return weights, weights


def _decay_weights_bwd(weights, cotangents):
    *front, size, width = weights[-1].shape
    pairs = zip(cotangents, weights, strict=True)
    d_sums = jnp.concatenate([(d * x).reshape(*front, -1, width) for d, x in pairs], axis=-2)
    return (_matmul(_repeated(_spans(size).T, d_sums), d_sums),)


_decay_weights.defvjp(_decay_weights_fwd, _decay_weights_bwd)


def _repeated(matrix: np.ndarray, like: jax.Array) -> jax.Array:
    """The matrix for each of the leading axes of like: so a product with it turns nothing."""
    matrix = matrix.reshape((1,) * (like.ndim - 2) + matrix.shape)
    return jnp.zeros_like(like[..., :1, :1]) + jnp.asarray(matrix, like.dtype)


@functools.cache
def _spans(size: int) -> np.ndarray:
    """Bool [.., C]: the tokens that the exponents of `_decay_weights` sum, in its order."""
    *levels, prefix, suffix = span_table(size)
    rows = []
    for level, table in enumerate(levels):
        is_right = (np.arange(size) >> level) % 2 == 1
        rows += [table[~is_right], table[is_right]]
    return np.concatenate([*rows, prefix, suffix])


@functools.cache
def span_table(size: int) -> np.ndarray:
    """Bool [log2(size) + 2, size, size]: the tokens m that the exponent (level, i) sums.

    Of two tokens j < i let l be the highest bit in which their numbers differ, and m be i with
    the bits below l cleared. The decay between them is that over m..i, a weight of row i at
    level l, times that over j+1..m-1, a weight of column j at level l. After the levels come two
    more: from the chunk's start up to and with the token; after the token up to the chunk's end.
    """
    i, m = np.indices((size, size))
    levels = []
    for level in range(size.bit_length() - 1):
        is_row = (i >> level) % 2 == 1
        levels.append((i >> level == m >> level) & np.where(is_row, m <= i, m > i))
    return np.stack([*levels, m <= i, m > i])


def _products_of_channels(a, q, b, levels) -> tuple[jax.Array, jax.Array]:
    """L and P of the module's docstring, by blocks that double.

    Of two neighbouring blocks of h tokens the new pairs are the rows of the right one with the
    columns of the left one: one matrix product per level, of nothing but pairs that count.

    Args:
        a: [B, HV, C, Dk].
        q: [B, HV, C, Dk].
        b: [B, HV, C, Dk].
        levels: see `_decay_weights`.

    Returns:
        L and P, each [B, HV, C, C], 0 above the diagonal.
    """
    *front, size, dim = b.shape
    outer = _matmul(q * b, jnp.ones((dim, 1), b.dtype)).reshape(*front, size, 1, 1)
    inner = jnp.zeros_like(outer)
    for level, (until, since) in enumerate(_in_pairs(levels)):
        half = 1 << level
        rows = jnp.concatenate([_halves(x, half)[1] * since for x in (a, q)], axis=-2)
        corner = _pairs(rows, _halves(b, half)[0] * until)
        inner = _doubled(inner, corner[..., :half, :])
        outer = _doubled(outer, corner[..., half:, :])
    return inner.reshape(*front, size, size), outer.reshape(*front, size, size)


def _products_of_heads(a, q, b, levels) -> tuple[jax.Array, jax.Array]:
    """`_products_of_channels` where all channels decay alike: one product, then its weights."""
    *front, size, _ = b.shape
    weights = jnp.ones_like(b[..., :1])[..., None]
    for until, since in _in_pairs(levels):
        weights = _doubled(weights, since * jnp.swapaxes(until, -1, -2))
    weights = weights.reshape(*front, size, size)
    pairs = _pairs(jnp.concatenate([a, q], axis=-2), b)
    return pairs[..., :size, :] * jnp.tril(weights, -1), pairs[..., size:, :] * weights


def _in_pairs(x: list) -> list[tuple]:
    return list(zip(x[0::2], x[1::2], strict=True))


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


# Matrix products of the last two axes, with their gradients. XLA's fast products on a CPU contract
# the last axis of the left factor; one that needs it turned takes longer than to turn it first. To
# turn the right factor costs more than the product, so that is always the smaller one.


def _turned(x: jax.Array) -> jax.Array:
    """The last two axes exchanged, in memory."""
    return jax.lax.optimization_barrier(jnp.swapaxes(x, -1, -2))


@jax.custom_vjp
def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y for [..., I, J] and [..., J, K]."""
    return _matmul(x, y)


@jax.custom_vjp
def _pairs(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y^T for [..., I, D] and [..., J, D]."""
    return _einsum("...id,...jd->...ij", x, y)


@jax.custom_vjp
def _updates(x: jax.Array, y: jax.Array) -> jax.Array:
    """x^T y for [..., I, J] and [..., I, K]."""
    return _matmul(_turned(x), y)


def _product_bwd(factors, d):
    x, y = factors
    return jnp.swapaxes(_pairs(y, d), -1, -2), _updates(x, d)


def _pairs_bwd(factors, d):
    x, y = factors
    return _matmul(d, y), _updates(d, x)


def _updates_bwd(factors, d):
    x, y = factors
    return jnp.swapaxes(_pairs(d, y), -1, -2), _matmul(x, d)


_product.defvjp(lambda x, y: (_product(x, y), (x, y)), _product_bwd)
_pairs.defvjp(lambda x, y: (_pairs(x, y), (x, y)), _pairs_bwd)
_updates.defvjp(lambda x, y: (_updates(x, y), (x, y)), _updates_bwd)


def _inverse(inner: jax.Array) -> jax.Array:
    """(I + inner)^-1 [B, HV, C, C], of which only what is below inner's diagonal counts.

    Of two neighbouring blocks with inverses X and Y and the corner L between them, the inverse has
    the corner -Y L X. LAPACK's solves are no faster, and in jaxlib 0.10.2 they share the threads of
    the program that waits for them: as many at once as it has threads wait for ever.
    """
    *front, size, _ = inner.shape
    # Made from an operand, as are all constants with its axes: so they have its sharding.
    blocks = jnp.ones_like(inner[..., :1])[..., None]
    half = 1
    while half < size:
        borders = range(half, size, 2 * half)
        corners = [inner[..., n : n + half, n - half : n] for n in borders]
        corner = -jnp.stack(corners, axis=-3)
        if half > 1:  # a single number's inverse is 1
            corner = _matmul(_matmul(blocks[..., 1::2, :, :], corner), blocks[..., 0::2, :, :])
        blocks = _doubled(blocks, corner)
        half *= 2
    return blocks.reshape(*front, size, size)


@jax.custom_vjp
def _solved(inner: jax.Array, rhs: jax.Array, inverse: jax.Array, u: jax.Array) -> jax.Array:
    """u of (I + inner) u = rhs, known like the inverse: a function of inner and rhs alone."""
    return u


def _solved_bwd(saved, d):
    inverse, u = saved
    d_rhs = _updates(inverse, d)
    return -_pairs(d_rhs, u), d_rhs, None, None


_solved.defvjp(lambda inner, rhs, inverse, u: (u, (inverse, u)), _solved_bwd)


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
