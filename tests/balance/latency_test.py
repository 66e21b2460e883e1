"""Latency tables and the formula: look-up, monotony, files, measuring with a clock of our own."""

import json
import warnings

import numpy as np
import pytest

from jaxlab.balance import LatencyTable
from jaxlab.balance import latency as latency_lib

TABLE = LatencyTable((1024, 4096), (8, 16), ((1.0, 2.0), (3.0, 6.0)), device="a", model="m")


def test_grid_points_and_what_lies_between_them():
    assert TABLE.predict(1024, 8) == 1.0
    assert TABLE.predict(4096, 16) == 6.0
    # 2048 is half way in log2 of the length, 12 half way in the budget.
    assert TABLE.predict(2048, 8) == pytest.approx(2.0)
    assert TABLE.predict(1024, 12) == pytest.approx(1.5)
    assert TABLE.predict(2048, 12) == pytest.approx((1 + 2 + 3 + 6) / 4)
    np.testing.assert_allclose(TABLE.predict([[1024], [4096]], [8, 16]), TABLE.seconds)


@pytest.mark.parametrize(
    ("length", "budget", "edge", "said"),
    [
        (100_000, 8, 3.0, "length 100000 is outside .* 1024 to 4096"),
        (512, 16, 2.0, "length 512 is outside"),
        (4096, 64, 6.0, "budget 64 is outside .* 8 to 16"),
    ],
)
def test_beyond_the_grid_the_edge_is_used_and_said(length, budget, edge, said):
    with pytest.warns(UserWarning, match=said):
        assert TABLE.predict(length, budget) == edge


def test_an_empty_sequence_takes_no_time_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(TABLE.predict([0, 1024], 8), [0.0, 1.0])


def test_noise_does_not_make_more_work_faster():
    noisy = LatencyTable((1, 2, 4), (1, 2), ((2.0, 1.9), (1.0, 3.0), (2.5, 2.0)))
    assert noisy.seconds == ((2.0, 2.0), (2.0, 3.0), (2.5, 3.0))
    assert noisy.raised == 3
    lengths, budgets = np.linspace(1, 4, 30), np.linspace(1, 2, 20)
    grid = noisy.predict(lengths[:, None], budgets)
    assert (np.diff(grid, axis=0) >= 0).all()
    assert (np.diff(grid, axis=1) >= 0).all()


def test_the_model_has_layers_and_more():
    table = LatencyTable((1024,), (8,), ((2.0,),), layers=3, other=0.5)
    assert table.model_seconds(1024, 8) == 3 * 2.0 + 512


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": (4096, 1024)}, "lengths must be ascending"),
        ({"budgets": (0, 8)}, r"budgets must be ascending whole numbers from 1, not \(0, 8\)"),
        ({"seconds": ((1.0, 2.0),)}, "2 lengths by 2 budgets, not of shape"),
        ({"seconds": ((1.0, 2.0), (3.0,))}, "2 lengths by 2 budgets"),
        ({"seconds": ((1.0, 2.0), (float("nan"), 6.0))}, "length 4096, budget 8 is nan"),
        ({"seconds": ((1.0, 0.0), (3.0, 6.0))}, "length 1024, budget 16 is 0.0"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_bad_tables_are_refused(fields, message):
    good = {"lengths": (1024, 4096), "budgets": (8, 16), "seconds": ((1.0, 2.0), (3.0, 6.0))}
    with pytest.raises(ValueError, match=message):
        LatencyTable(**good | fields)


def test_a_budget_of_zero_is_refused():
    for latency in (TABLE, latency_lib.Formula(token=1.0)):
        with pytest.raises(ValueError, match="budget is 0: expected at least 1"):
            latency.predict(1024, 0)
        with pytest.raises(ValueError, match="length is -1"):
            latency.predict(-1, 8)


def test_files_come_back_and_know_whose_they_are(tmp_path):
    file = tmp_path / "table.json"
    TABLE.save(file)
    back = LatencyTable.load(file, device="a", model="m")
    assert back == TABLE
    assert back.id == TABLE.id
    assert LatencyTable((1024,), (8,), ((1.0,),)).id != TABLE.id
    with pytest.raises(ValueError, match="for the device 'a', not for 'b'"):
        LatencyTable.load(file, device="b")
    with pytest.raises(ValueError, match="for the model 'm', not for 'n'"):
        LatencyTable.load(file, model="n")


def _without(data, key):
    del data[key]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: _without(d, "device"), "no key device"),
        (lambda d: d.update(extra=1), "unknown key extra"),
        (lambda d: d.update(lengths="1"), "lengths is '1'"),
        (lambda d: d.update(lengths=[1024, True]), "lengths is"),
        (lambda d: d.update(seconds=[[1, 2], [3, None]]), "seconds is"),
        (lambda d: d.update(seconds=[[1, 2], [3]]), "2 lengths by 2 budgets"),
        (lambda d: d.update(other="much"), "other is 'much'"),
    ],
)
def test_damaged_files_name_the_key(tmp_path, damage, message):
    file = tmp_path / "table.json"
    TABLE.save(file)
    data = json.loads(file.read_text())
    damage(data)
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"table.json: .*{message}"):
        LatencyTable.load(file)
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=r"table.json: unreadable JSON"):
        LatencyTable.load(file)


def test_pairs_are_those_of_counting():
    block, length = 4, 32
    for budget in (1, 2, 5, 8, 20):
        # A query at the end of its block sees min(budget, blocks so far) blocks: the formula's
        # triangle and band are the continuous form of it.
        band = min(length, budget * block)
        exact = sum(min(t + 0.5, band) for t in range(length))
        assert latency_lib.pairs(length, budget, block) == pytest.approx(exact)
    assert latency_lib.pairs(100, 99, 256) == 100**2 / 2


def test_qwen_takes_the_flops_of_its_shapes():
    layer = latency_lib.qwen25_3b(rate=1.0, slowdown=2.0)
    weights = 2048 * (2 * 2048 + 2 * 256) + 3 * 2048 * 11008
    assert layer.token == 6 * weights
    assert layer.pair == 2.0 * 3 * 4 * 2048
    table = LatencyTable.sample(layer, [1024, 8192], [8, 32])
    assert table.predict(8192, 8) == layer.predict(8192, 8)


def test_profiling_measures_each_cell_by_its_shortest_turn(monkeypatch):
    from jaxlab.balance import measure

    now, calls = [0.0], []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def layer(length, budget):
        turns = iter([99.0, 3.0, 1.0, 2.0])  # the first one compiles

        def work():
            calls.append((length, budget))
            now[0] += next(turns) * length * budget

        return work

    lines = []
    table = LatencyTable.profile(layer, (64, 16), [2, 1], repeats=3, progress=lines.append)
    assert (table.lengths, table.budgets) == ((16, 64), (1, 2))
    np.testing.assert_allclose(table.seconds, [[16, 32], [64, 128]])
    assert table.model == "layer"
    assert calls[2:6] == [(16, 1), (16, 2)] * 2  # budgets take turns
    assert len(lines) == 2
    (row,) = measure.errors(table, layer, [(32, 2)], repeats=2)
    # Half way between 32 and 128 seconds in log2 of the length; measured: 64 times the shortest.
    assert (row["predicted"], row["measured"]) == (80, 64)
    assert row["error"] == 0.25
    with pytest.raises(ValueError, match=r"budgets are \[0\]: expected different counts from 1"):
        LatencyTable.profile(layer, [16], [0])
