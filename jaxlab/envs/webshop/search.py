"""A search index: BM25 as rank_bm25 computes it, looked up by word instead of by product."""

import collections
import functools
import re
from collections.abc import Sequence

import numpy as np

MISSING = "WebShop's search needs rank_bm25: pip install 'jaxlab[webshop]'"
_WORD = re.compile(r"[a-z0-9]+")
# Words of a query that count; a model may write any number.
_MOST_WORDS = 64


def words(text: str) -> list[str]:
    """The runs of letters and digits of a text, in lower case."""
    return _WORD.findall(text.lower())


class Index:
    """Texts, searched by BM25 (k1 = 1.5, b = 0.75; negative idf raised as `BM25Okapi` does).

    rank_bm25 asks every text for every word of a query. The same numbers, to the last bit, come
    from a list of texts for each word, whose summands are computed once.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Index texts.

        Raises:
            ModuleNotFoundError: rank_bm25 is not installed.
            ValueError: no text has a word.
        """
        try:
            from rank_bm25 import BM25Okapi
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{MISSING} ({error})") from None
        split = [words(text) for text in texts]
        if not any(split):
            raise ValueError("there is no text with words in it to search")
        bm25 = BM25Okapi(split)
        self._size = len(split)
        found: dict[str, tuple[list[int], list[int]]] = collections.defaultdict(lambda: ([], []))
        for i, frequencies in enumerate(bm25.doc_freqs):
            for word, count in frequencies.items():
                ids, counts = found[word]
                ids.append(i)
                counts.append(count)
        lengths = np.array(bm25.doc_len)
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, (ids, counts) in found.items():
            at, n = np.array(ids, np.int32), np.array(counts)
            norm = n + bm25.k1 * (1 - bm25.b + bm25.b * lengths[at] / bm25.avgdl)
            self._postings[word] = at, bm25.idf[word] * (n * (bm25.k1 + 1) / norm)
        self.search = functools.lru_cache(maxsize=4096)(self._search)

    def scores(self, query: str) -> np.ndarray:
        """BM25 of every text [N], float64; a word that is twice in the query counts twice."""
        total = np.zeros(self._size)
        for word in words(query)[:_MOST_WORDS]:
            if word in self._postings:
                ids, summands = self._postings[word]
                total[ids] += summands
        return total

    def _search(self, query: str, most: int) -> tuple[int, ...]:
        """Numbers of at most `most` texts that have a word of the query, the best first.

        Of equally good ones the first comes first.
        """
        known = [w for w in dict.fromkeys(words(query)[:_MOST_WORDS]) if w in self._postings]
        if not known:
            return ()
        scores = self.scores(query)
        hits = np.zeros(self._size, bool)
        for word in known:
            hits[self._postings[word][0]] = True
        found = np.flatnonzero(hits)
        if len(found) > most:
            least = np.partition(scores[found], len(found) - most)[len(found) - most]
            found = found[scores[found] >= least]
        order = np.argsort(-scores[found], kind="stable")[:most]
        return tuple(found[order].tolist())
