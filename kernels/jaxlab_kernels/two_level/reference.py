"""Two-level attention written to be read: the definition that the other forms are held to."""

import jax
import jax.numpy as jnp

from jaxlab_kernels.two_level.config import IndexConfig
from jaxlab_kernels.two_level.gathered import Step
from jaxlab_kernels.two_level.index import Index, unpack


def reference(
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
    """Every block and token scored, ranks by a stable sort, attention by a mask [S].

    Arguments and result as in `gathered`; float64 where query is.
    """
    batch, heads, slots, dim = key.shape
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    q = query.reshape(batch, heads, -1, dim).astype(dtype)
    lengths = jnp.broadcast_to(length[:, None], (batch, heads))

    def by_head(function, *arrays):
        return jax.vmap(jax.vmap(function))(*arrays)

    def scored(q, index, length):
        return _block_scores(q, index, length, config, scale)

    def attended(q, key, value, index, scores, length, given):
        chosen = _blocks(scores, length, given, slots, config)
        picked = _tokens(q, index, chosen, length, slots, config, scale)
        return _attend(q, key, value, picked, scale), _ids(chosen), _ids(picked)

    scores = by_head(scored, q, index, lengths)
    if config.share == "layer":
        scores = jnp.broadcast_to(scores.sum(axis=1, keepdims=True), scores.shape)
    out, candidates, tokens = by_head(attended, q, key, value, index, scores, lengths, blocks)
    return Step(out.reshape(*query.shape[:2], -1).astype(query.dtype), candidates, tokens)


def _block_scores(q, index, length, config, scale):
    """[N] bounds for the queries [G, D] of one key head, element by element."""
    upper, lower = index.upper, index.lower
    if config.block_score == "quest_r":
        q, upper, lower = (x[:, index.channels] for x in (q, upper, lower))
    bounds = jnp.maximum(q[:, None] * upper[None], q[:, None] * lower[None]).sum(axis=-1)
    holds = jnp.arange(upper.shape[0]) * config.block < length
    return _agree(bounds, holds, config, scale)


def _blocks(scores, length, given, slots, config):
    """bool [N], the candidates: the best by score, or those given, with the forced ones."""
    block = jnp.arange(config.blocks(slots))
    full = (length + config.block - 1) // config.block
    holds = block < full
    forced = (block < config.sink_blocks) | (block >= full - max(config.recent_blocks, 1))
    if given is not None:
        return holds & (forced | (given[:, None] == block[None]).any(axis=0))
    return _best(scores, holds, forced, config.candidates(slots))


def _tokens(q, index, chosen, length, slots, config, scale):
    """bool [S], the best tokens of the chosen blocks [N] by their labels."""
    labels = unpack(index.codes, config).astype(q.dtype)
    labels = (labels * index.scale.astype(q.dtype)[..., None]).reshape(-1, config.channels)
    token = jnp.arange(slots)
    candidate = jnp.repeat(chosen, config.block)[:slots] & (token < length)
    scores = jnp.einsum("gr,tr->gt", q[:, index.channels], labels[:slots], precision="highest")
    scores = _agree(scores, candidate, config, scale)
    return _best(scores, candidate, token == length - 1, config.k_tokens)


def _attend(q, key, value, picked, scale):
    """[G, Dv], softmax attention to the picked [S]; zeros where nothing is."""
    logits = scale * jnp.einsum("gd,td->gt", q, key.astype(q.dtype), precision="highest")
    logits = jnp.where(picked[None], logits, -jnp.inf)
    weights = jax.nn.softmax(jnp.where(picked.any(), logits, 0), axis=-1)
    shown = jnp.where(picked[:, None], value, 0).astype(q.dtype)
    return jnp.einsum("gt,td->gd", weights, shown, precision="highest")


def _agree(scores, valid, config, scale):
    """Scores [G, n] of a group's heads as one, [n]."""
    if config.head_reduce == "sum":
        return scores.sum(axis=0)
    if config.head_reduce == "max":
        return scores.max(axis=0)
    logits = jnp.where(valid.any(), jnp.where(valid[None], scale * scores, -jnp.inf), 0)
    return jax.nn.softmax(logits, axis=-1).sum(axis=0)


def _best(scores, valid, forced, count):
    """bool [n]: the `count` largest of the valid ones, forced ones first, then the lower index."""
    scores = jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).max, scores)
    scores = jnp.where(valid, jnp.where(forced, jnp.inf, scores), -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-scores, stable=True), stable=True)
    return valid & (rank < count)


def _ids(chosen):
    """Indices of True in order, -1 behind, as long as chosen."""
    return jnp.nonzero(chosen, size=chosen.shape[0], fill_value=-1)[0].astype(jnp.int32)
