"""The engine that keeps caches on the host and moves only the blocks that changed (AsyncTLS).

Every layer has, for each row and list of blocks, a host pool with one contiguous record per block,
and slots on the device. A step attends to what lies in slots, selects the blocks of the next step,
and copies those that no slot holds. One list per key head, or one per layer with share="layer",
where a record holds all key heads of a block.

    B rows, G lists of each, N blocks of C tokens, S slots, H key heads of a record, W = D + Dv
    device   records [B, G, S, H, C, W], three tables, the index, the blocks wanted next
    host     records [P, H, C, W]: first those of the prompts, which samples of one prompt share,
             then those that each row completes while decoding

The tables are on the device, so that a step needs no word of the host (`engine="injit"`). The other
engine reads after each step how many blocks are to be moved, and starts as many copies by itself.

Host memory is pinned memory of the accelerator, never ordinary memory: unpinned bfloat16 buffers
have been seen to be silently corrupted, and copies through the CPU's own device to take ten times
as long. Blocks move by dynamic slices alone; gathers from host memory would be computed there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
HOST, DEVICE = jax.memory.Space.Host, jax.memory.Space.Device
# More than any step.
_LAST = jnp.iinfo(jnp.int32).max


class Tables(NamedTuple):
    """Which block lies in which slot, int32; leading axes [B, G].

    Attributes:
        slot_of: [.., N], the slot of each block; -1 where none holds it.
        block_of: [.., S], the block of each slot; -1 where it is free.
        used: [.., S], the step that last wanted the slot's block.
    """

    slot_of: jax.Array
    block_of: jax.Array
    used: jax.Array


class Counts(NamedTuple):
    """Blocks counted while decoding, int32 [B, G].

    Attributes:
        hits: selected, and in a slot already.
        misses: selected, and in none.
        copied: of the misses, those copied within the bound of a step.
        late: of the misses, those copied beyond it, for which the next step waits.
        deferred: candidates that a step left out, since they were not copied in time.
        written: completed and copied to the host.
    """

    hits: jax.Array
    misses: jax.Array
    copied: jax.Array
    late: jax.Array
    deferred: jax.Array
    written: jax.Array


class Moves(NamedTuple):
    """Blocks to be moved between slots and the pool.

    Attributes:
        number: int32 scalar, how many.
        slot: int32 [n, 3] or, of stacked layers, [n, 4]: (layer,) row, list and slot.
        record: int32 [n], the pool's record of that layer.
    """

    number: jax.Array
    slot: jax.Array
    record: jax.Array


def check_device() -> None:
    """Raises a ValueError unless the default device reaches pinned host memory."""
    device = jax.devices()[0]
    kinds = sorted(memory.kind for memory in device.addressable_memories())
    if "pinned_host" not in kinds:
        raise ValueError(
            f"attention off-loads to pinned host memory, which {device.device_kind} does not have "
            f"(it has {', '.join(kinds)}): use name=two_level"
        )


def place(
    tables: Tables, wanted: jax.Array, pinned: jax.Array, bound: jax.Array | int, step: jax.Array
) -> tuple[Tables, jax.Array, jax.Array]:
    """Gives wanted blocks slots, those of the blocks that were wanted longest ago; for one list.

    Slots of blocks that are wanted or pinned are never taken.

    Args:
        tables: without leading axes.
        wanted: int32 [k], blocks, each once; -1 for none.
        pinned: int32 [p], blocks that the step in flight reads; -1 for none.
        bound: the most that get a slot, first ones first.
        step: int32 scalar.

    Returns:
        The tables; bool [k], blocks that were in no slot; bool [k], those of them that now are.
    """
    blocks, slots = tables.slot_of.shape[0], tables.block_of.shape[0]
    missing = (wanted >= 0) & (_at(tables.slot_of, wanted) < 0)
    held = jnp.zeros(blocks + 1, bool)
    for ids in (wanted, pinned):
        held = held.at[jnp.where(ids < 0, blocks, ids)].set(True)
    free = tables.block_of < 0
    kept = ~free & held[jnp.where(free, blocks, tables.block_of)]
    age = jnp.where(kept, _LAST, jnp.where(free, -1, tables.used))
    order = jnp.argsort(age, stable=True).astype(jnp.int32)
    rank = jnp.cumsum(missing) - 1
    slot = order[jnp.clip(rank, 0, slots - 1)]
    placed = missing & (rank < bound) & (rank < slots) & ~kept[slot]
    # Scatters drop what is out of range.
    to_slot = jnp.where(placed, slot, slots)
    evicted = jnp.where(placed, tables.block_of[slot], -1)
    slot_of = tables.slot_of.at[jnp.where(evicted < 0, blocks, evicted)].set(-1, mode="drop")
    slot_of = slot_of.at[jnp.where(placed, wanted, blocks)].set(slot, mode="drop")
    block_of = tables.block_of.at[to_slot].set(wanted, mode="drop")
    seen = jnp.where(wanted < 0, -1, _at(slot_of, wanted))
    used = tables.used.at[jnp.where(seen < 0, slots, seen)].set(step, mode="drop")
    return Tables(slot_of, block_of, used), missing, placed


def _at(x: jax.Array, ids: jax.Array) -> jax.Array:
    """x [n, ..] at ids, negative ones read as 0."""
    return x.at[jnp.maximum(ids, 0)].get(mode="promise_in_bounds")


class Stats(NamedTuple):
    """What off-loaded caches moved while decoding, for each row and layer that has one: [R, L].

    Attributes:
        hits: int32, as all that follow but the last three: see `Counts`.
        misses: see `Counts`.
        copied: see `Counts`.
        late: see `Counts`.
        deferred: see `Counts`.
        written: see `Counts`.
        record_bytes: float32, of one block of one list.
        resident_bytes: float32, on the device: slots, tables and index.
        host_bytes: float32, of the pool; a prompt's share where rows have it together.
    """

    hits: Array
    misses: Array
    copied: Array
    late: Array
    deferred: Array
    written: Array
    record_bytes: Array
    resident_bytes: Array
    host_bytes: Array


def summary(stats: Stats) -> dict[str, float]:
    """Sums over rows and layers, for metrics: all of the arrays' numbers on the host.

    Returns:
        hit_rate: share of the selected blocks that were in a slot already (1 where none was
            selected); bytes_moved to the device, and bytes_written to the host, while decoding;
            deferred blocks; late blocks; resident_bytes and host_bytes.
    """
    s = Stats(*(np.asarray(x, np.float64) for x in stats))
    selected = s.hits.sum() + s.misses.sum()
    return {
        "hit_rate": float(s.hits.sum() / selected) if selected else 1.0,
        "bytes_moved": float(((s.copied + s.late) * s.record_bytes).sum()),
        "bytes_written": float((s.written * s.record_bytes).sum()),
        "deferred": float(s.deferred.sum()),
        "late": float(s.late.sum()),
        "resident_bytes": float(s.resident_bytes.sum()),
        "host_bytes": float(s.host_bytes.sum()),
    }


class Choice(NamedTuple):
    """Which blocks are to be moved; leading axes [B, G] or, of stacked layers, [layers, B, G].

    Attributes:
        chosen: bool [.., k].
        slot: int32 [.., k].
        record: int32 [.., k], in the layer's pool.
    """

    chosen: jax.Array
    slot: jax.Array
    record: jax.Array


def moves(choice: Choice) -> Moves:
    """The chosen blocks as a list."""
    chosen, slot, record = choice
    (at,) = jnp.nonzero(chosen.reshape(-1), size=chosen.size, fill_value=0)
    *front, _ = jnp.unravel_index(at, chosen.shape)
    columns = [*front, slot.reshape(-1)[at]]
    return Moves(
        chosen.sum(dtype=jnp.int32),
        jnp.stack(columns, axis=1).astype(jnp.int32),
        record.reshape(-1)[at],
    )


def fetch(records: jax.Array, pool: jax.Array, todo: Moves) -> jax.Array:
    """Returns the slots' records with those that are to be copied from the pool."""

    def one(i: jax.Array, records: jax.Array) -> jax.Array:
        slot, index = _starts(todo, i, pool)
        block = jax.lax.dynamic_slice(pool, index, _one_record(pool, pool.ndim))
        block = jax.device_put(block, DEVICE).reshape(_one_record(pool, records.ndim))
        return jax.lax.dynamic_update_slice(records, block, slot)

    return jax.lax.fori_loop(0, todo.number, one, records)


def write_back(records: jax.Array, pool: jax.Array, todo: Moves) -> jax.Array:
    """Returns the pool with the slots' records that are to be copied to it."""

    def one(i: jax.Array, pool: jax.Array) -> jax.Array:
        slot, index = _starts(todo, i, pool)
        block = jax.lax.dynamic_slice(records, slot, _one_record(pool, records.ndim))
        block = block.reshape(_one_record(pool, pool.ndim))
        return jax.lax.dynamic_update_slice(pool, jax.device_put(block, HOST), index)

    return jax.lax.fori_loop(0, todo.number, one, pool)


def _one_record(pool: jax.Array, rank: int) -> tuple[int, ...]:
    """The shape of one record in an array of this rank."""
    return (1,) * (rank - 3) + pool.shape[-3:]


def _starts(todo: Moves, i: jax.Array, pool: jax.Array) -> tuple[list, list]:
    """Where move i begins in the slots' records, and in the pool [(layers,) P, H, C, W]."""
    slot = list(todo.slot[i])
    layer = slot[:1] if pool.ndim == 5 else []
    return [*slot, 0, 0, 0], [*layer, todo.record[i], 0, 0, 0]
