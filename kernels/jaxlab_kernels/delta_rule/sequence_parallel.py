"""One sequence on several devices: shards of time along a mesh axis, inside `jax.shard_map`.

The state before and after a shard's tokens are related by an affine map, S_out = A S_in + B, and
its outputs are affine in S_in as well, out = out_0 + P S_in. One local pass gives all four: the
operation is linear in the values and the initial state, so Dk more columns of values that are 0,
begun with the identity where the first Dv begin with 0, end as A and read as P. Maps compose to
maps, (A', B') after (A, B) being (A' A, A' B + B').

The maps before every shard come from a scan of log2(n) exchanges with doubling distance
(Hillis and Steele) and one more to the right neighbour. Each moves Dk (Dk + Dv) numbers per head,
so memory does not grow with n, as it would by gathering all maps; and n - 1 hops around a ring
would each wait for the one before.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlab_kernels.delta_rule.rule import Inputs, Rule, empty_state

_matmul = functools.partial(jnp.matmul, precision="highest")


def across_shards(
    local: Callable[[Inputs], tuple[jax.Array, jax.Array]],
    rule: Rule,
    inputs: Inputs,
    axis_name: str,
) -> tuple[jax.Array, jax.Array]:
    """The operation on a sequence whose shards lie along a mesh axis.

    Costs one local pass with Dv + Dk columns of values in the compute dtype. Differentiable:
    the gradient's exchanges are those of the scan, backwards.

    Args:
        local: the operation on one device, of the same rule.
        rule: see `Rule`.
        inputs: this shard's, with starts of segments marked across the border
            (`segments.unpack`); the initial state is that of the whole sequence, the same on
            every shard.
        axis_name: the mesh axis, its first device holding the first tokens.

    Returns:
        out [B, T, HV, Dv] of the shard in the dtype of v, and the state after the last token of
        the whole sequence, [B, HV, Dk, Dv], the same on every shard.
    """
    value_dim = inputs.v.shape[-1]
    wide_out, wide_state = local(_with_map_columns(rule, inputs))
    out, P = wide_out[..., :value_dim], wide_out[..., value_dim:]
    B, A = wide_state[..., :value_dim], wide_state[..., value_dim:]
    A_before, B_before = _maps_before(A, B, axis_name)
    state = _matmul(A_before, inputs.initial_state) + B_before

    out = out + jnp.einsum("bthk,bhkv->bthv", P, state, precision="highest")
    last = _matmul(A, state) + B
    is_last = jax.lax.axis_index(axis_name) == jax.lax.axis_size(axis_name) - 1
    last = jax.lax.psum(jnp.where(is_last, last, 0.0), axis_name)
    return out.astype(inputs.v.dtype), last


def tokens_before(x: jax.Array, count: int, axis_name: str) -> jax.Array:
    """The tokens that precede this shard's: what a causal convolution of count + 1 taps needs.

    Args:
        x: [B, T, ...], the shard.
        count: how many, at most T.
        axis_name: the mesh axis.

    Returns:
        [B, count, ...] from the shard before; zeros on the first. Of segment ids likewise, where
        0 is padding.

    Raises:
        ValueError: a shard has fewer tokens than that.
    """
    length = x.shape[1]
    if not 0 <= count <= length:
        raise ValueError(f"count={count} tokens of a shard of {length}: expected 0 to {length}")
    return _from_left(x[:, length - count :], 1, axis_name)


def id_before(segment_ids: jax.Array, axis_name: str) -> jax.Array:
    """The segment id [B] of the nearest token before this shard that is no padding, 0 for none.

    Args:
        segment_ids: int [B, T], the shard's.
        axis_name: the mesh axis.
    """
    latest = _latest_id(segment_ids)
    ids = jax.lax.all_gather(latest, axis_name, axis=1)
    earlier = jnp.arange(ids.shape[1]) < jax.lax.axis_index(axis_name)
    return _latest_id(jnp.where(earlier[None], ids, 0))


def _latest_id(ids: jax.Array) -> jax.Array:
    """[B, N] -> the last in each row that is not 0, or 0."""
    position = jnp.max(jnp.where(ids != 0, jnp.arange(ids.shape[1])[None], -1), axis=1, initial=-1)
    found = jnp.arange(ids.shape[1])[None] == position[:, None]
    return jnp.sum(jnp.where(found, ids, 0), axis=1, dtype=ids.dtype)


def _with_map_columns(rule: Rule, inputs: Inputs) -> Inputs:
    """Values [v | 0] and initial state [0 | identity], of width Dv + Dk."""
    key_dim, value_dim = inputs.initial_state.shape[2:]
    dtype = inputs.initial_state.dtype
    v = _pad(inputs.v.astype(dtype), key_dim, 0)
    write = inputs.write
    if write is None and inputs.erase.ndim == v.ndim and rule.form != "left":
        write = inputs.erase
    if write is not None and write.ndim == v.ndim:
        write = _pad(write, key_dim, 1)
    identity = jnp.eye(key_dim, value_dim + key_dim, k=value_dim, dtype=dtype)
    state = empty_state(v, key_dim, dtype) + identity[None, None]
    return inputs._replace(v=v, write=write, initial_state=state)


def _pad(x: jax.Array, count: int, value: float) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count)], constant_values=value)


def _maps_before(A: jax.Array, B: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
    """The composition of the maps of all earlier shards; the identity on the first."""
    index, count = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
    distance = 1
    while distance < count - 1:
        A_left, B_left = (_from_left(x, distance, axis_name) for x in (A, B))
        is_later = index >= distance
        B = jnp.where(is_later, _matmul(A, B_left) + B, B)
        A = jnp.where(is_later, _matmul(A, A_left), A)
        distance *= 2
    A, B = (_from_left(x, 1, axis_name) for x in (A, B))
    identity = jnp.eye(A.shape[-1], dtype=A.dtype)[None, None]
    return jnp.where(index == 0, identity, A), B


def _from_left(x: jax.Array, distance: int, axis_name: str) -> jax.Array:
    """x of the device `distance` places to the left; zeros where there is none."""
    count = jax.lax.axis_size(axis_name)
    pairs = [(source, source + distance) for source in range(count - distance)]
    return jax.lax.ppermute(x, axis_name, pairs)
