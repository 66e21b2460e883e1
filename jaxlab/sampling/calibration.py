"""Channels of the token index from a text, per layer and key head (Double Sparsity)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxlab.models.decoder import Decoder, Params
from jaxlab.models.stacking import members
from jaxlab.nn.attention import attend
from jaxlab.nn.context import Context, repeat_rows
from jaxlab.sampling.caches.two_level import channel_weights


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weights",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class WeightsCache:
    """A cache that keeps no keys, only what their channels weigh; nothing can be decoded with it.

    Attributes:
        weights: float32 [B, KV, D], sums of |q k| over tokens and query heads.
    """

    weights: jax.Array

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "WeightsCache"]:
        """See `jaxlab.nn.context.AttentionCache`."""
        y = attend(query, key, value, context.segment_ids)
        counts = jnp.ones(key.shape[:2], bool)
        return y, WeightsCache(self.weights + channel_weights(query, key, counts))

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "WeightsCache"]:
        """Raises a ValueError."""
        raise ValueError("a cache of channel weights holds no keys: it cannot decode")

    def repeat(self, times: int) -> "WeightsCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return repeat_rows(self, times)

    def in_chunks(self) -> "WeightsCache":
        """Raises a ValueError: prompts are read whole."""
        raise ValueError("prefill_chunk: WeightsCache reads prompts whole: leave it None")

    def whole(self) -> "WeightsCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self

    def by_slot(self) -> None:
        """See `jaxlab.nn.context.AttentionCache`."""
        return None


@dataclasses.dataclass(frozen=True)
class Weights:
    """Caches of channel weights, a `jaxlab.nn.context.CacheKind`."""

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> WeightsCache:
        """See `jaxlab.nn.context.CacheKind`."""
        return WeightsCache(jnp.zeros((batch, kv_heads, dim), jnp.float32))


def measure(model: Decoder, params: Params, rows: np.ndarray) -> tuple[np.ndarray | None, ...]:
    """All channels of every layer's keys, those with the largest mean |q k| first.

    The query and the key of one token meet, after rotary positions, and the query heads of a key
    head are summed: Double Sparsity's active calibration. Rows are read one after the other.

    Args:
        model: the decoder.
        params: its parameters.
        rows: int [N, T], tokens.

    Returns:
        int32 [KV, D] of each layer; None for layers without attention. Equal weights keep the order
        of the channels.

    Raises:
        ValueError: no layer has keys, or a weight is not finite.
    """
    total: list[np.ndarray | None] = [None] * len(model.config.layers)
    for row in rows:
        for number, weights in enumerate(_of_row(model, params, jnp.asarray(row[None], jnp.int32))):
            if weights is not None:
                new = np.asarray(weights, np.float64)
                before = total[number]
                total[number] = new if before is None else before + new
    if all(weights is None for weights in total):
        raise ValueError("the model has no attention layers, and so no channels to calibrate")
    for number, weights in enumerate(total):
        if weights is not None and not np.isfinite(weights).all():
            raise ValueError(f"layer {number}: queries or keys of the text are not finite")
    return tuple(
        None if x is None else np.argsort(-x, axis=-1, kind="stable").astype(np.int32)
        for x in total
    )


@functools.partial(jax.jit, static_argnums=0)
def _of_row(model: Decoder, params: Params, row: jax.Array) -> list[jax.Array | None]:
    """Channel weights [KV, D] of each layer on a row [1, T]."""
    length = jnp.full(1, row.shape[1], jnp.int32)
    out: Any = model.apply({"params": params}, row, length, Weights(), method="prefill")
    cache = out[1]

    def of(layer: object) -> jax.Array | None:
        weights = getattr(layer, "weights", None)
        return None if weights is None else weights[..., 0, :, :]

    if not model.config.scan_layers:
        return [of(layer) for layer in cache.layers]
    found: list[jax.Array | None] = [None] * len(model.config.layers)
    for stack, i, numbers in members(model.config):
        stacked = of(cache.layers[stack][i])
        for n, number in enumerate(numbers):
            found[number] = None if stacked is None else stacked[n]
    return found
