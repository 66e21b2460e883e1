import json

import numpy as np
import pytest

from jaxlab.data import text as text_lib
from jaxlab.data import token_cache
from jaxlab.data.text import Text
from jaxlab.text.tokenizer import train_bpe, train_char

DOCUMENTS = [
    "Ann has three shells.\n",
    "naïve 🐚 日本\n\nzwei\tdrei",
    "x",
    "She finds <|endoftext|>!",
]


def _jsonl(path, documents, field="text"):
    path.write_text("".join(json.dumps({field: d}) + "\n" for d in documents), encoding="utf-8")
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    """By kind of tokenizer."""

    def load(kind, **more):
        train = _jsonl(tmp_path / "train.jsonl", DOCUMENTS * 3)
        valid = _jsonl(tmp_path / "valid.jsonl", DOCUMENTS)
        return text_lib.load(
            Text(train, valid, tokenizer=kind, vocab_size=300, **more), tmp_path / "cache"
        )

    return load


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_stream_holds_every_document_and_ends_it(corpus, kind):
    loaded = corpus(kind)
    part, tok = loaded.parts["test"], loaded.tokenizer
    assert tok.decode_batch(part.documents()) == DOCUMENTS
    assert [ids[-1] for ids in part.documents()] == [tok.eos_id] * 4
    # Written out, the end of sequence is text like any other.
    assert (part.ids == tok.eos_id).sum() == 4
    assert part.num_bytes == sum(len(d.encode()) for d in DOCUMENTS)
    assert loaded.rows(8, False).tokens_per_byte("test") == len(part) / part.num_bytes


@pytest.mark.parametrize("length", [1, 7, 16])
def test_a_stream_is_cut_without_loss(corpus, length):
    loaded = corpus("char")
    rows = loaded.rows(length, documents=False)
    stream = np.asarray(loaded.parts["train"].ids)
    count = rows.num_examples("train")
    assert count == (len(stream) - 1) // length
    batch = rows.batch(range(count), "train")
    np.testing.assert_array_equal(batch.tokens.ravel(), stream[: count * length])
    np.testing.assert_array_equal(batch.targets.ravel(), stream[1 : count * length + 1])
    assert batch.mask.all()
    assert (batch.tokens.dtype, batch.targets.dtype) == (np.int32, np.int32)
    assert batch.segment_ids is None


@pytest.mark.parametrize("length", [10, 64])
def test_packed_documents_come_back(corpus, length):
    loaded = corpus("char")
    rows = loaded.rows(length, documents=True)
    batch = rows.batch(range(rows.num_examples("test")), "test")
    assert batch.tokens.shape[1] == length
    pieces = []
    for tokens, targets, mask, segments in zip(*batch, strict=True):
        for segment in range(1, segments.max() + 1):
            (here,) = np.nonzero(segments == segment)
            # Each token but the first of its document is the target of the one before.
            inside = here[mask[here]]
            assert set(here[:-1]) <= set(inside)
            np.testing.assert_array_equal(targets[here[:-1]], tokens[here[1:]])
            pieces.append([*tokens[here], *targets[inside[len(here) - 1 :]]])
    expected = [
        list(ids[i : i + length + 1])
        for ids in loaded.parts["test"].documents()
        for i in range(0, len(ids), length + 1)
    ]
    # A piece of one token asks for nothing; at the end of a row it is not read either.
    pieces = sorted(piece for piece in pieces if len(piece) > 1)
    assert pieces == sorted(piece for piece in expected if len(piece) > 1)


def test_one_file_is_split_at_a_line(tmp_path):
    path = tmp_path / "text.txt"
    lines = [f"line {i}\n" for i in range(100)]
    path.write_text("".join(lines))
    loaded = text_lib.load(Text(str(path), tokenizer="char", held_out=0.1), tmp_path)
    train, test = (loaded.tokenizer.decode(loaded.parts[s].ids) for s in ("train", "test"))
    assert train + test == "".join(lines)
    assert test.startswith("line ")
    assert 0.1 <= len(test) / len(train + test) < 0.12


LINE_ENDS = ("\n", "\r\n", "\r")
WORDS = ("She sells sea shells by the sea shore. " * 520)[:20_000]
TEXTS = {
    "one newline far before": WORDS[:1_999] + "\n" + WORDS[2_000:],
    "one newline far behind": WORDS[:19_900] + "\n" + WORDS[19_901:],
    "a newline at the end": WORDS[:-1] + "\n",
    "no newline": WORDS,
    "no space either": "x" * 20_000,
    "no ASCII": "\u6d77\u8fb9\u7684\u8d1d\u58f3" * 4_000,
    "newlines alone": "\n" * 20_000,
    "blank lines": ("shells" + "\n" * 94) * 200,
} | {
    f"{width} characters a line, {end!r}": (WORDS[:width] + end) * (20_000 // (width + len(end)))
    for width in (1, 30, 300, 3_000)
    for end in LINE_ENDS
}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", TEXTS)
def test_the_held_out_share_is_near_what_was_asked_for(name, share):
    text = TEXTS[name]
    (train,), (test,) = text_lib._hold_out([text], share, name)
    assert train + test == text
    assert len(test) == pytest.approx(share * len(text), rel=0.11)
    assert not (train.endswith("\r") and test.startswith("\n"))


def test_a_line_is_cut_only_where_none_ends_nearby():
    (train,), (test,) = text_lib._hold_out([TEXTS["30 characters a line, '\\r\\n'"]], 0.05, "t")
    assert train.endswith("\r\n")
    (train,), (test,) = text_lib._hold_out([TEXTS["no newline"]], 0.05, "t")
    assert train.endswith(" ")
    assert len(test) >= 1_000


@pytest.mark.parametrize(
    "lengths",
    [[10, 10], [10] * 10 + [5_000], [5_000] + [10] * 10, [1] * 7, [900, 3, 90, 2_000, 4, 50]],
)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_documents_of_any_size_give_the_share(lengths, share):
    documents = [WORDS[:length] for length in lengths]
    if share * sum(lengths) < 1:
        with pytest.raises(ValueError, match="too short to hold out a share"):
            text_lib._hold_out(documents, share, "t")
        return
    train, test = text_lib._hold_out(documents, share, "t")
    assert "".join(train + test) == "".join(documents)
    assert all(train + test)
    held = sum(map(len, test))
    assert share * sum(lengths) / 2 <= held <= 2 * share * sum(lengths) + 1


def test_documents_are_held_out_whole(tmp_path):
    path = _jsonl(tmp_path / "rows.jsonl", [f"document {i}" for i in range(20)])
    loaded = text_lib.load(Text(path, tokenizer="char", held_out=0.1), tmp_path)
    assert loaded.tokenizer.decode_batch(loaded.parts["test"].documents()) == [
        "document 18",
        "document 19",
    ]


def test_the_models_own_tokenizer_comes_before_a_trained_one(tmp_path):
    path = _jsonl(tmp_path / "rows.jsonl", DOCUMENTS)
    own = train_char(DOCUMENTS)
    assert text_lib.load(Text(path), tmp_path, own).tokenizer is own
    trained = text_lib.load(Text(path, tokenizer="bpe", vocab_size=260), tmp_path, own)
    assert trained.tokenizer.vocab_size <= 260
    train_bpe(DOCUMENTS, 258).save(tmp_path / "named")
    named = text_lib.load(Text(path, tokenizer=str(tmp_path / "named")), tmp_path, own)
    assert named.tokenizer.vocab_size == 258


def _entries(cache):
    return sorted(path.name for path in cache.iterdir())


def test_what_was_tokenised_is_not_tokenised_again(tmp_path, monkeypatch):
    path, cache = tmp_path / "text.txt", tmp_path / "cache"
    path.write_text("one two three\n" * 20)
    config = Text(str(path), vocab_size=260)
    first = text_lib.load(config, cache)
    names = _entries(cache)
    assert len(names) == 3  # two parts and a tokenizer
    monkeypatch.setattr(token_cache, "pieces", None)
    monkeypatch.setattr(text_lib, "train_bpe", None)
    again = text_lib.load(config, cache)
    for split in ("train", "test"):
        np.testing.assert_array_equal(first.parts[split].ids, again.parts[split].ids)
        assert first.parts[split].num_bytes == again.parts[split].num_bytes
    monkeypatch.undo()
    # Other content is another entry, even of the same length and name.
    path.write_text("one two thref\n" * 20)
    text_lib.load(config, cache)
    assert len(_entries(cache)) == 6


def test_a_failure_leaves_no_entry(tmp_path, monkeypatch):
    path, cache = tmp_path / "text.txt", tmp_path / "cache"
    path.write_text("one two three\n" * 20)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        text_lib.load(Text(str(path), tokenizer="char"), cache)
    assert _entries(cache) == []


def test_another_process_may_be_faster(tmp_path):
    """What it wrote is taken, and ours is dropped."""
    folder = tmp_path / "entry"

    def write(scratch):
        (scratch / "who").write_text("us")
        folder.mkdir()
        (folder / "who").write_text("they")

    assert token_cache._entry(folder, write) == folder
    assert (folder / "who").read_text() == "they"
    assert _entries(tmp_path) == ["entry"]


def test_long_documents_are_encoded_in_pieces(monkeypatch):
    monkeypatch.setattr(token_cache, "PIECE", 10)
    for document in ("ab\ncd\nef\ngh\nij\nkl", "x" * 35, "x" * 12 + "\n" + "y" * 9, "", "\n" * 25):
        pieces = list(token_cache.pieces(document))
        assert "".join(pieces) == document
        assert max(map(len, pieces)) <= 10
    assert list(token_cache.pieces("ab\ncd\nef\ngh\nij\nkl")) == ["ab\ncd\nef\n", "gh\nij\nkl"]


def test_a_large_vocabulary_takes_wider_ids(tmp_path):
    for size, dtype in ((1000, np.uint16), (66_000, np.uint32)):
        document = "".join(map(chr, range(0x10000, 0x10000 + size)))
        tok = train_char([document])
        part = token_cache.tokenise([document], tok, tmp_path, "text")
        assert part.ids.dtype == dtype
        assert tok.decode(part.ids) == document


BAD = {
    "bad.txt": (b"fine\nalso fine\nnot \xff fine\n", r"bad.txt:3: not UTF-8 .*byte 19 of the file"),
    "latin.txt": ("naïve\n".encode("latin-1"), r"latin.txt:1: not UTF-8"),
    "empty.txt": (b"", r"empty.txt: there is no text in it"),
    "bom.txt": (b"\xef\xbb\xbf", r"bom.txt: there is no text"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b\n', r"cut.jsonl:2: malformed JSON"),
    "list.jsonl": (b'["a"]\n', r"list.jsonl:1: expected a JSON object, got list"),
    "field.jsonl": (
        b'{"text": "a"}\n\n{"body": "b"}\n',
        r"field.jsonl:3: missing field 'text'.*body",
    ),
    "number.jsonl": (b'{"text": 3}\n', r"number.jsonl:1: field 'text' must be a string, got int"),
    "bytes.jsonl": (b'{"text": "\xff"}\n', r"bytes.jsonl:1: not UTF-8"),
    "half.jsonl": (
        b'{"text": "a"}\n{"text": "b\\ud800"}\n',
        r"half.jsonl:2: .*surrogate at character 1",
    ),
    "blank.jsonl": (b'{"text": ""}\n', r"blank.jsonl: there is no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_file_and_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text_lib.load(Text(str(tmp_path / name), tokenizer="char"), tmp_path / "cache")


def test_absent_files(tmp_path):
    for name in ("no.txt", "no.jsonl"):
        with pytest.raises(FileNotFoundError, match=name):
            text_lib.load(Text(str(tmp_path / name)), tmp_path)
    with pytest.raises(ValueError, match="train: name a text file"):
        text_lib.load(Text(), tmp_path)


def test_too_short_a_text(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a line\n" * 4)
    loaded = text_lib.load(Text(str(path), tokenizer="char", held_out=0.2), tmp_path)
    with pytest.raises(ValueError, match=r"short.txt: 8 tokens for test, too few .* length 8"):
        loaded.rows(8, documents=False).num_examples("test")
    path.write_text("a single line\n")
    with pytest.raises(ValueError, match=r"short.txt: 14 characters are too short to hold out a"):
        text_lib.load(Text(str(path)), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"held_out": 0.0}, r"held_out must be in \(0, 1\)"),
        ({"held_out": 1.0}, r"held_out must be in \(0, 1\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Text("x.txt", **settings)


@pytest.mark.parametrize(
    ("name", "kind"), [("tinyshakespeare", "char"), ("wikitext2_valid", "bpe")]
)
def test_real_text_comes_back(real_data, tmp_path, name, kind):
    path = real_data(f"text/{name}.txt")
    loaded = text_lib.load(Text(str(path), tokenizer=kind, vocab_size=512), tmp_path)
    parts = [loaded.tokenizer.decode(loaded.parts[s].ids) for s in ("train", "test")]
    assert "".join(parts) == path.read_text(encoding="utf-8")
    if kind == "char":
        # 65 characters, and one id for each of them but the two ends.
        assert loaded.tokenizer.vocab_size == 66
        assert sum(map(len, loaded.parts.values())) == 1_115_394 + 2
    else:
        assert loaded.rows(64, False).tokens_per_byte("test") < 0.55
