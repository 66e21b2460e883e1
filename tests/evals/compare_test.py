import json

import pytest

from jaxlab.evals import compare, results
from jaxlab.evals.results import Result


def _run(folder, questions, right, name=None, panel=None):
    """Samples with ids 0, 1, ..., of which the first `right` are right."""
    folder.mkdir()
    samples = [
        Result(str(i), 1, i < right, "a", "match", "g", str(i), prompt=question, target=answer)
        for i, (question, answer) in enumerate(questions)
    ]
    results.write(folder / "samples.jsonl", samples)
    if name is not None:
        (folder / "config.json").write_text(json.dumps({"benchmark": {"name": name}}))
        (folder / "report.json").write_text(json.dumps({"facts": {"panel": panel}}))
    return folder


SUMS = [(f"{i} + 0", str(i)) for i in range(8)]
ONES = [(f"{i} to the 0", "1") for i in range(8)]


def test_rows_with_one_id_and_two_references_are_refused(tmp_path):
    runs = [_run(tmp_path / "x", SUMS, 5), _run(tmp_path / "y", ONES, 2)]
    with pytest.raises(ValueError, match=r"x and .*y are runs of different rows: the answer to"):
        compare.write(tmp_path / "table", runs)
    assert not (tmp_path / "table").exists()


def test_runs_of_two_benchmarks_are_refused_by_name(tmp_path):
    runs = [
        _run(tmp_path / "x", ONES, 5, "general365", "aa"),
        _run(tmp_path / "y", ONES, 2, "ones/powers.py", "bb"),
    ]
    with pytest.raises(ValueError, match=r"x is a run of general365, and .*y one of powers"):
        compare.write(tmp_path / "table", runs)
    # Two graders or prompts of the user's over the same rows can be compared.
    other = _run(tmp_path / "z", ONES, 2, "ones/better.py", "bb")
    (table,) = compare.write(tmp_path / "table", [runs[1], other])
    assert table.rows[1]["p"] == 1.0


def test_folders_that_hold_no_evaluation_are_named(tmp_path):
    run = _run(tmp_path / "baseline", SUMS, 5)
    (tmp_path / "empty").mkdir()
    for other, cause in [
        (tmp_path / "baselin", rf"there is no folder .*baselin; did you mean {run}\?"),
        (
            tmp_path / "no" / "thing",
            r"there is no folder .*thing; name work directories of evaluations",
        ),
        (tmp_path / "empty", r".*empty holds no samples\.jsonl, which an evaluation writes"),
        (run / "samples.jsonl", r"there is no folder .*samples\.jsonl; "),
    ]:
        with pytest.raises(FileNotFoundError, match=f"^--compare: {cause}"):
            compare.write(tmp_path / "table", [run, other])
    assert not (tmp_path / "table").exists()
