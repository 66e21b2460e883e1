"""Dynamic sparsity tuning against values worked by hand and against enumeration."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from jaxlab.balance import BudgetTuner, LatencyTable
from jaxlab.balance.budget import Memory, bucket_of

SMALL = {"buckets": (1, 2, 4, 8), "base": 4, "p": 0.1}
# Seconds at each bucket, and coverage.
SECONDS = np.array([1.0, 2.0, 4.0, 8.0])
COVERED = np.array([0.5, 0.85, 0.9, 1.0])


def choose(anchor, covered=COVERED, **fields):
    tuner = BudgetTuner(**SMALL | fields)
    choice = tuner.choose(SECONDS, np.asarray(covered), np.asarray(anchor))
    return int(choice.budgets), bool(choice.floored)


def test_equations_6_and_7_by_hand():
    assert choose(4.0) == (4, False)
    assert choose(3.0) == (2, False)  # down: within 3 s, and .85 >= .9 - .1
    assert choose(1.5) == (2, True)  # 1 s would do, but .5 < .8: the floor, above the anchor
    assert choose(100.0) == (8, False)  # up
    assert choose(1.5, p=0.0) == (4, True)
    assert choose(1.5, p=0.4) == (1, False)


def test_coverage_rules_differ():
    steep = [0.1, 0.25, 0.3, 1.0]
    # .3 - .1 = .2 allows 2 blocks; .9 x .3 = .27 does not.
    assert choose(2.0, steep) == (2, False)
    assert choose(2.0, steep, coverage="rel_drop") == (4, True)
    # A band also forbids the jump from .3 to 1.
    assert choose(100.0, steep) == (8, False)
    assert choose(100.0, steep, coverage="band") == (4, False)


def test_choices_are_those_of_enumeration():
    rng = np.random.default_rng(0)
    for rule in ("abs_drop", "rel_drop", "band"):
        tuner = BudgetTuner(coverage=rule)
        seconds = np.cumsum(rng.uniform(size=(200, 7)), axis=1)
        coverage = np.cumsum(rng.dirichlet(np.full(7, 0.5), size=200), axis=1)
        anchors = rng.uniform(0, 7, size=200)
        choice = tuner.choose(seconds, coverage, anchors)
        for row in range(200):
            base = coverage[row, 4]
            allowed = [
                (k, t)
                for k, t, c in zip(tuner.buckets, seconds[row], coverage[row], strict=True)
                if c >= (0.9 * base if rule == "rel_drop" else base - 0.1)
                and (rule != "band" or c <= base + 0.1)
            ]
            within = [k for k, t in allowed if t <= anchors[row]]
            expected = max(within) if within else min(k for k, _ in allowed)
            assert choice.budgets[row] == expected
            assert choice.floored[row] == (not within)


def test_anchors_by_hand():
    seconds = [[1.0, 3.0], [2.0, 6.0]]

    def anchors(**fields):
        return BudgetTuner(**fields).anchors(seconds).tolist()

    assert anchors() == [[3, 3], [3, 3]]
    assert anchors(anchor="min") == [[1, 1], [1, 1]]
    assert anchors(anchor="max") == [[6, 6], [6, 6]]
    assert anchors(anchor_scope="local") == [[2, 2], [4, 4]]
    # Totals of 4 and 8 aim at 6: the first rank's microbatches grow by a half, the other's shrink.
    assert anchors(anchor_scope="rank") == [[1.5, 4.5], [1.5, 4.5]]


def test_empty_microbatches_and_ranks_count_for_nothing():
    seconds = [[2.0, 4.0], [0.0, 0.0]]
    for scope in ("microbatch", "rank", "local"):
        assert BudgetTuner(anchor="min", anchor_scope=scope).anchors(seconds)[0].max() <= 4
        tuner = BudgetTuner(anchor_scope=scope, **SMALL)
        plan = tuner.plan(np.multiply.outer(seconds, SECONDS), np.ones((2, 2, 4)))
        assert plan.budgets[1].tolist() == [4, 4]
        assert not plan.floored[1].any()
    assert BudgetTuner().anchors(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_layers_divide_the_time_that_is_left():
    tuner = BudgetTuner(**SMALL, granularity="layer")
    # Two layers of a microbatch of 8 s at the base budget beside one of 4 s: both aim at 6 s. In
    # the first layer nothing may be lost; it takes 4 of the 6 s and leaves 2 for the second, 2 s
    # of which are those of 2 blocks.
    seconds = np.stack([2 * SECONDS, SECONDS])[None]
    rigid, loose = [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    plan = tuner.plan(seconds, np.array([[[rigid, loose], [loose, loose]]]))
    assert plan.budgets[0, 0].tolist() == [4, 2]
    assert plan.floored[0, 0].tolist() == [True, False]
    assert plan.budgets[0, 1].tolist() == [4, 8]  # 2 of 6 s, then 4 s are left for 8 blocks


def test_the_same_choices_from_jax_arrays_inside_jit():
    import jax
    import jax.numpy as jnp

    tuner = BudgetTuner(**SMALL)
    anchors = np.array([1.5, 3.0, 4.0, 100.0], np.float32)
    rows = (np.broadcast_to(SECONDS, (4, 4)), np.broadcast_to(COVERED, (4, 4)))
    traced = jax.jit(tuner.choose)(*(jnp.asarray(x, jnp.float32) for x in rows), anchors)
    assert traced.budgets.tolist() == tuner.choose(*rows, anchors).budgets.tolist() == [2, 2, 4, 8]


RANK = """
import json, sys
import numpy as np
from jaxlab.balance import BudgetTuner, LatencyTable
rank, tuner = int(sys.argv[1]), BudgetTuner()
table = LatencyTable.load(sys.argv[2])
lengths = [[8192, 65536], [16384, 30000]][rank]
print(json.dumps(table.predict(lengths, tuner.base).tolist()), flush=True)
anchors = tuner.anchors(json.loads(sys.stdin.readline()))
seconds = table.predict(np.array(lengths)[:, None], np.array(tuner.buckets))
choice = tuner.choose(seconds, np.ones((2, 7)), anchors[rank])
print(json.dumps([anchors.tolist(), choice.budgets.tolist()]), flush=True)
"""


def test_two_processes_of_unequal_tables_have_one_anchor(tmp_path):
    from jaxlab.balance.latency import qwen25_3b

    children = []
    for rank, slowdown in enumerate((1.0, 1.3)):
        file = tmp_path / f"{rank}.json"
        lengths, budgets = [4096, 16384, 65536], [8, 32, 64]
        LatencyTable.sample(qwen25_3b(slowdown), lengths, budgets).save(file)
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(rank), str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    gathered = [json.loads(child.stdout.readline()) for child in children]
    answers = [child.communicate(json.dumps(gathered) + "\n", timeout=60)[0] for child in children]
    (anchors, first), (other, second) = map(json.loads, answers)
    assert anchors == other
    assert anchors[0][0] == pytest.approx(np.mean(gathered))
    assert [first[1], second[0]] == [8, 64]  # the longest is cut, a short one is raised


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"anchor": "median"}, "anchor is 'median': expected one of mean, min, max"),
        ({"anchor_scope": "node"}, "anchor_scope is 'node'"),
        ({"granularity": "head"}, "granularity is 'head'"),
        ({"coverage": "drop"}, "coverage is 'drop'"),
        ({"p": float("nan")}, "p is nan"),
        ({"p": 1.5}, "p is 1.5"),
        ({"buckets": (0, 32)}, r"buckets are \(0, 32\)"),
        ({"buckets": (32, 8)}, "ascending"),
        ({"buckets": (8, 16)}, r"base budget 32 is not among the buckets \(8, 16\)"),
    ],
)
def test_bad_options_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BudgetTuner(**fields)


def test_bad_arrays_are_named():
    tuner = BudgetTuner(**SMALL)
    with pytest.raises(ValueError, match=r"seconds has shape \(2, 4\)"):
        tuner.plan(np.ones((2, 4)), np.ones((2, 2, 4)))
    with pytest.raises(ValueError, match="coverage must be finite"):
        tuner.plan(np.ones((1, 1, 4)), np.full((1, 1, 4), np.nan))
    with pytest.raises(ValueError, match="none below 0"):
        tuner.anchors([[1.0, -1.0]])


def test_memory_is_an_average_by_length_bucket():
    memory = Memory(BudgetTuner(**SMALL), decay=0.5)
    assert memory.budget(100) == 4
    assert memory.curve(100) == (0.0, 0.0, 1.0, 1.0)  # nothing is cut blindly
    memory.observe([100, 70, 300], [8, 4, 2], [COVERED, COVERED, [1.0] * 4])
    assert memory.budget(64) == memory.budget(127) == 6
    assert memory.budget(128) == 4
    assert memory.budget(300) == 2
    memory.observe([65], [2], [[0.0] * 4])
    assert memory.budget(100) == 4  # half of 6, half of 2
    assert memory.curve(100) == (0.0,) * 4  # the last step's
    with pytest.raises(ValueError, match="length is 0"):
        bucket_of(0)
    with pytest.raises(ValueError, match="expected 1 numbers from 1"):
        memory.observe([100], [float("nan")])


def test_a_resumed_run_chooses_the_same_budgets():
    rng = np.random.default_rng(1)
    tuner = BudgetTuner(**SMALL)

    def step(memory, n):
        lengths = np.random.default_rng(n).integers(1, 5000, 6).tolist()
        curves = np.array([memory.curve(x) for x in lengths]).reshape(2, 3, 4)
        plan = tuner.plan(np.multiply.outer(lengths, SECONDS).reshape(2, 3, 4), curves)
        fresh = np.sort(rng.uniform(size=(6, 4)), axis=1)
        memory.observe(lengths, plan.budgets.reshape(-1), fresh)
        return plan.budgets.tolist()

    memory = Memory(tuner, table="t")
    for n in range(5):
        step(memory, n)
    saved = json.loads(json.dumps(memory.to_json()))
    resumed = Memory(tuner, table="t")
    resumed.restore(saved)
    state = rng.bit_generator.state
    expected = [step(memory, n) for n in range(5, 9)]
    rng.bit_generator.state = state
    assert [step(resumed, n) for n in range(5, 9)] == expected
    assert len(set(itertools.chain.from_iterable(itertools.chain(*expected)))) > 1
    with pytest.raises(ValueError, match="come from the latency table 't', this run has 'u'"):
        Memory(tuner, table="u").restore(saved)
    with pytest.raises(ValueError, match="are of the buckets"):
        Memory(BudgetTuner(), table="t").restore(saved)
    with pytest.raises(ValueError, match="damaged"):
        resumed.restore({"table": "t"})
    for changed in ({"curves": {"9": [0.5]}}, {"budgets": {"9": float("nan")}}):
        with pytest.raises(ValueError, match=r"damaged.*expected"):
            resumed.restore(saved | changed)
