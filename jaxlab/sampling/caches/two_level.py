"""Dense prefill, then two-level sparse attention: an index beside the keys says which to read."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxlab_kernels.two_level import Index, IndexConfig, append_index, build_index, decode

from jaxlab.nn.attention import attend
from jaxlab.nn.context import Context, repeat_rows


def calibrate(query: jax.Array, key: jax.Array, counts: jax.Array, channels: int) -> jax.Array:
    """The channels whose products of query and key are largest on each row's own prompt.

    w[c] = mean |q[c] k[c]| over tokens and the query heads of a key head, after rotary positions:
    Double Sparsity's active calibration, on the prompt in place of another text.

    Args:
        query: [B, T, H, D].
        key: [B, T, KV, D].
        counts: bool [B, T], tokens that count.
        channels: r.

    Returns:
        int32 [B, KV, r].
    """
    batch, length, heads, dim = key.shape
    grouped = jnp.abs(query.reshape(batch, length, heads, -1, dim)).sum(axis=3)
    weights = grouped.astype(jnp.float32) * jnp.abs(key).astype(jnp.float32)
    weights = jnp.where(counts[:, :, None, None], weights, 0).sum(axis=1)
    return jax.lax.top_k(weights, channels)[1].astype(jnp.int32)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("key", "value", "index"),
    meta_fields=("config",),
)
@dataclasses.dataclass(frozen=True)
class TwoLevelCache:
    """Keys and values of the tokens so far, each row's first token in slot 0, and their index.

    Attributes:
        key: [B, KV, S, D], rotated where the layer has rotary positions.
        value: [B, KV, S, Dv].
        index: of `jaxlab_kernels.two_level`, with the channels of each row.
        config: see `jaxlab_kernels.two_level.IndexConfig`.
    """

    key: jax.Array
    value: jax.Array
    index: Index
    config: IndexConfig

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "TwoLevelCache"]:
        """See `jaxlab.nn.context.AttentionCache`; attention is dense, channels are calibrated."""
        slots = self.key.shape[2]
        if slots < self.config.min_len:
            warnings.warn(
                f"two_level attention stays dense: the cache has {slots} slots and min_len is "
                f"{self.config.min_len}; lower min_len to select tokens",
                stacklevel=2,
            )
        y = attend(query, key, value, context.segment_ids)
        batch, width = key.shape[:2]
        counts = jnp.ones((batch, width), bool)
        if context.segment_ids is not None:
            counts = context.segment_ids > 0
        length = counts.sum(axis=1).astype(jnp.int32)
        channels = calibrate(query, key, counts, self.config.channels)
        # Rows are left-padded; a row's first token goes to slot 0, where its blocks begin.
        source = (jnp.arange(width)[None] + (width - length)[:, None]) % width

        def put(slots: jax.Array, new: jax.Array) -> jax.Array:
            new = jnp.take_along_axis(new, source[:, :, None, None], axis=1, mode="clip")
            new = new.transpose(0, 2, 1, 3).astype(slots.dtype)
            return jax.lax.dynamic_update_slice_in_dim(slots, new, 0, axis=2)

        key, value = put(self.key, key), put(self.value, value)
        index = build_index(key, length, channels, self.config)
        return y, TwoLevelCache(key, value, index, self.config)

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "TwoLevelCache"]:
        """See `jaxlab.nn.context.AttentionCache`; new tokens are read one after the other."""
        assert context.slot is not None
        assert context.start is not None
        first = context.slot - context.start  # [B], where the first new token goes

        def one(cache: TwoLevelCache, token):
            query, key, value, offset = token
            cache = cache._write(key, value, first + offset)
            length = (first + offset + 1).astype(jnp.int32)
            y, _ = decode(query, cache.key, cache.value, cache.index, length, self.config)
            return cache, y

        if query.shape[1] == 1:
            cache, y = one(self, (query[:, 0], key[:, 0], value[:, 0], 0))
            return y[:, None], cache
        tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (query, key, value))
        cache, y = jax.lax.scan(one, self, (*tokens, jnp.arange(query.shape[1])))
        return jnp.moveaxis(y, 0, 1), cache

    def by_slot(self) -> None:
        """See `jaxlab.nn.context.AttentionCache`: rows begin at slot 0, whatever their padding."""
        return None

    def repeat(self, times: int) -> "TwoLevelCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return repeat_rows(self, times)

    def _write(self, key: jax.Array, value: jax.Array, slot: jax.Array) -> "TwoLevelCache":
        """With a token [B, KV, ..] at slot [B] of each row."""
        rows = jnp.arange(key.shape[0])
        keys = self.key.at[rows, :, slot].set(key.astype(self.key.dtype))
        values = self.value.at[rows, :, slot].set(value.astype(self.value.dtype))
        length = (slot + 1).astype(jnp.int32)
        index = append_index(self.index, keys, length, self.index.channels, self.config)
        return TwoLevelCache(keys, values, index, self.config)


@dataclasses.dataclass(frozen=True)
class TwoLevel:
    """The sizes of two-level caches, a `jaxlab.nn.context.CacheKind`.

    Attributes:
        slots: S, tokens that fit.
        config: see `jaxlab_kernels.two_level.IndexConfig`.
        dtype: of the stored keys and values; None is the model's compute dtype.
    """

    slots: int
    config: IndexConfig
    dtype: str | None = None

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> TwoLevelCache:
        """See `jaxlab.nn.context.CacheKind`.

        Raises:
            ValueError: the config asks for more channels than keys have, or for `skip_layers`,
                which no layer can honour that does not know its number.
        """
        if self.config.channels > dim:
            raise ValueError(
                f"channels is {self.config.channels}, and keys have {dim}: expected at most that"
            )
        if self.config.skip_layers:
            raise ValueError(
                f"skip_layers is {self.config.skip_layers}: caches are not told their layer's "
                "number yet; leave it empty"
            )
        front, stored = (batch, kv_heads, self.slots), self.dtype or dtype
        key = jnp.zeros((*front, dim), stored)
        channels = jnp.zeros((batch, kv_heads, self.config.channels), jnp.int32)
        index = build_index(key, jnp.zeros(batch, jnp.int32), channels, self.config)
        return TwoLevelCache(key, jnp.zeros((*front, value_dim), stored), index, self.config)
