"""Block-sparse causal attention of whole sequences.

B batch, T time, H heads of queries, KV heads of keys and values (H a multiple of KV: query head i
goes with key head i // (H / KV)), D the size of queries and keys, Dv that of values.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab_kernels import dispatch
from jaxlab_kernels.block_sparse.gpu import triton
from jaxlab_kernels.block_sparse.grouped import grouped
from jaxlab_kernels.block_sparse.reference import reference
from jaxlab_kernels.block_sparse.tpu import pallas
from jaxlab_kernels.common.checks import check_attention, static_scale

IMPLEMENTATIONS: dict[str, Callable] = {
    "pallas": pallas,
    "reference": reference,
    "triton": triton,
    "xla": grouped,
}

PREFERENCES = {"cpu": ("xla",), "gpu": ("triton", "xla"), "tpu": ("pallas", "xla")}


class Aux(NamedTuple):
    """What a call tells beside its output; no gradient goes through it.

    Attributes:
        blocks: float32 scalar, the work: how many pairs of a query (of a head) and a block that it
            attends to there are, own blocks included, padding not.
        coverage: [B, KV, len(coverage_at)], the share of the router's softmax over past blocks that
            the best k - 1 of them have (the own one is attended to in any case), mean over the
            queries of the group's heads; 1 for a query that k blocks are all of.
    """

    blocks: jax.Array
    coverage: jax.Array


def block_sparse(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    budget: jax.Array | int,
    *,
    block_size: int = 256,
    segment_ids: jax.Array | None = None,
    scale: float | None = None,
    coverage_at: Sequence[int] = (),
    implementation: str | None = None,
) -> tuple[jax.Array, Aux]:
    """Softmax attention of each query to its own block, causally, and to the best past blocks.

    A block is scored by the product of the query and the mean of its keys. Each query head chooses
    by itself; of equal scores the earlier block wins. Blocks are counted from the first token of a
    segment, so that a document attends alike wherever it is packed. A budget of all blocks is dense
    attention. The budget is data: another one does not compile anew, and the work falls with it.

    Differentiable (reverse mode) in q, k and v, for the blocks that were chosen forwards; choosing
    has no gradient. A rematerialised layer keeps its choices if its policy saves the name
    `jaxlab_kernels.block_sparse.IDS`.

    Args:
        q: [B, T, H, D].
        k: [B, T, KV, D].
        v: [B, T, KV, Dv].
        budget: int32, scalar or [B] or [B, KV]: blocks per query, its own included. A traced one
            below 1 counts as 1.
        block_size: tokens per block.
        segment_ids: int [B, T] of packed or padded rows; a segment is a run of equal ids. Id 0 is
            padding: its output is 0, and what the arguments hold there does not matter, not even
            NaN.
        scale: factor of the scores; None is D ** -0.5.
        coverage_at: budgets at which the router's mass is returned; any at all cost one sort of the
            scores.
        implementation: "xla" (queries sorted by the block that they chose), "triton" (the same
            with kernels for NVIDIA GPUs), "pallas" (for TPUs) or "reference" ([T, T] masks, float64
            where the arguments are); None is the platform's fastest.

    Returns:
        [B, T, H, Dv] in q's dtype, and `Aux`; scores and softmax are float32, or float64 if q is.

    Raises:
        ValueError: a shape, dtype or number is wrong; the message names the argument.
        Refusal: the named implementation does not take the call; the message says why.

    Source: MoBA (Lu et al. 2025), eqs. 2 to 6.
    """
    check_attention({"q": q, "k": k, "v": v}, segment_ids)
    scale = static_scale(scale, q.shape[-1])
    coverage_at = tuple(coverage_at)
    if block_size < 1 or any(type(n) is not int or n < 1 for n in coverage_at):
        raise ValueError(
            f"block_size is {block_size} and coverage_at {coverage_at}: expected whole numbers "
            "from 1"
        )
    batch, length, _, _ = q.shape
    kv_heads = k.shape[2]
    budgets = _budgets(budget, batch, kv_heads, length)
    if 0 in q.shape or 0 in v.shape:
        empty = jnp.ones((batch, kv_heads, len(coverage_at)), jnp.float32)
        return jnp.zeros((*q.shape[:3], v.shape[-1]), q.dtype), Aux(jnp.zeros(()), empty)
    if segment_ids is not None:
        # Weights of zero do not keep a NaN out of a sum.
        padding = (segment_ids == 0)[..., None, None]
        q, k, v = (jnp.where(padding, 0, x) for x in (q, k, v))
    out, coverage, blocks = dispatch.call(
        "block_sparse", IMPLEMENTATIONS, PREFERENCES, implementation,
        q, k, v, budgets, segment_ids, size=block_size, scale=scale, coverage_at=coverage_at,
    )  # fmt: skip
    aux = Aux(jnp.sum(blocks), coverage.astype(jnp.float32))
    return out, jax.tree.map(jax.lax.stop_gradient, aux)


def _budgets(budget: jax.Array | int, batch: int, kv_heads: int, length: int) -> jax.Array:
    """int32 [B, KV], at least 1."""
    if not isinstance(budget, jax.core.Tracer):
        known = np.asarray(budget)
        if known.size and known.dtype.kind in "iu" and known.min() < 1:
            raise ValueError(
                f"budget is {known.min()}: expected at least 1, for a query always attends to its "
                "own block"
            )
    given = jnp.asarray(budget)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"budget has dtype {given.dtype}; expected integers")
    if given.shape not in ((), (batch,), (batch, kv_heads)):
        raise ValueError(
            f"budget has shape {given.shape}; expected (), [B] or [B, KV] = [{batch}, {kv_heads}]"
        )
    # No query has more blocks than tokens: larger numbers would only overflow.
    clipped = jnp.clip(given, 1, max(length, 1)).astype(jnp.int32)
    clipped = clipped[:, None] if clipped.ndim == 1 else clipped
    return jnp.broadcast_to(clipped, (batch, kv_heads))
