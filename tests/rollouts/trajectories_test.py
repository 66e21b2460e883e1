import json

import pytest

from jaxlab.agents import heavy_files
from jaxlab.rollouts import trajectories
from jaxlab.rollouts.trajectories import Store, Text

ASKED = "3 b =", "4 b ="
TEXTS = {0: Text("7 # 7", True, 4, -0.5, 1.0), 1: Text("7 7", False, 3, None, 0.0)}


@pytest.fixture
def path(tmp_path):
    """A file of one question with two texts, and of one with one."""
    store = Store(tmp_path / trajectories.NAME)
    store.add(("train", 0), ASKED[0], TEXTS)
    store.add(("test", 5), ASKED[1], {0: Text("x\n\u2028|")})
    store.close()
    return tmp_path / trajectories.NAME


def test_what_is_written_is_read(path):
    found = trajectories.read(path)
    assert list(found) == [("train", 0), ("test", 5)]
    assert found["train", 0] == trajectories.Question(ASKED[0], TEXTS)
    assert found["test", 5].texts[0].text == "x\n\u2028|"
    assert trajectories.read(path.parent) == found


def test_the_door_of_heavy_thinking_reads_the_same_file(path):
    saved = heavy_files.read(path, "train/0")
    assert saved.question == ASKED[0]
    assert [str(text) for text in saved.thinkers] == ["7 # 7", "7 7"]
    assert [text.finished for text in saved.thinkers] == [True, False]
    assert [text.tokens for text in saved.thinkers] == [4, 3]


def test_a_file_that_was_cut_at_any_byte_goes_on_to_the_same_file(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        store = Store(path)
        store.add(("train", 0), ASKED[0], TEXTS)
        store.add(("test", 5), ASKED[1], {0: Text("x\n\u2028|")})
        store.close()
        assert path.read_bytes() == whole


def test_samples_that_are_there_stay_as_they_are(path):
    store = Store(path)
    store.add(("train", 0), ASKED[0], {1: Text("other"), 2: Text("new")})
    assert store.texts(("train", 0), ASKED[0])[1] == TEXTS[1]
    assert store.texts(("train", 0), ASKED[0])[2].text == "new"
    assert store.texts(("train", 9), ASKED[0]) == {}
    with pytest.raises(ValueError, match="train/0 is '3 b =', not '4 b =': the data have changed"):
        store.texts(("train", 0), ASKED[1])
    store.close()
    assert trajectories.read(path)["train", 0].texts[1] == TEXTS[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "valid"}, "split is 'valid', neither"),
        ({"row": -1}, "row must be a whole number from 0, not -1"),
        ({"row": None}, "row must be a whole number from 0, not None"),
        ({"row": True}, "row must be a number, not True"),
        ({"sample": 1.5}, "sample must be a number"),
        ({"reward": float("nan")}, "reward must be a number, not nan"),
        ({"text": 3}, "field 'text' must be a string"),
        ({"question": "9 b ="}, "train/0 has another question in an earlier line"),
        ({"sample": 1}, "sample 1 of train/0 stands there twice"),
    ],
)
def test_lines_that_are_none_are_named(path, change, message):
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps(first | {"sample": 7} | change) + "\n")
    with pytest.raises(ValueError, match=rf"thinkers.jsonl:4: {message}"):
        trajectories.read(path)
    with pytest.raises(ValueError, match=r"thinkers\.jsonl:4: "):
        Store(path)


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="trainer 'think'"):
        trajectories.read(tmp_path)
    (tmp_path / trajectories.NAME).write_text("\n")
    with pytest.raises(ValueError, match="the file is empty: run the job"):
        trajectories.read(tmp_path)
