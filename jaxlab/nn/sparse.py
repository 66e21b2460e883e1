"""Block-sparse attention as a layer: its queries choose the past blocks that they see."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxlab_kernels.block_sparse import block_sparse, block_sparse_step

from jaxlab.nn.attention import Attention, AttentionLayer
from jaxlab.nn.context import AttentionCache, Context
from jaxlab.runtime.sharding import dividing, shard_call


@dataclasses.dataclass(frozen=True)
class BlockSparse(Attention):
    """Softmax attention with the same parameters, of which each query sees a budget of blocks.

    Attributes:
        block_size: C, tokens per block.
        budget: blocks per query, its own included, where the context gives no other.
        coverage_at: budgets at which the router's mass is reported; see `block_sparse`.
        implementation: of `jaxlab_kernels.block_sparse`; None is the platform's fastest.
        name: the tag of this mixer in a config.
    """

    name: Literal["block_sparse"] = "block_sparse"  # type: ignore[assignment]
    block_size: int = 256
    budget: int = 32
    coverage_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is at least one of each."""
        super().__post_init__()
        if self.block_size < 1 or self.budget < 1:
            raise ValueError(
                f"block_size is {self.block_size} and budget {self.budget}: expected at least 1, "
                "for a query always attends to its own block"
            )
        if any(k < 1 for k in self.coverage_at):
            raise ValueError(f"coverage_at is {self.coverage_at}: expected budgets from 1")

    def module(self, **shared: Any) -> nn.Module:
        """Returns the layer; see `jaxlab.nn.layers.Mixer` for what all mixers share."""
        return BlockSparseLayer(self, **shared)

    def dense(self) -> Attention:
        """The attention layer of the same parameters."""
        names = {field.name for field in dataclasses.fields(Attention)} - {"name", "implementation"}
        return Attention(**{name: getattr(self, name) for name in names})


class BlockSparseLayer(AttentionLayer):
    """`AttentionLayer` with `block_sparse` in attention's place.

    Sows into the collection "aux" what the call reports: `blocks`, how many pairs of a query and a
    block were computed, and, where the config asks for it, `coverage` [B, KV, len(coverage_at)].
    """

    config: BlockSparse

    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        """[B, T, d] -> [B, T, d]."""
        return self._read(self._sparse(*self._project(x, context.positions), context))

    def prefill(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """As `__call__`, and the cache, empty until now, with these tokens."""
        arrays = self._project(x, context.positions)
        # The cache's own attention is not used, and no compiled program has it.
        _, cache = cache.prefill(*arrays, context)
        return self._read(self._sparse(*arrays, context)), cache

    def extend(
        self, x: jax.Array, context: Context, cache: AttentionCache
    ) -> tuple[jax.Array, AttentionCache]:
        """Reads N more tokens per row, [B, N, d] -> [B, N, d], into the cache.

        A cache that keeps tokens `by_slot` is read by this layer's blocks. Another attends in its
        own way, two-level caches by a selection of theirs.
        """
        query, key, value = self._project(x, context.positions)
        y, cache = cache.append_and_attend(query, key, value, context)
        slots = cache.by_slot()
        if slots is not None:
            assert context.slot is not None
            assert context.start is not None
            y = block_sparse_step(
                query, *slots, first=context.start,
                last=context.slot + jnp.arange(query.shape[1]), budget=self._budget(context),
                block_size=self.config.block_size,
            )  # fmt: skip
        return self._read(y), cache

    def _budget(self, context: Context) -> jax.Array:
        given = self.config.budget if context.budget is None else context.budget
        return jnp.asarray(given, jnp.int32)

    def _sparse(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> jax.Array:
        """`block_sparse` on each device's rows and heads of the ambient mesh."""
        c = self.config

        def call(query, key, value, segment_ids, budget):
            y, aux = block_sparse(
                query, key, value, budget, block_size=c.block_size, segment_ids=segment_ids,
                coverage_at=c.coverage_at, implementation=c.implementation,
            )  # fmt: skip
            return y, aux.blocks.reshape(1, 1), aux.coverage

        batch = query.shape[0]
        rows = dividing("data", batch)
        heads = dividing("model", query.shape[2], key.shape[2])
        arrays = jax.P(rows, None, heads)
        specs = (arrays, arrays, arrays, jax.P(rows), jax.P(rows))
        outs = (arrays, jax.P(rows, heads), jax.P(rows, heads))
        budget = jnp.broadcast_to(self._budget(context), (batch,))
        y, blocks, coverage = shard_call(call, specs, outs)(
            query, key, value, context.segment_ids, budget
        )
        self.sow("aux", "blocks", jnp.sum(blocks))
        if c.coverage_at:
            self.sow("aux", "coverage", coverage)
        return y
