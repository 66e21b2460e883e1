import json

import pytest

from jaxlab.evals import report


def _run(folder, seed, rows, histograms=()):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines))
    if histograms is not None:
        (folder / "histograms.jsonl").write_text("".join(json.dumps(h) + "\n" for h in histograms))
    return folder


def _rows(*scores):
    rows = []
    for i, score in enumerate(scores):
        rows.append({"step": 10 * i + 5, "loss": 1.0})
        rows.append({"step": 10 * i, "eval/avg@4": score, "eval/pass@4": 1.0, "eval/entropy": 0.5})
    return rows


HISTOGRAM = {"step": 0, "name": "advantage", "edges": [-2.0, -1.0, 0.0, 1.0], "counts": [1, 0, 4]}


@pytest.fixture
def runs(tmp_path):
    return {
        "teacher": _run(tmp_path / "teacher", 0, _rows(0.25)),
        "opd_0": _run(tmp_path / "opd_0", 0, _rows(0.1, 0.2, 0.5), [HISTOGRAM]),
        "opd_7": _run(tmp_path / "opd_7", 7, _rows(0.1, 0.2, 0.7), None),
    }


def test_rows_and_files(tmp_path, runs):
    written = report.write(tmp_path, runs, "A title")
    assert [path.name for path in written] == [
        "report.md",
        "report.json",
        "curves.png",
        "advantages.png",
    ]
    assert all(path.stat().st_size > 0 for path in written)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["title"] == "A title"
    assert len(data["rows"]) == 7
    assert data["rows"][-1] == {
        "method": "opd",
        "seed": 7,
        "step": 20,
        "avg@4": 0.7,
        "pass@4": 1.0,
        "entropy": 0.5,
    }


def test_the_table_takes_each_last_row_and_the_error_over_seeds(tmp_path, runs):
    report.write(tmp_path, runs, "A title")
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# A title\n")
    assert "| teacher | 1 | 0 | 0.250 | 1.000 | 0.500 |" in text
    # Mean of 0.5 and 0.7; standard error sqrt(0.02 / 2).
    assert "| opd | 2 | 20 | 0.600 ± 0.100 | 1.000 ± 0.000 | 0.500 ± 0.000 |" in text
    # 1 token at -1.5 and 4 at 0.5: squares 2.25 and 1.
    assert "hold 69.2 % of the sum of squares" in text
    for name in ("curves.png", "advantages.png"):
        assert f"]({name})" in text


def test_without_evaluations(tmp_path):
    run = _run(tmp_path / "run", 0, [{"step": 1, "loss": 2.0}])
    written = report.write(tmp_path, {"run": run}, "Empty")
    assert [path.name for path in written] == ["report.md", "report.json"]
    assert "No evaluation has run." in (tmp_path / "report.md").read_text()


def test_a_score_that_is_not_a_number_leaves_its_cell_empty(tmp_path):
    row = {"step": 0, "eval/avg@1": 0.5, "eval/entropy": None, "nonfinite": ["eval/entropy"]}
    other = {"step": 0, "eval/avg@1": 0.5, "eval/entropy": 0.25}
    runs = {
        "a": _run(tmp_path / "a", 0, [row]),
        "b": _run(tmp_path / "b", 0, [other]),
    }
    report.write(tmp_path, runs, "Title")
    text = (tmp_path / "report.md").read_text()
    assert "| a | 1 | 0 | 0.500 |  |" in text
    assert "| b | 1 | 0 | 0.500 | 0.250 |" in text


def test_several_rates_are_reported_and_one_is_drawn(tmp_path):
    runs = {}
    for name, rate, scores in (("low", 3e-3, (0.2, 0.4)), ("high", 1e-2, (0.5, 0.7))):
        for seed, score in enumerate(scores):
            folder = _run(tmp_path / f"kda_{name}_{seed}", seed, _rows(0.1, score), None)
            config = {"seed": seed, "optim": {"learning_rate": rate}}
            (folder / "config.json").write_text(json.dumps(config))
            runs[folder.name] = folder
    report.write(tmp_path, runs, "Rates")
    text = (tmp_path / "report.md").read_text()
    for method, mean in (("kda_low", 0.3), ("kda_high", 0.6), ("kda", 0.6)):
        assert f"| {method} | 2 | 10 | {mean:.3f} ± 0.100 |" in text
    assert report.PAIRED not in text
    rates = {
        row["learning_rate"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]
    }
    assert rates == {3e-3, 1e-2}


def test_curves_of_a_run_without_scores_are_left_out(tmp_path):
    rows = [{"step": step, "eval/variance": 1.0} for step in range(4)]
    written = report.write(tmp_path, {"run": _run(tmp_path / "run", 0, rows)}, "No scores")
    assert [path.name for path in written] == ["report.md", "report.json"]
