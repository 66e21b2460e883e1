import re
import sys

import numpy as np
import pytest

from jaxlab.data import sources, text
from jaxlab.grading.sources import Jsonl

GOOD = b'{"question": "1+1?", "answer": "2"}\n'


def _write(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_jsonl_rows_are_read_at_random(tmp_path):
    second = '{"question": "größe ∫?", "answer": "3", "level": 4}'.encode()
    path = _write(tmp_path, GOOD + b"\n  \n" + second)  # blank lines; no final newline
    source = Jsonl(path)
    assert len(source) == 2
    assert source[np.int64(1)] == {"question": "größe ∫?", "answer": "3", "level": 4}
    assert source[0] == {"question": "1+1?", "answer": "2"}
    assert source.where(1) == f"{path}:4"
    with pytest.raises(IndexError, match="row 2 of a source with 2 rows"):
        source[2]
    with pytest.raises(IndexError):
        source[-1]


def test_both_halves_of_a_pair_are_text(tmp_path):
    path = _write(tmp_path, b'{"question": "\\ud83d\\ude00 \\u00fc", "answer": "\\\\ud83d"}\n')
    assert Jsonl(path)[0] == {"question": "\U0001f600 ü", "answer": "\\ud83d"}


def test_jsonl_windows_line_ends(tmp_path):
    source = Jsonl(_write(tmp_path, (GOOD * 3).replace(b"\n", b"\r\n")))
    assert [source[i]["answer"] for i in range(3)] == ["2"] * 3


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"question": "a", ', "malformed JSON: .* at column"),
        (b"[" * 100_000, "malformed JSON"),
        (b'{"question": "a"}', "missing field 'answer'; the row has question"),
        (b'{"question": "a", "answer": 2}', "field 'answer' must be a string, got int"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b'{"question": "\xff", "answer": "2"}', "not UTF-8 .* at byte 14"),
        (
            b'{"question": "\\ud83d 3 plus 4?", "answer": "7"}',
            "field 'question' has a lone surrogate at character 0",
        ),
        (b'{"question": "q", "answer": "a\\uDE00"}', "field 'answer' .* at character 1"),
        (
            b'{"question": "q", "answer": "7", "meta": {"tags": ["a", "\\ude00\\ud83d"]}}',
            r"field 'meta.tags\[1\]' has a lone surrogate",
        ),
        (b'{"question": "q", "answer": "7", "\\ud83d": 1}', "the row has a lone surrogate"),
        (b'{"question": "q", "answer": "7", "m": {"\\ud83d": 1}}', "field 'm' has a lone"),
    ],
)
def test_jsonl_bad_rows_are_named(tmp_path, line, cause):
    path = _write(tmp_path, GOOD + line + b"\n" + GOOD)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}:2: {cause}") as error:
        Jsonl(path)
    assert "\n" not in str(error.value)


def test_jsonl_empty_or_missing(tmp_path):
    with pytest.raises(ValueError, match="the file is empty"):
        Jsonl(_write(tmp_path, b"\n\n"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        Jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Jsonl(tmp_path)


def test_jsonl_required_fields_are_an_option(tmp_path):
    assert Jsonl(_write(tmp_path, b'{"problem": "p"}'), required=("problem",))[0]["problem"] == "p"


def test_tfds_without_tensorflow(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=3):
        source = sources.read("tfds:ag_news_subset/test", ("title",))
        assert len(source) == 3
        row = source[2]
        assert isinstance(row["description"], str)
        assert row["label"].dtype == np.int64
        with pytest.raises(IndexError):
            source[3]
        assert source.where(2) == "tfds:ag_news_subset/test[2]"
        texts = text.read("tfds:ag_news_subset/test", "title")
        assert texts == [source[i]["title"] for i in range(3)]
        with pytest.raises(ValueError, match=r"ag_news_subset/test: has no field 'label' of text"):
            sources.read("tfds:ag_news_subset/test", ("label",))
    assert "tensorflow" not in sys.modules


def test_tfds_errors_name_the_cure(tmp_path):
    with pytest.raises(ValueError, match=r"'no_such_set'.*not found.*tfds build no_such_set"):
        sources.read("tfds:no_such_set/train", ())
    with pytest.raises(ValueError, match=f"array_record --data_dir={re.escape(str(tmp_path))}`"):
        sources.Tfds("mnist", "train", data_dir=tmp_path)
    for path in ("tfds:", "tfds:gsm8k", "tfds:gsm8k/"):
        with pytest.raises(ValueError, match=f"{path}: name data set and split"):
            sources.read(path, ())
