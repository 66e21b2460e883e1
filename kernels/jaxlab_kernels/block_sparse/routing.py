"""Which past blocks each query attends to: mean-pooled keys, top k, as bits.

Segments are cut into blocks of C tokens from their own first token on, so that a document's blocks
do not depend on what else is in its row. Every past block of a query is therefore full, and a row
of T tokens has at most N = T // C of them.

The best k of N scores are found by bisection over their bits, in passes that compare and count: a
sort of all N would take longer than the attention to a few blocks, and k is traced.

T time, G query heads per key head, N full blocks, W = ceil(N / 32).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# What a policy of rematerialisation saves (jax.checkpoint_policies.save_only_these_names): routed
# again, with other rounding, the backward pass could attend to other blocks than the forward pass.
IDS = "block_sparse_ids"

# Query rows that are routed at once: their scores [N, rows] stay in a cache.
ROWS = 1024


class Blocks(NamedTuple):
    """Where the blocks of a row lie; leaves [B, ...].

    Attributes:
        own: int32 [B, T], the first token of each token's own block.
        past: int32 [B, T], full blocks before it in its segment; 0 in padding.
        first: int32 [B, T], the number of the first of them among the row's full blocks.
        start: int32 [B, N], first tokens of the row's full blocks; of those that there are not, 0.
        real: bool [B, T], False in padding.
    """

    own: jax.Array
    past: jax.Array
    first: jax.Array
    start: jax.Array
    real: jax.Array


def find_blocks(segment_ids: jax.Array | None, batch: int, length: int, size: int) -> Blocks:
    """The blocks of each row; a segment is a run of equal ids, and id 0 is padding."""
    time = jnp.arange(length, dtype=jnp.int32)
    number = length // size
    if segment_ids is None:
        row = Blocks(
            time // size * size, time // size, jnp.zeros_like(time),
            jnp.arange(number, dtype=jnp.int32) * size, jnp.ones_like(time, bool),
        )  # fmt: skip
        return Blocks(*(jnp.broadcast_to(x, (batch, *x.shape)) for x in row))

    def of_row(ids: jax.Array) -> Blocks:
        begins = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
        start = jax.lax.cummax(jnp.where(begins, time, 0))
        real = ids != 0
        place = time - start
        ends = real & (place % size == size - 1)
        ended = jnp.cumsum(ends, dtype=jnp.int32)
        before = (ended - ends)[start]
        last = jnp.searchsorted(ended, jnp.arange(1, number + 1, dtype=jnp.int32))
        starts = jnp.where(last < length, last - size + 1, 0).astype(jnp.int32)
        return Blocks(
            start + place // size * size, jnp.where(real, place // size, 0), before, starts, real
        )

    return jax.vmap(of_row)(segment_ids)


def blocks_of(x: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """[T, D] -> [N, C, D]: the tokens of each full block."""
    return jax.vmap(lambda first: jax.lax.dynamic_slice_in_dim(x, first, size))(start)


def route(
    query: jax.Array,
    key: jax.Array,
    blocks: Blocks,
    budget: jax.Array,
    *,
    size: int,
    scale: float,
    coverage_at: tuple[int, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Routes each query of each head.

    Args:
        query: [B, KV, T * G, D], the G heads of a token one after the other.
        key: [B, KV, T, D].
        blocks: see `Blocks`.
        budget: int32 [B, KV].
        size: C.
        scale: factor of scores; it matters to coverage alone.
        coverage_at: budgets at which the router's mass is asked for.

    Returns:
        Bits uint32 [B, KV, T * G, W], bit n % 32 of word n // 32 is set where the row attends to
        full block n; the mean coverage [B, KV, len(coverage_at)]; and the number of (query, block)
        pairs, own blocks included, float32 [B, KV].
    """
    groups = query.shape[2] // key.shape[2]
    if not blocks.start.shape[1]:
        tokens = jnp.sum(blocks.real, axis=1, dtype=jnp.float32)[:, None]
        ones = jnp.ones((*budget.shape, len(coverage_at)), jnp.float32)
        nothing = jnp.zeros((*query.shape[:3], 0), jnp.uint32)
        return nothing, ones, jnp.broadcast_to(tokens * groups, budget.shape)

    def pair(arguments):
        query, key, blocks, budget = arguments
        past, first, real = (
            jnp.repeat(x, groups) for x in (blocks.past, blocks.first, blocks.real)
        )
        wanted = jnp.minimum(past, budget - 1)
        pooled = _means(key, blocks.start, size)
        rows = (query, past, first, wanted, real)
        bits, covered = _route_rows(pooled, rows, scale, coverage_at)
        count = jnp.sum(jnp.where(real, wanted + 1, 0).astype(jnp.float32))
        total = jnp.maximum(jnp.sum(real), 1).astype(covered.dtype)
        return bits, covered / total, count

    def row(arguments):
        query, key, blocks, budget = arguments
        return jax.lax.map(lambda each: pair((*each[:2], blocks, each[2])), (query, key, budget))

    bits, coverage, count = jax.lax.map(row, (query, key, blocks, budget))
    return checkpoint_name(bits, IDS), coverage, count


def _means(key: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """Mean keys of the full blocks, [N, D], in float32 at least."""
    dtype = jnp.promote_types(key.dtype, jnp.float32)
    return jnp.mean(blocks_of(key, start, size).astype(dtype), axis=1)


def _route_rows(pooled, rows, scale, coverage_at):
    """Bits [R, W] and the sum of the real rows' coverage, in chunks of `ROWS` rows."""
    count = rows[0].shape[0]
    size = min(ROWS, count)
    chunks = tuple(
        jnp.pad(x, ((0, -count % size),) + ((0, 0),) * (x.ndim - 1)).reshape(-1, size, *x.shape[1:])
        for x in rows
    )
    number = jnp.arange(pooled.shape[0], dtype=jnp.int32)[:, None]

    def chunk(total, arrays):
        query, past, first, wanted, real = arrays
        # [N, rows]: what is counted over blocks runs along rows, in whole vectors.
        scores = jnp.einsum(
            "nd,rd->nr", pooled, query.astype(pooled.dtype), precision="highest",
            preferred_element_type=pooled.dtype,
        )  # fmt: skip
        seen = (number >= first) & (number < first + past)
        bits = _packed(best(scores, seen, wanted))
        if coverage_at:
            total += _coverage(scores * scale, seen, past, real, coverage_at)
        return total, bits

    zero = jnp.zeros(len(coverage_at), pooled.dtype) + 0 * jnp.sum(pooled[:1, :1])
    total, bits = jax.lax.scan(chunk, zero, chunks)
    return bits.reshape(-1, bits.shape[-1])[:count], total


def best(scores: jax.Array, seen: jax.Array, wanted: jax.Array) -> jax.Array:
    """Marks the `wanted` largest of the scores that are seen; of equal ones the first.

    Args:
        scores: [N, R], float32 or float64.
        seen: bool [N, R].
        wanted: int32 [R], at most as many as are seen.

    Returns:
        bool [N, R].
    """
    width = 8 * scores.dtype.itemsize
    unsigned = jnp.dtype(f"uint{width}")
    # Unsigned integers in the order of the numbers; -0 is made 0 first, and 0 stands for unseen.
    raw = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0, scores), unsigned)
    sign = unsigned.type(1 << (width - 1))
    keys = jnp.where(seen, jnp.where(raw & sign != 0, ~raw, raw | sign), 0)

    def bit(i, least):
        trial = least | (sign >> i.astype(unsigned))
        enough = jnp.sum(keys >= trial, axis=0, dtype=jnp.int32) >= wanted
        return jnp.where(enough, trial, least)

    # The largest number that `wanted` keys reach.
    least = jax.lax.fori_loop(0, width, bit, jnp.zeros_like(keys[0]))
    above, equal = keys > least, (keys == least) & seen
    left = wanted - jnp.sum(above, axis=0, dtype=jnp.int32)
    number = jnp.arange(scores.shape[0], dtype=jnp.int32)[:, None]
    end = jnp.zeros_like(wanted)
    for power in reversed(range(scores.shape[0].bit_length())):
        trial = end + (1 << power)
        fits = jnp.sum(equal & (number < trial), axis=0, dtype=jnp.int32) <= left
        end = jnp.where(fits, trial, end)
    return above | (equal & (number < end))


def _packed(chosen: jax.Array) -> jax.Array:
    """bool [N, R] -> uint32 [R, W]."""
    number = chosen.shape[0]
    words = jnp.pad(chosen, ((0, -number % 32), (0, 0))).reshape(-1, 32, chosen.shape[1])
    places = jnp.arange(32, dtype=jnp.uint32)[:, None]
    return jnp.sum(words.astype(jnp.uint32) << places, axis=1, dtype=jnp.uint32).T


def _coverage(scores, seen, past, real, coverage_at):
    """Sum over real rows of the mass that the best k - 1 past blocks have, for each k."""
    lowest = jnp.finfo(scores.dtype).min
    masked = jnp.where(seen, scores, lowest)
    mass = jnp.where(seen, jnp.exp(masked - jnp.max(masked, axis=0)), 0)
    mass = jnp.cumsum(-jnp.sort(-mass, axis=0), axis=0)
    whole = mass[-1]
    found = []
    for k in coverage_at:
        # The own block is attended to in any case and has no mass.
        best_mass = mass[min(k - 1, len(mass)) - 1] if k > 1 else jnp.zeros_like(whole)
        share = jnp.where(past < k, 1.0, best_mass / jnp.where(past > 0, whole, 1.0))
        found.append(jnp.sum(jnp.where(real, share, 0.0)))
    return jnp.stack(found)


def take_lowest(bits: jax.Array, slots: int, none: int) -> tuple[jax.Array, jax.Array]:
    """Takes the first `slots` blocks out of each row's bits.

    Args:
        bits: uint32 [R, W].
        slots: S.
        none: stands for a slot that stays empty.

    Returns:
        int32 [R, S], ascending, and the bits without them.
    """
    words = jnp.arange(bits.shape[1], dtype=jnp.int32)
    found = []
    for _ in range(slots):
        word = jnp.argmax(bits != 0, axis=1).astype(jnp.int32)
        value = jnp.take_along_axis(bits, word[:, None], axis=1)[:, 0]
        lowest = value & (~value + 1)
        place = jax.lax.population_count(lowest - 1).astype(jnp.int32)
        found.append(jnp.where(value != 0, 32 * word + place, none))
        bits = jnp.where(words == word[:, None], bits & ~lowest[:, None], bits)
    return jnp.stack(found, axis=1), bits
