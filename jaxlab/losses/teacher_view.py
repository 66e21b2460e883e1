"""A teacher's view of tokens: from its distribution to what a method asked for."""

import jax
import jax.numpy as jnp

from jaxlab.losses import divergences
from jaxlab.losses.types import Needs, Teacher, at_least

# Wide enough to fill a vector register, small enough that the chosen blocks are few words.
_BLOCK = 128


def view(teacher_logp: jax.Array, tokens: jax.Array, needs: Needs) -> Teacher:
    """What `needs` asks of a teacher's distribution, without a gradient.

    Args:
        teacher_logp: [N, V], log-probabilities.
        tokens: int [N], the student's samples.
        needs: `teacher` is not None.
    """
    logp = jax.lax.stop_gradient(divergences.at_least_float32(teacher_logp))
    found = Teacher(token=jnp.take_along_axis(logp, tokens[:, None], axis=-1)[:, 0])
    if needs.entropy:
        found = found._replace(entropy=divergences.entropy(logp))
    if at_least(needs.teacher, "full"):
        found = found._replace(logp=logp)
    if at_least(needs.teacher, "topk") and needs.top_k:
        k = min(needs.top_k, logp.shape[-1])
        top, words = top_k(logp, k)
        found = found._replace(words=words, top=top)
        if needs.tail:
            found = found._replace(tail=tail(logp, words))
    return found


def tail(logp: jax.Array, words: jax.Array) -> jax.Array:
    """Log of the mass [N] of all words but `words` [N, K].

    Summed over the others: log(1 - mass of the top) has no digits left when the mass is near 1.
    """
    others = jnp.put_along_axis(logp, words, divergences.LOGP_FLOOR, axis=-1, inplace=False)
    return jax.nn.logsumexp(others, axis=-1)


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` over the last axis, ties included, faster where the axis is long.

    The k largest lie in the k blocks with the largest maxima; only those are sorted. The blocks
    are kept in their order, so that the lower index wins a tie as in `jax.lax.top_k`.

    x: [N, V]; returns values [N, k] and int32 indices [N, k].
    """
    rows, length = x.shape
    blocks = -(-length // _BLOCK)
    if blocks < 2 * k:
        values, indices = jax.lax.top_k(x, k)
        return values, indices
    padded = jnp.pad(x, ((0, 0), (0, blocks * _BLOCK - length)), constant_values=-jnp.inf)
    padded = padded.reshape(rows, blocks, _BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(padded, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)
    candidates = jnp.take_along_axis(padded, chosen[..., None], axis=1).reshape(rows, k * _BLOCK)
    values, positions = jax.lax.top_k(candidates, k)
    block = jnp.take_along_axis(chosen, positions // _BLOCK, axis=-1)
    return values, block * _BLOCK + positions % _BLOCK
