"""From per-token losses and statistics [B, T] to one loss and its metrics."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

AGGREGATIONS = ("seq_mean_token_mean", "token_mean", "seq_mean_token_sum")
Aggregation = Literal["seq_mean_token_mean", "token_mean", "seq_mean_token_sum"]

NO_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType({})

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
    - `token_mean`: w_bt = mask_bt / number of tokens, the AOPD code;
    - `seq_mean_token_sum`: w_bt = mask_bt / number of sequences, SCOPE Eq. 2 and 3 (long
      completions weigh more), and but for a constant Dr. GRPO (Liu et al. 2025).

    A sequence without a counting token is no sequence. Every count is at least 1, so that an
    empty mask gives a loss of 0 and gradients of 0.

    Args:
        mask: bool [B, T], True = counts.
        agg: one of the three names above.
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
    return jnp.sum(mask if agg == "token_mean" else jnp.any(mask, axis=1))


def weighted_sum(loss: jax.Array, weights: jax.Array) -> jax.Array:
    """sum w * loss; what stands where the weight is 0 does not matter, not even NaN."""
    return jnp.sum(jnp.where(weights > 0.0, weights * loss, 0.0))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the True positions of `mask`; 0 if there are none."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def summarise(
    loss: jax.Array,
    stats: Mapping[str, jax.Array],
    mask: jax.Array,
    kinds: Mapping[str, tuple[str, ...]] = NO_KINDS,
) -> dict[str, jax.Array]:
    """Scalar float32 metrics of a loss from its per-token statistics.

    A statistic becomes its mean over the counting tokens, under its name; or, where `kinds` has a
    line for it, `<name>_<kind>` for each kind, which is a name in `SUMMARIES`.

    An empty mask gives zeros. No gradient flows through the result.

    Args:
        loss: scalar, passed on as `loss`.
        stats: name -> array of the shape of `mask`.
        mask: bool, True = counts.
        kinds: name of a statistic -> kinds of summary.
    """
    metrics = {"loss": loss}
    for name, values in stats.items():
        if name in kinds:
            metrics |= {f"{name}_{kind}": SUMMARIES[kind](values, mask) for kind in kinds[name]}
        else:
            metrics[name] = masked_mean(values, mask)
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


# Kind of summary -> (values, mask) -> scalar. The kurtosis is Pearson's, 3 for a Gaussian; the
# negative share is the share of the sum of squares that negative values hold.
SUMMARIES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mean": masked_mean,
    "share": masked_mean,
    "max": _masked_max,
    "min": lambda values, mask: -_masked_max(-values, mask),
    "kurtosis": _kurtosis,
    "negative_share": _negative_share,
}
