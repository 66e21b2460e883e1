import json
import sys

import pytest

from jaxlab.evals.math import self_test

MALFORMED = "\\text{}"


def _main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["self_test", *map(str, arguments)])
    self_test.main()


def test_the_command_counts_and_names(tmp_path, monkeypatch, capsys):
    for name, answers in {"a": ["\\frac{1}{2}", "0.5", "\\sqrt{5}"], "b": [MALFORMED, "7"]}.items():
        (tmp_path / name).mkdir()
        rows = [{"id": i, "problem": f"p{i}", "answer": x} for i, x in enumerate(answers)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "test.jsonl").write_text(text)
    _main(monkeypatch, tmp_path / "a" / "test.jsonl", tmp_path / "b" / "test.jsonl")
    lines = capsys.readouterr().out.splitlines()
    # 0.5 counts as 1/2 though another problem's.
    assert "| a | 3 | 3 / 3 | 3 / 3 | 3 / 3 | 2 / 3 |" in lines
    assert "| a | 0 | `\\frac{1}{2}` | of another problem | `\\boxed{0.5}` | right |" in lines
    assert any(line.startswith("| b | 2 | 1 / 2 | ") for line in lines)
    assert f"| b | 0 | `{MALFORMED}` | in a box | `\\boxed{{{MALFORMED}}}` | bad_gold |" in lines
    assert not any("| bare |" in line for line in lines[7:])


def test_files_that_are_not_there(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        _main(monkeypatch, tmp_path / "none.jsonl")
    assert "none.jsonl: no such file" in capsys.readouterr().err


def test_bad_rows_are_left_out_where_that_is_asked_for(monkeypatch, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "p", "answer": "1"}\n{"problem": "q"}\n')
    with pytest.raises(SystemExit) as left:
        _main(monkeypatch, path)
    assert left.value.code == 2
    assert "rows.jsonl:2: no field answer" in (error := capsys.readouterr().err)
    assert "--bad_rows=skip leaves such rows out" in error
    _main(monkeypatch, path, "--bad_rows=skip")
    found = capsys.readouterr()
    assert "| 1 | 1 / 1 | 1 / 1 | 1 / 1 |" in found.out
    assert "left out" in found.err
    assert "rows.jsonl:2" in found.err
