"""From per-token losses and statistics [B, T] to one loss and its metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

AGGREGATIONS = ("seq_mean_token_mean", "token_mean")

# (loss, per-token statistics, mask) -> what a loss returns beside the loss.
Summary = Callable[[jax.Array, Mapping[str, jax.Array], jax.Array], dict[str, Any]]


def choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError that names the option and its choices unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")


def token_weights(
    mask: jax.Array,
    agg: str = "seq_mean_token_mean",
    denominator: jax.Array | float | None = None,
) -> jax.Array:
    """Weights w with loss = sum_bt w_bt loss_bt.

    - `seq_mean_token_mean`: w_bt = mask_bt / (|y_b| * number of sequences), AOPD Eq. 10;
    - `token_mean`: w_bt = mask_bt / number of tokens, the AOPD code.

    A sequence without a counting token is no sequence. Every count is at least 1, so that an
    empty mask gives a loss of 0 and gradients of 0.

    Args:
        mask: bool [B, T], True = counts.
        agg: one of the two names above.
        denominator: the number of sequences (or of tokens, for `token_mean`) of the whole batch
            when `mask` is only a microbatch or one host's rows: the sum over the parts then
            equals the loss of the whole.

    Returns:
        float32 [B, T].

    Raises:
        ValueError: `agg` is unknown.
    """
    total = count(mask, agg) if denominator is None else jnp.asarray(denominator)
    counts = mask.astype(jnp.float32)
    if agg == "seq_mean_token_mean":
        counts = counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1.0)
    return counts / jnp.maximum(total.astype(jnp.float32), 1.0)


def count(mask: jax.Array, agg: str = "seq_mean_token_mean") -> jax.Array:
    """The `denominator` of a whole batch: its sequences, or for `token_mean` its tokens.

    mask: bool [B, T]; a scalar. Raises a ValueError when `agg` is unknown.
    """
    choose("agg", agg, AGGREGATIONS)
    chex.assert_rank(mask, 2)
    return jnp.sum(jnp.any(mask, axis=1) if agg == "seq_mean_token_mean" else mask)


def weighted_sum(loss: jax.Array, weights: jax.Array) -> jax.Array:
    """sum w * loss; what stands where the weight is 0 does not matter, not even NaN."""
    return jnp.sum(jnp.where(weights > 0.0, weights * loss, 0.0))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the True positions of `mask`; 0 if there are none."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def summarise(
    loss: jax.Array, stats: Mapping[str, jax.Array], mask: jax.Array
) -> dict[str, jax.Array]:
    """Scalar float32 metrics of a loss from its per-token statistics.

    Means over the counting tokens, under the name of the statistic, but for:

    - `guided`, `clipped` -> `guided_share`, `clip_share`;
    - `ratio` -> `ratio_mean`, `ratio_max`;
    - `advantage` -> `advantage_mean`, `advantage_min`, `advantage_kurtosis` (Pearson's, 3 for a
      Gaussian), `advantage_negative_share` (the share of sum A^2 that negative A hold).

    An empty mask gives zeros. No gradient flows through the result.

    Args:
        loss: scalar, passed on as `loss`.
        stats: name -> array of the shape of `mask`.
        mask: bool, True = counts.
    """
    metrics = {"loss": loss}
    for name, values in stats.items():
        mean = masked_mean(values, mask)
        if name in ("guided", "clipped"):
            metrics[{"guided": "guided_share", "clipped": "clip_share"}[name]] = mean
        elif name == "ratio":
            metrics["ratio_mean"] = mean
            metrics["ratio_max"] = _masked_max(values, mask)
        elif name == "advantage":
            metrics["advantage_mean"] = mean
            metrics["advantage_min"] = -_masked_max(-values, mask)
            metrics["advantage_kurtosis"] = _kurtosis(values, mask)
            metrics["advantage_negative_share"] = _negative_share(values, mask)
        else:
            metrics[name] = mean
    return {
        name: jax.lax.stop_gradient(value).astype(jnp.float32) for name, value in metrics.items()
    }


def per_token(
    loss: jax.Array, stats: Mapping[str, jax.Array], mask: jax.Array
) -> dict[str, jax.Array]:
    """The statistics as they are, for a caller that summarises several parts of a batch at once."""
    del loss, mask
    return dict(stats)


def _masked_max(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(jnp.any(mask), jnp.max(jnp.where(mask, values, -jnp.inf)), 0.0)


def _kurtosis(values: jax.Array, mask: jax.Array) -> jax.Array:
    deviation = values - masked_mean(values, mask)
    # Scaled first: the fourth power of an advantage of -1e5 times a few thousand is infinite.
    deviation = deviation / jnp.maximum(_masked_max(jnp.abs(deviation), mask), 1e-30)
    variance = masked_mean(deviation**2, mask)
    return jnp.where(
        variance > 0.0, masked_mean(deviation**4, mask) / jnp.maximum(variance, 1e-30) ** 2, 0.0
    )


def _negative_share(values: jax.Array, mask: jax.Array) -> jax.Array:
    squares = values**2
    total = masked_mean(squares, mask)
    negative = masked_mean(jnp.where(values < 0.0, squares, 0.0), mask)
    return jnp.where(total > 0.0, negative / jnp.maximum(total, 1e-30), 0.0)
