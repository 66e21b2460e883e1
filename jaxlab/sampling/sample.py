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
from collections.abc import Callable
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
    logits = _padded(logits.astype(jnp.float32))
    if config.temperature == 0:
        return _greedy(logits)
    highest = jnp.max(logits, axis=1)
    # The softmax's numerators: 1 for the most likely token.
    weights = jnp.exp((logits - highest[:, None]) / config.temperature)
    total = jnp.sum(weights, axis=1)
    kept = _truncated(weights, config)

    blocks = kept.reshape(kept.shape[0], -1, _block_size(kept.shape[1]))
    sums = jnp.sum(blocks, axis=2)
    block = _invert_cdf(sums, bits[:, 0])
    members = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    tokens = block * blocks.shape[2] + _invert_cdf(members, bits[:, 1])

    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    score = (chosen - highest) / config.temperature
    return _defined(tokens, score - jnp.log(total), score - jnp.log(jnp.sum(sums, axis=1)))


def _greedy(logits: jax.Array) -> Draw:
    """The first of the most likely tokens."""
    # Two levels, because XLA's argmax over a long row is slow on CPU and its max is not.
    blocks = logits.reshape(logits.shape[0], -1, _block_size(logits.shape[1]))
    peaks = jnp.max(blocks, axis=2)
    block = jnp.argmax(peaks, axis=1)
    members = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    tokens = block * blocks.shape[2] + jnp.argmax(members, axis=1)
    highest = jnp.max(peaks, axis=1)
    logprobs = -jnp.log(jnp.sum(jnp.exp(logits - highest[:, None]), axis=1))
    return _defined(tokens, logprobs, jnp.zeros_like(logprobs))


def _defined(tokens: jax.Array, logprobs: jax.Array, sampling_logprobs: jax.Array) -> Draw:
    """The draw; token 0 with log-probability NaN where `logprobs` is not finite."""
    finite = jnp.isfinite(logprobs)
    return Draw(
        jnp.where(finite, tokens, 0).astype(jnp.int32),
        jnp.where(finite, logprobs, jnp.nan),
        jnp.where(finite, sampling_logprobs, jnp.nan),
    )


def _block_size(vocab: int) -> int:
    """A power of two near the square root of the vocabulary."""
    return 1 << round(math.log2(vocab) / 2)


def _padded(logits: jax.Array) -> jax.Array:
    """[B, V] with -inf behind, up to a multiple of the block size."""
    padding = -logits.shape[1] % _block_size(logits.shape[1])
    return jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)


def _truncated(weights: jax.Array, config: SamplingConfig) -> jax.Array:
    """The weights [B, V] with 0 for what top-k, then top-p, then min-p leave out."""

    def at_least(threshold: jax.Array | float) -> jax.Array:
        return jnp.where(weights >= threshold, weights, 0.0)

    if config.top_k is not None:
        goal = jnp.full_like(weights[:, 0], config.top_k)
        weights = at_least(_largest_threshold(weights, jnp.sign, goal)[:, None])
    if config.top_p is not None and config.top_p < 1:
        goal = config.top_p * jnp.sum(weights, axis=1)
        weights = at_least(_largest_threshold(weights, lambda w: w, goal)[:, None])
    if config.min_p:
        # The most likely token weighs 1, and the filters before this one have kept it.
        weights = at_least(config.min_p)
    return weights


def _largest_threshold(
    weights: jax.Array, measure: Callable[[jax.Array], jax.Array], goal: jax.Array
) -> jax.Array:
    """The largest t for which `measure` summed over the weights >= t reaches the goal; else 0.

    A bisection on the bit patterns of non-negative floats, which are ordered as the floats are:
    it ends at one of the weights, needs no sort (on CPU a sort of [128, 32768] takes half a
    second), and keeps all that tie with that weight.

    Args:
        weights: float32 [B, V], in [0, 1].
        measure: elementwise, 0 at 0.
        goal: float32 [B].

    Returns:
        float32 [B].
    """

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = low + (high - low) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)[:, None]
        heavy = measure(jnp.where(weights >= threshold, weights, 0.0))
        enough = jnp.sum(heavy, axis=1) >= goal
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
