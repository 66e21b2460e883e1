import json
import random
import re

import pytest

from jaxlab.grading import rows
from jaxlab.grading.math import rows as math_rows


def _write(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def _good(n):
    return [json.dumps({"problem": f"p{i}", "answer": str(i)}).encode() for i in range(n)]


def test_the_panel_does_not_depend_on_the_files_order(tmp_path):
    lines = _good(50)
    panel = math_rows.read(_write(tmp_path / "a.jsonl", lines))
    random.Random(0).shuffle(lines)
    shuffled = math_rows.read(_write(tmp_path / "b.jsonl", lines))
    assert panel.digest == shuffled.digest
    chosen = {row.id for row in panel.subset(7).rows}
    assert len(chosen) == 7
    assert chosen == {row.id for row in shuffled.subset(7).rows}
    assert chosen < {row.id for row in panel.subset(8).rows}
    assert panel.subset(None) is panel
    assert panel.digest != panel.subset(49).digest
    array = tmp_path / "c.json"
    array.write_text(json.dumps([json.loads(line) for line in lines]))
    assert math_rows.read(array).digest == panel.digest


def test_a_changed_answer_changes_the_digest(tmp_path):
    lines = [b'{"id": 1, "problem": "p", "answer": "1"}']
    before = math_rows.read(_write(tmp_path / "a.jsonl", lines)).digest
    lines = [b'{"id": 1, "problem": "p", "answer": "2"}']
    assert math_rows.read(_write(tmp_path / "a.jsonl", lines)).digest != before


def test_sample_seeds_are_fixed_and_differ():
    # Worked once: a changed recipe would silently change every published number.
    assert rows.sample_seed(0, "a", 1) == 597688857
    seeds = {rows.sample_seed(s, i, k) for s in (0, 1) for i in "abc" for k in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 1 << 31 for seed in seeds)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"{", "malformed JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "expected a JSON object, got list"),
        (b"{}", "no field problem or question; the row has none"),
        (b'{"problem": 3, "answer": "1"}', "field 'problem' must be a string"),
        (b'{"problem": " ", "answer": "1"}', "field 'problem' must be a string that is not empty"),
        (b'{"problem": "p"}', "no field answer or Answer"),
        (b'{"problem": "p", "answer": ""}', "field 'answer' is empty"),
        (b'{"problem": "p", "answer": NaN}', "must be a string or a number"),
        (b'{"problem": "p", "answer": 1e400}', "must be a string or a number, got inf"),
        (b'{"problem": "p", "answer": true}', "must be a string or a number"),
        (b'{"problem": "p", "answer": "1", "id": {}}', "field 'id' must be a string or an integer"),
        (b'{"problem": "p0", "answer": "0"}', "occurs twice; leave one out"),
        (b'{"problem": "\\ud83d", "answer": "1"}', "field 'problem' has a lone surrogate"),
        (b'{"problem": "p", "answer": "1\\udc00"}', "field 'answer' has a lone surrogate"),
        (b'{"problem": "p", "answer": "1", "id": "\\ud83d"}', "field 'id' has a lone surrogate"),
        (b'{"problem": "p", "answer": "1", "x": ["\\ud83d"]}', r"field 'x[0]' has a lone surro"),
    ],
)
def test_a_bad_row_is_named_or_accounted_for(tmp_path, line, cause):
    path = _write(tmp_path / "rows.jsonl", [*_good(2), b"", line])
    with pytest.raises(ValueError, match=f"rows.jsonl:4: .*{re.escape(cause)}"):
        math_rows.read(path)
    panel = math_rows.read(path, "skip")
    assert len(panel.rows) == 2
    (bad,) = panel.rejected
    assert bad.where.endswith("rows.jsonl:4")
    assert cause in bad.cause


def test_files_without_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        math_rows.read(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no usable row, 1 bad"):
        math_rows.read(_write(tmp_path / "a.jsonl", [b"{}"]), "skip")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(ValueError, match="expected an array of rows, got dict"):
        math_rows.read(tmp_path / "b.json")


def test_an_id_of_two_rows(tmp_path):
    lines = [
        b'{"id": 1, "problem": "p", "answer": "1"}',
        b'{"id": 1, "problem": "q", "answer": "1"}',
    ]
    with pytest.raises(ValueError, match=r"a.jsonl:2: the id '1' occurs twice"):
        math_rows.read(_write(tmp_path / "a.jsonl", lines))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, name):
    rows = [{"problem": "p\u00b2", "answer": "1"}]
    text = json.dumps(rows if name == "a.json" else rows[0], ensure_ascii=False)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    (row,) = math_rows.read(tmp_path / name).rows
    assert (row.question, row.answer) == ("p\u00b2", "1")


def test_halves_of_pairs_in_an_array_or_a_dataset_are_refused_too(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('[{"problem": "p", "answer": "1"}, {"problem": "\\ud83d", "answer": "1"}]')
    with pytest.raises(ValueError, match=r"a\.json\[1\]: field 'problem' has a lone surrogate"):
        math_rows.read(path)
    assert math_rows.read(path, "skip").rejected[0].where == f"{path}[1]"
    good = {"problem": b"p\xc3\xbc", "answer": b"1"}
    monkeypatch.setattr(rows, "_dataset", lambda path: [good, {"problem": b"\xff", "answer": b"1"}])
    with pytest.raises(ValueError, match=r"\[1\]: .*can't decode byte 0xff"):
        math_rows.read(tmp_path)
    panel = math_rows.read(tmp_path, "skip")
    assert [row.question for row in panel.rows] == ["pü"]
    assert len(panel.rejected) == 1


def test_rows_by_their_ids(tmp_path):
    lines = [json.dumps({"id": i, "problem": f"p{i}", "answer": "1"}).encode() for i in range(5)]
    panel = math_rows.read(_write(tmp_path / "a.jsonl", lines))
    for ids, expected in [((3, "1"), ["1", "3"]), ("1, 3", ["1", "3"]), (4, ["4"])]:
        assert [row.id for row in panel.only(ids).rows] == expected
    assert panel.only(()) is panel
    with pytest.raises(ValueError, match="ids: there is no row '7'"):
        panel.only("1,7")
