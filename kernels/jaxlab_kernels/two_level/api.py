"""Two-level sparse attention of one new token per row to a cache.

B batch, H heads of queries, KV heads of keys and values (H a multiple of KV: query head i goes with
key head i // (H / KV)), S slots, D the size of queries and keys, Dv that of values.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.attention import attention_step
from jaxlab_kernels.common.checks import static_scale
from jaxlab_kernels.two_level import checks, select
from jaxlab_kernels.two_level.config import IndexConfig
from jaxlab_kernels.two_level.gathered import gathered
from jaxlab_kernels.two_level.index import Index
from jaxlab_kernels.two_level.reference import reference
from jaxlab_kernels.two_level.stats import Stats, of_dense, of_step

IMPLEMENTATIONS: dict[str, Callable] = {
    "reference": reference,
    "xla": gathered,
}

PREFERENCES = {"cpu": ("xla",), "gpu": ("xla",), "tpu": ("xla",)}


def select_blocks(
    query: jax.Array,
    index: Index,
    length: jax.Array,
    config: IndexConfig,
    *,
    scale: float | None = None,
) -> jax.Array:
    """The blocks that level 1 keeps for a query, the forced ones among them.

    Args:
        query: [B, H, D].
        index: see `Index`.
        length: int32 [B], tokens in the cache, that of the query included; may be traced.
        config: see `IndexConfig`.
        scale: that of `decode`; matters to head_reduce="softmax_sum" alone.

    Returns:
        int32 [B, KV, config.candidates(S)], in order, each once, -1 behind where a row has fewer;
        of equal scores the lower block is kept. Equal for all key heads with share="layer".

    Raises:
        ValueError: a shape, dtype or number is wrong; the message names the argument.
    """
    length, scale = _selecting(query, index, length, config, scale)
    return select.choose_blocks(query, index, length, config, scale)


def select_tokens(
    query: jax.Array,
    index: Index,
    blocks: jax.Array,
    length: jax.Array,
    config: IndexConfig,
    *,
    scale: float | None = None,
) -> jax.Array:
    """The tokens of the given blocks that level 2 keeps for a query.

    The newest token comes first where its block is given; of equal scores the first in `blocks`.

    Args:
        query: [B, H, D].
        index: see `Index`.
        blocks: int [B, KV, k] as `select_blocks` returns them, each once, -1 for none.
        length: int32 [B]; may be traced.
        config: see `IndexConfig`.
        scale: that of `decode`; matters to head_reduce="softmax_sum" alone.

    Returns:
        int32 [B, KV, min(k_tokens, k * block)], best first, or in order where all are kept; -1
        where there are fewer.

    Raises:
        ValueError: a shape, dtype or number is wrong; the message names the argument.
    """
    length, scale = _selecting(query, index, length, config, scale)
    checks.blocks(blocks, *index.upper.shape[:2])
    number = index.upper.shape[2]
    known = jnp.where((blocks >= 0) & (blocks < number), blocks, -1)
    return select.choose_tokens(query, index, known, length, config, scale)


def _selecting(query, index, length, config, scale):
    """Checked length and scale of a selection."""
    batch, heads, number, dim = index.upper.shape
    checks.form(index, config)
    checks.query(query, batch, heads, dim)
    slots = number * config.block
    checks.lengths(length, jax.ShapeDtypeStruct((batch, heads, slots, dim), index.upper.dtype))
    return jnp.clip(length, 0, slots).astype(jnp.int32), static_scale(scale, dim)


def decode(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    index: Index,
    length: jax.Array,
    config: IndexConfig,
    *,
    scale: float | None = None,
    blocks: jax.Array | None = None,
    stats: bool = False,
    implementation: str | None = None,
) -> tuple[jax.Array, Stats | None]:
    """Softmax attention to the tokens that two levels of selection keep.

    Level 1 scores blocks by the Quest bound and keeps `k_blocks`; level 2 scores their tokens by
    few-bit copies of calibrated key channels and keeps `k_tokens`, one list per key head; each
    query head then attends exactly to those. While the largest length is below `config.min_len`,
    and where the budgets are as large as the cache, it is `attention_step`, bit for bit.

    A NaN in a written key is scored as the largest number: its token is attended to while the
    budgets have room, and the output is NaN as dense attention's is.

    Args:
        query: [B, H, D], one token per row.
        key: [B, KV, S, D], that token's key at `length - 1`. Slots from `length` on have to be
            finite where attention is dense.
        value: [B, KV, S, Dv]. Absorbed MLA: KV = 1, and value is `key[..., :latent]`.
        index: of `build_index` and `append_index`.
        length: int32 [B], tokens in the cache, this one included; may be traced. A row of length 0
            gives zeros.
        config: see `IndexConfig`.
        scale: factor of the scores; None is D ** -0.5. Absorbed MLA has that of the width before
            absorption.
        blocks: int [B, KV, k], candidates that an earlier step selected, in place of this query's
            own; this step's forced blocks are added to them.
        stats: whether to measure the selection, at the price of dense attention.
        implementation: "xla" or "reference" (float64 where query is), of the sparse path; None is
            the fastest.

    Returns:
        [B, H, Dv] in query's dtype, and `Stats` or None.

    Raises:
        ValueError: a shape, dtype or number is wrong; the message names the argument. Numbers in
            traced arrays are checked under JAXLAB_DEBUG=1 alone; lengths are clipped otherwise.
        Refusal: the named implementation does not take the call; the message says why.

    Source: AsyncTLS (Hu et al. 2026); Quest (Tang et al. 2024); Double Sparsity (Yang et al. 2024).
    """
    checks.key(key)
    checks.value(value, key)
    batch, heads, slots, dim = key.shape
    checks.query(query, batch, heads, dim)
    checks.lengths(length, key)
    checks.index(index, key, config)
    # Here too: the dense path has no use for the name.
    dispatch.check_name("two_level", IMPLEMENTATIONS, implementation)
    if blocks is not None:
        checks.blocks(blocks, batch, heads)
    length = jnp.clip(length, 0, slots).astype(jnp.int32)
    return _decode(
        query, key, value, index, length, blocks, config=config,
        scale=static_scale(scale, dim), stats=bool(stats), implementation=implementation,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("config", "scale", "stats", "implementation"))
def _decode(query, key, value, index, length, blocks, *, config, scale, stats, implementation):
    """One program: the dense path, the sparse one, or a choice of both by the largest length."""

    def dense():
        first = jnp.zeros_like(length)
        y = attention_step(
            query[:, None], key, value, first=first, last=length[:, None] - 1, scale=scale
        )
        y = jnp.where((length > 0)[:, None, None], y[:, 0], 0)
        return y, of_dense(query, key, value, length) if stats else None

    def sparse():
        step = dispatch.call(
            "two_level", IMPLEMENTATIONS, PREFERENCES, implementation,
            query, key, value, index, length, blocks, config=config, scale=scale,
        )  # fmt: skip
        if not stats:
            return step.out, None
        return step.out, of_step(
            query, key, value, index, length, blocks, step.candidates, step.tokens, config, scale
        )

    slots = key.shape[2]
    everything = config.candidates(slots) == config.blocks(slots) and config.k_tokens >= slots
    if slots < config.min_len or (blocks is None and everything):
        return dense()
    if config.min_len == 0:
        return sparse()
    return jax.lax.cond(jnp.max(length) < config.min_len, dense, sparse)
