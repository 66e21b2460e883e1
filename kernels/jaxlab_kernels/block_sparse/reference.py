"""Block-sparse attention written to be read: the definition that the other forms are held to."""

import jax
import jax.numpy as jnp


def reference(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    budget: jax.Array,
    segment_ids: jax.Array | None,
    *,
    size: int,
    scale: float,
    coverage_at: tuple[int, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax attention to own and chosen blocks by masks [T, T], in float32 (float64 if given).

    Args:
        query: [B, T, H, D].
        key: [B, T, KV, D].
        value: [B, T, KV, Dv].
        budget: int32 [B, KV].
        segment_ids: int [B, T], or None.
        size: tokens per block.
        scale: factor of the scores.
        coverage_at: budgets at which the router's mass is asked for.

    Returns:
        [B, T, H, Dv]; coverage [B, KV, len(coverage_at)]; pairs of queries and blocks [B, KV].
    """
    batch, length, heads, _ = query.shape
    kv_heads = key.shape[2]
    groups = heads // kv_heads
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    q, k, v = (x.astype(dtype) for x in (query, key, value))
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    ids = jnp.ones((batch, length), jnp.int32) if segment_ids is None else segment_ids
    time = jnp.arange(length)
    # The first token of each token's segment, a run of equal ids, and of its own block.
    begins = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, time, 0), axis=1)
    own = first + (time - first) // size * size
    together = (first[:, :, None] == first[:, None, :]) & (time[:, None] >= time)  # [B, T, T]
    # The blocks of a row by the token that they begin with: token s stands for the block s, ...,
    # s + size - 1, which is a past one of a query t where it ends before t's own block.
    is_block = (own == time)[:, None, :]
    past = together & is_block & (time[None, None, :] < own[:, :, None])
    past = past & (ids > 0)[:, :, None]
    window = jnp.arange(size) + time[:, None]
    pooled = jnp.mean(k[:, jnp.minimum(window, length - 1)], axis=2)  # [B, T, H, D]
    pooled = jax.lax.stop_gradient(pooled)
    routed = jax.lax.stop_gradient(q)
    scores = jnp.einsum("bthd,bshd->bhts", routed, pooled, precision="highest")
    scores = jnp.where(past[:, None], scores, -jnp.inf)
    # Stable: of equal scores the lower index comes first.
    order = jnp.argsort(-scores, axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    most = jnp.repeat(budget - 1, groups, axis=1)[:, :, None, None]
    chosen = past[:, None] & (rank < most)  # [B, H, T, T], by the blocks' first tokens
    by_token = jnp.take_along_axis(
        chosen, jnp.broadcast_to(own[:, None, None, :], chosen.shape), axis=-1
    )
    visible = together[:, None] & (by_token | (own[:, :, None] == own[:, None, :])[:, None])
    logits = scale * jnp.einsum("bthd,bshd->bhts", q, k, precision="highest")
    weights = jax.nn.softmax(jnp.where(visible, logits, -jnp.inf), axis=-1)
    out = jnp.einsum("bhts,bshd->bthd", weights, v, precision="highest").astype(query.dtype)

    real = ids > 0
    some = past.any(-1)[:, None]
    mass = jax.nn.softmax(jnp.where(some[..., None], scale * scores, 0.0), axis=-1)
    coverage = [
        jnp.where(some, jnp.sum(jnp.where(rank < k - 1, mass, 0), -1), 1.0) for k in coverage_at
    ]
    blocks = jnp.sum(chosen, -1) + 1

    def mean(x, total):
        x = jnp.sum(jnp.where(real[:, None], x, 0), axis=-1).reshape(batch, kv_heads, groups)
        return x.sum(-1) / (groups * total) if total is not None else x.sum(-1)

    tokens = jnp.maximum(real.sum(-1), 1)[:, None]
    shares = [mean(x, tokens) for x in coverage]
    empty = jnp.zeros((batch, kv_heads, 0), dtype)
    covered = jnp.stack(shares, axis=-1) if shares else empty
    return out, covered, mean(blocks, None).astype(jnp.float32)
