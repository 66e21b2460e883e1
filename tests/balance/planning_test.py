"""Plans of steps: worked by hand, agreed on by processes with unequal tables, and of bad input."""

import dataclasses
import itertools
import json
import threading

import numpy as np
import pytest

from jaxlab.balance.budget import BudgetTuner, Memory
from jaxlab.balance.planning import Planner, attribute
from jaxlab.balance.settings import Balance, Control

TUNER = BudgetTuner(buckets=(1, 2, 4), base=2, p=0.1)
SETTINGS = Balance(widths=(4, 8, 16), tuner=TUNER)


@dataclasses.dataclass(frozen=True)
class Product:
    """Seconds that are tokens times blocks, times how slow the device is."""

    slow: float = 1.0

    def predict(self, length, budget):
        return self.slow * np.asarray(length, float) * np.asarray(budget)


def planner(memory=None, latency=None, ranks=2, **changes):
    settings = dataclasses.replace(SETTINGS, **{k: changes.pop(k) for k in list(changes)
                                               if k in Balance.__dataclass_fields__})  # fmt: skip
    memory = memory or Memory(settings.tuner)
    return Planner(settings, latency or Product(), memory, ranks=ranks, **changes)


def known(curve=(0.85, 0.9, 1.0)):
    """A memory in which every length has been seen."""
    return Memory(TUNER, curves=dict.fromkeys(range(5), curve))


def test_a_plan_by_hand():
    # At the base budget of 2 the ranks take 12 and 4 seconds: each aims at 8.
    plan = planner(known()).plan([6, 2], 0)
    assert plan.bins == [[[0]], [[1]]]
    assert plan.seconds[:, 0].tolist() == [[6, 12, 24], [2, 4, 8]]
    assert (plan.budgets.tolist(), plan.widths) == ([[1], [4]], [8])
    # What was never seen is not cut: the floor.
    first = planner().plan([6, 2], 0)
    assert (first.budgets.tolist(), first.floored.tolist()) == ([[2], [4]], [[True], [False]])
    # Microbatches that run side by side are of like width: 9 and 7 tokens, then 3 and 3.
    bins = planner(known(), microbatches=2).plan([9, 7, 3, 3], 0)
    assert bins.tokens.tolist() == [[9, 3], [7, 3]]
    assert bins.widths == [16, 4]
    # The longest document alone has fewer tokens than the two others together.
    assert planner(known(), ranks=1, microbatches=2).plan([5, 4, 4], 0).tokens.tolist() == [[8, 5]]


def test_metrics_by_hand():
    plan = planner(known()).plan([6, 2], 0)
    coverage = np.array([[[0.5, 0.6, 0.8]], [[0.8, 0.9, 1.0]]])
    found = planner(known()).metrics(plan, coverage, np.array([30.0, 10.0]))
    # 6 and 8 seconds; 8 tokens in two rows of 8; the fixed budget k takes 8 k = 14 seconds.
    by_hand = {
        "imbalance": 8 / 7, "straggler": 8 / 7, "counted": 1.5, "blocks": 40,
        "coverage": 0.75 * 0.5 + 0.25 * 1.0, "base_coverage": 0.75 * 0.6 + 0.25 * 0.9,
        "budget": 0.75 * 1 + 0.25 * 4, "floored": 0, "padding": 0.5, "microbatches": 1,
        "work": 14, "base_work": 16, "control_budget": 1.75, "control_work": 14,
        "control_straggler": 1.5,
    }  # fmt: skip
    assert found == pytest.approx({f"balance/{k}": v for k, v in by_hand.items()})


def test_every_document_has_one_place_within_the_widest_row():
    rng = np.random.default_rng(0)
    for batching, method in itertools.product(("global_batch", "in_batch"), ("lpt", "first_fit")):
        memory = known()
        each = planner(memory, ranks=3, microbatches=2, batching=batching, method=method)
        for step in range(20):
            lengths = rng.integers(1, 17, size=rng.integers(1, 40)).tolist()
            plan = each.plan(lengths, step)
            found = [i for rank in plan.bins for part in rank for i in part]
            assert sorted(found) == list(range(len(lengths)))
            # More microbatches than asked for, where they are needed.
            assert plan.tokens.max() <= 16
            assert len(plan.widths) >= 2
            assert plan.tokens.sum() == sum(lengths)
            assert all(w >= t for w, t in zip(plan.widths, plan.tokens.max(0), strict=True))


def test_ranks_without_documents_and_steps_without_any():
    each = planner(known(), ranks=3)
    plan = each.plan([6], 0)
    assert plan.bins == [[[0]], [[]], [[]]]
    # The empty ranks count in no anchor, and have the base budget.
    assert plan.budgets.tolist() == [[2], [2], [2]]
    coverage = np.where(plan.tokens[..., None] > 0, 0.5, np.nan)
    assert each.observe(plan, coverage)
    nothing = each.plan([], 1)
    assert (nothing.widths, nothing.bins) == ([0], [[[]], [[]], [[]]])
    assert not each.observe(nothing, np.ones((3, 1, 3)))


@pytest.mark.parametrize("length", [17, 0])
def test_documents_that_fit_nowhere_are_refused(length):
    with pytest.raises(ValueError, match=rf"document 1 of step 5 has {length} tokens, .* 1 to 16"):
        planner().plan([3, length], 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8, 4)}, "widths are .* ascending"),
        ({"widths": ()}, "widths are"),
        ({"microbatches": 0}, "microbatches must be at least 1"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"tuner": BudgetTuner(granularity="layer")}, "one budget for all of its layers"),
        ({"tune": False, "control": Control(2.0)}, "it replaces tuned budgets"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        Balance(**changes)
    for wrong in ({}, {"budget": 2.0, "path": "x"}):
        with pytest.raises(ValueError, match="give either budget"):
            Control(**wrong)
    with pytest.raises(ValueError, match="budget must be at least 1"):
        Control(budget=0.0)


def _together(*planners):
    """Runs a function of each planner at once, as processes do, and exchanges what they send."""
    gate, sent = threading.Barrier(len(planners), timeout=20), [None] * len(planners)

    def exchange_of(number):
        def exchange(values):
            sent[number] = values.copy()
            gate.wait()
            gathered = np.stack(sent)
            gate.wait()
            return gathered

        return exchange

    for number, each in enumerate(planners):
        each._exchange = exchange_of(number)

    def run(of_each):
        found = [None] * len(planners)

        def call(number, each):
            found[number] = of_each(each)

        threads = [threading.Thread(target=call, args=pair) for pair in enumerate(planners)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


def test_processes_with_unequal_tables_make_one_plan():
    """Of four ranks, two on a device three times as slow: each by its own table, all agreed."""
    owners = [0, 0, 1, 1]
    run = _together(*(planner(known(), Product(slow), ranks=4, owners=owners) for slow in (1, 3)))
    rng = np.random.default_rng(1)
    for step in range(5):
        lengths = rng.integers(1, 17, size=12).tolist()
        ours, theirs = run(lambda each, at=(lengths, step): each.plan(*at))
        assert ours.bins == theirs.bins
        for one, other in zip(ours[2:], theirs[2:], strict=True):
            np.testing.assert_array_equal(one, other)
        fast, slow = (Product(n).predict(ours.tokens[..., None], [1, 2, 4]) for n in (1, 3))
        np.testing.assert_array_equal(ours.seconds, np.concatenate([fast[:2], slow[2:]]))
        coverage = rng.uniform(size=(4, len(ours.widths), 1)) ** [3, 2, 1]
        assert run(lambda each, at=(ours, coverage): each.observe(*at)) == [True, True]
    # One rank of each process with the same tokens: the slow one is above the mean, and is cut.
    run = _together(*(planner(known(), Product(slow), owners=[0, 1]) for slow in (1, 3)))
    ours, theirs = run(lambda each: each.plan([4, 4], 9))
    assert ours.budgets.tolist() == theirs.budgets.tolist() == [[4], [1]]


def test_a_plan_goes_on_from_what_was_kept():
    memory, rng = Memory(TUNER, "a table"), np.random.default_rng(2)
    each = planner(memory, microbatches=2)
    copies = []
    for step in range(8):
        lengths = rng.integers(1, 17, size=9).tolist()
        copy = Memory(TUNER, "a table")
        copy.restore(json.loads(json.dumps(memory.to_json())))
        copies.append((each.plan(lengths, step), planner(copy, microbatches=2).plan(lengths, step)))
        plan = copies[-1][0]
        each.observe(plan, np.sort(rng.uniform(size=(*plan.tokens.shape, 3))))
    for plan, again in copies:
        assert plan.bins == again.bins
        np.testing.assert_array_equal(plan.budgets, again.budgets)
    assert len({str(plan.budgets) for plan, _ in copies}) > 2


def test_budgets_without_tuning():
    assert planner(known(), tune=False).plan([6, 2], 0).budgets.tolist() == [[2], [2]]
    # 2.4 on average: over any five microbatches, 12 blocks.
    each = planner(known(), control=Control(2.4), fixed=2.4, ranks=5)
    for step in range(3):
        budgets = each.plan([1, 2, 3, 4, 5], step).budgets
        assert set(budgets.flat) == {2, 3}
        assert budgets.sum() == 12
        assert not each.observe(each.plan([1], step), np.ones((5, 1, 3)))


def test_coverage_that_is_not_finite_is_left_out():
    memory = known()
    each, before = planner(memory), known().to_json()
    plan = each.plan([6, 2], 0)
    assert not each.observe(plan, np.full((2, 1, 3), np.nan))
    assert memory.to_json() == before
    assert each.observe(plan, np.full((2, 1, 3), 0.5))
    assert memory.curve(6) == (0.5, 0.5, 0.5)
    # A tenth of the new budget, 1 block, on top of nothing: the first is taken whole.
    assert memory.budgets == {2: 1.0, 1: 4.0}


def test_curves_of_lengths_are_found_again_in_what_mixes_them():
    rng = np.random.default_rng(3)
    true = np.sort(rng.uniform(size=(3, 4)), axis=1)
    shares = rng.integers(1, 100, size=(6, 3)).astype(float)
    mixed = shares / shares.sum(1, keepdims=True) @ true
    for before in ([None] * 3, list(np.sort(rng.uniform(size=(3, 4)), axis=1))):
        np.testing.assert_allclose(attribute(shares, mixed, before), true, atol=1e-9)
    # One microbatch cannot tell two lengths apart: the change is shared by their tokens, and the
    # measured mean is met. 3/4 a + 1/4 b = .5 from a = b = .4: the change is .1 (3, 1) / 2.5 * ...
    found = attribute(np.array([[3.0, 1.0]]), np.array([[0.5]]), [[0.4], [0.4]])
    np.testing.assert_allclose(found, [[0.4 + 0.1 * 0.75 / 0.625], [0.4 + 0.1 * 0.25 / 0.625]])
    # What no microbatch has is never asked about; curves rise and stay shares.
    wild = attribute(np.eye(2), np.array([[0.9, 0.2], [0.5, 1.2]]), [None, None])
    assert wild.tolist() == [[0.9, 0.9], [0.5, 1.0]]
