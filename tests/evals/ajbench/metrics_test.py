import json
import math

import pytest

from jaxlab.evals.ajbench import metrics, verdicts
from jaxlab.evals.ajbench.types import SUBDOMAINS
from jaxlab.evals.results import Result
from jaxlab.evals.tables import find


def result(target, answer, sample=1, subdomain="DS-FileSystem", id="a"):
    meta = {"subdomain": subdomain, "ability": "state verification"}
    correct = target == answer
    return Result(id, sample, correct, answer, "match", "judge", id, meta, target=target)


def test_macro_f1_reproduces_every_published_row(real_data):
    rows = json.loads(real_data("ajbench/leaderboard.json").read_text())
    assert len(rows) == 15
    for row in rows:
        mean = metrics.macro_f1({name: row[name] for name in SUBDOMAINS})
        # Columns and Overall are each rounded to two decimals.
        assert mean == pytest.approx(row["Overall"], abs=0.01), row["model"]


def test_counts_by_hand():
    counts = metrics.Confusion(tp=6, fp=2, tn=3, fn=1)
    assert counts.f1 == pytest.approx(12 / 15)
    assert counts.accuracy == pytest.approx(9 / 12)
    assert counts.recall_right == pytest.approx(6 / 7)
    assert counts.recall_wrong == pytest.approx(3 / 5)
    assert counts.balanced_accuracy == pytest.approx((6 / 7 + 3 / 5) / 2)
    assert counts.mcc == pytest.approx((18 - 2) / math.sqrt(8 * 7 * 5 * 4))


def test_constant_judges_of_a_balanced_set():
    labels = [True, False] * 21
    always = metrics.confusion(labels, [True] * 42)
    assert always.f1 == pytest.approx(2 / 3)
    assert (always.mcc, always.balanced_accuracy) == (0.0, 0.5)
    never = metrics.confusion(labels, [False] * 42)
    assert (never.f1, never.mcc, never.accuracy) == (0.0, 0.0, 0.5)


def test_constants_stand_beside_the_judge():
    results = [result("1", "1", id="a"), result("0", "0", id="b")]
    scores = find(metrics.tables(results), "Scores")
    assert [row["judge"] for row in scores.rows] == ["the judge", *metrics.CONSTANTS]
    assert scores.rows[0]["macro F1"].mean == 1.0
    assert scores.rows[1]["macro F1"] == pytest.approx(2 / 3)
    assert {"MCC", "balanced accuracy", "recall of right", "recall of wrong"} <= set(scores.rows[0])


@pytest.mark.parametrize(("switch", "tp", "fn"), [("wrong", 1, 1), ("drop", 1, 0)])
def test_what_an_unread_verdict_costs(switch, tp, fn):
    results = [result("1", "1", id="a"), result("1", None, id="b"), result("0", "0", id="c")]
    row = find(metrics.tables(results, switch), "Scores").rows[0]
    assert (row["TP"], row["FN"], row["unread"]) == (tp, fn, 1)


def test_f1_is_the_mean_of_the_runs_and_not_of_the_pool():
    # Run 1: tp 1, fp 1 -> F1 2/3. Run 2: fn 1, tn 1 -> F1 0. Pooled it would be 2/4.
    results = [
        result("1", "1", 1, id="a"),
        result("0", "1", 1, id="b"),
        result("1", "0", 2, id="a"),
        result("0", "0", 2, id="b"),
    ]
    row = find(metrics.tables(results), "Scores").rows[0]
    assert row["macro F1"].mean == pytest.approx(1 / 3)
    assert row["std"] == pytest.approx(math.sqrt(2) / 3)
    assert row["pooled"] == pytest.approx(2 / 4)
    assert find(metrics.tables(results), "By sub-domain").rows[0]["pooled"] == pytest.approx(2 / 4)


def test_a_run_without_a_subdomain_costs_it_nothing_and_is_named():
    """A perfect judge is perfect, also where the samples of a run have failed."""
    whole = [
        result(target, target, sample, id=target) for target in ("1", "0") for sample in (1, 2)
    ]
    part = [result(target, target, 1, "GUI-Word", id=f"w{target}") for target in ("1", "0")]
    scores = find(metrics.tables([*whole, *part]), "Scores")
    judge, always, never = scores.rows
    assert (judge["macro F1"].mean, judge["std"]) == (1.0, None)
    assert always["macro F1"] == pytest.approx(2 / 3)
    assert never["macro F1"] == 0.0
    assert "Run 2 has no verdict of GUI-Word. Such a run" in scores.note
    assert "not among the results: Search-Wide, Search-Deep, DS-Postgres" in scores.note
    # A run in which all are judged wrong, and rightly so, is there: its F1 is 0.
    tn = [result("0", "0", 2, "GUI-Word", id="w0")]
    again = find(metrics.tables([*whole, *part, *tn]), "Scores")
    assert again.rows[0]["macro F1"].mean == 0.75
    assert "Run 2" not in again.note


def test_every_subdomain_has_the_same_weight():
    many = [result("1", "1", subdomain="Search-Deep", id=f"d{i}") for i in range(9)]
    one = [result("1", "0", subdomain="GUI-Word", id="w")]
    row = find(metrics.tables([*many, *one]), "Scores").rows[0]
    assert row["macro F1"].mean == 0.5


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Response: [1]", True),
        ("I looked at it.\nresponse:  [ 0 ]", False),
        ("Response: [1] ... so Response: [1]", True),
        ("Response: [0] or Response: [1]", None),
        ("Response: [0/1]", None),
        ("Response: [1] (not Response: [maybe])", None),
        ("Response: [١]", None),
        ("Response: 1", None),
        ("[1]", None),
        ("", None),
    ],
)
def test_verdicts(text, verdict):
    assert verdicts.parse(text) is verdict
