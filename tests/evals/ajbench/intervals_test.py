import itertools
import random

import numpy as np
import pytest

from jaxlab.evals import compare, results
from jaxlab.evals.ajbench import intervals, metrics
from jaxlab.evals.ajbench.types import SUBDOMAINS
from jaxlab.evals.results import Result
from jaxlab.evals.tables import find


def verdicts(*rows, subdomain="DS-FileSystem", run=1):
    """Results of (task, label, answer); the two trajectories of a task are one cluster."""
    return [
        Result(
            f"{subdomain}/{task}/{label}",
            run,
            label == answer,
            answer,
            "match",
            "label",
            f"{subdomain}/{task}",
            {"subdomain": subdomain, "ability": "state verification"},
            target=label,
        )
        for task, label, answer in rows
    ]


def counted(found):
    groups = {}
    for result in found:
        groups.setdefault(result.meta["subdomain"], []).append(result)
    return intervals.of_judge(groups, lambda result: metrics.verdict_of(result, "wrong"))


RIGHT = [("a", "1", "1"), ("a", "0", "0")]
WRONG = [("b", "1", "0"), ("b", "0", "1")]


def test_an_interval_by_hand():
    """Two tasks: both draws the good one (1/4): F1 1; one each (1/2): 1/2; both the bad one: 0."""
    found = intervals.bootstrap(counted(verdicts(*RIGHT, *WRONG)), num_resamples=20_000)
    assert found.mean == 0.5
    # Of 20,000 draws the standard error of this estimate is below 0.002.
    assert found.stderr == pytest.approx(np.sqrt(1 / 8), abs=0.01)
    assert (found.low, found.high) == (0.0, 1.0)


def test_tasks_are_drawn_and_not_trajectories():
    rng = random.Random(0)
    right = {f"t{i}": rng.random() < 0.6 for i in range(40)}
    rows = [
        (task, label, label if right[task] else "10"[int(label)])
        for task in right
        for label in "10"
    ]
    found = verdicts(*rows)
    alone = [Result(**{**vars(result), "cluster": result.id}) for result in found]
    wide, narrow = (intervals.bootstrap(counted(one)) for one in (found, alone))
    assert wide.mean == narrow.mean
    # Both trajectories of a task are judged alike. With a share p of tasks judged rightly, F1 is p,
    # and linearised about it has variance 16 p (1 - p) over tasks, 8 p (1 - p) (2 - p) over
    # trajectories. Standard errors of 2000 draws are known to 1.6 %.
    ratio = np.sqrt(2 / (2 - wide.mean))
    assert wide.stderr / narrow.stderr == pytest.approx(ratio, rel=0.06)


def test_every_subdomain_keeps_its_tasks():
    """One that is all right and one that is all wrong: nothing varies."""
    found = verdicts(*RIGHT, ("c", "1", "1"))
    found += verdicts(*WRONG, ("d", "1", "0"), subdomain="GUI-Word")
    one = intervals.bootstrap(counted(found))
    assert (one.mean, one.low, one.high, one.stderr) == (0.5, 0.5, 0.5, 0.0)


def random_runs(seed, tasks=6):
    """Two judges over two sub-domains and two runs, as results."""
    rng = random.Random(seed)
    pair = []
    for _ in range(2):
        found = []
        for name, run in itertools.product(("DS-FileSystem", "GUI-Word"), (1, 2)):
            rows = [(f"t{i}", label, rng.choice("01")) for i in range(tasks) for label in "10"]
            found += verdicts(*rows, subdomain=name, run=run)
        pair.append(found)
    return pair


def slow_macro_f1(found):
    """By loops over the results, for the test below."""
    means = []
    for name in sorted({result.meta["subdomain"] for result in found}):
        scores = []
        for run in (1, 2):
            part = [r for r in found if r.meta["subdomain"] == name and r.sample == run]
            counts = metrics.confusion(
                [r.target == "1" for r in part], [r.answer == "1" for r in part]
            )
            scores.append(counts.f1)
        means.append(sum(scores) / 2)
    return sum(means) / len(means)


@pytest.mark.parametrize("seed", range(3))
def test_the_paired_test_is_all_exchanges(seed):
    """Against plain loops over every exchange of tasks between the two judges."""
    a, b = random_runs(seed, tasks=3)
    interval, p_value = intervals.paired(counted(a), counted(b))
    observed = slow_macro_f1(b) - slow_macro_f1(a)
    assert interval.mean == pytest.approx(observed, abs=1e-12)
    assert interval.low <= observed <= interval.high
    clusters = sorted({result.cluster for result in a})
    totals = []
    for flips in itertools.product((False, True), repeat=len(clusters)):
        flipped = dict(zip(clusters, flips, strict=True))
        first = [y if flipped[x.cluster] else x for x, y in zip(a, b, strict=True)]
        second = [x if flipped[x.cluster] else y for x, y in zip(a, b, strict=True)]
        totals.append(slow_macro_f1(second) - slow_macro_f1(first))
    expected = np.mean([abs(total) >= abs(observed) - 1e-9 for total in totals])
    assert p_value == pytest.approx(expected, abs=1e-12)


def test_more_tasks_than_can_be_counted_out():
    """Random exchanges: the p-values of judges that toss coins are uniform; a better one is found.

    Of 40 p-values the smallest is below 0.001 in 4 % of cases, and their mean has a standard
    deviation of 0.046.
    """
    values = []
    for seed in range(40):
        a, b = map(counted, random_runs(100 + seed, tasks=12))
        values.append(intervals.paired(a, b, num_resamples=400)[1])
    assert 0.36 < np.mean(values) < 0.64
    a, _ = random_runs(0, tasks=12)
    best = [Result(**{**vars(result), "answer": result.target}) for result in a]
    difference, p_value = intervals.paired(counted(a), counted(best), num_resamples=400)
    assert p_value == 1 / 401
    assert difference.low > 0


def test_a_judge_against_itself():
    a, _ = random_runs(0)
    difference, p_value = intervals.paired(counted(a), counted(a))
    assert (difference.mean, difference.low, difference.high, p_value) == (0, 0, 0, 1)


def test_runs_are_compared_on_what_both_have(tmp_path):
    a, b = random_runs(1)
    # A run that failed on a unit, and one that has a unit more.
    a, b = a[1:], [*b, *verdicts(("z", "1", "1"), subdomain="Search-Deep")]
    for name, found in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        results.write(tmp_path / name / "samples.jsonl", found)
    tables = compare.write(tmp_path / "both", [tmp_path / "a", tmp_path / "b"])
    first, second = find(tables, "Macro F1").rows
    ids = {(r.id, r.sample) for r in a} & {(r.id, r.sample) for r in b}
    for row, found in ((first, a), (second, b)):
        kept = [r for r in found if (r.id, r.sample) in ids]
        assert row["macro F1"].mean == pytest.approx(slow_macro_f1(kept), abs=1e-12)
    assert second["p"] == second["p (Holm)"]
    text = (tmp_path / "both" / "compare.md").read_text()
    assert "47 verdicts that all runs have, on 24 units of 2 sub-domains" in text
    assert "## Comparison" in text
    results.write(tmp_path / "b" / "samples.jsonl", b[-1:])
    with pytest.raises(ValueError, match="no row is in all of"):
        compare.write(tmp_path / "both", [tmp_path / "a", tmp_path / "b"])


def test_three_abilities_apart():
    """Each domain asks for one; beside F1 stand the constant judge and what F1 does not show."""
    found = []
    for name in SUBDOMAINS:
        rows = RIGHT if name.startswith("DS") else WRONG
        ability = {"S": "information acquisition", "D": "state verification"}.get(name[0])
        for result in verdicts(*rows, subdomain=name):
            meta = {**result.meta, "ability": ability or "process verification"}
            found.append(Result(**{**vars(result), "meta": meta}))
    rows = {row["ability"]: row for row in find(metrics.tables(found), "By ability").rows}
    assert {name: row["F1"].mean for name, row in rows.items()} == {
        "information acquisition": 0.0,
        "process verification": 0.0,
        "state verification": 1.0,
    }
    assert {row["units"] for row in rows.values()} == {4, 6}
    for row in rows.values():
        assert row["F1 of always right"] == pytest.approx(2 / 3)
        beside = {"accuracy", "balanced accuracy", "MCC", "recall of right", "recall of wrong"}
        assert beside <= set(row)
