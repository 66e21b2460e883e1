"""Checks of the arguments of two-level attention; each message names the argument."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab_kernels.common.checks import check_bounds, debugging
from jaxlab_kernels.two_level.config import IndexConfig


def _numbers(name: str, x: jax.Array, low: int, high: int) -> None:
    """Checks the numbers of concrete arrays; those of traced ones under JAXLAB_DEBUG=1."""
    if not isinstance(x, jax.core.Tracer) or debugging():
        check_bounds(name, x, low, high)


def key(key: jax.Array) -> None:
    """Raises a ValueError unless key is floating [B, KV, S, D]."""
    if key.ndim != 4 or 0 in key.shape:
        raise ValueError(f"key has shape {key.shape}; expected [B, KV, S, D], none of them 0")
    if not jnp.issubdtype(key.dtype, jnp.floating):
        raise ValueError(f"key has dtype {key.dtype}; expected a floating dtype")


def lengths(length: jax.Array, key: jax.Array | jax.ShapeDtypeStruct) -> None:
    """Raises a ValueError unless length is integers [B] from 0 to the slots of key."""
    batch, _, slots, _ = key.shape
    if np.shape(length) != (batch,):
        raise ValueError(f"length has shape {np.shape(length)}; expected [B] = [{batch}]")
    if not jnp.issubdtype(length.dtype, jnp.integer):
        raise ValueError(f"length has dtype {length.dtype}; expected integers")
    _numbers("length", length, 0, slots)


def channels(channels: jax.Array, key: jax.Array, config: IndexConfig) -> jax.Array:
    """Returns the channels as int32 [B, KV, r]; a ValueError unless they fit key and config."""
    batch, heads, _, dim = key.shape
    wanted = (heads, config.channels)
    if np.shape(channels) not in (wanted, (batch, *wanted)):
        raise ValueError(
            f"channels has shape {np.shape(channels)}; expected [KV, r] = {wanted} for these keys "
            "and config.channels: a calibration of another model?"
        )
    if not jnp.issubdtype(channels.dtype, jnp.integer):
        raise ValueError(f"channels has dtype {channels.dtype}; expected integers")
    _numbers("channels", channels, 0, dim - 1)
    return jnp.broadcast_to(jnp.asarray(channels, jnp.int32), (batch, *wanted))


def index(index, key: jax.Array, config: IndexConfig) -> None:
    """Raises a ValueError unless the index is one of such keys by such a config."""
    batch, heads, slots, dim = key.shape
    if index.codes.ndim != 5 or index.codes.shape[3] != config.block:
        raise ValueError(
            f"index has codes {index.codes.shape}; expected [B, KV, N, C, W] with blocks of "
            f"C = config.block = {config.block} tokens"
        )
    number = config.blocks(slots)
    form(index, config)
    if index.upper.shape != (batch, heads, number, dim):
        raise ValueError(
            f"index has bounds {index.upper.shape}; expected [B, KV, N, D] = "
            f"{(batch, heads, number, dim)} for key {key.shape}"
        )


def form(index, config: IndexConfig) -> None:
    """Raises a ValueError unless block, channels and bits of the index are those of config."""
    narrow = jnp.uint8 if config.index_bits == 4 else jnp.int8
    found, dtype = index.codes.shape[3:], index.codes.dtype
    if found != (config.block, config.label_bytes) or dtype != narrow:
        raise ValueError(
            f"index has codes [.., C, W] = {found} of {dtype}; config.block, channels and "
            f"index_bits make {(config.block, config.label_bytes)} of {jnp.dtype(narrow)}"
        )
    if index.channels.shape[2] != config.channels:
        raise ValueError(
            f"index holds {index.channels.shape[2]} channels; config.channels is {config.channels}"
        )


def query(query: jax.Array, batch: int, heads: int, dim: int) -> None:
    """Raises a ValueError unless query is floating [B, H, D] with H a multiple of KV."""
    if query.ndim != 3 or query.shape[0] != batch or query.shape[2] != dim:
        raise ValueError(f"query has shape {query.shape}; expected [B, H, D] = {batch, 'H', dim}")
    if query.shape[1] == 0 or query.shape[1] % heads:
        raise ValueError(
            f"query has {query.shape[1]} heads; expected a multiple of the {heads} heads of key"
        )
    if not jnp.issubdtype(query.dtype, jnp.floating):
        raise ValueError(f"query has dtype {query.dtype}; expected a floating dtype")


def value(value: jax.Array, key: jax.Array) -> None:
    """Raises a ValueError unless value is floating [B, KV, S, Dv] beside key."""
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value has shape {value.shape}; expected [B, KV, S, Dv] by {key.shape}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"value has dtype {value.dtype}; expected a floating dtype")


def blocks(blocks: jax.Array, batch: int, heads: int) -> None:
    """Raises a ValueError unless blocks is integers [B, KV, k]."""
    if blocks.ndim != 3 or blocks.shape[:2] != (batch, heads):
        raise ValueError(
            f"blocks has shape {blocks.shape}; expected [B, KV, k] = {(batch, heads, 'k')}"
        )
    if not jnp.issubdtype(blocks.dtype, jnp.integer):
        raise ValueError(f"blocks has dtype {blocks.dtype}; expected integers")
