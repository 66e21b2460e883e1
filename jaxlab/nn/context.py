"""What layers are told about the tokens that they read, and how they cache them."""

from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Tree = TypeVar("Tree")


class Context(NamedTuple):
    """Where tokens stand; one object for all layers.

    Attributes:
        positions: int32 [B, T], of each token in its sequence.
        segment_ids: int32 [B, T] of packed or padded rows: tokens see their own segment; 0 is
            padding. None where each row is one segment, and for tokens that are read into a cache
            which holds earlier ones.
        slot: int32 scalar, the first cache slot that these tokens take, the same for every row;
            None without a cache.
        start: int32 [B], the first slot of each row that holds a token: rows are left-padded. None
            without a cache.
        budget: int32, scalar or [B]: blocks per query of block-sparse layers; None is their own.
    """

    positions: jax.Array
    segment_ids: jax.Array | None = None
    slot: jax.Array | None = None
    start: jax.Array | None = None
    budget: jax.Array | None = None


class AttentionCache(Protocol):
    """Keys and values of the tokens so far, and how new queries attend to them: a pytree.

    Attention layers own their projections, caches own attention while decoding: an implementation
    may store, select and move keys as it likes.
    """

    def prefill(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, Any]:
        """Attention within the first T tokens, and the cache that holds them.

        Args:
            query: [B, T, H, D].
            key: [B, T, KV, D].
            value: [B, T, KV, Dv]; Dv = 0 as in `CacheKind.empty`.
            context: with the segment ids of left-padded prompts.

        Returns:
            [B, T, H, Dv], and the cache.
        """

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, Any]:
        """Puts N new tokens behind those there are, and attends from them.

        Args:
            query: [B, N, H, D].
            key: [B, N, KV, D].
            value: [B, N, KV, Dv].
            context: with slot and start.

        Returns:
            [B, N, H, Dv], and the cache with the new tokens.
        """

    def repeat(self, times: int) -> Any:
        """Returns the cache with each row `times` times in succession."""

    def in_chunks(self) -> Any:
        """Returns the cache, which has no tokens, as one that reads a prompt in chunks.

        Chunks come by `append_and_attend`; `whole` then gives the cache behind the prompt.

        Raises:
            ValueError: this kind reads prompts whole, and why.
        """

    def whole(self) -> Any:
        """Returns the cache behind a prompt that was read in chunks."""

    def by_slot(self) -> tuple[jax.Array, jax.Array] | None:
        """Keys [B, KV, S, D] and values with each token at its context's slot.

        Layers that choose keys by themselves, as block-sparse ones do, read them there. None where
        the cache keeps them in another way.
        """


class CacheKind(Protocol):
    """How attention layers cache: a hashable choice, such as `sampling.caches.Dense`."""

    def empty(
        self, batch: int, kv_heads: int, dim: int, value_dim: int, dtype: DTypeLike
    ) -> AttentionCache:
        """Returns a cache without tokens for one layer.

        Args:
            batch: B.
            kv_heads: KV.
            dim: D, size of keys.
            value_dim: Dv, size of values. 0 where the values are the keys themselves, which are
                stored once: then `append_and_attend` gives [B, N, H, D].
            dtype: compute dtype of the model.
        """


def repeat_rows(tree: Tree, times: int) -> Tree:
    """Returns leaves [B, ...] as [B * times, ...], each row `times` times in succession."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)
