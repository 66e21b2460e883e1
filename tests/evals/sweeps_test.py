import numpy as np
import pytest

from jaxlab.evals import report, sweeps

ROW = {
    "accuracy": 0.9,
    "loss": 0.1,
    "accuracy@num_pairs=2": 0.8,
    "loss@num_pairs=2": 0.2,
    "accuracy@num_pairs=4": 0.6,
    "loss@num_pairs=4": 0.4,
    "accuracy@length=32,num_pairs=8": 0.5,
    "loss@length=32,num_pairs=8": 0.5,
    "avg@16": 0.3,
}
TEXT = {
    "perplexity": 8.0,
    "perplexity@length=64": 8.0,
    "perplexity@length=128": 16.0,
    "accuracy@length=64": 0.3,
    "loss@position=32": 2.0,
    "accuracy@position=32": 0.3,
    "loss@position=64": 1.0,
}


def test_settings_that_change_the_same_options_belong_together():
    assert sweeps.find({"a": [ROW]}) == {
        ("num_pairs",): {("2",): "accuracy@num_pairs=2", ("4",): "accuracy@num_pairs=4"},
        ("length", "num_pairs"): {("32", "8"): "accuracy@length=32,num_pairs=8"},
    }


def test_of_a_text_perplexity_and_the_loss_by_position():
    assert sweeps.find({"a": [TEXT]}) == {
        ("length",): {("64",): "perplexity@length=64", ("128",): "perplexity@length=128"},
        ("position",): {("32",): "loss@position=32", ("64",): "loss@position=64"},
    }


def test_samples_per_prompt_are_no_setting():
    assert sweeps.find({"a": [{"avg@16": 1.0, "pass@16": 1.0}]}) == {}
    assert sweeps.plot({"a": [{"avg@16": 1.0}]}) is None


def test_tables():
    other = ROW | {"accuracy@num_pairs=2": 1.0}
    lines = sweeps.tables({"gdn": [ROW, other], "opd": [{"avg@16": 0.1}]}, report._cell)
    assert lines == [
        "",
        "| accuracy at num_pairs | 2 | 4 |",
        "|---|---|---|",
        "| gdn | 0.900 ± 0.100 | 0.600 ± 0.000 |",
        "",
        "| accuracy at length, num_pairs | 32, 8 |",
        "|---|---|",
        "| gdn | 0.500 ± 0.000 |",
    ]


def test_a_panel_for_each_sweep():
    more = {"accuracy@group=s3,length=8": 0.5, "accuracy@group=s5,length=8": 0.25}
    figure = sweeps.plot({"gdn": [ROW | more], "kda": [ROW | more, ROW | more]})
    pairs, groups = figure.axes
    assert [bars.get_label() for bars in pairs.containers] == ["gdn", "kda"]
    places, values = np.transpose(pairs.containers[1].lines[0].get_xydata())
    # Beside the first method's markers, on a scale of powers of two.
    np.testing.assert_allclose(np.log2(places), [1 + sweeps.DODGE / 2, 2 + sweeps.DODGE / 2])
    np.testing.assert_array_equal(values, [0.8, 0.6])
    assert (pairs.get_xlabel(), pairs.get_title()) == ("num_pairs", "accuracy")
    assert pairs.get_xscale() == "log"
    assert [tick.get_text() for tick in pairs.get_xticklabels()] == ["2", "4"]
    assert [tick.get_text() for tick in groups.get_xticklabels()] == ["s3, 8", "s5, 8"]


def test_bars_are_the_standard_error():
    figure = sweeps.plot({"gdn": [ROW, ROW | {"accuracy@num_pairs=2": 1.0}]})
    _, _, (bars,) = figure.axes[0].containers[0]
    low, high = bars.get_segments()[0]
    np.testing.assert_allclose([low[1], high[1]], [0.8, 1.0])  # 0.9 ± 0.1


def test_zero_has_no_place_on_a_scale_of_powers():
    rows = [{"accuracy@depth=0.0": 0.1, "accuracy@depth=1.0": 0.2}]
    (axis,) = sweeps.plot({"a": rows}).axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.0", "1.0"]


def test_a_method_that_lacks_a_setting_is_left_out_of_the_panel():
    rows = {"a": [ROW], "b": [{"accuracy@num_pairs=2": 0.5}]}
    assert [bars.get_label() for bars in sweeps.plot(rows).axes[0].containers] == ["a"]


@pytest.mark.parametrize("name", ["accuracy", "avg@16", "pass@4", "@x=1", "accuracy@x"])
def test_other_names(name):
    assert sweeps.find({"a": [{name: 1.0}]}) == {}


def test_ways_to_read_one_model_are_methods():
    row = {"loss": 0.5, "accuracy@length=8": 0.25, "accuracy@attention=quest,budget=64": 0.5}
    other = {"accuracy@attention=quest,budget=64": 1.0, "mass@attention=full,budget=64": 1.0}
    finals = {"model": [row, other]}
    assert sweeps.by_attention(finals) == {
        "quest": [{"accuracy@budget=64": 0.5}, {"accuracy@budget=64": 1.0}],
        "full": [{"mass@budget=64": 1.0}],
    }
    # They are no setting of the method's own.
    assert sweeps.find(finals) == {("length",): {("8",): "accuracy@length=8"}}
    cell = "/".join
    scores = {"full": [{"mass@budget=64": "1.0"}], "quest": [{"accuracy@budget=64": "0.5"}]}
    lines = sweeps.tables(scores, cell, ("mass",))
    assert lines == ["", "| mass at budget | 64 |", "|---|---|", "| full | 1.0 |"]


def test_settings_stand_in_the_order_of_their_numbers():
    row = {f"mass@attention=quest,budget={n}": n / 256 for n in (128, 256, 64)}
    attentions = sweeps.by_attention({"model": [row]})
    lines = sweeps.tables(attentions, report._cell, ("mass",))
    assert lines[1] == "| mass at budget | 64 | 128 | 256 |"
    axis = sweeps.plot(attentions, ("mass",)).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.25, 0.5, 1.0])
