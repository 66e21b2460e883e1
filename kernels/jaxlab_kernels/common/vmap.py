"""Batches of `jax.vmap` as part of a kernel's own batch axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def folding(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function such that `jax.vmap` enlarges B instead of adding an axis.

    Args:
        function: arrays [B, ...] to a tree of arrays [B, ...]; None is allowed among the arguments.
    """
    folded = jax.custom_batching.custom_vmap(function)

    @folded.def_vmap
    def rule(size, batched, *arrays):
        def joined(x, is_batched):
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = folded(*jax.tree.map(joined, arrays, tuple(batched)))
        split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return split, jax.tree.map(lambda _: True, results)

    return folded
