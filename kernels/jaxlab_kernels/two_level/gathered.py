"""Two-level attention by XLA: it gathers the selected rows of the cache, and reads no others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels.common import products
from jaxlab_kernels.two_level.config import IndexConfig
from jaxlab_kernels.two_level.index import Index
from jaxlab_kernels.two_level.select import choose_blocks, choose_tokens, rows, with_forced


class Step(NamedTuple):
    """One step of attention and what it attended to.

    Attributes:
        out: [B, H, Dv] in the dtype of query.
        candidates: int32 [B, KV, k], blocks whose tokens were scored; -1 for none.
        tokens: int32 [B, KV, t], tokens that were attended to; -1 for none.
    """

    out: jax.Array
    candidates: jax.Array
    tokens: jax.Array


def gathered(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    index: Index,
    length: jax.Array,
    blocks: jax.Array | None,
    *,
    config: IndexConfig,
    scale: float,
) -> Step:
    """See `api.decode`; length is within [0, S]."""
    slots = key.shape[2]
    if blocks is None:
        candidates = choose_blocks(query, index, length, config, scale)
    else:
        candidates = with_forced(blocks, length, config.blocks(slots), config)
    tokens = choose_tokens(query, index, candidates, length, config, scale)
    out = attend_to(query, rows(key, tokens), rows(value, tokens), tokens >= 0, scale)
    return Step(jnp.where((length > 0)[:, None, None], out, 0), candidates, tokens)


def attend_to(
    query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array, scale: float
) -> jax.Array:
    """Softmax attention of each query to the tokens that were picked for its key head.

    Args:
        query: [B, H, D].
        key: [B, KV, t, D].
        value: [B, KV, t, Dv].
        seen: bool [B, KV, t], which of them are tokens.
        scale: factor of the scores.

    Returns:
        [B, H, Dv] in query's dtype; of no use in rows without tokens.
    """
    batch, heads, _, dim = key.shape
    # Weights of zero do not keep a NaN out of a sum.
    value = jnp.where(seen[..., None], value, 0).astype(query.dtype)
    by_head = query.reshape(batch, heads, -1, dim)
    scores = products.product("bkgd,bktd->bkgt", by_head, key) * scale
    scores = jnp.where(seen[:, :, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    out = products.product("bkgt,bktd->bkgd", weights, value)
    return out.reshape(*query.shape[:2], -1).astype(query.dtype)
