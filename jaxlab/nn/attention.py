"""Grouped-query softmax attention: over a whole sequence, and of new tokens to a cache."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab.nn.linear import Linear
from jaxlab.nn.norm import RMSNorm
from jaxlab.nn.rope import Rope, angles, rotate


class KVCache(NamedTuple):
    """Keys and values of the tokens so far, head-major: decoding reads each head's run at once.

    Attributes:
        key: [B, KV, S, D], rotated where the layer has rotary positions.
        value: [B, KV, S, D].
    """

    key: jax.Array
    value: jax.Array


class Span(NamedTuple):
    """Where the tokens of one cached step stand.

    Attributes:
        slot: int32 scalar, the first cache slot that this step writes (the same for every row).
        start: int32 [B], the first slot of each row that holds a token: rows are left-padded.
    """

    slot: jax.Array
    start: jax.Array


def causal_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None = None
) -> jax.Array:
    """Softmax attention of each position to itself and the past of its own segment.

    Args:
        query: [B, T, H, D].
        key: [B, T, KV, D], H a multiple of KV: query heads come in groups of H / KV.
        value: [B, T, KV, D].
        segment_ids: int32 [B, T]; tokens attend within their segment. Padding is a segment like
            any other, so that its rows stay finite.

    Returns:
        [B, T, H, D] in query's dtype; scores and softmax are float32.
    """
    batch, length, heads, dim = query.shape
    kv_heads = key.shape[2]
    groups = heads // kv_heads
    # Head-major, the query heads of a group one after the other as rows of one matrix: on a CPU
    # jax.nn.dot_product_attention, which keeps [B, T, H, D], takes 1.2x as long forward and back.
    rows = query.reshape(batch, length, kv_heads, groups, dim).transpose(0, 2, 3, 1, 4)
    rows = rows.reshape(batch, kv_heads, groups * length, dim)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bktd,bksd->bkts", rows, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, groups, length, length) / math.sqrt(dim)
    seen = jnp.tril(jnp.ones((length, length), bool))
    if segment_ids is not None:
        seen = seen & (segment_ids[:, None, None, :, None] == segment_ids[:, None, None, None, :])
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    weights = weights.reshape(batch, kv_heads, groups * length, length)
    y = jnp.einsum("bkts,bksd->bktd", weights, value)
    y = y.reshape(batch, kv_heads, groups, length, dim)
    return y.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def cached_attention(query: jax.Array, cache: KVCache, span: Span) -> jax.Array:
    """Softmax attention of new tokens to the cache, which already holds them.

    Args:
        query: [B, N, H, D], the tokens in the slots from span.slot on.
        cache: keys and values [B, KV, S, D].
        span: each token sees the slots from `start` to its own.

    Returns:
        [B, N, H, D].
    """
    batch, tokens, heads, dim = query.shape
    kv_heads, length = cache.key.shape[1:3]
    groups = heads // kv_heads
    # The query heads of a group one after the other as rows of one matrix.
    rows = query.reshape(batch, tokens, kv_heads, groups, dim).transpose(0, 2, 3, 1, 4)
    rows = rows.reshape(batch, kv_heads, groups * tokens, dim)
    scores = jnp.einsum("bktd,bksd->bkts", rows, cache.key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, groups, tokens, length) / math.sqrt(dim)
    slots, own = jnp.arange(length), span.slot + jnp.arange(tokens)
    seen = (slots >= span.start[:, None, None]) & (slots <= own[:, None])
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    weights = weights.reshape(batch, kv_heads, groups * tokens, length)
    y = jnp.einsum("bkts,bksd->bktd", weights, cache.value)
    y = y.reshape(batch, kv_heads, groups, tokens, dim).transpose(0, 3, 1, 2, 4)
    return y.reshape(query.shape)


class Attention(nn.Module):
    """Projections, optional QK-norm (Qwen3), rotary positions, attention, output projection.

    Without rope (None) the mask alone tells the order: NoPE (Kazemnejad et al. 2023), as in the
    full-attention layers of Kimi Linear, where the linear ones know positions.
    """

    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope | None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the projections."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.query = Linear(width, self.qkv_bias, **types)
        self.key = Linear(kv_width, self.qkv_bias, **types)
        self.value = Linear(kv_width, self.qkv_bias, **types)
        self.output = Linear(self.model_dim, self.output_bias, self.output_init_scale, **types)
        if self.qk_norm:
            self.query_norm = RMSNorm(self.norm_eps, self.param_dtype)
            self.key_norm = RMSNorm(self.norm_eps, self.param_dtype)

    def __call__(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, d] at int32 positions [B, T] -> [B, T, d]."""
        return self._attend(*self._project(x, positions), segment_ids)

    def prefill(
        self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache_length: int
    ) -> tuple[jax.Array, KVCache]:
        """As `__call__`, and a cache of `cache_length` slots whose first T hold this sequence."""
        query, key, value = self._project(x, positions)

        def slots(heads: jax.Array) -> jax.Array:
            extra = cache_length - heads.shape[1]
            return jnp.pad(heads.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, extra), (0, 0)))

        y = self._attend(query, key, value, segment_ids)
        return y, KVCache(slots(key), slots(value))

    def step(
        self, x: jax.Array, positions: jax.Array, cache: KVCache, span: Span
    ) -> tuple[jax.Array, KVCache]:
        """N tokens per row, [B, N, d] -> [B, N, d], and the cache with them from span.slot on."""
        query, key, value = self._project(x, positions)

        def write(slots: jax.Array, new: jax.Array) -> jax.Array:
            new = new.transpose(0, 2, 1, 3).astype(slots.dtype)
            return jax.lax.dynamic_update_slice_in_dim(slots, new, span.slot, axis=2)

        cache = KVCache(write(cache.key, key), write(cache.value, value))
        y = cached_attention(query, cache, span)
        return self.output(y.reshape(*x.shape[:-1], -1)), cache

    def _project(
        self, x: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [B, T, H, D], key and value [B, T, KV, D]; with rope the first two are rotated."""
        split = (*x.shape[:-1], -1, self.head_dim)
        query = self.query(x).reshape(split)
        key = self.key(x).reshape(split)
        value = self.value(x).reshape(split)
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rope is None:
            return query, key, value
        cos, sin = angles(self.rope, self.head_dim, positions)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None
    ) -> jax.Array:
        y = causal_attention(query, key, value, segment_ids)
        return self.output(y.reshape(*y.shape[:2], -1))
