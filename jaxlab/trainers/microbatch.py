"""A batch in parts: their results side by side, or their gradients added up.

Part k of n holds the rows k, k + n, k + 2 n, ...: where the batch is spread over devices, each part
is spread over all of them, and no row has to move. Groups of consecutive rows, such as the
completions of one prompt, stay together: then these are the numbers of groups.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Batch = TypeVar("Batch")
# (params, part) -> (its term of the loss, statistics whose leaves begin with the part's rows).
Loss = Callable[[Any, Batch], tuple[jax.Array, Any]]


def over_parts(function: Callable[[Batch], Any], batch: Batch, parts: int, group: int = 1) -> Any:
    """function(batch), a part at a time.

    Args:
        function: pytree of arrays [B, ...] to pytree of arrays [B, ...], row by row.
        batch: leaves [B, ...].
        parts: divides B / group.
        group: consecutive rows that stay together.
    """
    if parts == 1:
        return function(batch)
    return _merge(jax.lax.map(function, split(batch, parts, group)), group)


def value_and_grad(
    loss: Loss, params: Any, batch: Batch, parts: int, group: int = 1
) -> tuple[tuple[jax.Array, Any], Any]:
    """Sum of the loss over the parts, statistics of all rows, and the gradient of the sum.

    Args:
        loss: its terms must add up to the loss of the batch: where it is a mean over the batch,
            the denominator is the whole batch's (`losses.aggregate.count`).
        params: differentiated.
        batch: leaves [B, ...].
        parts: divides B / group.
        group: consecutive rows that stay together.

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
    (value, sums), stats = jax.lax.scan(add, start, split(batch, parts, group))
    grads = jax.tree.map(lambda total, like: total.astype(like.dtype), sums, params)
    return (value, _merge(stats, group)), grads


def _zeros(like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like, dtype=jnp.promote_types(like.dtype, jnp.float32))


def split(batch: Any, parts: int, group: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...]; part k holds the groups k, k + parts, ...

    Args:
        batch: leaves [B, ...].
        parts: divides B / group.
        group: consecutive rows that stay together.
    """

    def of(x: jax.Array) -> jax.Array:
        groups = jnp.moveaxis(x.reshape((-1, parts, group, *x.shape[1:])), 1, 0)
        return groups.reshape((parts, -1, *x.shape[1:]))

    return jax.tree.map(of, batch)


def _merge(batch: Any, group: int) -> Any:
    """The inverse of `split`."""

    def merge(x: jax.Array) -> jax.Array:
        groups = x.reshape((x.shape[0], -1, group, *x.shape[2:]))
        return jnp.moveaxis(groups, 0, 1).reshape((-1, *x.shape[2:]))

    return jax.tree.map(merge, batch)
