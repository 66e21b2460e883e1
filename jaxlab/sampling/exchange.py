"""Off-loaded caches anywhere in a decoder's cache: their pools, moves between steps, counts."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab.sampling import offload
from jaxlab.sampling.caches.offload import OffloadCache
from jaxlab.sampling.offload import Moves


def detached(layers: Any) -> tuple[Any, list[jax.Array]]:
    """Caches without their pools, in any tree, and the pools."""
    found = jax.tree.leaves(layers, is_leaf=_is_cache)
    pools = [cache.pool for cache in found if _is_cache(cache)]

    def without(cache: Any) -> Any:
        return dataclasses.replace(cache, pool=None) if _is_cache(cache) else cache

    return jax.tree.map(without, layers, is_leaf=_is_cache), pools


def planned(layers: Any) -> tuple[Any, list[Moves], list[Moves]]:
    """Between two steps: caches with the next tables, and the moves of each that has a pool."""
    full: list[Moves] = []
    missing: list[Moves] = []

    def one(cache: Any) -> Any:
        if not _is_cache(cache):
            return cache
        stacked = cache.records.ndim == 7
        plan = jax.vmap(OffloadCache.planned) if stacked else OffloadCache.planned
        cache, completed, absent = plan(cache)
        full.append(offload.moves(completed))
        missing.append(offload.moves(absent))
        return cache

    return jax.tree.map(one, layers, is_leaf=_is_cache), full, missing


def moved(
    layers: Any, pools: list[jax.Array], full: list[Moves], missing: list[Moves]
) -> tuple[Any, list[jax.Array]]:
    """Caches and pools after moves: first what is completed goes to the host, then blocks come."""
    todo = list(zip(pools, full, missing, strict=True))
    written: list[jax.Array] = []

    def one(cache: Any) -> Any:
        if not _is_cache(cache):
            return cache
        pool, back, ahead = todo[len(written)]
        pool = offload.write_back(cache.records, pool, back)
        written.append(pool)
        return dataclasses.replace(cache, records=offload.fetch(cache.records, pool, ahead))

    return jax.tree.map(one, layers, is_leaf=_is_cache), written


def records(layers: Any) -> list[jax.Array]:
    """The slots' records of each off-loaded cache in a tree."""
    found = jax.tree.leaves(layers, is_leaf=_is_cache)
    return [cache.records for cache in found if _is_cache(cache)]


def with_records(layers: Any, records: list[jax.Array]) -> Any:
    """The tree with these records in its off-loaded caches."""
    left = iter(records)

    def one(cache: Any) -> Any:
        return dataclasses.replace(cache, records=next(left)) if _is_cache(cache) else cache

    return jax.tree.map(one, layers, is_leaf=_is_cache)


def stats(layers: Any) -> offload.Stats | None:
    """What the off-loaded caches in a tree moved; None where there are none."""
    found = [x for x in jax.tree.leaves(layers, is_leaf=_is_cache) if _is_cache(x)]
    if not found:
        return None
    parts = [_stats(cache) for cache in found]
    return offload.Stats(*(jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True)))


def _stats(cache: OffloadCache) -> list[jax.Array]:
    """Of one cache, or of stacked ones: arrays [R, 1] or [R, layers] as `Stats` has them."""
    # [R, G] or [layers, R, G]
    counts = [x.sum(axis=-1).reshape(-1, x.shape[-2]).T for x in cache.counts]
    rows, layers = counts[0].shape
    s, record = cache.sizes, cache.records.shape[-3:]
    per_record = math.prod(record) * cache.records.dtype.itemsize
    device = (cache.records, *cache.tables, *cache.index)
    resident = sum(x.size * x.dtype.itemsize for x in device) / (rows * layers)
    blocks = cache.counts.hits.shape[-1] * (s.prompt_blocks / s.samples + s.own_blocks)
    sizes = (per_record, resident, blocks * per_record)
    return [*counts, *(jnp.full((rows, layers), size, jnp.float32) for size in sizes)]


def _is_cache(x: Any) -> bool:
    return hasattr(x, "planned")
