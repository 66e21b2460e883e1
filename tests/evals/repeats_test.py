import pytest

from jaxlab.evals import repeats, report

RATES = {"low": 3e-3, "high": 1e-2}


def _rows(score="accuracy", **methods):
    """Two evaluations for each value; the rate is that of the name's last part."""
    rows = []
    for method, values in methods.items():
        for seed, value in enumerate(values):
            about = {"method": method, "seed": seed}
            if method.rpartition("_")[2] in RATES:
                about["learning_rate"] = RATES[method.rpartition("_")[2]]
            rows += [about | {"step": 0, score: 0.0}, about | {"step": 5, score: value}]
    return rows


def _last(rows, score="accuracy"):
    return {method: [row[score] for row in found] for method, found in repeats.finals(rows).items()}


def test_the_rate_with_the_best_mean():
    # Means 0.5 and 0.4; the other rate is better on seed 2.
    rows = _rows(kda_low=[0.7, 0.6, 0.2], kda_high=[0.1, 0.4, 0.7], opd=[0.3])
    chosen = repeats.at_best_rate(rows, "accuracy")
    assert _last(chosen) == {"kda": [0.7, 0.6, 0.2], "opd": [0.3]}
    # Of every evaluation, not of the last alone.
    assert [row["step"] for row in chosen if row["method"] == "kda"] == [0, 5] * 3


def test_less_loss_is_better():
    rows = _rows(score="loss", kda_low=[1.0, 1.0], kda_high=[2.0, 2.0])
    assert _last(repeats.at_best_rate(rows, "loss"), "loss") == {"kda": [1.0, 1.0]}


def test_a_run_without_the_score_is_the_worst():
    rows = _rows(kda_low=[0.1, 0.1], kda_high=[0.9, 0.9])
    for row in rows:
        if row["method"] == "kda_high" and row["seed"] == 0:
            del row["accuracy"]
    chosen = repeats.finals(repeats.at_best_rate(rows, "accuracy"))["kda"]
    assert [row["learning_rate"] for row in chosen] == [3e-3, 3e-3]


@pytest.mark.parametrize(
    "rows",
    [
        _rows(kda_low=[0.1, 0.2]),  # one rate
        _rows(low=[0.1, 0.2], high=[0.3, 0.4]),  # no common name
        _rows(aopd_plain=[0.1, 0.2], aopd_masked=[0.3, 0.4]),  # no rates known
        _rows(kda=[0.1], kda_low=[0.1, 0.2], kda_high=[0.3, 0.4]),  # the name is taken
        [row | {"learning_rate": 1e-3} for row in _rows(kda_low=[0.1], kda_high=[0.2])],
    ],
)
def test_other_methods_stay_as_they_are(rows):
    assert repeats.at_best_rate(rows, "accuracy") == rows


def test_only_seeds_that_all_rates_have():
    rows = _rows(kda_low=[0.1, 0.2, 0.3], kda_high=[0.5, 0.6])
    assert _last(repeats.at_best_rate(rows, "accuracy")) == {"kda": [0.5, 0.6]}


def test_differences_are_paired_by_seed():
    last = repeats.finals(_rows(fg2=[0.5, 0.9], kda=[0.4, 0.6, 0.9], opd=[0.3]))
    # 0.1 and 0.3: mean 0.2, standard error 0.1.
    assert repeats.differences(last, "accuracy", report._cell) == [
        "| accuracy, row - column | fg2 | kda |",
        "|---|---|---|",
        "| fg2 |  | 0.200 ± 0.100 (2/2) |",
        "| kda | -0.200 ± 0.100 (0/2) |  |",
    ]


def test_no_pairs_no_table():
    last = repeats.finals(_rows(fg2=[0.5], kda=[0.4]))
    assert repeats.differences(last, "accuracy", report._cell) == []
    assert repeats.differences({}, "accuracy", report._cell) == []
