"""What happens to a model's cache between reading the prompts and decoding."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab.models.decoder import Cache
from jaxlab.nn.attention import KVCache, Span


def store_as(cache: Cache, dtype: DTypeLike | None) -> Cache:
    """The cache with keys and values in `dtype`; other mixers' states keep theirs."""
    if dtype is None:
        return cache
    layers = (
        KVCache(layer.key.astype(dtype), layer.value.astype(dtype))
        if isinstance(layer, KVCache)
        else layer
        for layer in cache.layers
    )
    return Cache(tuple(layers), cache.span)


def repeat(cache: Cache, times: int) -> Cache:
    """Each row `times` times in succession: [B, ...] -> [B * times, ...] in every leaf."""
    if times == 1:
        return cache

    def rows(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, times, axis=0)

    return Cache(jax.tree.map(rows, cache.layers), Span(cache.span.slot, rows(cache.span.start)))
