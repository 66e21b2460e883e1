"""A state of its own before and after every segment of a packed row.

The operation can write any state by itself: Dk tokens with the unit vectors as keys, open gates
and the state's rows as values. And it can read one: Dk tokens that write nothing, with the unit
vectors as queries. So each segment gets Dk tokens in front and Dk behind, and no implementation has
to know. A row of T tokens and N segments costs as much as one of T + 2 N Dk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels.delta_rule.rule import RESET, Inputs, Rule
from jaxlab_kernels.delta_rule.segments import starts

OPEN_LOGIT = 50.0  # its sigmoid is 1
LARGE = 1e6  # of unit vectors that will be normalised: beside its square eps vanishes


class Layout(NamedTuple):
    """Where the tokens of the rows are after insertion, in rows of T + 2 N Dk.

    Attributes:
        tokens: int [B, T]; beyond the row for those of segments after the N-th.
        before: int [B, N, Dk], the tokens that write the state before a segment.
        after: int [B, N, Dk], the tokens that read the state after it.
    """

    tokens: jax.Array
    before: jax.Array
    after: jax.Array


def layout(segment_ids: jax.Array, count: int, key_dim: int) -> Layout:
    """The layout for int segment_ids [B, T] and at most `count` segments per row."""
    length = segment_ids.shape[1]
    is_first = (segment_ids != 0) & (jnp.cumsum(segment_ids != 0, axis=1) == 1)
    order = jnp.cumsum(starts(segment_ids) | is_first, axis=1) - 1
    order = jnp.maximum(order, 0)  # padding in front is the first segment's
    position = jnp.arange(length)[None] + key_dim * (2 * order + 1)
    n = jnp.arange(count)[None, :, None]
    begin = jnp.sum(order[:, None] < n, axis=2)
    end = jnp.sum(order[:, None] <= n, axis=2)
    channel = jnp.arange(key_dim)[None, None]
    return Layout(
        jnp.where(order < count, position, length + 2 * count * key_dim),
        begin[..., None] + 2 * key_dim * n + channel,
        end[..., None] + 2 * key_dim * n + key_dim + channel,
    )


def insert(rule: Rule, inputs: Inputs, where: Layout) -> Inputs:
    """The rows with the tokens that write and read states inserted.

    Args:
        rule: see `Rule`.
        inputs: with neither padding's values nor resets of segments (`segments.unpack`); the
            initial state is [B, N, HV, Dk, Dv].
        where: the layout.

    Returns:
        Inputs in the compute dtype, with an empty initial state.
    """
    states = inputs.initial_state
    batch, count, _, key_dim, _ = states.shape
    length = inputs.v.shape[1] + 2 * count * key_dim
    rows = jnp.arange(batch)[:, None]

    def spread(x, fill):
        whole = jnp.full((batch, length, *x.shape[2:]), fill, states.dtype)
        return whole.at[rows, where.tokens].set(x.astype(states.dtype), mode="drop")

    def put(x, at, new):
        new = jnp.broadcast_to(new, (batch, count, key_dim, *x.shape[2:]))
        return x.at[rows, at.reshape(batch, -1)].set(new.reshape(batch, -1, *x.shape[2:]))

    unit = jnp.eye(key_dim, dtype=states.dtype)[None, None, :, None]
    if rule.norm_eps is not None:
        unit = LARGE * unit
    # To an empty row of the state an edit adds the gate times the value, in every form.
    gate, highest = (OPEN_LOGIT, rule.gate_scale) if rule.logits else (1.0, 1.0)
    first = where.before[..., 0]
    return Inputs(
        q=put(spread(inputs.q, 0), where.after, unit),
        k=put(spread(inputs.k, 0), where.before, unit),
        v=put(spread(inputs.v, 0), where.before, jnp.moveaxis(states, 3, 2) / highest),
        log_decay=spread(inputs.log_decay, 0).at[rows, first].set(RESET),
        erase=spread(inputs.erase, gate),
        write=None if inputs.write is None else spread(inputs.write, gate),
        initial_state=jnp.zeros_like(states[:, 0]),
    )


def extract(out: jax.Array, where: Layout) -> tuple[jax.Array, jax.Array]:
    """Of the outputs [B, T + 2 N Dk, HV, Dv] those of tokens, and the states after segments.

    The outputs are those of a scale of 1.

    Returns:
        [B, T, HV, Dv], NaN for those of segments after the N-th, and [B, N, HV, Dk, Dv].
    """
    batch, count, key_dim = where.after.shape
    rows = jnp.arange(batch)[:, None]
    tokens = out.at[rows, where.tokens].get(mode="fill", fill_value=jnp.nan)
    read = out[rows, where.after.reshape(batch, -1)]
    states = read.reshape(batch, count, key_dim, *out.shape[2:])
    return tokens, jnp.moveaxis(states, 2, 3)
