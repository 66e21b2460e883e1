from itertools import combinations, permutations, product

import numpy as np
import pytest

from jaxlab.evals import metrics, tables


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_and_pass_hat_k_against_all_subsets(n):
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            some = sum(map(any, subsets)) / len(subsets)
            every = sum(map(all, subsets)) / len(subsets)
            np.testing.assert_allclose(metrics.pass_at_k(n, c, k), some, atol=1e-12)
            np.testing.assert_allclose(metrics.pass_hat_k(n, c, k), every, atol=1e-12)


def test_pass_at_k_ends_are_exact_and_large_counts_finite():
    np.testing.assert_array_equal(metrics.pass_at_k(16, np.array([0, 16, 15]), 4), [0.0, 1.0, 1.0])
    np.testing.assert_allclose(metrics.pass_at_k(100_000, 1, 50_000), 0.5)
    np.testing.assert_array_equal(metrics.pass_at_k(np.array([4, 8]), np.array([4, 0]), 2), [1, 0])


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, 1, 5), (4, 1, 0), (4, -1, 1)])
def test_pass_at_k_rejects(n, c, k):
    with pytest.raises(ValueError, match="1 <= k <= n"):
        metrics.pass_at_k(n, c, k)


def test_avg_at_n():
    assert metrics.avg_at_n(np.array([[1, 0, 0, 0], [1, 1, 0, 1]], bool)) == 0.5
    with pytest.raises(ValueError, match=r"got shape \(0, 4\)"):
        metrics.avg_at_n(np.zeros((0, 4)))


def test_maj_at_n():
    answers = [["7", "7", "3", None], ["1", "2", None, None], [None] * 4, ["5", "6", "6", "5"]]
    correct = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [1, 0, 0, 1]], bool)
    np.testing.assert_array_equal(metrics.maj_at_n(answers, correct), [1.0, 0.5, 0.0, 0.5])
    first = metrics.maj_at_n(answers, correct, ties="first")
    np.testing.assert_array_equal(first, [1.0, 0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="problem 0 has 1 answers and 2 grades"):
        metrics.maj_at_n([["1"]], np.ones((1, 2)))


def test_maj_at_n_against_every_order_of_the_samples():
    """Drawn without replacement, tied answers are equally likely to come first."""
    right = {"a": 1.0, "b": 0.0, "c": 0.5, None: 0.0}
    for row in product([*right], repeat=4):
        correct = np.array([right[answer] for answer in row])
        by_order = []
        for order in permutations(row):
            votes = [answer for answer in order if answer is not None]
            # The first answer to reach the largest number of votes.
            most = max((votes.count(answer) for answer in votes), default=0)
            winner = next((answer for answer in votes if votes.count(answer) == most), None)
            by_order.append(right[winner])
        np.testing.assert_allclose(
            metrics.maj_at_n([row], correct[None]), [np.mean(by_order)], atol=1e-12
        )


def test_distinct_solutions():
    solutions = [["0 1", None, "1 0", "0 1"], [None, None]]
    np.testing.assert_array_equal(metrics.distinct_solutions(solutions), [2, 0])


def test_binomial_stderr():
    assert metrics.binomial_stderr(0.5, 100) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="n >= 1"):
        metrics.binomial_stderr(0.5, 0)
    with pytest.raises(ValueError, match="rate in"):
        metrics.binomial_stderr(1.5, 3)


def test_bootstrap_agrees_with_the_formula():
    values = np.random.default_rng(0).random(400) < 0.3
    result = metrics.cluster_bootstrap(values, num_resamples=4000)
    assert result.mean == pytest.approx(values.mean())
    # The bootstrap's own error is stderr / sqrt(2 * resamples), about 1 %.
    assert result.stderr == pytest.approx(metrics.binomial_stderr(values.mean(), 400), rel=0.05)
    assert result.low < result.mean < result.high
    assert result.high - result.low == pytest.approx(2 * 1.96 * result.stderr, rel=0.1)
    assert result == metrics.cluster_bootstrap(values, num_resamples=4000)


def test_clusters_widen_the_error():
    # Four equal rows per cluster carry the information of one: the error doubles.
    values = np.repeat(np.random.default_rng(1).random(100), 4)
    clusters = np.repeat(np.arange(100), 4).tolist()
    rows = metrics.cluster_bootstrap(values, num_resamples=4000)
    clustered = metrics.cluster_bootstrap(values, clusters, num_resamples=4000)
    assert clustered.stderr / rows.stderr == pytest.approx(2.0, rel=0.08)


def test_bootstrap_of_uneven_clusters_keeps_the_mean_over_rows():
    result = metrics.cluster_bootstrap([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert result.mean == 0.75
    one = metrics.cluster_bootstrap([1.0, 0.0], ["a", "a"])
    assert one.mean == 0.5
    assert np.isnan([one.stderr, one.low, one.high]).all()
    assert tables.show(one) == "0.500"
    for values, clusters in [([], None), ([1.0], ["a", "b"])]:
        with pytest.raises(ValueError, match="values"):
            metrics.cluster_bootstrap(values, clusters)


def test_paired_test_against_all_flips():
    # Differences 1, 1, 1, -1: the sum is 2; of 16 flips, 10 have a sum of at least 2 in size.
    result = metrics.paired_test([0, 0, 0, 1], [1, 1, 1, 0])
    assert result.p_value == 10 / 16
    assert (result.better, result.worse) == (3, 1)
    assert result.difference.mean == 0.5
    assert metrics.paired_test([1, 0], [1, 0]).p_value == 1.0


def test_paired_test_by_sampling_agrees_with_the_binomial():
    # 15 clusters better, 1 worse: two-sided sign test, 2 * (1 + 16) / 2^16.
    a, b = np.zeros(16), np.ones(16)
    a[0], b[0] = 1, 0
    result = metrics.paired_test(a, b, num_resamples=200_000)
    assert result.p_value == pytest.approx(2 * 17 / 2**16, rel=0.3)


def test_clusters_of_four_make_a_weaker_pair_test():
    a, b = np.zeros(12), np.ones(12)
    clusters = np.repeat(np.arange(3), 4).tolist()
    assert metrics.paired_test(a, b).p_value == 2 / 2**12
    assert metrics.paired_test(a, b, clusters).p_value == 2 / 2**3
    with pytest.raises(ValueError, match="a pair is needed"):
        metrics.paired_test([1.0], [1.0, 0.0])


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: 3 * 0.01, 2 * 0.03, then 0.04 lifted to the one before.
    assert metrics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1.0, 1.0]
