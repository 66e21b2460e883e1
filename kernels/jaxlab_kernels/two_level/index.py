"""The index beside a cache of keys: bounds per block, few-bit channels per token.

B batch, KV key heads, S slots of the cache, D key size, N blocks of C tokens, r channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels.two_level import checks
from jaxlab_kernels.two_level.config import IndexConfig


class Index(NamedTuple):
    """What selection reads instead of the keys; zeros where no token was written.

    Every leaf begins with B, so that rows can be repeated or reordered as those of the cache.

    Attributes:
        upper: [B, KV, N, D] in the dtype of keys, the largest value of a channel in each block.
        lower: [B, KV, N, D], the smallest.
        codes: [B, KV, N, C, W] token labels: int8 [.., r], or uint8 [.., ceil(r / 2)] with channel
            c in the lower and channel c + W in the upper four bits of byte c, each plus 8.
        scale: bfloat16 [B, KV, N, C], by which a token's codes are multiplied; NaN for a key that
            has a NaN in any channel.
        channels: int32 [B, KV, r], the channels that codes hold.
    """

    upper: jax.Array
    lower: jax.Array
    codes: jax.Array
    scale: jax.Array
    channels: jax.Array


def quantise(
    key: jax.Array, channels: jax.Array, config: IndexConfig
) -> tuple[jax.Array, jax.Array]:
    """Symmetric codes of the chosen channels, with one scale per token.

    The scale is rounded to bfloat16 before it divides, and codes to the nearest, ties to even.

    Args:
        key: [B, KV, T, D].
        channels: int32 [B, KV, r].
        config: see `IndexConfig`.

    Returns:
        codes [B, KV, T, W] and scale bfloat16 [B, KV, T], as `Index` has them.
    """
    most = 2 ** (config.index_bits - 1) - 1
    picked = jnp.take_along_axis(key, channels[:, :, None], axis=3, mode="clip")
    picked = picked.astype(jnp.float32)
    scale = (jnp.max(jnp.abs(picked), axis=-1) / most).astype(jnp.bfloat16)
    wide = scale.astype(jnp.float32)[..., None]
    good = jnp.isfinite(wide) & (wide > 0)
    codes = jnp.where(good, jnp.round(picked / jnp.where(good, wide, 1)), 0)
    # A scale that was rounded down leaves the largest value above `most`.
    codes = jnp.clip(jnp.nan_to_num(codes), -most, most)
    scale = jnp.where(jnp.isnan(key).any(axis=-1), jnp.nan, scale).astype(jnp.bfloat16)
    if config.index_bits == 8:
        return codes.astype(jnp.int8), scale
    width = config.label_bytes
    spare = [(0, 0)] * 3 + [(0, 2 * width - config.channels)]
    nibbles = jnp.pad(codes + 8, spare, constant_values=8).astype(jnp.uint8)
    return nibbles[..., :width] | (nibbles[..., width:] << 4), scale


def unpack(codes: jax.Array, config: IndexConfig) -> jax.Array:
    """Returns codes [..., W] of `quantise` as whole numbers float32 [..., r]."""
    if config.index_bits == 8:
        return codes.astype(jnp.float32)
    both = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    return both[..., : config.channels].astype(jnp.float32) - 8


def _by_block(x: jax.Array, config: IndexConfig) -> jax.Array:
    """[B, KV, S, ...] as [B, KV, N, C, ...], zeros behind the last slot."""
    spare = -x.shape[2] % config.block
    x = jnp.pad(x, [(0, 0), (0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 3))
    return x.reshape(*x.shape[:2], -1, config.block, *x.shape[3:])


def _bounds(blocks: jax.Array, written: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Largest and smallest of blocks [..., C, D] over written bool [..., C]; 0 where none is."""
    some = written.any(axis=-1)[..., None]
    seen = written[..., None]
    upper = jnp.max(jnp.where(seen, blocks, -jnp.inf), axis=-2)
    lower = jnp.min(jnp.where(seen, blocks, jnp.inf), axis=-2)
    return jnp.where(some, upper, 0), jnp.where(some, lower, 0)


def build_index(
    key: jax.Array, length: jax.Array, channels: jax.Array, config: IndexConfig
) -> Index:
    """Returns the index of the first `length` keys of each row.

    Args:
        key: [B, KV, S, D] as attention uses them, rotated where it has rotary positions. What
            slots from `length` on hold does not matter.
        length: int32 [B], tokens that are written; may be traced.
        channels: int32 [KV, r], the calibrated channels of each key head, or [B, KV, r].
        config: r is `config.channels`.

    Raises:
        ValueError: a shape, dtype or number is wrong; the message names the argument. Numbers in
            traced arrays are checked under JAXLAB_DEBUG=1 alone, and clipped otherwise.

    Source: Quest (Tang et al. 2024) for the bounds, Double Sparsity (Yang et al. 2024) for the
    channels, AsyncTLS (Hu et al. 2026) for both together.
    """
    checks.key(key)
    checks.lengths(length, key)
    channels = checks.channels(channels, key, config)
    length = jnp.clip(length, 0, key.shape[2])
    written = _by_block(jnp.arange(key.shape[2])[None, None] < length[:, None, None], config)
    upper, lower = _bounds(_by_block(key, config), written)
    codes, scale = quantise(key, channels, config)
    codes = jnp.where(written[..., None], _by_block(codes, config), 0)
    return Index(upper, lower, codes, jnp.where(written, _by_block(scale, config), 0), channels)


def append_index(
    index: Index, key: jax.Array, length: jax.Array, channels: jax.Array, config: IndexConfig
) -> Index:
    """Returns the index with the key at `length - 1`, which was written to `key` before.

    Equal to `build_index`, bit for bit, where the index held the first `length - 1` keys or holds
    this one already (a row that has stopped). A row of length 0 stays as it is.

    Args:
        index: of the keys before.
        key: [B, KV, S, D].
        length: int32 [B], the new one included; may be traced.
        channels: those of `build_index`.
        config: see `IndexConfig`.

    Raises:
        ValueError: as in `build_index`.
    """
    checks.key(key)
    checks.lengths(length, key)
    channels = checks.channels(channels, key, config)
    checks.index(index, key, config)
    length = jnp.clip(length, 0, key.shape[2])
    new = key[jnp.arange(key.shape[0]), :, jnp.maximum(length - 1, 0)]
    return append_key(index._replace(channels=channels), new, length, config)


def append_key(index: Index, new: jax.Array, length: jax.Array, config: IndexConfig) -> Index:
    """`append_index` of one key per row, for caches that keep their keys in another way.

    Args:
        index: of the keys before.
        new: [B, KV, D], the key at `length - 1` in the dtype of the stored keys.
        length: int32 [B], the new one included; within the index.
        config: see `IndexConfig`.
    """
    rows = jnp.arange(new.shape[0])
    at = length - 1
    # Out of range, which scatters drop, where a row has no token.
    block = jnp.where(at < 0, index.upper.shape[2], at // config.block)
    offset = at % config.block
    codes, scale = quantise(new[:, :, None], index.channels, config)
    first = (offset == 0)[:, None, None]
    held = jnp.minimum(block, index.upper.shape[2] - 1)
    upper = jnp.where(first, new, jnp.maximum(index.upper[rows, :, held], new))
    lower = jnp.where(first, new, jnp.minimum(index.lower[rows, :, held], new))
    return Index(
        index.upper.at[rows, :, block].set(upper, mode="drop"),
        index.lower.at[rows, :, block].set(lower, mode="drop"),
        index.codes.at[rows, :, block, offset].set(codes[:, :, 0], mode="drop"),
        index.scale.at[rows, :, block, offset].set(scale[:, :, 0], mode="drop"),
        index.channels,
    )


def extend_index(
    index: Index, key: jax.Array, length: jax.Array, tokens: int, config: IndexConfig
) -> Index:
    """Returns the index with the keys at `length - tokens` to `length - 1`, equal to `build_index`.

    Costs what those keys' blocks do, whatever the capacity: for prompts that are read in chunks.

    Args:
        index: of the keys before, with its channels.
        key: [B, KV, S, D], with the new keys.
        length: int32 [B], the new ones included; may be traced. A row of fewer than `tokens` has
            as many new ones as it has tokens, and one of 0 or less stays empty.
        tokens: new keys of each row, at most.
        config: see `IndexConfig`.

    Raises:
        ValueError: as in `build_index`.
    """
    checks.key(key)
    checks.index(index, key, config)
    block, number = config.block, index.upper.shape[2]
    length = jnp.clip(length, 0, key.shape[2])
    count = min(-(-tokens // block) + 1, number)
    begin = jnp.clip((length - tokens) // block, 0, number - count)
    ids = begin[:, None] + jnp.arange(count)[None]  # [B, n], blocks that may have changed
    slots = (ids[..., None] * block + jnp.arange(block)).reshape(len(ids), -1)
    rows = jnp.arange(len(ids))[:, None]
    held = key[rows, :, jnp.minimum(slots, key.shape[2] - 1)].transpose(0, 2, 1, 3)
    written = _by_block((slots < length[:, None])[:, None], config)
    upper, lower = _bounds(_by_block(held, config), written)
    codes, scale = quantise(held, index.channels, config)
    codes = jnp.where(written[..., None], _by_block(codes, config), 0)
    scale = jnp.where(written, _by_block(scale, config), 0)

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[rows, :, ids].set(new.swapaxes(1, 2))

    return index._replace(
        upper=put(index.upper, upper),
        lower=put(index.lower, lower),
        codes=put(index.codes, codes),
        scale=put(index.scale, scale),
    )


def truncate_index(index: Index, key: jax.Array, length: jax.Array, config: IndexConfig) -> Index:
    """Returns the index after tokens were taken back, equal to `build_index` bit for bit.

    A maximum cannot forget: the bounds of each row's last block are computed anew from its keys.

    Args:
        index: of at least `length` tokens per row.
        key: [B, KV, S, D].
        length: int32 [B], tokens that remain; may be traced.
        config: see `IndexConfig`.

    Raises:
        ValueError: as in `build_index`.
    """
    checks.key(key)
    checks.lengths(length, key)
    checks.index(index, key, config)
    length = jnp.clip(length, 0, key.shape[2])
    number = index.upper.shape[2]
    last = jnp.maximum(length - 1, 0) // config.block
    slots = last[:, None] * config.block + jnp.arange(config.block)[None]  # [B, C]
    rows = jnp.arange(key.shape[0])
    held = jnp.minimum(slots, key.shape[2] - 1)
    open_block = key[rows[:, None], :, held].transpose(0, 2, 1, 3)  # [B, KV, C, D]
    upper, lower = _bounds(open_block, (slots < length[:, None])[:, None])
    begins = jnp.arange(number) * config.block
    kept = (begins[None] < length[:, None])[:, None, :, None]  # [B, 1, N, 1]
    written = begins[:, None] + jnp.arange(config.block)[None]
    written = (written[None] < length[:, None, None])[:, None]  # [B, 1, N, C]
    return Index(
        jnp.where(kept, index.upper.at[rows, :, last].set(upper), 0),
        jnp.where(kept, index.lower.at[rows, :, last].set(lower), 0),
        jnp.where(written[..., None], index.codes, 0),
        jnp.where(written, index.scale, 0),
        index.channels,
    )
