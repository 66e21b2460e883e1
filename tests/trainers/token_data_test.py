import numpy as np
import pytest

from jaxlab.config import ConfigError, build
from jaxlab.data.tasks.names import TOKEN_TASKS
from jaxlab.data.tasks.stack import Stacks
from jaxlab.trainers.token_data import Corpus, Mixture, Opened, TokenData

MQAR = {"task": "mqar", "options": {"vocab_size": 32, "length": 16, "num_pairs": 2}}


def _open(config, tmp_path):
    return Opened(build(TokenData, config, "data"), tmp_path, None)


@pytest.mark.parametrize("task", TOKEN_TASKS)
def test_every_task_opens_with_its_defaults(task, tmp_path):
    source = _open({"task": task}, tmp_path).source({})
    assert source.batch([0], "train").tokens.shape == (1, source.length)
    assert source.num_examples("train") == 2**40


def test_options_reach_the_task(tmp_path):
    opened = _open({"task": "stacks", "options": {"length": 30}, "num_train": 10}, tmp_path)
    source = opened.source({"num_stacks": 2})
    assert source.task == Stacks(num_stacks=2, length=30)
    assert source.num_examples("train") == 10
    assert opened.tokenizer is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"num_pair": 2}}, r"data.options.num_pair is not a known key; did you mean"),
        ({"options": {"length": 15}}, r"data.options: length must be even"),
        ({"options": {"length": "long"}}, r"data.options.length: expected int"),
        ({"task": "mqr"}, r"data.task: expected"),
        ({"num_train": 0}, r"data: num_train must be at least 1"),
        ({"mixture": [{"options": {"lenth": 16}}]}, r"mixture\[0\].options.lenth .* 'length'"),
        ({"mixture": [{"weight": 0.0}]}, r"weight must be above 0"),
        ({"task": "text", "options": {"lenght": 8}}, r"data.options.lenght .* 'length'"),
        (
            {"task": "text", "options": {}, "mixture": [{"options": {"field": "x"}}]},
            r"mixture\[0\].options.field: only length and documents can be changed",
        ),
    ],
)
def test_bad_data_is_refused_before_anything_is_read(change, message):
    with pytest.raises(ConfigError, match=message):
        build(TokenData, MQAR | change, "data")


def test_a_mixture_gives_each_part_its_share(tmp_path):
    parts = [{"options": {"length": 8}, "weight": 3.0}, {"options": {"length": 32}}]
    mixture = _open(MQAR | {"mixture": parts}, tmp_path).training()
    lengths = [mixture.at(step, seed=0).length for step in range(2000)]
    # Within 4 standard deviations of a binomial of 3/4.
    assert abs(lengths.count(8) - 1500) < 4 * np.sqrt(2000 * 3 / 16)
    assert lengths.count(8) + lengths.count(32) == 2000
    # A function of step and seed.
    assert [mixture.at(step, seed=0).length for step in range(50)] == lengths[:50]
    assert [mixture.at(step, seed=1).length for step in range(50)] != lengths[:50]


def test_one_source_is_no_mixture(tmp_path):
    source = _open(MQAR, tmp_path).source({})
    assert Mixture([source], [1.0]).at(7, 0) is source


def test_a_text_is_cut_to_the_lengths_that_are_asked_for(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("some words on a line\n" * 50)
    options = {"train": str(path), "tokenizer": "char", "length": 16}
    opened = _open({"task": "text", "options": options}, tmp_path)
    assert opened.source({}).batch([0], "train").tokens.shape == (1, 16)
    assert opened.source({"length": 32}).batch([0], "test").tokens.shape == (1, 32)
    assert opened.tokenizer.vocab_size == opened.source({}).vocab_size
    assert (tmp_path / "tokens").is_dir()
    with pytest.raises(ValueError, match=r"text.txt: .* too few for a row of length 4096"):
        opened.source({"length": 4096})


# Of 5, 1, 12 and 4 tokens; a microbatch of 4 reads 4 and says the one behind them too.
DOCUMENTS = [np.arange(n) + 20 * i for i, n in enumerate((5, 1, 12, 4))]


def test_long_documents_are_an_error_split_or_dropped_and_counted(caplog):
    with pytest.raises(ConfigError, match=r"file: document 3 has 12 tokens, .* \(1 such doc"):
        Corpus(DOCUMENTS, 4, "error", "file")
    assert not caplog.records
    dropped = Corpus(DOCUMENTS, 4, "drop", "file")
    assert "file: 1 of 4 documents have more than 5 tokens and are left out" in caplog.text
    # The long one, and the one of a single token.
    assert (dropped.count, dropped.left_out) == (2, 2)
    rows = [dropped.at(i, 0) for i in range(2)]
    assert [row.tokens.tolist() for row in rows] == [[0, 1, 2, 3], [60, 61, 62]]
    assert [row.targets.tolist() for row in rows] == [[1, 2, 3, 4], [61, 62, 63]]
    assert all(row.mask.all() for row in rows)
    split = Corpus(DOCUMENTS, 4, "split", "file")
    assert "are split into several" in caplog.text
    assert (split.count, split.left_out) == (5, 1)
    found = [[*split.at(i, 0).tokens, split.at(i, 0).targets[-1]] for i in range(1, 4)]
    assert [len(piece) for piece in found] == [5, 5, 2]
    assert np.concatenate(found).tolist() == list(range(40, 52))
    assert Corpus(DOCUMENTS, 11, "error", "file").left_out == 1
    with pytest.raises(ConfigError, match="of 1 documents none has from 2 to 5 tokens"):
        Corpus(DOCUMENTS[1:2], 4, "error", "file")


def test_documents_of_balanced_training(tmp_path):
    parts = [{"options": {"length": 8}, "weight": 3.0}, {"options": {"length": 32}}]
    opened = _open(MQAR | {"mixture": parts, "num_train": 100}, tmp_path)
    drawn = opened.documents(32, "error")
    assert (drawn.count, drawn.left_out) == (100, 0)
    rows = [drawn.at(i, 0) for i in range(100)]
    lengths = [len(row.tokens) for row in rows]
    # Each document has a part of its own, in shares of 3 to 1: within 4 standard deviations.
    assert set(lengths) == {8, 32}
    assert abs(lengths.count(8) - 75) < 4 * np.sqrt(100 * 3 / 16)
    np.testing.assert_array_equal(drawn.at(7, 0).tokens, rows[7].tokens)
    with pytest.raises(ConfigError, match="rows of 32 tokens are longer than a microbatch of 31"):
        opened.documents(31, "error")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "{word}"}}\n' for word in ("abc", "de", "abcdefgh")))
    options = {"train": str(path), "valid": str(path), "tokenizer": "char", "length": 4}
    text = {"task": "text", "options": options | {"documents": True}}
    found = _open(text, tmp_path).documents(8, "error")
    assert [len(found.at(i, 0).tokens) for i in range(found.count)] == [3, 2, 8]
    with pytest.raises(ConfigError, match="the documents of a text have their own lengths"):
        _open(text | {"mixture": parts}, tmp_path).documents(8, "error")
