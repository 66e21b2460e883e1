"""The simulator: its flow shop, its routing, its control, its door, and what it teaches."""

import dataclasses
import json

import numpy as np
import pytest

from jaxlab.balance import BudgetTuner, LatencyTable, policies, simulate, workloads
from jaxlab.balance.latency import Formula, qwen25_3b
from jaxlab.balance.policies import POLICIES, Settings

MEASURED = {"lengths": [512], "budgets": [8], "seconds": [[1.0]], "device": "cpu", "other": 0.0,
            "model": "hidden 128, block 64, mlp 256", "layers": 1}  # fmt: skip


def settings(name, slowdown=1.0, steps=40, **tuner):
    return Settings(
        workloads.WORKLOADS[name], qwen25_3b(slowdown), BudgetTuner(**tuner), steps=steps
    )


@pytest.fixture(scope="module")
def results():
    return {
        (name, slowdown): simulate.simulate(settings(name, slowdown))
        for name in ("bimodal", "long_tail")
        for slowdown in (1.0, 3.0)
    }


def test_a_step_is_the_flow_shop_of_its_slowest_rank():
    # Two ranks of three microbatches through two stages, each with half of every microbatch.
    times = {0: [4.0, 2.0, 6.0], 1: [5.0, 5.0, 1.0]}

    def makespan(rank):
        free = [0.0, 0.0]
        for t in times[rank]:
            free[0] += t / 2
            free[1] = max(free[1], free[0]) + t / 2
        return free[1]

    lengths = np.array([4, 5, 2, 5, 6, 1])  # dealt in turn: rank 0 has 4, 2, 6
    work = workloads.Workload("six", lambda generator, count: lengths, 2, 2, 3)
    outcome = policies.run(Settings(work, Formula(token=1.0), steps=1), POLICIES["round robin"])
    assert outcome.seconds == max(makespan(0), makespan(1)) == 9.0
    assert outcome.compute == 23.0
    assert outcome.imbalance == pytest.approx(6 / (23 / 6))
    assert outcome.straggler == pytest.approx(12 / 11.5)


def test_coverage_is_that_of_summing_over_queries():
    lengths = np.array([100, 1000])
    routing = workloads.Routing(np.random.default_rng(0), lengths, block=10)
    exponents = np.random.default_rng(0).uniform(0.6, 1.6, 2)
    for row, (length, s) in enumerate(zip(lengths, exponents, strict=True)):
        blocks = length // 10
        mass = np.arange(1, blocks + 1) ** -s
        for k in (1, 3, 10, 64):
            expected = np.mean(
                [mass[: min(k, m)].sum() / mass[:m].sum() for m in range(1, blocks + 1)]
            )
            assert routing.coverage(np.array([k]))[row, 0] == pytest.approx(expected)
    between = routing.coverage(np.array([3, 3.5, 4]))
    np.testing.assert_allclose(between[:, 1], (between[:, 0] + between[:, 2]) / 2)


def test_much_of_the_gain_is_less_work(results):
    for result in results.values():
        speed = {name: row["speed"] for name, row in result["policies"].items()}
        assert (
            speed["round robin"] == 1 < speed["SAB"] < speed[simulate.CONTROL] < speed["SAB + DST"]
        )
        assert 0.4 < result["less_work"] < 0.85
        rows = result["policies"]
        work = rows["SAB + DST"]["relative_compute"]
        assert 0.85 < work < 0.99
        assert rows[simulate.CONTROL]["relative_compute"] == pytest.approx(work, rel=1e-6)
        # Better per sequence than the control, and worse per token: long ones pay for short ones.
        assert rows["SAB + DST"]["coverage"] > rows[simulate.CONTROL]["coverage"]
        assert rows["SAB + DST"]["token_coverage"] < rows[simulate.CONTROL]["token_coverage"]


def test_where_nothing_is_gained_the_report_says_so():
    # Of one budget there is nothing to tune.
    given = dataclasses.replace(
        settings("bimodal", steps=2, buckets=(32,)), block=64, latency=qwen25_3b(block=64)
    )
    result = simulate.simulate(given)
    assert result["less_work"] is None
    report = simulate._report(given, [result], [])
    assert "In 1 of 1 seeds SAB + DST gains nothing in speed over SAB." in report
    assert "blocks of 64 tokens" in report


def test_short_sequences_have_no_free_accuracy(results):
    bimodal = results["bimodal", 3.0]["policies"]
    tail = results["long_tail", 3.0]["policies"]
    # In turn, long ones of a bimodal set are cut; where all are long, those below the anchor gain.
    assert bimodal["DST"]["long_budget"] < 32 < tail["DST"]["long_budget"]


def test_the_floor_decides_often(results):
    floors = [result["policies"]["SAB + DST"]["floored"] for result in results.values()]
    assert 0.2 < min(floors) <= max(floors) < 0.45
    lowest = policies.run(settings("long_tail", anchor="min"), POLICIES["SAB + DST"])
    assert lowest.floored > 0.7


def test_anchors_trade_speed_for_coverage():
    found = {
        anchor: policies.run(settings("long_tail", 3.0, anchor=anchor), POLICIES["SAB + DST"])
        for anchor in ("min", "mean", "max")
    }
    assert found["min"].seconds < found["mean"].seconds < found["max"].seconds
    assert found["min"].coverage < found["mean"].coverage < found["max"].coverage


def test_on_many_ranks_one_sequence_is_the_step():
    wide = dataclasses.replace(workloads.WORKLOADS["lognormal"], ranks=64)
    outcome = policies.run(
        dataclasses.replace(settings("lognormal", steps=10), workload=wide), POLICIES["SAB"]
    )
    assert outcome.single == 1
    few = policies.run(settings("bimodal", steps=10), POLICIES["SAB"])
    assert few.single == 0


def test_rank_totals_keep_more_coverage_at_the_same_speed():
    each = policies.run(settings("lognormal", 3.0), POLICIES["SAB + DST"])
    total = policies.run(settings("lognormal", 3.0, anchor_scope="rank"), POLICIES["SAB + DST"])
    assert total.seconds == pytest.approx(each.seconds, rel=0.03)
    assert total.coverage > each.coverage + 0.01


def test_packing_by_latency_is_packing_by_length_while_budgets_are_equal(results):
    for result in results.values():
        rows = result["policies"]
        assert rows["SAB"]["seconds"] == pytest.approx(rows["LBB"]["seconds"], rel=0.01)


def test_coverage_of_the_last_step_serves_nearly_as_well():
    known = settings("long_tail", 3.0)
    own = policies.run(known, POLICIES["SAB + DST"])
    last = policies.run(dataclasses.replace(known, history=True), POLICIES["SAB + DST"])
    assert last.seconds == pytest.approx(own.seconds, rel=0.1)


def test_the_door_writes_its_report(tmp_path, capsys):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text('1000\n\n{"length": 20000}\n70000\n')
    table = tmp_path / "table.json"
    grid = ([512, 8192, 131072], [8, 32, 64])
    LatencyTable.sample(qwen25_3b(), *grid, device="chip", model="qwen").save(table)
    out = tmp_path / "out"
    words = [f"--lengths={lengths}", f"--table={table}", "--steps=3", "--seeds=2", f"--out={out}"]
    assert simulate.main(words) == 0
    said = capsys.readouterr()
    assert "SAB, equal compute" in said.out
    assert "a table of chip, qwen" in said.out
    assert "seed 1: 7 of 7" in said.err
    assert (out / "report.md").read_text().strip() in said.out
    assert [row["seed"] for row in json.loads((out / "report.json").read_text())] == [0, 1]
    assert (out / "simulation.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["--lengths=FILE"], "12\nmany\n", "lengths.txt:2: 'many' is no length"),
        (["--lengths=FILE"], "0\n", "lengths.txt:1: '0' is no length"),
        (["--lengths=FILE"], "true\n", "no length"),
        (["--lengths=FILE"], "", "no lengths"),
        (["--lengths=absent"], "", "No such file"),
        (["--buckets=8,x"], "", "--buckets=8,x: expected whole numbers"),
        (["--base=33"], "", "base budget 33 is not among"),
        (["--steps=0"], "", "--steps=0"),
        (["--ranks=0"], "", "ranks is 0"),
        (["--slowdown=nan"], "", "--slowdown=nan"),
        (["--slowdown=3", "--table=FILE"], "{}", "--slowdown is the formula's"),
        (["--table=FILE"], json.dumps(MEASURED), "was measured with blocks of 64 tokens"),
        (["--table=FILE"], "{}", "no key lengths"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(tmp_path, capsys, words, content, message):
    file = tmp_path / "lengths.txt"
    file.write_text(content)
    words = [word.replace("FILE", str(file)) for word in words]
    assert simulate.main(["--quiet", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_microbatches_by_cost_alone_may_be_empty():
    """One long sequence fills a rank; its second microbatch has nothing to be covered."""
    lengths = np.array([64, 4, 4, 4])
    work = workloads.Workload("four", lambda generator, count: lengths, 2, 1, 2)
    tuner = BudgetTuner(buckets=(1, 2, 4), base=2)
    given = Settings(work, Formula(pair=1.0, block=4), tuner, block=4, steps=2, warmup=1)
    outcomes = [
        policies.run(dataclasses.replace(given, history=history, equal_size=False), policy)
        for history in (False, True)
        for policy in POLICIES.values()
    ]
    assert all(np.isfinite(outcome.straggler) for outcome in outcomes)
    # Dealt in turn 64 + 4 and 4 + 4, of 8 x (8 / 2 + 56) pairs and 8 each; packed 64 alone.
    assert outcomes[0].straggler == pytest.approx(2 * 488 / (480 + 3 * 8))
    assert outcomes[3].straggler == pytest.approx(2 * 480 / (480 + 3 * 8))
