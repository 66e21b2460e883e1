"""Rows of tokens cut from local text files, for pre-training. No jax.

A .jsonl file holds a document per line in one of its fields; any other file is one document. Every
document is followed by the tokenizer's end of sequence, where it has one, and begins as its
post-processor begins a text.

B: rows, T: time.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxlab import ranges
from jaxlab.data import sources, token_cache
from jaxlab.data.packing import Packed, pack
from jaxlab.data.tasks.tokens import NO_TARGET, TokenBatch
from jaxlab.data.tasks.types import Split
from jaxlab.data.token_cache import Tokenised
from jaxlab.text.tokenizer import Tokenizer, train_bpe, train_char
from jaxlab.text.tokenizer import load as load_tokenizer

TRAINED = ("bpe", "char")

# To begin with a line, a held-out part may be a tenth larger or smaller than was asked for; a short
# one half, if these are not more characters than this.
MAX_SHORT = 20


@dataclass(frozen=True)
class Text:
    """Where a text lies and how it becomes rows.

    Attributes:
        train: a .jsonl file, or a text file.
        valid: the same for validation; None holds out the end of `train`.
        held_out: share of `train` to hold out, from its end: whole documents (jsonl) or lines where
            these come near the share, otherwise cut at a word or a character.
        field: of a jsonl row.
        tokenizer: a directory with tokenizer.json; "bpe" or "char" trains one, of the training text
            for bpe, of all characters of both files for char. None: the model's own, or else bpe.
        vocab_size: largest vocabulary of a trained bpe.
        length: T.
        documents: pack whole documents into rows and keep them apart by segment ids, instead of
            cutting one long stream. A document longer than a row then counts as several.
    """

    train: str | None = None
    valid: str | None = None
    held_out: float = 0.05
    field: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 1024
    length: int = 512
    documents: bool = False

    def __post_init__(self) -> None:
        """Check that sizes are positive and the share to hold out is one."""
        ranges.check_counts(self, "length", "vocab_size")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be in (0, 1), not {self.held_out}")


@dataclass(frozen=True)
class Corpus:
    """Both parts of a text, as tokens.

    Attributes:
        tokenizer: that made them.
        parts: the tokens of each split.
    """

    tokenizer: Tokenizer
    parts: dict[Split, Tokenised]

    def rows(self, length: int, documents: bool) -> "TextRows":
        """The text cut or packed into rows of `length` tokens; nothing is read again."""
        return TextRows(self, length, documents)


@dataclass(frozen=True)
class TextRows:
    """A corpus as rows, with the methods of `tasks.tokens.TokenSource`.

    As a stream, row i reads the tokens [i T, (i + 1) T) and says the tokens one place on: every
    token but the first is a target once, and what is left at the end is dropped. As documents, the
    first token of each is no target.
    """

    corpus: Corpus
    length: int
    documents: bool

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return self.corpus.tokenizer.vocab_size

    def num_examples(self, split: Split) -> int:
        """Rows of `split`.

        Raises:
            ValueError: the text is too short for one.
        """
        part = self.corpus.parts[split]
        rows = len(self._packed[split].tokens) if self.documents else (len(part) - 1) // self.length
        if rows < 1:
            raise ValueError(
                f"{part.name}: {len(part)} tokens for {split}, too few for a row of length "
                f"{self.length} (and the token after it); give more text, a smaller length or "
                "another held_out"
            )
        return rows

    def batch(self, ids: Sequence[int] | np.ndarray, split: Split) -> TokenBatch:
        """The rows of these ids."""
        ids = np.asarray(ids, np.int64)
        if self.documents:
            packed = self._packed[split]
            tokens, mask = packed.tokens[ids], packed.mask[ids, 1:]
            targets = np.where(mask, tokens[:, 1:], NO_TARGET)
            return TokenBatch(tokens[:, :-1], targets, mask, packed.segment_ids[ids, :-1])
        stream, t = self.corpus.parts[split].ids, self.length
        rows = np.stack([stream[i * t : (i + 1) * t + 1] for i in ids]).astype(np.int32)
        return TokenBatch(rows[:, :-1], rows[:, 1:], np.ones((len(rows), t), bool))

    def tokens_per_byte(self, split: Split) -> float:
        """Tokens of the whole part over its bytes in UTF-8."""
        part = self.corpus.parts[split]
        return len(part) / part.num_bytes

    @cached_property
    def _packed(self) -> dict[Split, Packed]:
        # A row of T + 1 tokens is T to read and, one place on, T to say.
        pad = self.corpus.tokenizer.pad_id
        return {
            split: pack(part.documents(), self.length + 1, pad)
            for split, part in self.corpus.parts.items()
        }


def load(text: Text, cache: Path, tokenizer: Tokenizer | None = None) -> Corpus:
    """Read, tokenise and split a text; what was tokenised before is taken from the cache.

    Args:
        text: files and tokenizer.
        cache: directory for tokens and trained tokenizers, by content: a changed file is
            tokenised anew, and several runs may share one.
        tokenizer: the model's own, where it has one.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is not UTF-8, holds no text, or a row of jsonl is malformed: names file
            and line.
    """
    if text.train is None:
        raise ValueError("train: name a text file or a .jsonl file of documents")
    parts: dict[Split, list[str]]
    documents = read(text.train, text.field)
    if text.valid is None:
        train, test = _hold_out(documents, text.held_out, text.train)
        parts = {"train": train, "test": test}
    else:
        parts = {"train": documents, "test": read(text.valid, text.field)}
    tok = _tokenizer(text, cache, parts, tokenizer)
    names = {"train": text.train, "test": text.valid or text.train}
    return Corpus(
        tok,
        {
            split: token_cache.tokenise(documents, tok, cache, names[split])
            for split, documents in parts.items()
        },
    )


def read(path: str | Path, field: str) -> list[str]:
    """The documents of a file or of a tfds split (`sources.read`), of which none is empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, a row is malformed, or there is no text; names file and line.
    """
    if str(path).startswith(sources.TFDS) or Path(path).suffix == ".jsonl":
        rows = sources.read(path, (field,))
        documents = [text for i in range(len(rows)) if (text := rows[i][field])]
    else:
        documents = [document for document in [_decoded(Path(path))] if document]
    if not documents:
        raise ValueError(f"{path}: there is no text in it")
    return documents


def _decoded(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a text or .jsonl file")
    content = path.read_bytes()
    try:
        # A byte order mark is no part of the text.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 ({error.reason} at byte {error.start} of the file)"
        ) from None


def _hold_out(documents: list[str], share: float, name: str) -> tuple[list[str], list[str]]:
    """The beginning and the end of a text, both with something in them.

    Raises:
        ValueError: the share, or what it leaves, is less than a character.
    """
    total = sum(map(len, documents))
    wanted = share * total
    if wanted < 1 or total - wanted < 1:
        raise ValueError(
            f"{name}: {total} characters are too short to hold out a share of {share}; name a file "
            "for valid, give more text, or bring held_out nearer to 0.5"
        )
    kept = len(documents) - max(1, math.ceil(share * len(documents)))
    # Whole documents, unless those at the end are much longer or shorter than the others.
    if kept and wanted / 2 <= sum(map(len, documents[kept:])) <= 2 * wanted:
        return documents[:kept], documents[kept:]
    rest = wanted
    for i in reversed(range(len(documents))):
        document = documents[i]
        if rest < len(document):
            at = _cut(document, len(document) - math.ceil(rest), wanted)
            train, test = [*documents[:i], document[:at]], [document[at:], *documents[i + 1 :]]
            return [part for part in train if part], [part for part in test if part]
        rest -= len(document)
    raise AssertionError("a share below 1 ends within the text")


def _cut(document: str, aim: int, wanted: float) -> int:
    """Where to cut near `aim`: behind a line before it or after it, else a word, else there.

    Args:
        document: its end is held out.
        aim: number of characters before the cut, if it can be anywhere.
        wanted: number of characters to hold out.
    """
    slack = int(max(wanted / 10, min(wanted / 2, MAX_SHORT)))
    places = [
        place + 1
        for separator in ("\n", "\r", " ")
        for place in (
            document.rfind(separator, max(0, aim - 1 - slack), aim),
            document.find(separator, aim, aim + slack),
        )
        if 0 <= place < len(document) - 1
    ]
    at = places[0] if places and 0 < aim < len(document) else aim
    # The two characters that end a line stay together.
    split = document[at - 1 : at] == "\r" and document[at : at + 1] == "\n"
    return at + 1 if split and at + 1 < len(document) else at


def _tokenizer(
    text: Text, cache: Path, parts: dict[Split, list[str]], own: Tokenizer | None
) -> Tokenizer:
    if text.tokenizer is None and own is not None:
        return own
    kind = text.tokenizer or "bpe"
    if kind not in TRAINED:
        return load_tokenizer(kind)
    if kind == "char":
        return train_char(parts["train"] + parts["test"])
    return token_cache.trained(
        parts["train"], f"bpe {text.vocab_size}", cache, lambda: _bpe(text, parts["train"])
    )


def _bpe(text: Text, documents: Iterable[str]) -> Tokenizer:
    return train_bpe(
        (piece for document in documents for piece in token_cache.pieces(document)),
        text.vocab_size,
    )
