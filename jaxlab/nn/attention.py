"""Grouped-query softmax attention as a layer."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxlab_kernels import attention

from jaxlab.nn.context import AttentionCache, CacheKind, Context
from jaxlab.nn.linear import Linear
from jaxlab.nn.norm import RMSNorm
from jaxlab.nn.rope import Rope, angles, rotate
from jaxlab.runtime.sharding import dividing, shard_call


@dataclasses.dataclass(frozen=True)
class Attention:
    """Sizes and switches of softmax attention.

    Attributes:
        num_heads: H, query heads.
        num_kv_heads: KV, heads of keys and values; divides H.
        head_dim: D.
        rope: rotary frequencies; None means none: the mask alone tells the order (NoPE, Kazemnejad
            et al. 2023), as in the full-attention layers of Kimi Linear.
        qkv_bias: whether query, key and value projections have biases (Qwen2).
        output_bias: whether the output projection has one.
        qk_norm: RMSNorm on each query and key head (Qwen3).
        implementation: of `jaxlab_kernels.attention`; None is the fastest for platform and length.
        name: the tag of this mixer in a config.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope | None = dataclasses.field(default_factory=Rope)
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    implementation: str | None = None
    name: Literal["attention"] = "attention"

    def __post_init__(self) -> None:
        """Check that there are heads and that they come in groups."""
        if self.num_heads < 1 or self.num_kv_heads < 1 or self.head_dim < 1:
            raise ValueError(
                f"num_heads is {self.num_heads}, num_kv_heads {self.num_kv_heads} and head_dim "
                f"{self.head_dim}: attention layers need at least one of each"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even for rotary embeddings, not {self.head_dim}: give another, "
                "or set rope to None"
            )

    def module(self, **shared: Any) -> nn.Module:
        """Returns the layer; see `jaxlab.nn.layers.Mixer` for what all mixers share."""
        return AttentionLayer(self, **shared)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    implementation: str | None = None,
    scale: float | None = None,
) -> jax.Array:
    """`jaxlab_kernels.attention` on each device's rows and heads of the ambient mesh.

    The compiler divides no kernel over devices, but rows and heads do not depend on each other.
    """

    def call(query, key, value, segment_ids):
        return attention(
            query, key, value, segment_ids=segment_ids, scale=scale, implementation=implementation
        )

    rows = dividing("data", query.shape[0])
    heads = dividing("model", query.shape[2], key.shape[2])
    arrays = (rows, None, heads)
    specs = (arrays, arrays, arrays, (rows,))
    return shard_call(call, specs, arrays)(query, key, value, segment_ids)


class AttentionLayer(nn.Module):
    """Projections, optional QK-norm, rotary positions, attention, output projection.

    Attributes:
        config: sizes and switches.
        model_dim: d.
        norm_eps: of the QK-norms.
        output_init_scale: of the output projection.
        dtype: compute dtype.
        param_dtype: storage dtype.
    """

    config: Attention
    model_dim: int
    norm_eps: float = 1e-6
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the projections."""
        c = self.config
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, kv_width = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.query = Linear(width, c.qkv_bias, **types)
        self.key = Linear(kv_width, c.qkv_bias, **types)
        self.value = Linear(kv_width, c.qkv_bias, **types)
        self.output = Linear(self.model_dim, c.output_bias, self.output_init_scale, **types)
        if c.qk_norm:
            self.query_norm = RMSNorm(self.norm_eps, self.param_dtype)
            self.key_norm = RMSNorm(self.norm_eps, self.param_dtype)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[B, T, d] -> [B, T, d]."""
        query, key, value = self._project(x, context.positions)
        implementation = self.config.implementation
        return self._read(attend(query, key, value, context.segment_ids, implementation))

    def empty_cache(self, batch: int, kind: CacheKind) -> AttentionCache:
        """Returns the cache of this layer before the first token."""
        c = self.config
        return kind.empty(batch, c.num_kv_heads, c.head_dim, c.head_dim, self.dtype)

    def prefill(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """As `__call__`, and the cache, empty until now, with these tokens."""
        y, cache = cache.prefill(*self._project(x, context.positions), context)
        return self._read(y), cache

    def extend(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """Reads N more tokens per row, [B, N, d] -> [B, N, d], into the cache."""
        y, cache = cache.append_and_attend(*self._project(x, context.positions), context)
        return self._read(y), cache

    def _project(
        self, x: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [B, T, H, D], key and value [B, T, KV, D]; with rope the first two are rotated."""
        c = self.config
        split = (*x.shape[:-1], -1, c.head_dim)
        query = self.query(x).reshape(split)
        key = self.key(x).reshape(split)
        value = self.value(x).reshape(split)
        if c.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if c.rope is None:
            return query, key, value
        cos, sin = angles(c.rope, c.head_dim, positions)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def _read(self, y: jax.Array) -> jax.Array:
        return self.output(y.reshape(*y.shape[:2], -1))
