import itertools
import math

import numpy as np
import pytest

from jaxlab.credit.segments import (
    Episode,
    advantages,
    distil_reward,
    ndcg,
    normalised,
    rank_reward,
    trend,
)

UTILITY = (0.2, 0.9, 0.5)


def test_ndcg_by_hand():
    assert ndcg([1, 2, 0], UTILITY) == 1.0
    d = 1 / math.log2(3)
    # Gains by rank are 1, 3, 2; the ideal order is 1, 2, 0.
    ideal = 3 + 2 * d + 1 / 2
    assert ndcg([0, 1, 2], UTILITY) == pytest.approx((1 + 3 * d + 2 / 2) / ideal)
    ideal = 0.9 + 0.5 * d + 0.2 / 2
    assert ndcg([2, 1, 0], UTILITY, "utility") == pytest.approx((0.5 + 0.9 * d + 0.1) / ideal)
    gains = [2**u - 1 for u in UTILITY]
    ideal = gains[1] + gains[2] * d + gains[0] / 2
    assert ndcg([2, 1, 0], UTILITY, "exp") == pytest.approx(
        (gains[2] + gains[1] * d + gains[0] / 2) / ideal
    )


def test_ndcg_of_every_order_is_best_for_the_order_of_utility():
    for gain in ("rank", "utility", "exp"):
        scores = {order: ndcg(order, UTILITY, gain) for order in itertools.permutations(range(3))}
        assert max(scores, key=scores.get) == (1, 2, 0)
        assert max(scores.values()) == pytest.approx(1.0)
        assert min(scores, key=scores.get) == (0, 2, 1)
    # Ties may stand in any order, and a place that is left out gains nothing.
    assert ndcg([0, 1], [0.5, 0.5]) == ndcg([1, 0], [0.5, 0.5]) == 1.0
    assert ndcg([1], UTILITY) < 1.0
    assert ndcg([], UTILITY) == ndcg([], []) == 0.0
    assert ndcg([0, 1], [0.0, 0.0], "utility") == 0.0


def test_bad_rankings_are_named():
    with pytest.raises(ValueError, match=r"order: \[0, 0\] must be different indices below 3"):
        ndcg([0, 0], UTILITY)
    with pytest.raises(ValueError, match="order"):
        ndcg([3], UTILITY)
    with pytest.raises(ValueError, match="utility"):
        ndcg([0], [math.nan])
    with pytest.raises(ValueError, match="gain='log' is not one of rank, utility, exp"):
        ndcg([0], UTILITY, "log")


def test_trend_is_an_average_that_moves_slowly():
    assert trend(0.5, 1.0) == pytest.approx(0.525)
    np.testing.assert_allclose(trend(np.array([0.0, 1.0]), 1.0, alpha=0.5), [0.5, 1.0])
    # The paper's alpha: from 0.5 to 0.75 takes fourteen successes.
    utility, steps = 0.5, 0
    while utility < 0.75:
        utility, steps = trend(utility, 1.0), steps + 1
    assert steps == 14
    with pytest.raises(ValueError, match=r"alpha=2 is outside of \[0, 1\]"):
        trend(0.5, 1.0, alpha=2)


def test_distil_reward_is_what_the_best_skill_did_not_explain():
    assert distil_reward(1.0, (0.3, 0.8)) == pytest.approx(0.2)
    assert distil_reward(0.0, (0.3, 0.8)) == pytest.approx(-0.8)
    assert distil_reward(1.0, ()) == 1.0


TASK = [
    Episode("a", 1.0, UTILITY, (1, 2, 0)),
    Episode("a", 0.0, UTILITY, (0, 1, 2)),
    Episode("a", 0.0, (), None),
    Episode("a", 1.0, (0.4,), (0,)),
    Episode("b", 1.0, UTILITY, (1, 2, 0), written=False),
    Episode("b", 1.0, UTILITY, None),
]


def test_paper_credit_by_hand():
    found = advantages(TASK)
    assert [f["act"] for f in found] == pytest.approx([1, -1, -1, 1, 0, 0], abs=1e-5)
    assert [f["query"] for f in found] == [f["act"] for f in found]
    # No baseline and no normalisation; nothing to rank is worth nothing.
    second = 0.3 * ndcg((0, 1, 2), UTILITY)
    assert [f["rank"] for f in found] == pytest.approx([0.3, second, 0, 0, 0.3, 0])
    rewards = np.array([0.1, -0.9, 0.0, 0.6])
    expected = 0.3 * (rewards - rewards.mean()) / rewards.std()
    assert [f["distil"] for f in found[:4]] == pytest.approx(expected, abs=1e-5)
    # In task b one skill was not written: 0, against 0.1.
    assert [f["distil"] for f in found[4:]] == pytest.approx([-0.3, 0.3], abs=1e-4)


def test_released_credit_adds_the_ranking_to_the_outcome_and_never_trains_distillation():
    found = advantages(TASK, "released")
    sums = np.array([1 + 0.3 * rank_reward(TASK[0], "utility"),
                     0.3 * rank_reward(TASK[1], "utility"), 0.0, 1.0])  # fmt: skip
    expected = (sums - sums.mean()) / sums.std()
    for phase in ("query", "rank", "act"):
        assert [f[phase] for f in found[:4]] == pytest.approx(expected, abs=1e-5)
    assert {f["distil"] for f in found} == {0.0}


def test_delayed_credit_waits_for_the_utility_of_the_skill():
    def one(**known):
        return advantages([Episode("a", 1.0, (0.5,), (0,), **known)], "delayed")[0]["distil"]

    assert one() == 0.0
    assert one(later=0.8) == pytest.approx(0.3 * 0.3)
    assert one(later=0.2) == pytest.approx(-0.3 * 0.3)
    assert one(later=0.8, log_ratio=1.0) == pytest.approx(0.3 * 1.2 * 0.3)
    assert one(later=0.2, log_ratio=1.0) == pytest.approx(0.3 * math.e * -0.3)
    assert one(later=0.8, written=False) == 0.0


def test_the_papers_distil_credit_has_no_expected_gradient_and_the_delayed_one_has():
    """By enumeration: two outcomes of an episode, then two skills that its policy may write."""
    p_win, p_good = 0.6, 0.3
    # The score function of a two-way softmax, for the probability of the good skill.
    score = {"good": 1 - p_good, "bad": -p_good}
    worth = {"good": 0.9, "bad": 0.1}

    def expected(mode):
        total = 0.0
        # A group of two episodes, each with its outcome and its skill.
        for outcomes in itertools.product((0.0, 1.0), repeat=2):
            for skills in itertools.product(score, repeat=2):
                group = [
                    Episode("a", r, (0.5,), (0,), later=worth[skill])
                    for r, skill in zip(outcomes, skills, strict=True)
                ]
                probability = math.prod(
                    (p_win if r else 1 - p_win) * (p_good if skill == "good" else 1 - p_good)
                    for r, skill in zip(outcomes, skills, strict=True)
                )
                credits = [found["distil"] for found in advantages(group, mode)]
                total += probability * sum(
                    credit * score[skill] for credit, skill in zip(credits, skills, strict=True)
                )
        return total

    assert expected("paper") == pytest.approx(0.0, abs=1e-12)
    # Per episode 0.3 p (1 - p) (0.9 - 0.1), and there are two.
    assert expected("delayed") == pytest.approx(2 * 0.3 * p_good * (1 - p_good) * 0.8)
    assert expected("released") == 0.0


def test_normalised_by_group_and_modes_by_name():
    assert normalised([1.0, 3.0, 5.0], ["a", "a", "b"]) == pytest.approx([-1, 1, 0], abs=1e-5)
    assert advantages([]) == []
    with pytest.raises(ValueError, match="mode='late' is not one of paper, released, delayed"):
        advantages(TASK, "late")
