"""Prompts in chunks: while one is read, caches attend densely and nothing is selected."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax

from jaxlab.nn.context import Context

if TYPE_CHECKING:
    from jaxlab.sampling.caches.two_level import TwoLevelCache


@functools.partial(jax.tree_util.register_dataclass, data_fields=("cache",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Reading:
    """A two-level cache whose new tokens are a prompt's.

    Attributes:
        cache: with the tokens so far and their index.
    """

    cache: "TwoLevelCache"

    def append_and_attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, context: Context
    ) -> tuple[jax.Array, "Reading"]:
        """See `jaxlab.nn.context.AttentionCache`."""
        y, cache = self.cache.read(query, key, value, context)
        return y, Reading(cache)

    def whole(self) -> "TwoLevelCache":
        """See `jaxlab.nn.context.AttentionCache`."""
        return self.cache

    def by_slot(self) -> None:
        """Raises a ValueError: layers that ask for it read prompts by a selection of their own."""
        raise ValueError(
            "prefill_chunk: block-sparse layers before a two-level cache read prompts whole, since "
            "its chunks attend densely: leave it None"
        )


def reading(layers: Any) -> Any:
    """Empty caches as those that read chunks.

    Raises:
        ValueError: a layer's cache cannot, or its index has no channels yet.
    """

    def one(cache: Any) -> Any:
        if not hasattr(cache, "in_chunks"):
            raise ValueError(
                f"prefill_chunk: {type(cache).__name__} reads prompts whole: leave it None"
            )
        return cache.in_chunks()

    # What every layer's cache has; that of a delta layer has nothing to read chunks with.
    return jax.tree.map(one, layers, is_leaf=lambda x: hasattr(x, "repeat"))


def done(layers: Any) -> Any:
    """The caches behind the prompt."""
    return jax.tree.map(lambda x: x.whole(), layers, is_leaf=lambda x: hasattr(x, "whole"))
