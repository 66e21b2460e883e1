"""Calibrated channels of the token index, and how they get into caches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.models.decoder import DecoderConfig
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
    for number, (layer, found) in enumerate(zip(config.layers, channels, strict=True)):
        heads = getattr(layer.mixer, "num_kv_heads", None)
        if found is None or heads is None:
            if found is not None:
                raise ValueError(f"channels of layer {number}, which has no attention")
            continue
        if found.shape[0] != heads or found.shape[1] < wanted:
            raise ValueError(
                f"channels of layer {number} have shape {found.shape}; expected [{heads}, at least "
                f"{wanted}]: a calibration of another model?"
            )
    return tuple(None if x is None else jnp.asarray(x[:, :wanted], jnp.int32) for x in channels)


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
