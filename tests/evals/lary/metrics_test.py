"""Accuracies, errors and averages of LARY."""

import numpy as np
import pytest

from jaxlab.evals import tables
from jaxlab.evals.lary import metrics, tracks

#             a  a  a  a  b  b  c
TARGET = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 1])
NAMES = ("a", "b", "c", "d")


def test_accuracies_by_hand():
    found = metrics.accuracy(PREDICTED, TARGET, NAMES)
    assert found.micro.mean == pytest.approx(4 / 7)
    assert found.macro.mean == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    # Rows are what was predicted.
    assert found.confusion.tolist() == [[3, 1, 0, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    a, b, c, d = found.classes
    assert (a.rows, a.precision, a.recall, a.f1) == (4, 3 / 4, 3 / 4, 3 / 4)
    assert (b.rows, b.precision, b.recall) == (2, pytest.approx(1 / 3), 1 / 2)
    assert b.f1 == pytest.approx(2 / 5)
    assert np.isnan(c.precision)
    assert (c.recall, c.f1) == (0, 0)
    assert np.isnan([d.precision, d.recall, d.f1]).all()
    assert found.absent == ("d",)
    whole, by_class, _ = found.tables()
    assert whole.note == "Classes without a row: d."
    assert tables.show(by_class.rows[3]["recall"]) == "n/a"


def test_intervals_are_of_whole_episodes():
    # Two episodes, one all right, one all wrong: a resample scores 0, 1/2 or 1, whatever the rows.
    target = np.array([0, 1] * 50)
    predicted = np.where(np.arange(100) < 50, target, 1 - target)
    clusters = ["one"] * 50 + ["two"] * 50
    options = {"num_resamples": 400, "robots": ["x"] * 50 + ["y"] * 50}
    found = metrics.accuracy(predicted, target, NAMES[:2], clusters, **options)
    for interval in (found.micro, found.macro):
        assert (interval.mean, interval.low, interval.high) == (0.5, 0, 1)
        # The standard deviation of a mean of two fair coins is 0.354; over 400 draws +- 0.013.
        assert interval.stderr == pytest.approx(0.354, abs=0.05)
    assert (found.robots["x"].mean, found.robots["y"].mean) == (1, 0)
    assert np.isnan(found.robots["x"].low)  # one episode says nothing of others
    alone = metrics.accuracy(predicted, target, NAMES[:2], num_resamples=400)
    assert alone.macro.high - alone.macro.low < 0.25
    again = metrics.accuracy(predicted, target, NAMES[:2], clusters, **options)
    assert again.macro == found.macro


def test_macro_interval_is_that_of_plain_resampling():
    rng = np.random.default_rng(1)
    target = rng.integers(4, size=60)
    predicted = np.where(rng.random(60) < 0.6, target, rng.integers(4, size=60))
    clusters = rng.integers(12, size=60).tolist()
    found = metrics.accuracy(predicted, target, NAMES, clusters, num_resamples=200, seed=7)
    order = list(dict.fromkeys(clusters))
    draws, means = np.random.default_rng(7), []
    for _ in range(200):
        drawn = [order[i] for i in draws.integers(12, size=12)]
        rows = [i for name in drawn for i in range(60) if clusters[i] == name]
        t, p = target[rows], predicted[rows]
        means.append(np.mean([(p[t == c] == c).mean() for c in set(t)]))
    assert found.macro.stderr == pytest.approx(np.std(means, ddof=1))
    assert found.macro.low == pytest.approx(np.quantile(means, 0.025))


def test_errors_by_hand():
    target = np.zeros((2, 2, 3))
    predicted = np.array([[[1, 2, 0], [1, 2, 0]], [[0, 0, 3], [0, 0, 1]]], float)
    found = metrics.chunk_error(
        predicted,
        target,
        ("x", "y", "gripper"),
        tracks.TRACKS["synthetic"].groups,
        clusters=["e", "f"],
        robots=["", "b"],
        num_resamples=50,
    )
    # Squares: row 0 has 1, 4, 0 twice; row 1 has 9 and 1 for the gripper.
    assert found.mse.mean == pytest.approx(20 / 12)
    assert found.dims == pytest.approx({"x": 2 / 4, "y": 8 / 4, "gripper": 10 / 4})
    assert found.groups["position"].mean == pytest.approx(10 / 8)
    assert found.groups["gripper"].mean == pytest.approx(10 / 4)
    assert found.steps == pytest.approx((14 / 6, 6 / 6))
    assert found.robots[""].mean == pytest.approx(10 / 6)
    assert found.tables()[2].rows[0]["robot"] == "(none)"


def test_the_mean_predictor_scores_one():
    values = np.random.default_rng(0).normal(3, 5, (500, 2, 3))
    z = (values - values.mean((0, 1))) / values.std((0, 1))
    names = ("x", "y", "gripper")
    assert metrics.chunk_error(z * 0, z, names, {}, num_resamples=2).mse.mean == pytest.approx(1)


def test_both_averages_of_the_published_table():
    # Table of the paper: V-JEPA 2 and LAPA, by atomic, human and robot; the text's average is of
    # three, the project page's of the two composite ones.
    vjepa = {"libero": 79.09, "human_1st": 80.35, "robot_1st": 70.43}
    found = metrics.averages(vjepa)
    assert found["all"] == pytest.approx(76.62, abs=0.005)
    assert found["composite"] == pytest.approx(75.39, abs=0.005)
    assert found["regression"] is None
    lapa = {"libero": 22.27, "human_1st": 14.61, "robot_1st": 23.64}
    errors = {"calvin": 0.27, "vlabench": 0.07, "robocoin": 0.32, "agibotbeta": 0.33}
    found = metrics.averages(lapa | errors)
    assert found["all"] == pytest.approx(20.17, abs=0.005)
    assert found["regression"] == pytest.approx(0.25, abs=0.005)
    assert metrics.averages({"libero": 1.0})["composite"] is None


@pytest.mark.parametrize(
    ("predicted", "target", "cause"),
    [
        ([0, 1], [0], "ids .N. are needed"),
        ([], [], "ids .N. are needed"),
        ([0, 4], [0, 1], r"predicted: ids must be whole numbers in \[0, 4\)"),
        ([0, 1], [0, -1], "target: ids must be"),
        ([0.0, np.nan], [0, 1], "predicted: ids must be"),
    ],
)
def test_bad_classes(predicted, target, cause):
    with pytest.raises(ValueError, match=cause):
        metrics.accuracy(np.array(predicted), np.array(target), NAMES)


def test_bad_chunks():
    good = np.zeros((3, 2, 1))
    nan = good.copy()
    nan[1] = np.nan
    for predicted, names, cause in (
        (good[:2], "x", "are needed"),
        (nan, "x", "1 rows are not finite, the first is row 1"),
        (good, "xy", "1 components, but 2 names"),
    ):
        with pytest.raises(ValueError, match=cause):
            metrics.chunk_error(predicted, good, tuple(names), {})
    with pytest.raises(ValueError, match="3 rows, but 1 robots"):
        metrics.chunk_error(good, good, ("x",), {}, robots=["a"], num_resamples=2)
    with pytest.raises(ValueError, match="cluster labels"):
        metrics.accuracy(PREDICTED, TARGET, NAMES, clusters=["a"])
