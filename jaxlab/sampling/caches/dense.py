"""All keys and values in one array per layer, and exact attention to all of them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxlab_kernels import attention_step

from jaxlab.nn.attention import attend
from jaxlab.nn.context import Context, repeat_rows


class DenseCache(NamedTuple):
    """Keys and values of the tokens so far, head-major: decoding reads each head's run at once.

    Attributes:
        key: [B, KV, S, D], rotated where the layer has rotary positions.
        value: [B, KV, S, Dv]; Dv is 0 where values are the keys.
    """

    key: jax.Array
    value: jax.Array

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "DenseCache"]:
        """See `jaxlab.nn.context.AttentionCache`; the first T slots hold the tokens."""
        y = attend(query, key, value, context.segment_ids)
        return y, self._write(key, value, 0)

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "DenseCache"]:
        """See `jaxlab.nn.context.AttentionCache`."""
        assert context.slot is not None
        assert context.start is not None
        cache = self._write(key, value, context.slot)
        last = context.slot + jnp.arange(query.shape[1])
        value = cache.value if cache.value.shape[-1] else cache.key
        y = attention_step(query, cache.key, value, first=context.start, last=last)
        return y, cache

    def repeat(self, times: int) -> "DenseCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return repeat_rows(self, times)

    def in_chunks(self) -> "DenseCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self

    def whole(self) -> "DenseCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self

    def by_slot(self) -> tuple[jax.Array, jax.Array]:
        """See `jaxlab.nn.context.AttentionCache`."""
        return self.key, self.value

    def _write(self, key: jax.Array, value: jax.Array, slot: jax.Array | int) -> "DenseCache":
        def put(slots: jax.Array, new: jax.Array) -> jax.Array:
            new = new.transpose(0, 2, 1, 3).astype(slots.dtype)
            return jax.lax.dynamic_update_slice_in_dim(slots, new, slot, axis=2)

        return DenseCache(put(self.key, key), put(self.value, value))


@dataclasses.dataclass(frozen=True)
class Dense:
    """The size of dense caches, a `jaxlab.nn.context.CacheKind`.

    Attributes:
        slots: S, tokens that fit.
        dtype: of the stored keys and values; None is the model's compute dtype.
    """

    slots: int
    dtype: str | None = None

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> DenseCache:
        """See `jaxlab.nn.context.CacheKind`."""
        front = (batch, kv_heads, self.slots)
        stored = self.dtype or dtype
        return DenseCache(jnp.zeros((*front, dim), stored), jnp.zeros((*front, value_dim), stored))
