"""Packed rows as ordinary ones: padding becomes tokens that do nothing, a start a full decay."""

import jax
import jax.numpy as jnp

from jaxlab_kernels.delta_rule.rule import RESET


def starts(segment_ids: jax.Array, before: jax.Array | None = None) -> jax.Array:
    """Bool [B, T]: the token begins a segment other than the first of its row.

    A token begins one when its id differs from that of the nearest earlier token that is not
    padding (id 0).

    Args:
        segment_ids: int [B, T].
        before: int [B], the id of such a token before the first one, 0 for none; None: none.
    """
    if before is not None:
        return starts(jnp.concatenate([before[:, None], segment_ids], axis=1))[:, 1:]
    tokens = segment_ids != 0
    position = jnp.where(tokens, jnp.arange(segment_ids.shape[1])[None], -1)
    latest = jax.lax.cummax(position, axis=1)
    previous = jnp.concatenate([jnp.full_like(latest[:, :1], -1), latest[:, :-1]], axis=1)
    previous_ids = jnp.take_along_axis(segment_ids, jnp.maximum(previous, 0), axis=1)
    return tokens & (previous >= 0) & (previous_ids != segment_ids)


def unpack(
    segment_ids: jax.Array,
    dtype: jnp.dtype,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None,
    before: jax.Array | None = None,
    resets: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The same arguments such that one recurrence over the row treats its segments apart.

    At padding q, k, v and log_decay become 0 and the gates 1, whatever stands there: the state
    passes and the output is 0. Where a segment starts, log_decay becomes `RESET`, unless resets is
    False. For `before` see `starts`.

    Returns:
        q, k, v, log_decay (in dtype), erase, write.
    """
    padding = segment_ids == 0

    def at_padding(x, value):
        mask = padding.reshape(padding.shape + (1,) * (x.ndim - 2))
        return jnp.where(mask, jnp.asarray(value, x.dtype), x)

    q, k, v, log_decay = (at_padding(x, 0) for x in (q, k, v, log_decay.astype(dtype)))
    if resets:
        start = starts(segment_ids, before)
        start = start.reshape(start.shape + (1,) * (log_decay.ndim - 2))
        log_decay = jnp.where(start, jnp.asarray(RESET, dtype), log_decay)
    return q, k, v, log_decay, at_padding(erase, 1), None if write is None else at_padding(write, 1)
