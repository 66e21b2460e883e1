"""Multi-head latent attention: all heads read keys and values out of one latent per token."""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlab import ranges
from jaxlab.nn.attention import attend
from jaxlab.nn.context import AttentionCache, CacheKind, Context
from jaxlab.nn.linear import Linear
from jaxlab.nn.norm import RMSNorm
from jaxlab.nn.rope import Rope, angles, rotate


@dataclasses.dataclass(frozen=True)
class MLA:
    """Sizes and switches of multi-head latent attention.

    Attributes:
        num_heads: H.
        latent_dim: C, width of the latent that keys and values are read out of (kv_lora_rank).
        nope_dim: size of a head's query and key without rotary positions.
        rope_dim: R, size of their rotary part; all heads share that of the key.
        value_dim: size of a head's value.
        query_rank: width through which queries are projected; None is one projection.
        rope: rotary frequencies. Yarn with `mscale_all_dim` also multiplies the scores, by
            (0.1 mscale_all_dim ln(factor) + 1)^2.
        interleaved: whether rotation turns the pairs (2i, 2i + 1) and not (i, i + R/2).
        bias: whether the projections from and to the residual stream have biases; a query's own, if
            it is one projection, has none.
        latent_eps: of the norms of the latent and of the reduced query.
        implementation: of `jaxlab_kernels.attention`; None is the fastest for platform and length.
        name: the tag of this mixer in a config.
    """

    num_heads: int
    latent_dim: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    query_rank: int | None = None
    rope: Rope = dataclasses.field(default_factory=Rope)
    interleaved: bool = True
    bias: bool = False
    latent_eps: float = 1e-6
    implementation: str | None = None
    name: Literal["mla"] = "mla"

    def __post_init__(self) -> None:
        """Check that there is at least one of each, and that rotations come in pairs."""
        ranges.check_counts(
            self, "num_heads", "latent_dim", "nope_dim", "rope_dim", "value_dim", "query_rank"
        )
        ranges.check(self, "latent_eps", above=0)
        if self.rope_dim % 2:
            raise ValueError(f"rope_dim must be even for rotary embeddings, not {self.rope_dim}")

    @property
    def scale(self) -> float:
        """Factor of the scores: 1 / sqrt(nope_dim + rope_dim), and yarn's."""
        scale = (self.nope_dim + self.rope_dim) ** -0.5
        rope = self.rope
        if rope.rule == "yarn" and rope.mscale_all_dim and rope.factor > 1:
            scale *= (0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0) ** 2
        return scale

    def module(self, **shared: Any) -> nn.Module:
        """Returns the layer; see `jaxlab.nn.layers.Mixer` for what all mixers share."""
        return MLALayer(self, **shared)


class MLALayer(nn.Module):
    """Whole sequences by the full form, decoding by the absorbed one; both compute the same.

    The full form reads each head's key [nope; rope] and value out of the latents. The absorbed form
    takes the read-out matrices over to the query and the output instead: with one key [latent;
    rope] of C + R columns for all heads, whose first C columns are the value, the cache holds
    nothing else.

    Source: DeepSeek-V2 (2024), section 2.1 and appendix C.

    Attributes:
        config: sizes and switches.
        model_dim: d.
        norm_eps: of the block's norms; those inside have the config's.
        output_init_scale: of the output projection.
        dtype: compute dtype.
        param_dtype: storage dtype.
    """

    config: MLA
    model_dim: int
    norm_eps: float = 1e-6
    output_init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Create the projections."""
        c = self.config
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = c.num_heads * (c.nope_dim + c.rope_dim)
        if c.query_rank is None:
            self.query = Linear(width, **types)
        else:
            self.query_reduce = Linear(c.query_rank, c.bias, **types)
            self.query_norm = RMSNorm(c.latent_eps, self.param_dtype)
            self.query_expand = Linear(width, **types)
        self.latent_reduce = Linear(c.latent_dim + c.rope_dim, c.bias, **types)
        self.latent_norm = RMSNorm(c.latent_eps, self.param_dtype)
        self.latent_expand = Linear(c.num_heads * (c.nope_dim + c.value_dim), **types)
        self.output = Linear(self.model_dim, c.bias, self.output_init_scale, **types)

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[B, T, d] -> [B, T, d]."""
        return self._full(*self._project(x, context.positions), context)

    def empty_cache(self, batch: int, kind: CacheKind) -> AttentionCache:
        """Returns the cache of this layer before the first token: one head, values are keys."""
        c = self.config
        return kind.empty(batch, 1, c.latent_dim + c.rope_dim, 0, self.dtype)

    def prefill(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """As `__call__`, and the cache, empty until now, with these tokens."""
        arrays = self._project(x, context.positions)
        # The cache's own attention is not used, and no compiled program has it.
        _, cache = cache.prefill(*self._absorbed(*arrays), context)
        return self._full(*arrays, context), cache

    def extend(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """Reads N more tokens per row, [B, N, d] -> [B, N, d], into the cache."""
        arrays = self._absorbed(*self._project(x, context.positions))
        y, cache = cache.append_and_attend(*arrays, context)
        y = y[..., : self.config.latent_dim]
        return self._read(jnp.einsum("bnhc,chv->bnhv", y, self._readout()[1])), cache

    def _project(
        self, x: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Query [B, T, H, nope] and [B, T, H, R], latent [B, T, C], key's rotary [B, T, 1, R]."""
        c = self.config
        if c.query_rank is None:
            query = self.query(x)
        else:
            query = self.query_expand(self.query_norm(self.query_reduce(x)))
        query = query.reshape(*x.shape[:-1], c.num_heads, -1)
        query, turned = query[..., : c.nope_dim], query[..., c.nope_dim :]
        latent = self.latent_reduce(x)
        latent, key = latent[..., : c.latent_dim], latent[..., None, c.latent_dim :]
        cos, sin = angles(c.rope, c.rope_dim, positions)
        return (
            query,
            self._turn(turned, cos, sin),
            self.latent_norm(latent),
            self._turn(key, cos, sin),
        )

    def _turn(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
        if self.config.interleaved:
            # Queries and keys come out in the same other order, which scores do not see.
            x = jnp.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)
        return rotate(x, cos, sin)

    def _full(
        self,
        query: jax.Array,
        turned: jax.Array,
        latent: jax.Array,
        key: jax.Array,
        context: Context,
    ) -> jax.Array:
        c = self.config
        read = self.latent_expand(latent).reshape(*latent.shape[:2], c.num_heads, -1)
        keys = jnp.broadcast_to(key, (*turned.shape[:3], c.rope_dim))
        keys = jnp.concatenate([read[..., : c.nope_dim], keys], axis=-1)
        query = jnp.concatenate([query, turned], axis=-1)
        values, segments = read[..., c.nope_dim :], context.segment_ids
        return self._read(attend(query, keys, values, segments, c.implementation, c.scale))

    def _absorbed(
        self, query: jax.Array, turned: jax.Array, latent: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [B, T, H, C + R], key [B, T, 1, C + R], and values of no width of their own."""
        c = self.config
        query = jnp.einsum("bnhd,chd->bnhc", query, self._readout()[0])
        query = jnp.concatenate([query, turned], axis=-1)
        # Caches divide scores by the root of their own width.
        query = query * (c.scale * query.shape[-1] ** 0.5)
        key = jnp.concatenate([latent[:, :, None], key], axis=-1)
        return query, key, key[..., :0]

    def _readout(self) -> tuple[jax.Array, jax.Array]:
        """Matrices [C, H, nope] and [C, H, value] that read keys and values out of latents."""
        c = self.config
        matrix = self.latent_expand.matrix().reshape(c.latent_dim, c.num_heads, -1)
        return matrix[..., : c.nope_dim], matrix[..., c.nope_dim :]

    def _read(self, y: jax.Array) -> jax.Array:
        return self.output(y.reshape(*y.shape[:2], -1))
