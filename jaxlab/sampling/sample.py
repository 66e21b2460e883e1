"""One token per row from logits, by a blocked inverse CDF.

`jax.random.categorical` draws one Gumbel variable per vocabulary entry; at large vocabularies that
costs more than the model. Here a row needs two uniforms: the first picks a block of tokens by the
blocks' weights, the second a token inside it (the law of total probability, so the draw is exact).
The sum over blocks is the softmax's normaliser, so log-probabilities come for free.

Resolution. Both choices compare a float32 uniform with a float32 cumulative sum. A block's
probability is realised to about 2**-24 absolutely, and a token's probability inside its block to
about 2**-24 relative to the block: with V = 152k and a single uniform every token below 6e-8 would
be distorted, here only whole blocks of some 400 tokens that together weigh less than that. Weights
below exp(-87) of the largest underflow to zero and are never drawn.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.sampling.config import SamplingConfig


class Draw(NamedTuple):
    """One sampled token per row.

    Attributes:
      tokens: int32 [B].
      logprobs: float32 [B], under softmax(logits / temperature), before any truncation; greedy
        draws at temperature 1.
      sampling_logprobs: float32 [B], under the truncated and renormalised distribution that the
        token came from; 0 for greedy draws.
    """

    tokens: jax.Array
    logprobs: jax.Array
    sampling_logprobs: jax.Array


def sample(logits: jax.Array, bits: jax.Array, config: SamplingConfig) -> Draw:
    """Draw one token per row.

    A row whose logits hold NaN or +inf, or are all -inf, has no distribution: it gives token 0
    with log-probabilities NaN, for the caller's non-finite check to see.

    Args:
      logits: [B, V]; -inf marks tokens that must not be drawn.
      bits: uint32 [B, 2], independent random words; unused when greedy.
      config: temperature, top_k, top_p and min_p.
    """
    logits = logits.astype(jnp.float32)
    if config.temperature == 0:
        return _greedy(logits)
    blocks = _blocked(logits / config.temperature)
    highest = jnp.max(blocks, axis=(1, 2), keepdims=True)
    floor, least = _thresholds(blocks, highest, config)

    def kept_weight(scaled: jax.Array) -> jax.Array:
        weight = jnp.exp(scaled - highest)
        return jnp.where((scaled >= floor) & (weight >= least), weight, 0.0)

    kept = jnp.sum(kept_weight(blocks), axis=1)
    block = _invert_cdf(kept, bits[:, 0])
    members = jnp.take_along_axis(blocks, block[:, None, None], axis=2)
    inside = _invert_cdf(kept_weight(members)[..., 0], bits[:, 1])
    chosen = jnp.take_along_axis(members[..., 0], inside[:, None], axis=1)[:, 0]

    total = jnp.sum(jnp.exp(blocks - highest), axis=(1, 2))
    score = chosen - highest[:, 0, 0]
    logprobs = score - jnp.log(total)
    defined = jnp.isfinite(total)
    return Draw(
        jnp.where(defined, inside * blocks.shape[2] + block, 0),
        jnp.where(defined, logprobs, jnp.nan),
        jnp.where(defined, score - jnp.log(jnp.sum(kept, axis=1)), jnp.nan),
    )


def _greedy(logits: jax.Array) -> Draw:
    """The first of the most likely tokens."""
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    highest = jnp.max(logits, axis=-1)
    logprobs = -jnp.log(jnp.sum(jnp.exp(logits - highest[:, None]), axis=-1))
    defined = jnp.isfinite(logprobs)
    return Draw(
        jnp.where(defined, tokens, 0),
        jnp.where(defined, logprobs, jnp.nan),
        jnp.where(defined, 0.0, jnp.nan),
    )


def _blocked(scaled: jax.Array) -> jax.Array:
    """[B, V] -> [B, K, V / K], padded with -inf: block j is column j, tokens j, j + V/K, ...

    K is about the square root of V. Blocks are columns so that their sums run along the rows,
    which vector units do at full width.
    """
    vocab = scaled.shape[1]
    size = 1 << round(math.log2(vocab) / 2)
    padding = -vocab % size
    scaled = jnp.pad(scaled, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    return scaled.reshape(scaled.shape[0], size, -1)


def _thresholds(
    blocks: jax.Array, highest: jax.Array, config: SamplingConfig
) -> tuple[jax.Array, jax.Array]:
    """Least scaled logit (top-k) and least weight exp(logit - highest) (top-p, min-p) to keep.

    Both [B, 1, 1].
    """
    rows = blocks.reshape(blocks.shape[0], -1)
    floor = jnp.full_like(highest, -jnp.inf)
    least = jnp.full_like(highest, config.min_p or 0.0)
    if config.top_k is not None:
        top = jax.lax.top_k(rows, min(config.top_k, rows.shape[1]))[0]
        floor = top[:, -1:, None]
    if config.top_p is not None and config.top_p < 1:
        weights = jnp.where(rows >= floor[..., 0], jnp.exp(rows - highest[..., 0]), 0.0)
        least = jnp.maximum(least, _nucleus(weights, config.top_p)[:, None, None])
    return floor, least


def _nucleus(weights: jax.Array, top_p: float) -> jax.Array:
    """The least weight in the smallest set of heaviest tokens that holds `top_p` of the total.

    A bisection on the bit patterns of non-negative floats, which order as the floats do: the
    largest t for which the weights >= t still sum to top_p. It is exact and needs no sort.

    Args:
      weights: float32 [B, V], in [0, 1].
      top_p: in (0, 1).

    Returns:
      float32 [B].
    """
    goal = top_p * jnp.sum(weights, axis=1)

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = low + (high - low) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None]
        enough = jnp.sum(jnp.where(weights >= threshold, weights, 0.0), axis=1) >= goal
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low = jnp.zeros_like(goal, jnp.int32)
    above_one = jax.lax.bitcast_convert_type(jnp.ones_like(goal), jnp.int32) + 1
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, above_one))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def _invert_cdf(weights: jax.Array, bits: jax.Array) -> jax.Array:
    """Index i with probability weights[i] / sum(weights); never one whose weight is zero.

    Args:
      weights: float32 [B, n], not negative; a row of zeros or NaN gives an arbitrary index < n.
      bits: uint32 [B].

    Returns:
      int32 [B].
    """
    # Fine near 0, where float32 is fine, and below 1, where the last positive weight may be tiny.
    uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    cumulative = jnp.cumsum(weights, axis=1)
    positive = weights > 0
    # A parallel cumsum need not be monotone in the last bit, so zero weights are excluded by name.
    reached = positive & (cumulative > (uniform * cumulative[:, -1])[:, None])
    last_positive = weights.shape[1] - 1 - jnp.argmax(positive[:, ::-1], axis=1)
    first = jnp.where(jnp.any(reached, axis=1), jnp.argmax(reached, axis=1), last_positive)
    return first.astype(jnp.int32)
