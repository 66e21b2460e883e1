"""A cache whose keys and values lie on the host, but for the blocks that were selected lately."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxlab_kernels.two_level import Index, IndexConfig, build_index
from jaxlab_kernels.two_level.gathered import attend_to
from jaxlab_kernels.two_level.index import append_key
from jaxlab_kernels.two_level.select import choose_blocks, choose_tokens, with_forced

from jaxlab.nn.attention import attend
from jaxlab.nn.context import Context, repeat_rows
from jaxlab.sampling import offload
from jaxlab.sampling.caches.two_level import (
    channels_of,
    check_sizes,
    empty_index,
    from_slot_zero,
)
from jaxlab.sampling.offload import Choice, Counts, Tables


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Static sizes of an off-loaded cache.

    Attributes:
        config: see `jaxlab_kernels.two_level.IndexConfig`.
        refresh: steps from one that waits for its own selection to the next; 1 is each, 0 none.
        bound: blocks per list that a step may copy for the next one; -1 is any number.
        sync: whether a step waits for what is beyond the bound, instead of leaving it out.
        samples: rows that share a prompt.
        prompt_blocks: blocks of a prompt, at most.
        own_blocks: blocks that a row may fill after its prompt, at most.
        dim: D.
        calibrated: the index has its channels before the prompt is read.
    """

    config: IndexConfig
    refresh: int
    bound: int
    sync: bool
    samples: int
    prompt_blocks: int
    own_blocks: int
    dim: int
    calibrated: bool


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "records",
        "tables",
        "index",
        "wanted",
        "length",
        "begin",
        "step",
        "counts",
        "pool",
    ),
    meta_fields=("sizes",),
)
@dataclasses.dataclass(frozen=True)
class OffloadCache:
    """Slots, tables and index of one layer; see `jaxlab.sampling.offload` for the letters.

    Attributes:
        records: [B, G, S, H, C, W], keys and values side by side.
        tables: what lies where.
        index: of all tokens, see `jaxlab_kernels.two_level`.
        wanted: int32 [B, KV, k], blocks that the last step selected.
        length: int32 [B], tokens so far.
        begin: int32 [B], the block that held or was to hold the first token after the prompt.
        step: int32 [B], tokens since the prompt.
        counts: what was moved.
        pool: [P, H, C, W] on the host; None before the prompt, and where it is kept apart, see
            `detached`.
        sizes: static.
    """

    records: jax.Array
    tables: Tables
    index: Index
    wanted: jax.Array
    length: jax.Array
    begin: jax.Array
    step: jax.Array
    counts: Counts
    pool: jax.Array | None
    sizes: Sizes

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "OffloadCache"]:
        """See `jaxlab.nn.context.AttentionCache`; attention is dense, all blocks go to the host."""
        y = attend(query, key, value, context.segment_ids)
        sizes, config = self.sizes, self.sizes.config
        channels, length = channels_of(self.index, query, key, context, sizes.calibrated)
        stored = self.records.dtype
        key, value = (from_slot_zero(x, length).astype(stored) for x in (key, value))
        spare = sizes.prompt_blocks * config.block - key.shape[2]
        behind = self.index.upper.shape[2] * config.block - key.shape[2]
        padded = jnp.pad(key, ((0, 0), (0, 0), (0, behind), (0, 0)))
        index = build_index(padded, length, channels, config)
        both = jnp.concatenate([key, value], axis=3)
        both = jnp.pad(both, ((0, 0), (0, 0), (0, spare), (0, 0)))
        blocks = both.reshape(*both.shape[:2], sizes.prompt_blocks, config.block, -1)
        blocks = self._by_list(blocks.swapaxes(1, 2)).swapaxes(1, 2)  # [B, G, Np, H, C, W]
        flat = jax.device_put(blocks.reshape(-1, *self.records.shape[3:]), offload.HOST)
        lists = self.counts.hits.size
        total = lists * (sizes.prompt_blocks + sizes.samples * sizes.own_blocks)
        # Here, and not among the empty caches: those of stacked layers are stacked on the device.
        pool = jax.device_put(jnp.zeros((total, *self.records.shape[3:]), stored), offload.HOST)
        pool = jax.lax.dynamic_update_slice(pool, flat, (0, 0, 0, 0))
        scale = sizes.dim**-0.5
        wanted = choose_blocks(query[:, -1], index, length, config, scale)
        cache = dataclasses.replace(
            self, index=index, wanted=wanted, length=length, begin=length // config.block, pool=pool
        )
        return y, cache._filled(blocks)

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "OffloadCache"]:
        """See `jaxlab.nn.context.AttentionCache`; one token at a time.

        Raises:
            ValueError: there are several tokens.
        """
        if query.shape[1] != 1:
            raise ValueError(
                f"an off-loaded cache reads one token at a time, not {query.shape[1]}: blocks are "
                "moved between them"
            )
        cache = self._with_token(key[:, 0], value[:, 0])
        y, cache = cache._attend(query[:, 0])
        return y[:, None], cache

    def repeat(self, times: int) -> "OffloadCache":
        """See `jaxlab.nn.context.AttentionCache`; the pool stays one for all."""
        assert times == self.sizes.samples
        device = repeat_rows(dataclasses.replace(self, pool=None), times)
        return dataclasses.replace(device, pool=self.pool)

    def in_chunks(self) -> "OffloadCache":
        """Raises a ValueError: prompts are read whole."""
        raise ValueError("prefill_chunk: OffloadCache reads prompts whole: leave it None")

    def whole(self) -> "OffloadCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self

    def by_slot(self) -> None:
        """See `jaxlab.nn.context.AttentionCache`: blocks lie in any order."""
        return None

    def planned(self) -> tuple["OffloadCache", Choice, Choice]:
        """After a step: the tables of the next one, what to write back and what to fetch."""
        cache, full = self._completed()
        cache, missing = cache._prefetched(self.wanted, self.wanted, cache._bound(False))
        return cache, full, missing

    def _attend(self, query: jax.Array) -> tuple[jax.Array, "OffloadCache"]:
        """Attention of [B, H, D], and what it selects for the next step."""
        sizes, config = self.sizes, self.sizes.config
        scale, number = sizes.dim**-0.5, self.index.upper.shape[2]
        now = choose_blocks(query, self.index, self.length, config, scale)
        cache, given = self, self.wanted
        if self.pool is not None:
            fresh = jnp.asarray(sizes.refresh == 1)
            if sizes.refresh > 1:
                fresh = (self.step[0] - 1) % sizes.refresh == 0
            cache, full = cache._completed()
            pool = offload.write_back(cache.records, self.pool, offload.moves(full))
            cache, missing = cache._prefetched(now, self.wanted, cache._bound(fresh))
            records = offload.fetch(cache.records, pool, offload.moves(missing))
            cache = dataclasses.replace(cache, records=records, pool=pool)
            given = jnp.where(fresh, now, given)
        candidates = now
        if sizes.refresh != 1:
            candidates = with_forced(given, self.length, number, config)
        slots = _slots_of(cache.tables, candidates)
        absent = (candidates >= 0) & (slots < 0)
        deferred = self._lists(absent).sum(axis=-1, dtype=jnp.int32)
        tokens = choose_tokens(
            query, self.index, jnp.where(absent, -1, candidates), self.length, config, scale
        )
        rows = cache._rows(tokens)
        keys = rows[..., : sizes.dim]
        # Records without values are of layers whose values are the keys.
        values = rows[..., sizes.dim :] if rows.shape[-1] > sizes.dim else keys
        y = attend_to(query, keys, values, tokens >= 0, scale)
        counts = cache.counts._replace(deferred=cache.counts.deferred + deferred)
        return y, dataclasses.replace(cache, wanted=now, counts=counts)

    def _with_token(self, key: jax.Array, value: jax.Array) -> "OffloadCache":
        """With a token [B, KV, ..] behind the others, in a slot of its block and in the index."""
        config, stored = self.sizes.config, self.records.dtype
        key, value = key.astype(stored), value.astype(stored)
        block, offset = self.length // config.block, self.length % config.block
        opened = jnp.where(offset == 0, block, -1)[:, None, None]
        rows, lists = self.counts.hits.shape
        tables, _, _ = _by_list(offload.place, 3)(
            self.tables, jnp.broadcast_to(opened, (rows, lists, 1)), self._lists(self.wanted), 1,
            self.step[0],
        )  # fmt: skip
        at = jnp.broadcast_to(block[:, None, None], (rows, lists, 1))
        slot = jnp.take_along_axis(tables.slot_of, at, axis=2, mode="clip")[..., 0]
        new = self._by_list(jnp.concatenate([key, value], axis=-1)[:, None])[:, 0]  # [B, G, H, W]
        row, one = jnp.arange(rows)[:, None], jnp.arange(lists)[None]
        records = self.records.at[row, one, slot, :, offset[:, None]].set(new)
        length = self.length + 1
        index = append_key(self.index, key, length, config)
        return dataclasses.replace(
            self, records=records, tables=tables, index=index, length=length, step=self.step + 1
        )

    def _completed(self) -> tuple["OffloadCache", Choice]:
        """The blocks that the newest token filled, which go to the host."""
        config = self.sizes.config
        block = (self.length - 1) // config.block
        full = jnp.broadcast_to((self.length % config.block == 0)[:, None], self.counts.hits.shape)
        at = jnp.broadcast_to(block[:, None, None], (*full.shape, 1))
        slot = jnp.take_along_axis(self.tables.slot_of, at, axis=2, mode="clip")
        counts = self.counts._replace(written=self.counts.written + full)
        cache = dataclasses.replace(self, counts=counts)
        return cache, Choice(full[..., None], slot, self._record_of(at))

    def _prefetched(
        self, wanted: jax.Array, pinned: jax.Array, bound: jax.Array | int
    ) -> tuple["OffloadCache", Choice]:
        """With slots for wanted blocks [B, KV, k], and those that are to be copied into them."""
        wanted = self._lists(wanted)
        tables, missing, placed = _by_list(offload.place, 3)(
            self.tables, wanted, self._lists(pinned), bound, self.step[0]
        )
        slot = jnp.take_along_axis(tables.slot_of, jnp.maximum(wanted, 0), axis=2, mode="clip")
        todo = Choice(placed, slot, self._record_of(jnp.maximum(wanted, 0)))

        def number(which: jax.Array) -> jax.Array:
            return which.sum(axis=-1, dtype=jnp.int32)

        copied, within = number(placed), number(placed)
        if self.sizes.bound >= 0:
            within = jnp.minimum(copied, self.sizes.bound)
        counts = self.counts
        counts = counts._replace(
            hits=counts.hits + number((wanted >= 0) & ~missing),
            misses=counts.misses + number(missing),
            copied=counts.copied + within,
            late=counts.late + copied - within,
        )
        return dataclasses.replace(self, tables=tables, counts=counts), todo

    def _bound(self, fresh: jax.Array | bool) -> jax.Array | int:
        """Blocks per list that may be copied in this step."""
        every = self.index.upper.shape[2]
        if self.sizes.sync or self.sizes.bound < 0:
            return every
        return jnp.where(fresh, every, self.sizes.bound)

    def _filled(self, blocks: jax.Array) -> "OffloadCache":
        """With the wanted blocks of a prompt [B, G, Np, H, C, W] in the first slots."""
        wanted = self._lists(self.wanted)
        tables, _, _ = _by_list(offload.place, 3)(
            self.tables,
            wanted,
            jnp.full_like(wanted, -1),
            wanted.shape[-1],
            jnp.zeros((), jnp.int32),
        )
        first = tables.block_of[..., : wanted.shape[-1]]
        picked = jnp.take_along_axis(
            blocks, jnp.maximum(first, 0)[..., None, None, None], axis=2, mode="clip"
        )
        records = jax.lax.dynamic_update_slice(self.records, picked, (0,) * self.records.ndim)
        return dataclasses.replace(self, records=records, tables=tables)

    def _rows(self, tokens: jax.Array) -> jax.Array:
        """The slots' rows of tokens [B, KV, t] whose blocks are in slots: [B, KV, t, W]."""
        batch, heads, _ = tokens.shape
        block, offset = (f(jnp.maximum(tokens, 0), self.sizes.config.block) for f in _DIVIDED)
        slot = jnp.maximum(_slots_of(self.tables, block), 0)
        row = jnp.arange(batch)[:, None, None]
        head = jnp.arange(heads)[None, :, None]
        inside = self.records.shape[3]
        at = (row, head // inside, slot, head % inside, offset)
        return self.records.at[at].get(mode="promise_in_bounds")

    def _record_of(self, block: jax.Array) -> jax.Array:
        """Where blocks [B, G, k] lie in the pool."""
        s = self.sizes
        rows, lists, _ = block.shape
        row, one = jnp.arange(rows)[:, None, None], jnp.arange(lists)[None, :, None]
        shared = ((row // s.samples) * lists + one) * s.prompt_blocks + block
        begin = self.begin[:, None, None]
        behind = (rows // s.samples) * lists * s.prompt_blocks
        own = behind + (row * lists + one) * s.own_blocks + block - begin
        return jnp.where(block < begin, shared, own)

    def _lists(self, x: jax.Array) -> jax.Array:
        """[B, KV, ..], equal for the key heads of a list, as [B, G, ..]."""
        return x[:, : self.counts.hits.shape[1]]

    def _by_list(self, x: jax.Array) -> jax.Array:
        """[B, n, KV, ..] as [B, n, G, H, ..]."""
        lists = self.counts.hits.shape[1]
        return x.reshape(*x.shape[:2], lists, -1, *x.shape[3:])


_DIVIDED = (jnp.floor_divide, jnp.remainder)


def _by_list(function: Any, arrays: int) -> Any:
    """A function of one list mapped over [B, G] of its first `arrays` arguments."""
    axes = (*(0,) * arrays, None, None)
    return jax.vmap(jax.vmap(function, axes), axes)


def _slots_of(tables: Tables, blocks: jax.Array) -> jax.Array:
    """The slots [B, KV, k] of blocks [B, KV, k], -1 for none."""
    lists = tables.slot_of.shape[1]
    table = tables.slot_of
    if lists != blocks.shape[1]:
        table = jnp.broadcast_to(table, (table.shape[0], blocks.shape[1], table.shape[2]))
    slot = jnp.take_along_axis(table, jnp.maximum(blocks, 0), axis=2, mode="clip")
    return jnp.where(blocks < 0, -1, slot)


@dataclasses.dataclass(frozen=True)
class Offload:
    """The sizes of off-loaded caches, a `jaxlab.nn.context.CacheKind`.

    Attributes:
        tokens: that fit.
        new: of them, those that are decoded; the others are the prompt's.
        config: see `jaxlab_kernels.two_level.IndexConfig`.
        slots: blocks per list on the device; None is twice the candidates of a step.
        refresh: see `Sizes`, as for bound, sync and samples.
        bound: see `Sizes`.
        sync: see `Sizes`.
        samples: rows that share a prompt.
        dtype: of the stored keys and values; None is the model's compute dtype.
        calibrated: see `Sizes`.
    """

    tokens: int
    new: int
    config: IndexConfig
    slots: int | None = None
    refresh: int = 0
    bound: int = -1
    sync: bool = False
    samples: int = 1
    dtype: str | None = None
    calibrated: bool = False

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> OffloadCache:
        """See `jaxlab.nn.context.CacheKind`.

        Raises:
            ValueError: there are fewer slots than two steps' candidates need, or the config does
                not suit the keys.
        """
        check_sizes(self.config, dim)
        block = self.config.block
        number, wanted = self.config.blocks(self.tokens), self.config.candidates(self.tokens)
        slots = min(number, self.slots or 2 * wanted)
        if slots < min(number, 2 * wanted):
            raise ValueError(
                f"slots is {self.slots}: a step reads up to {wanted} blocks while as many are "
                f"copied for the next; expected at least {min(number, 2 * wanted)}"
            )
        sizes = Sizes(
            self.config, self.refresh, self.bound, self.sync, self.samples,
            prompt_blocks=max(self.config.blocks(self.tokens - self.new), 1),
            own_blocks=(self.new + block - 2) // block + 1, dim=dim, calibrated=self.calibrated,
        )  # fmt: skip
        lists = 1 if self.config.share == "layer" else kv_heads
        front, record = (batch, lists), (kv_heads // lists, block, dim + value_dim)
        stored = jnp.dtype(self.dtype or dtype)
        none = jnp.zeros(batch, jnp.int32)
        return OffloadCache(
            records=jnp.zeros((*front, slots, *record), stored),
            tables=Tables(
                jnp.full((*front, number), -1, jnp.int32),
                jnp.full((*front, slots), -1, jnp.int32),
                jnp.zeros((*front, slots), jnp.int32),
            ),
            index=empty_index((batch, kv_heads, self.tokens, dim), stored, self.config),
            wanted=jnp.full((batch, kv_heads, wanted), -1, jnp.int32),
            length=none,
            begin=none,
            step=none,
            counts=Counts(*(jnp.zeros(front, jnp.int32) for _ in Counts._fields)),
            pool=None,
            sizes=sizes,
        )
