"""Feed-forward layers of many experts, each on the tokens that chose it; none is dropped.

N tokens of width d, E experts of inner width f, k chosen per token: M = N k pairs of a token and an
expert. `padded` is for CPUs, where XLA runs `jax.lax.ragged_dot` as one dense product per expert;
`ragged` is for GPUs and TPUs, which have it as an operation. Arguments and result of all forms are
those of `experts`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxlab_kernels import dispatch

# Rows of a tile, by which pairs beyond an expert's capacity are computed one tile after the other.
_TILE = 64
_ALIGNED = 8


def experts(
    x: jax.Array,
    ids: jax.Array,
    weights: jax.Array,
    gate: jax.Array,
    up: jax.Array,
    down: jax.Array,
    *,
    among: int | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Sum over a token's experts of weight * down(silu(gate(x)) * up(x)).

    Differentiable (reverse mode) in x, weights and the matrices.

    Args:
        x: [N, d].
        ids: int [N, k], experts; a number outside 0 .. E - 1 is no expert: the pair counts nothing.
        weights: [N, k].
        gate: [E, d, f].
        up: [E, d, f].
        down: [E, f, d].
        among: experts that the ids are drawn from, for the size of buffers alone; None is E. More
            where other devices have the rest.
        implementation: "padded", "ragged", or None for the platform's.

    Returns:
        [N, d] in x's dtype, in which products are computed.
    """
    if 0 in (*x.shape, *ids.shape):
        return jnp.zeros_like(x)
    return dispatch.call("experts", IMPLEMENTATIONS, PREFERENCES, implementation,
                         x, ids, weights, gate, up, down, among or gate.shape[0])  # fmt: skip


def ragged(
    x: jax.Array, ids: jax.Array, weights: jax.Array, gate: jax.Array, up: jax.Array,
    down: jax.Array, among: int,
) -> jax.Array:  # fmt: skip
    """By `jax.lax.ragged_dot` over the pairs in the order of their experts."""
    del among
    gate, up, down = (matrix.astype(x.dtype) for matrix in (gate, up, down))
    plan = _plan(ids, gate.shape[0], 0)
    # Rows behind the last expert's are of no pair: neither they nor their gradients count.
    real = (jnp.arange(ids.size) < jnp.sum(plan.counts))[:, None]
    pairs = jnp.broadcast_to(x[:, None], (*ids.shape, x.shape[1])).reshape(ids.size, -1)
    # Permutations, so that neither these rows nor their gradients are summed up in any order.
    rows = jnp.where(real, pairs.at[plan.order].get(unique_indices=True), 0)
    hidden = _glu(*(jax.lax.ragged_dot(rows, matrix, plan.counts) for matrix in (gate, up)))
    y = jnp.where(real, jax.lax.ragged_dot(hidden, down, plan.counts), 0)
    y = y.at[plan.place].get(unique_indices=True).reshape(*ids.shape, -1)
    return jnp.einsum("nk,nkd->nd", weights.astype(x.dtype), y)


class _Plan(NamedTuple):
    """Pairs in the order of their experts.

    Attributes:
        order: int32 [M], numbers of pairs, n k + j; those without an expert last.
        place: int32 [M], of each pair in that order.
        counts: int32 [E], pairs of each expert.
        starts: int32 [E], where its pairs begin.
        slot: int32 [M], row of each pair in the padded buffer [E C]; E C where it has none.
        pair: int32 [E C], pair of each row of the buffer; M where the row is empty.
    """

    order: jax.Array
    place: jax.Array
    counts: jax.Array
    starts: jax.Array
    slot: jax.Array
    pair: jax.Array


def _plan(ids: jax.Array, num_experts: int, room: int) -> _Plan:
    flat = ids.reshape(-1)
    pairs = flat.shape[0]
    flat = jnp.where((flat >= 0) & (flat < num_experts), flat, num_experts)
    order = _order(flat, num_experts)
    place = jnp.zeros_like(order).at[order].set(jnp.arange(pairs, dtype=jnp.int32))
    ends = jnp.searchsorted(flat[order], jnp.arange(num_experts), side="right").astype(jnp.int32)
    starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
    counts = ends - starts
    rows = num_experts * room
    within = place - jnp.append(starts, 0)[flat]
    fits = (flat < num_experts) & (within < room)
    slot = jnp.where(fits, flat * room + within, rows)
    column = jnp.arange(room)
    source = jnp.minimum(starts[:, None] + column, pairs - 1)
    pair = jnp.where(column < counts[:, None], order[source], pairs).reshape(rows)
    return _Plan(order, place, counts, starts, slot, pair)


def _order(experts: jax.Array, num_experts: int) -> jax.Array:
    """Numbers of the pairs by expert, then as they come; experts are at most `num_experts`."""
    pairs = experts.shape[0]
    if (num_experts + 1) * pairs > jnp.iinfo(jnp.int32).max:
        return jnp.argsort(experts, stable=True).astype(jnp.int32)
    # One key each, which XLA's CPU backend sorts several times as fast as keys with values.
    keys = experts * pairs + jnp.arange(pairs, dtype=jnp.int32)
    return jnp.sort(keys, stable=False) % pairs


def capacity(tokens: int, top_k: int, num_experts: int) -> int:
    """Rows of the padded product that each expert has: two deviations above an even choice.

    A token of a router without preferences chooses an expert with probability k / E, so that loads
    are binomial; the few experts with more cost a tile each. Where pairs are fewer than experts
    there is no buffer: tiles read the matrices of the chosen ones alone.
    """
    share = top_k / num_experts
    mean = tokens * share
    if mean < 1:
        return 0
    rows = mean + 2 * math.sqrt(mean * max(1 - share, 0))
    return min(math.ceil(rows / _ALIGNED) * _ALIGNED, tokens * top_k)


def padded(
    x: jax.Array, ids: jax.Array, weights: jax.Array, gate: jax.Array, up: jax.Array,
    down: jax.Array, among: int,
) -> jax.Array:  # fmt: skip
    """By one batched product over experts padded to `capacity`, and tiles for what is beyond it."""
    gate, up, down = (matrix.astype(x.dtype) for matrix in (gate, up, down))
    tokens, top_k = ids.shape
    plan = _plan(ids, gate.shape[0], capacity(tokens, top_k, among))
    return _padded(x, plan, weights.astype(x.dtype), gate, up, down)


@jax.custom_vjp
def _padded(x, plan, weights, gate, up, down):
    return _padded_forward(x, plan, weights, gate, up, down)[0]


def _padded_forward(x, plan, weights, gate, up, down):
    (count, width, _), top_k = gate.shape, weights.shape[1]
    room = plan.pair.size // count
    packed = _taken(x, plan.pair // top_k).reshape(count, room, width)
    packed, equation = _laid(packed, gate)
    gated, risen = jnp.einsum(equation, packed, gate), jnp.einsum(equation, packed, up)
    hidden, equation = _laid(_glu(gated, risen), down)
    out = jnp.einsum(equation, hidden, down).reshape(count * room, width)
    slots = plan.slot.reshape(weights.shape)
    y = _total(weights[:, j, None] * _taken(out, slots[:, j]) for j in range(top_k))

    def tile(number, y):
        expert, pair = _tile(plan, number, room)
        part = _taken(x, pair // top_k)
        hidden = _glu(part @ gate[expert], part @ up[expert])
        scaled = _weights_of(weights, pair)[:, None] * (hidden @ down[expert])
        return y.at[pair // top_k].add(scaled, mode="drop")

    y = jax.lax.fori_loop(0, _tiles(plan, room), tile, y)
    return y, (x, plan, weights, gate, up, down, gated, risen)


def _padded_backward(saved, dy):
    x, plan, weights, gate, up, down, gated, risen = saved
    (count, width, _), top_k = gate.shape, weights.shape[1]
    room, token = plan.pair.size // count, plan.pair // top_k
    packed, outer = (_taken(both, token).reshape(count, room, width) for both in (x, dy))
    weight = _weights_of(weights, plan.pair).reshape(count, room, 1)
    hidden, back = jax.vjp(_glu, gated, risen)
    inner = _transposed(outer, down)
    said = jnp.sum(hidden * inner, axis=-1).reshape(count * room, 1)
    dgated, drisen = back(weight * inner)
    dpacked = _transposed(dgated, gate) + _transposed(drisen, up)
    dpacked, slots = dpacked.reshape(count * room, width), plan.slot.reshape(weights.shape)
    sums = (
        _total(_taken(dpacked, slots[:, j]) for j in range(top_k)),
        _taken(said, plan.slot),
        jnp.einsum("ecd,ecf->edf", packed, dgated),
        jnp.einsum("ecd,ecf->edf", packed, drisen),
        jnp.einsum("ecf,ecd->efd", hidden, weight * outer),
    )

    def tile(number, sums):
        dx, dweight, dgate, dup, ddown = sums
        expert, pair = _tile(plan, number, room)
        part, outer = _taken(x, pair // top_k), _taken(dy, pair // top_k)
        weight = _weights_of(weights, pair)[:, None]
        hidden, back = jax.vjp(_glu, part @ gate[expert], part @ up[expert])
        inner = outer @ down[expert].T
        dgated, drisen = back(weight * inner)
        dpart = dgated @ gate[expert].T + drisen @ up[expert].T
        said = jnp.sum(hidden * inner, axis=-1, keepdims=True)
        return (
            dx.at[pair // top_k].add(dpart, mode="drop"),
            dweight.at[pair].set(said, mode="drop"),
            dgate.at[expert].add(part.T @ dgated),
            dup.at[expert].add(part.T @ drisen),
            ddown.at[expert].add(hidden.T @ (weight * outer)),
        )

    dx, dweight, *matrices = jax.lax.fori_loop(0, _tiles(plan, room), tile, sums)
    return dx, None, dweight.reshape(weights.shape), *matrices


_padded.defvjp(_padded_forward, _padded_backward)


def _glu(gated: jax.Array, risen: jax.Array) -> jax.Array:
    return jax.nn.silu(gated) * risen


def _laid(rows: jax.Array, matrices: jax.Array) -> tuple[jax.Array, str]:
    """Rows [E, C, in] as XLA's CPU backend multiplies them fastest by [E, in, out]; the equation.

    Rows in the order of memory go to YNNPACK, which first copies all matrices into blocks: of no
    account for many rows, half the time for a hundred. Columns go to Eigen, which does not.
    """
    inner, outer = matrices.shape[1:]
    if rows.shape[1] > inner * outer / (inner + outer):
        return rows, "eci,eio->eco"
    # Without the barrier XLA takes the transpose back.
    return jax.lax.optimization_barrier(jnp.swapaxes(rows, 1, 2)), "eic,eio->eco"


def _transposed(rows: jax.Array, matrices: jax.Array) -> jax.Array:
    """[E, C, out] by [E, in, out]: [E, C, in]."""
    return jnp.einsum("eco,eio->eci", rows, matrices)


def _taken(rows: jax.Array, index: jax.Array) -> jax.Array:
    """Rows by number; zeros for a number behind the last."""
    if not len(rows):
        return jnp.zeros((*index.shape, *rows.shape[1:]), rows.dtype)
    return rows.at[index].get(mode="fill", fill_value=0)


def _total(terms: Iterator[jax.Array]) -> jax.Array:
    """The sum of a few arrays, in float32; written out, XLA gathers and adds in one loop."""
    first, *rest = terms
    wide = jnp.promote_types(first.dtype, jnp.float32)
    return sum((term.astype(wide) for term in rest), first.astype(wide)).astype(first.dtype)


def _weights_of(weights: jax.Array, pair: jax.Array) -> jax.Array:
    """Weights of these pairs; 0 for the number behind the last pair."""
    return _taken(weights.reshape(-1), pair)


def _tiles(plan: _Plan, room: int) -> jax.Array:
    """How many tiles hold the pairs beyond the buffer's room for each expert."""
    return jnp.sum(-(-jnp.maximum(plan.counts - room, 0) // _tile_rows(plan)))


def _tile(plan: _Plan, number: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """The tile's expert, and its pairs [tile]; the number of pairs stands for none."""
    rows, pairs = _tile_rows(plan), len(plan.order)
    ends = jnp.cumsum(-(-jnp.maximum(plan.counts - room, 0) // rows))
    expert = jnp.searchsorted(ends, number, side="right")
    first = jnp.where(expert > 0, ends[expert - 1], 0)
    within = room + (number - first) * rows + jnp.arange(rows)
    place = jnp.minimum(plan.starts[expert] + within, pairs - 1)
    return expert, jnp.where(within < plan.counts[expert], plan.order[place], pairs)


def _tile_rows(plan: _Plan) -> int:
    return min(_TILE, len(plan.order))


IMPLEMENTATIONS = {"padded": padded, "ragged": ragged}
PREFERENCES = {"cpu": ("padded",), "gpu": ("ragged",), "tpu": ("ragged",)}
