"""Calibrated channels of the token index, and how they get into caches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxlab.models.decoder import DecoderConfig, empty_caches
from jaxlab.models.stacking import members

# Of each layer, in order: int32 [KV, R], best channels first; None for layers without attention.
Channels = tuple[jax.Array | np.ndarray | None, ...]


def check_channels(config: DecoderConfig, channels: Channels | None, wanted: int) -> Channels:
    """Returns the first `wanted` channels of each layer.

    Raises:
        ValueError: there are none, too few, or they are of another model.
    """
    if channels is None:
        raise ValueError(
            "calibration is 'checkpoint', and the model comes without channels: make them with "
            "python -m jaxlab.calibrate --model DIR --text FILE, or use calibration='prompt'"
        )
    if len(channels) != len(config.layers):
        raise ValueError(
            f"channels are of {len(channels)} layers, the model has {len(config.layers)}: a "
            "calibration of another model?"
        )
    for number, (keys, found) in enumerate(zip(_keys(config), channels, strict=True)):
        shape = None if found is None else found.shape
        if keys is None:
            if shape is not None:
                raise ValueError(f"channels of layer {number}, which caches no keys")
        elif shape is None or shape[0] != keys[0] or not wanted <= shape[1] <= keys[1]:
            raise ValueError(
                f"channels of layer {number} have shape {shape}; expected [{keys[0]}, from "
                f"{wanted} to {keys[1]}]: a calibration of another model?"
            )
    return tuple(None if x is None else jnp.asarray(x[:, :wanted], jnp.int32) for x in channels)


class _Keys:
    """A kind of cache that is the shape of one token's keys."""

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> jax.Array:
        """See `jaxlab.nn.context.CacheKind`."""
        return jnp.zeros((kv_heads, dim))


def _keys(config: DecoderConfig) -> list[tuple[int, int] | None]:
    """Key heads and their size, of each layer; None for those that cache no keys."""
    apart = dataclasses.replace(config, scan_layers=False)
    kind: Any = _Keys()
    shapes = jax.eval_shape(lambda: empty_caches(apart, 1, kind))
    return [x.shape if isinstance(x, jax.ShapeDtypeStruct) else None for x in shapes]


def with_channels(config: DecoderConfig, caches: tuple[Any, ...], channels: Channels) -> Any:
    """Empty caches, in the form of `Cache.layers`, whose indices hold these channels."""

    def put(cache: Any, found: jax.Array | np.ndarray | None) -> Any:
        if found is None:
            return cache
        # [(times,) B, KV, r]
        shape = cache.index.channels.shape
        found = jnp.broadcast_to(jnp.expand_dims(found, -3), shape)
        return dataclasses.replace(cache, index=cache.index._replace(channels=found))

    if not config.scan_layers:
        return tuple(put(cache, found) for cache, found in zip(caches, channels, strict=True))
    changed = [list(period) for period in caches]
    for stack, i, numbers in members(config):
        found = [x for number in numbers if (x := channels[number]) is not None]
        if found:
            changed[stack][i] = put(changed[stack][i], jnp.stack(found))
    return tuple(map(tuple, changed))
