"""Dense prefill, then two-level sparse attention: an index beside the keys says which to read."""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxlab_kernels import attention_step
from jaxlab_kernels.two_level import (
    Index,
    IndexConfig,
    append_index,
    build_index,
    decode,
    extend_index,
    select_blocks,
)

from jaxlab.nn.attention import attend
from jaxlab.nn.context import Context, repeat_rows
from jaxlab.sampling.caches.reading import Reading


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
    return jax.lax.top_k(channel_weights(query, key, counts), channels)[1].astype(jnp.int32)


def channel_weights(query: jax.Array, key: jax.Array, counts: jax.Array) -> jax.Array:
    """Sums of |q[c] k[c]| over tokens and query heads, see `calibrate`: float32 [B, KV, D]."""
    batch, length, heads, dim = key.shape
    grouped = jnp.abs(query.reshape(batch, length, heads, -1, dim)).sum(axis=3)
    weights = grouped.astype(jnp.float32) * jnp.abs(key).astype(jnp.float32)
    return jnp.where(counts[:, :, None, None], weights, 0).sum(axis=1)


def channels_of(
    index: Index, query: jax.Array, key: jax.Array, context: Context, calibrated: bool
) -> tuple[jax.Array, jax.Array]:
    """Channels of the token index, and the lengths of left-padded prompts.

    Args:
        index: without tokens.
        query: [B, T, H, D].
        key: [B, T, KV, D].
        context: of the prompts.
        calibrated: whether the index has its channels; otherwise they are those of the prompts.

    Returns:
        int32 [B, KV, r] and int32 [B].
    """
    counts = jnp.ones(key.shape[:2], bool)
    if context.segment_ids is not None:
        counts = context.segment_ids > 0
    length = counts.sum(axis=1).astype(jnp.int32)
    if calibrated:
        return index.channels, length
    return calibrate(query, key, counts, index.channels.shape[2]), length


def from_slot_zero(x: jax.Array, length: jax.Array) -> jax.Array:
    """Left-padded rows [B, T, KV, D] as [B, KV, T, D] with the first token in slot 0."""
    width = x.shape[1]
    source = (jnp.arange(width)[None] + (width - length)[:, None]) % width
    x = jnp.take_along_axis(x, source[:, :, None, None], axis=1, mode="clip")
    return x.transpose(0, 2, 1, 3)


def empty_index(shape: tuple[int, ...], dtype: DTypeLike, config: IndexConfig) -> Index:
    """The index of keys [B, KV, S, D] none of which is written."""
    batch, heads = shape[:2]
    like = jax.eval_shape(
        functools.partial(build_index, config=config),
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((batch, heads, config.channels), jnp.int32),
    )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def check_sizes(config: IndexConfig, dim: int) -> None:
    """Raises a ValueError unless layers with keys of this size can have such an index."""
    if config.channels > dim:
        raise ValueError(
            f"channels is {config.channels}, and keys have {dim}: expected at most that"
        )
    if config.skip_layers:
        raise ValueError(
            f"skip_layers is {config.skip_layers}: caches are not told their layer's "
            "number yet; leave it empty"
        )


class Measured(NamedTuple):
    """Sums over the tokens since the prompt, float32 [B]: see `jaxlab_kernels.two_level.Stats`.

    Attributes:
        mass: mean over heads.
        recall: mean over key heads.
        bytes: of the layer.
    """

    mass: jax.Array
    recall: jax.Array
    bytes: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("key", "value", "index", "wanted", "step", "measured"),
    meta_fields=("config", "refresh", "calibrated"),
)
@dataclasses.dataclass(frozen=True)
class TwoLevelCache:
    """Keys and values of the tokens so far, each row's first token in slot 0, and their index.

    Attributes:
        key: [B, KV, S, D], rotated where the layer has rotary positions.
        value: [B, KV, S, Dv]; Dv is 0 where values are the keys.
        index: of `jaxlab_kernels.two_level`, with the channels of each row.
        wanted: int32 [B, KV, k], blocks that the last step selected; None where each step uses its
            own.
        step: int32 [B], tokens since the prompt.
        measured: what the steps attended to and read; None where it is not measured.
        config: see `jaxlab_kernels.two_level.IndexConfig`.
        refresh: see `TwoLevel`, as for calibrated.
        calibrated: see `TwoLevel`.
    """

    key: jax.Array
    value: jax.Array
    index: Index
    wanted: jax.Array | None
    step: jax.Array
    measured: Measured | None
    config: IndexConfig
    refresh: int
    calibrated: bool

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "TwoLevelCache"]:
        """See `jaxlab.nn.context.AttentionCache`; attention is dense."""
        slots = self.key.shape[2]
        if slots < self.config.min_len:
            warnings.warn(
                f"two_level attention stays dense: the cache has {slots} slots and min_len is "
                f"{self.config.min_len}; lower min_len to select tokens",
                stacklevel=2,
            )
        y = attend(query, key, value, context.segment_ids)
        channels, length = channels_of(self.index, query, key, context, self.calibrated)

        def put(slots: jax.Array, new: jax.Array) -> jax.Array:
            new = from_slot_zero(new, length).astype(slots.dtype)
            return jax.lax.dynamic_update_slice_in_dim(slots, new, 0, axis=2)

        key, value = put(self.key, key), put(self.value, value)
        index = build_index(key, length, channels, self.config)
        wanted = self.wanted
        if wanted is not None:
            wanted = select_blocks(query[:, -1], index, length, self.config)
        cache = dataclasses.replace(self, key=key, value=value, index=index, wanted=wanted)
        return y, cache

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
            given, wanted = None, cache.wanted
            if wanted is not None:
                now = select_blocks(query, cache.index, length, self.config)
                given, wanted = wanted, now
                if self.refresh > 1:
                    fresh = (cache.step % self.refresh == 0)[:, None, None]
                    given = jnp.where(fresh, now, given)
            values = cache.value if cache.value.shape[-1] else cache.key
            y, stats = decode(
                query, cache.key, values, cache.index, length, self.config, blocks=given,
                stats=cache.measured is not None,
            )  # fmt: skip
            measured = cache.measured
            if stats is not None and measured is not None:
                new = Measured(stats.mass.mean(1), stats.recall.mean(1), stats.bytes)
                measured = jax.tree.map(jnp.add, measured, new)
            cache = dataclasses.replace(
                cache, wanted=wanted, step=cache.step + 1, measured=measured
            )
            return cache, y

        if query.shape[1] == 1:
            cache, y = one(self, (query[:, 0], key[:, 0], value[:, 0], 0))
            return y[:, None], cache
        tokens = tuple(jnp.moveaxis(x, 1, 0) for x in (query, key, value))
        cache, y = jax.lax.scan(one, self, (*tokens, jnp.arange(query.shape[1])))
        return jnp.moveaxis(y, 0, 1), cache

    def read(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "TwoLevelCache"]:
        """A chunk of a prompt: as `append_and_attend`, with dense attention to all keys so far.

        The index needs its channels; rows may begin with padding, which goes nowhere.
        """
        assert context.slot is not None
        assert context.start is not None
        count, slots = query.shape[1], self.key.shape[2]
        at = (context.slot - context.start)[:, None] + jnp.arange(count)[None]
        rows = jnp.arange(key.shape[0])[:, None]
        # Out of range, which scatters drop, where it is padding.
        to = jnp.where(at < 0, slots, at)
        keys = self.key.at[rows, :, to].set(key.astype(self.key.dtype), mode="drop")
        values = self.value.at[rows, :, to].set(value.astype(self.value.dtype), mode="drop")
        seen = values if values.shape[-1] else keys
        y = attention_step(query, keys, seen, first=jnp.zeros_like(at[:, 0]), last=at)
        length = (at[:, -1] + 1).astype(jnp.int32)
        index = extend_index(self.index, keys, length, count, self.config)
        wanted = self.wanted
        if wanted is not None:
            wanted = select_blocks(query[:, -1], index, jnp.maximum(length, 0), self.config)
        return y, dataclasses.replace(self, key=keys, value=values, index=index, wanted=wanted)

    def in_chunks(self) -> Reading:
        """See `jaxlab.nn.context.AttentionCache`; the channels have to be there before."""
        if not self.calibrated:
            raise ValueError(
                "prefill_chunk builds the index while it reads, before a prompt's own channels are "
                "known: use calibration='checkpoint'"
            )
        return Reading(self)

    def whole(self) -> "TwoLevelCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self

    def by_slot(self) -> None:
        """See `jaxlab.nn.context.AttentionCache`: rows begin at slot 0, whatever their padding."""
        return None

    def reading_by(self, config: IndexConfig, refresh: int, measure: bool) -> "TwoLevelCache":
        """The same keys read with other budgets, for studies; the index has to be of that form."""
        rows = self.key.shape[:-3]  # of stacked layers too
        measured = Measured(*[jnp.zeros(rows)] * 3) if measure else None
        wanted = None if refresh == 1 else self.wanted
        return dataclasses.replace(
            self, config=config, refresh=refresh, measured=measured, wanted=wanted
        )

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
        return dataclasses.replace(self, key=keys, value=values, index=index)


@dataclasses.dataclass(frozen=True)
class TwoLevel:
    """The sizes of two-level caches, a `jaxlab.nn.context.CacheKind`.

    Attributes:
        slots: S, tokens that fit.
        config: see `jaxlab_kernels.two_level.IndexConfig`.
        dtype: of the stored keys and values; None is the model's compute dtype.
        refresh: steps from one that attends to blocks of its own selection to the next; the others
            take those of the step before. 1 is each, 0 none.
        calibrated: the index has its channels before the prompt is read.
        measure: whether steps measure what they attend to, at the price of dense attention.
    """

    slots: int
    config: IndexConfig
    dtype: str | None = None
    refresh: int = 1
    calibrated: bool = False
    measure: bool = False

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> TwoLevelCache:
        """See `jaxlab.nn.context.CacheKind`.

        Raises:
            ValueError: the config asks for more channels than keys have, or for `skip_layers`,
                which no layer can honour that does not know its number.
        """
        check_sizes(self.config, dim)
        front, stored = (batch, kv_heads, self.slots), self.dtype or dtype
        none = jnp.zeros(batch, jnp.int32)
        wanted = None
        if self.refresh != 1:
            count = self.config.candidates(self.slots)
            wanted = jnp.full((batch, kv_heads, count), -1, jnp.int32)
        return TwoLevelCache(
            jnp.zeros((*front, dim), stored), jnp.zeros((*front, value_dim), stored),
            empty_index((*front, dim), stored, self.config), wanted, none,
            Measured(*[jnp.zeros(batch)] * 3) if self.measure else None,
            self.config, self.refresh, self.calibrated,
        )  # fmt: skip
