"""Frozen encoders of short texts: what a skill library compares queries and descriptions by.

An encoder is a callable with a name. Its name says everything that its vectors depend on, since a
library that was built with one cannot be searched with another.
"""

import collections
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

_WORD = re.compile(r"[^\W_]+")
# Longer texts say no more about when a skill is useful, and must not cost more.
_MOST_WORDS = 512


class Encoder(Protocol):
    """Texts -> rows of length 1 [N, D], float32; a text without known words is a row of zeros."""

    name: str
    dimensions: int

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, at most 512 of them."""
    return _WORD.findall(text[: _MOST_WORDS * 16].lower())[:_MOST_WORDS]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; rows of zeros are left."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).astype(np.float32)


class HashedProjection:
    """Bags of words, projected at random: similar where words are shared.

    Every word has a fixed Gaussian vector, drawn from its own hash, so that nothing is fitted,
    nothing is downloaded, and all machines agree. Of two texts with no word in common the cosine
    is 0 up to 1 / sqrt(dimensions).
    """

    def __init__(self, dimensions: int = 128, seed: int = 0) -> None:
        self.name = f"hashed projection of {dimensions}, seed {seed}"
        self.dimensions, self._seed = dimensions, seed
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode."""
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            # Sorted, so that the order of words does not change what is rounded away.
            for word in sorted(words(text)):
                row += self._vector(word)
        return unit(rows)

    def _vector(self, word: str) -> np.ndarray:
        vector = self._known.get(word)
        if vector is None:
            digest = hashlib.blake2b(f"{self._seed} {word}".encode("utf-8", "replace")).digest()
            bits = np.frombuffer(digest[:16], np.uint64)
            drawn = np.random.Generator(np.random.Philox(key=bits)).standard_normal(self.dimensions)
            vector = (drawn / np.sqrt(self.dimensions)).astype(np.float32)
            # Models write what they like: the table of words must not grow without end.
            if len(self._known) < 100_000:
                self._known[word] = vector
        return vector


class TfIdf:
    """Term frequency times inverse document frequency over a fixed corpus.

    idf = ln((1 + N) / (1 + n)) + 1 for a word in n of N documents; words outside the corpus count
    for nothing.
    """

    def __init__(self, corpus: Iterable[str]) -> None:
        """Raises: ValueError: if the corpus has no words."""
        documents = [set(words(text)) for text in corpus]
        counts = collections.Counter(word for found in documents for word in found)
        if not counts:
            raise ValueError("TF-IDF needs a corpus with words in it")
        vocabulary = sorted(counts)
        self._column = {word: i for i, word in enumerate(vocabulary)}
        n = np.array([counts[word] for word in vocabulary], np.float32)
        self._idf = np.log((1 + len(documents)) / (1 + n)) + 1
        self.dimensions = len(vocabulary)
        told = "\n".join(f"{word} {counts[word]}" for word in vocabulary)
        digest = hashlib.sha256(f"{len(documents)}\n{told}".encode()).hexdigest()[:16]
        self.name = f"tf-idf of {len(documents)} documents, {digest}"

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode."""
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in words(text):
                column = self._column.get(word)
                if column is not None:
                    row[column] += self._idf[column]
        return unit(rows)
