import numpy as np
import pytest

from jaxlab.evals import tables
from jaxlab.evals.math import metrics
from jaxlab.evals.results import Result


def _result(row, sample, correct, answer="1", **more):
    fields = {"reason": "match" if correct else "mismatch", "grader": "g", "cluster": row}
    return Result(row, sample, correct, answer, **(fields | more))


def _results(grid, **more):
    return [
        _result(f"p{i}", j + 1, right, "7" if right else "3", **more)
        for i, row in enumerate(grid)
        for j, right in enumerate(row)
    ]


def test_scores_worked_by_hand():
    scores = metrics.scores(_results([[True, False, False, False], [True, True, True, False]]))
    # 1/4 and 3/4; pass@2: 1 - C(3,2)/C(4,2) = 1/2, and 1; pass^4: none; majority: wrong, right.
    assert scores["avg@4"].mean == 0.5
    assert scores["pass@2"].mean == pytest.approx(0.75)
    assert scores["pass@4"].mean == 1.0
    assert scores["pass^4"].mean == 0.0
    assert scores["maj@4"].mean == 0.5
    assert list(scores) == ["avg@4", "pass@2", "pass@4", "pass^4", "maj@4"]
    assert list(metrics.scores(_results([[True]]))) == ["avg@1"]


def test_votes():
    assert metrics.vote(_result("a", 1, True, "18.00")) == metrics.vote(_result("a", 2, True, "18"))
    assert metrics.vote(_result("a", 1, False, None)) is None
    assert metrics.vote(_result("a", 1, False, "18", reason="truncated")) is None
    assert metrics.vote(_result("a", 1, False, "\\frac{1}{x}")) == "\\frac{1}{x}"
    for forms in [
        ("1/2", "0.5", "\\frac{1}{2}", "\\dfrac{2}{4}", ".50"),
        ("-5/3", "-\\frac{5}{3}", "\\frac{-5}{3}"),
        ("12,345", "12345", "12,345.0"),
        ("0", "-0", "0/7"),
    ]:
        assert len({metrics.vote(_result("a", 1, False, form)) for form in forms}) == 1, forms
    for other in ("1,2", "1/0", "1e999999999", "-1e-999999999", "Infinity", "NaN", "\u0661/\u0662"):
        assert metrics.vote(_result("a", 1, False, other)) == other
    assert metrics.vote(_result("a", 1, False, "nan")) == "nan"


def test_groups():
    results = [
        *_results([[True]], meta={"level": "1"}),
        _result("q", 1, False, meta={"level": "2"}),
        _result("r", 1, True, meta={"level": "2"}),
    ]
    found = tables.find(metrics.tables(results), "By level")
    assert [(row["level"], row["problems"], row["avg@1"].mean) for row in found.rows] == [
        ("1", 1, 1.0),
        ("2", 2, 0.5),
    ]
    assert [table.title for table in metrics.tables(_results([[True]]))] == ["Scores"]


def test_the_interval_is_over_problems_not_completions():
    rng = np.random.default_rng(0)
    grid = np.repeat(rng.random((100, 1)) < 0.5, 8, axis=1).tolist()
    interval = metrics.scores(_results(grid))["avg@8"]
    # Eight equal completions say no more than one: sqrt(p (1 - p) / 100).
    assert interval.stderr == pytest.approx(0.05, rel=0.1)


def test_groups_of_any_value():
    """Rows of a user's own benchmark: an unlike kind must not end the report."""
    values = [10, "hard", 2, ["a"], None, True, {"b": 1}, "2"]
    found = [
        Result(str(i), 1, i % 2 == 0, "a", "match", "g", str(i), meta={"level": value})
        for i, value in enumerate(values)
    ]
    (_, table) = metrics.tables(found)
    labels = [row["level"] for row in table.rows]
    assert labels == ["2", "10", '["a"]', "hard", "null", "true", '{"b": 1}']
    assert table.rows[0]["problems"] == 2
