import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.losses.aggregate import masked_mean, summarise, token_weights, weighted_sum
from jaxlab.losses.policy_gradient import SUMMARIES

MASK = jnp.array([[True, True, True, True], [False, True, False, False], [False] * 4])


def test_weights_of_the_three_aggregations():
    expected = np.zeros((3, 4))
    expected[0] = 1 / 8
    expected[1, 1] = 1 / 2
    np.testing.assert_allclose(token_weights(MASK), expected)
    np.testing.assert_allclose(token_weights(MASK, "token_mean"), np.asarray(MASK) / 5)
    np.testing.assert_allclose(token_weights(MASK, "seq_mean_token_sum"), np.asarray(MASK) / 2)


@pytest.mark.parametrize(
    ("agg", "denominator"),
    [("seq_mean_token_mean", 2), ("token_mean", 5), ("seq_mean_token_sum", 2)],
)
def test_microbatches_add_up_with_a_global_denominator(agg, denominator):
    loss = jax.random.normal(jax.random.key(0), MASK.shape)
    whole = weighted_sum(loss, token_weights(MASK, agg))
    parts = [
        weighted_sum(loss[i : i + 1], token_weights(MASK[i : i + 1], agg, denominator))
        for i in range(3)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)


@pytest.mark.parametrize("agg", ["seq_mean_token_mean", "token_mean", "seq_mean_token_sum"])
def test_an_empty_mask_weighs_nothing(agg):
    weights = token_weights(jnp.zeros((2, 3), bool), agg)
    np.testing.assert_array_equal(weights, 0.0)
    assert weighted_sum(jnp.full((2, 3), jnp.nan), weights) == 0.0


def test_unknown_aggregation_names_the_choices():
    with pytest.raises(ValueError, match=r"agg='mean'.*seq_mean_token_mean, token_mean"):
        token_weights(MASK, "mean")


def test_masked_mean_ignores_what_it_masks():
    assert masked_mean(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])) == 2.0


def test_summary_of_advantages():
    values = np.array([0.5, -4.0, 1.0, -0.25, 99.0])
    mask = np.array([True, True, True, True, False])
    kept = values[:4]
    stats = {name: jnp.asarray(values) for name in ("advantage", "ratio", "other")}
    metrics = summarise(jnp.float32(7.0), stats, mask, SUMMARIES)
    assert set(metrics) == {
        "loss",
        "other",
        *(f"advantage_{kind}" for kind in ("mean", "min", "kurtosis", "negative_share")),
        *(f"ratio_{kind}" for kind in ("mean", "max")),
    }
    assert metrics["other"] == pytest.approx(kept.mean())
    deviation = kept - kept.mean()
    assert metrics["loss"] == 7.0
    assert metrics["advantage_mean"] == pytest.approx(kept.mean())
    assert metrics["advantage_min"] == -4.0
    assert metrics["ratio_max"] == 1.0
    assert metrics["advantage_kurtosis"] == pytest.approx(
        np.mean(deviation**4) / np.mean(deviation**2) ** 2, rel=1e-5
    )
    assert metrics["advantage_negative_share"] == pytest.approx(
        (16 + 0.0625) / (0.25 + 16 + 1 + 0.0625), rel=1e-6
    )


def test_summary_of_nothing_is_zero_and_of_huge_advantages_finite():
    values = jnp.array([-2e4, 1.0, 2.0, 3.0])
    stats = {"advantage": values, "ratio": values, "clip": values, "other": values}
    for metric in summarise(jnp.float32(0.0), stats, jnp.zeros(4, bool), SUMMARIES).values():
        assert metric == 0.0
        assert metric.dtype == jnp.float32
    metrics = summarise(jnp.float32(0.0), stats, jnp.ones(4, bool), SUMMARIES)
    # One outlier among n: n - 2 + 1 / (n - 1).
    assert metrics["advantage_kurtosis"] == pytest.approx(4 - 2 + 1 / 3, rel=1e-3)
