"""A batch in parts: their results side by side, or their gradients added up.

Part k of n holds the rows k, k + n, k + 2 n, ...: where the batch is spread over devices, each part
is spread over all of them, and no row has to move.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Batch = TypeVar("Batch")
# (params, part) -> (its term of the loss, statistics whose leaves begin with the part's rows).
Loss = Callable[[Any, Batch], tuple[jax.Array, Any]]


def over_parts(function: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """function(batch), a part at a time.

    Args:
        function: pytree of arrays [B, ...] to pytree of arrays [B, ...], row by row.
        batch: leaves [B, ...].
        parts: divides B.
    """
    if parts == 1:
        return function(batch)
    return _merge(jax.lax.map(function, _split(batch, parts)))


def value_and_grad(
    loss: Loss, params: Any, batch: Batch, parts: int
) -> tuple[tuple[jax.Array, Any], Any]:
    """Sum of the loss over the parts, statistics of all rows, and the gradient of the sum.

    Args:
        loss: its terms must add up to the loss of the batch: where it is a mean over the batch,
            the denominator is the whole batch's (`losses.aggregate.count`).
        params: differentiated.
        batch: leaves [B, ...].
        parts: divides B.

    Returns:
        ((loss, statistics [B, ...]), gradients as params). They are added up in float32 or better.
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return grad(params, batch)

    def add(sums: Any, part: Batch) -> tuple[Any, Any]:
        (value, stats), grads = grad(params, part)
        return jax.tree.map(jnp.add, sums, (value, grads)), stats

    start = jax.tree.map(_zeros, (jnp.zeros(()), params))
    (value, sums), stats = jax.lax.scan(add, start, _split(batch, parts))
    grads = jax.tree.map(lambda total, like: total.astype(like.dtype), sums, params)
    return (value, _merge(stats)), grads


def _zeros(like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like, dtype=jnp.promote_types(like.dtype, jnp.float32))


def _split(batch: Any, parts: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...]."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape((-1, parts, *x.shape[1:])), 1, 0), batch)


def _merge(parts: Any) -> Any:
    """The inverse of `_split`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape((-1, *x.shape[2:])), parts)
