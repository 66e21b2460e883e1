"""What a teacher says of fixed completions, in array files: the teacher itself need not be there.

A directory holds, of the K likeliest words at each of N completion tokens of R rows:

    words.npy, top.npy     int32 and float32 [N, K], the likeliest words, the likeliest first, and
                           their log-probabilities under the whole vocabulary
    tail.npy               float32 [N], log of the mass of all other words
    tokens.npy, token.npy  int32 and float32 [N], the completions and their log-probabilities
    begins.npy             int64 [R S + 1], where in N each completion begins, and the end
    keys.npy               uint64 [R], which row has the S completions r S to (r + 1) S - 1: `key`
    about.json             `About`
    manifest.json          size and CRC-32 of each file; and a tokenizer's files

Files are mapped into memory, and a step reads its own rows.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlab import config as config_lib
from jaxlab.losses.types import Needs, Teacher
from jaxlab.runtime import manifest
from jaxlab.text.tokenizer import Tokenizer

ABOUT = "about.json"
COMMAND = "python -m jaxlab.teacher_logprobs"
# The words' and the tail's mass is 1 up to the rounding of a sum over the vocabulary.
MASS_ERROR = 1e-3
# Tokens that are looked at together.
_LOOKED_AT = 1 << 16
_PER_TOKEN = {
    "tokens": np.int32,
    "token": np.float32,
    "words": np.int32,
    "top": np.float32,
    "tail": np.float32,
}
_PER_ROW = {"begins": np.int64, "keys": np.uint64}


class TeacherFileError(ValueError):
    """The file is of no use for what it is asked; one line that says why."""


@dataclasses.dataclass(frozen=True)
class About:
    """What was written.

    Attributes:
        model: `interop.fingerprint.fingerprint` of the teacher.
        model_name: where the teacher came from, for people.
        vocabulary: `vocabulary` of the tokenizer.
        vocab_size: V, words; ids are smaller.
        top_k: K.
        temperature: divided the teacher's logits.
        source: whose completions: the "data"'s, or the "teacher"'s own.
        samples: S, completions of a row.
        max_new_tokens: longer completions were cut off there.
        sampled_at: the temperature at which the teacher wrote them; None: the data's.
        rows: R.
        tokens: N.
        tail_mass: mean mass of the words that are not among the K.
    """

    model: str
    model_name: str
    vocabulary: str
    vocab_size: int
    top_k: int
    temperature: float
    source: Literal["data", "teacher"]
    samples: int
    max_new_tokens: int
    sampled_at: float | None = None
    rows: int = 0
    tokens: int = 0
    tail_mass: float = 0.0


class Said(NamedTuple):
    """A completion of T tokens and what the teacher says of each: see the module's docstring."""

    tokens: np.ndarray
    token: np.ndarray
    words: np.ndarray
    top: np.ndarray
    tail: np.ndarray


def key(prompt: Sequence[int], completion: Sequence[int] = ()) -> int:
    """A row's 64-bit name: a digest of its token ids, the same wherever the row stands.

    completion: the whole one, where the data brings it.
    """
    ids = np.array([len(prompt), *prompt, *completion], np.int64)
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")


def vocabulary(tokenizer: Tokenizer) -> str:
    """A digest of the words by id."""
    words = sorted((i, word) for word, i in tokenizer.backend.get_vocab().items())
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=8).hexdigest()


def view(rows: Sequence[Said], width: int, needs: Needs) -> Teacher:
    """What a method asks of the teacher, of B completions: arrays [B, width, ...], 0 behind an end.

    Of a set of K words, the `needs.top_k` likeliest; the others' mass goes to the tail.
    """

    def padded(arrays: list[np.ndarray]) -> Any:
        out = np.zeros((len(arrays), width, *arrays[0].shape[1:]), arrays[0].dtype)
        for row, array in zip(out, arrays, strict=True):
            row[: len(array)] = array[:width]
        return out

    found = Teacher(token=padded([row.token for row in rows]))
    if needs.teacher != "topk":
        return found
    k = needs.top_k
    found = found._replace(
        words=padded([row.words[:, :k] for row in rows]),
        top=padded([row.top[:, :k] for row in rows]),
    )
    if not needs.tail:
        return found
    rest = [np.concatenate([row.top[:, k:], row.tail[:, None]], axis=1) for row in rows]
    return found._replace(tail=padded([np.logaddexp.reduce(x, axis=1) for x in rest]))


class Writer:
    """Writes the files of a directory, a row after the other."""

    def __init__(self, directory: pathlib.Path, about: About):
        """Begin; `about` has no counts yet."""
        self._directory, self._about = directory, about
        shapes = {"words": (about.top_k,), "top": (about.top_k,)}
        self._arrays = {
            name: _Growing(directory / f"{name}.npy", dtype, shapes.get(name, ()))
            for name, dtype in (_PER_TOKEN | _PER_ROW).items()
        }
        self._arrays["begins"].add([0])
        self._keys: set[int] = set()
        self._tail_mass = 0.0

    def __contains__(self, row: int) -> bool:
        """Whether the row of this key has been written."""
        return row in self._keys

    def add(self, row: int, completions: Sequence[Said]) -> None:
        """Write a row by its key and its S completions."""
        self._keys.add(row)
        self._arrays["keys"].add(np.array([row], np.uint64))
        for one in completions:
            for name, values in one._asdict().items():
                self._arrays[name].add(values)
            self._arrays["begins"].add([self._arrays["tokens"].count])
            self._tail_mass += float(np.exp(one.tail.astype(np.float64)).sum())

    def close(self) -> None:
        """Write counts, about.json and the manifest."""
        for array in self._arrays.values():
            array.close()
        tokens = self._arrays["tokens"].count
        about = dataclasses.replace(
            self._about,
            rows=len(self._keys),
            tokens=tokens,
            tail_mass=self._tail_mass / max(1, tokens),
        )
        config_lib.save_json(about, self._directory / ABOUT)
        manifest.write(self._directory)


class _Growing:
    """A .npy file whose rows come one after the other; its header has their number at the end."""

    def __init__(self, path: pathlib.Path, dtype: Any, row: tuple[int, ...]):
        self._dtype, self._row, self.count = np.dtype(dtype), row, 0
        self._file = path.open("wb")
        self._write_header()

    def add(self, rows: Any) -> None:
        rows = np.ascontiguousarray(rows, self._dtype).reshape(-1, *self._row)
        self._file.write(rows.tobytes())
        self.count += len(rows)

    def close(self) -> None:
        # NumPy leaves room in the header for any number of rows.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.count, *self._row),
            },
        )


class TeacherFile:
    """A directory that was written, and found to be whole.

    Attributes:
        path: the directory.
        about: what was written.
    """

    def __init__(self, path: str | pathlib.Path):
        """Open the directory and look at every token of it.

        Raises:
            TeacherFileError: files are missing, cut short or changed; an id is no word's; a
                log-probability is not finite or above 0; a token's masses do not add up to 1.
        """
        self.path = pathlib.Path(path).expanduser()
        if not (self.path / ABOUT).is_file():
            there = "has no about.json" if self.path.is_dir() else "does not exist"
            raise TeacherFileError(
                f"teacher.logprobs: {self.path} {there}: write it with {COMMAND}"
            )
        listed, fault = manifest.check(self.path)
        if fault is not None or not listed:
            raise self._useless(fault or "manifest.json is missing")
        self.about = config_lib.build(
            About, config_lib.load_json(self.path / ABOUT), str(self.path / ABOUT)
        )
        self._arrays = self._mapped()
        for begin in range(0, self.about.tokens, _LOOKED_AT):
            self._look(
                begin, {name: self._arrays[name][begin:][:_LOOKED_AT] for name in _PER_TOKEN}
            )
        self._rows = {int(row): r for r, row in enumerate(self._arrays["keys"])}

    def check(
        self,
        tokenizer: Tokenizer,
        needs: Needs,
        *,
        temperature: float,
        source: str,
        samples: int,
        max_new_tokens: int,
        sampled_at: float,
    ) -> None:
        """Check that a run can learn from the file.

        Raises:
            TeacherFileError: it is of other words, has too few of them, or of something else.
        """
        about = self.about
        if about.vocabulary != vocabulary(tokenizer) or about.vocab_size != tokenizer.vocab_size:
            raise TeacherFileError(
                f"teacher.logprobs: {self.path} is of another vocabulary ({about.vocab_size} "
                f"words, digest {about.vocabulary}) than the tokenizer {tokenizer.name} "
                f"({tokenizer.vocab_size} words, digest {vocabulary(tokenizer)})"
            )
        if needs.teacher == "topk" and min(needs.top_k, about.vocab_size) > about.top_k:
            raise self._differs("loss.top_k", about.top_k, needs.top_k)
        if about.temperature != temperature:
            raise self._differs("teacher_temperature", about.temperature, temperature)
        if about.source != source:
            raise self._differs("rollout.source", about.source, source)
        if source == "teacher" and about.samples < samples:
            raise self._differs("rollout.samples", about.samples, samples)
        if source == "teacher" and about.sampled_at != sampled_at:
            raise self._differs("rollout.temperature", about.sampled_at, sampled_at)
        if about.max_new_tokens < max_new_tokens:
            raise self._differs("rollout.max_new_tokens", about.max_new_tokens, max_new_tokens)

    def check_model(self, fingerprint: str, name: str) -> None:
        """Check that the file is of this model.

        Raises:
            TeacherFileError: it is of another.
        """
        if fingerprint != self.about.model:
            raise TeacherFileError(
                f"teacher.logprobs: {self.path} is of another model ({self.about.model_name}, "
                f"{self.about.model}) than teacher.path {name} ({fingerprint}): leave teacher.path "
                f"out, or write it again with {COMMAND}"
            )

    def said(self, prompt: Sequence[int], completion: Sequence[int] = ()) -> list[Said]:
        """The S completions of a row; `completion` as for `key`.

        Raises:
            TeacherFileError: the file has no such row.
        """
        r = self._rows.get(key(prompt, completion))
        if r is None:
            raise TeacherFileError(
                f"teacher.logprobs: {self.path} has no row of the prompt of {len(prompt)} tokens "
                f"{list(prompt)[:8]}...: the data or how prompts are rendered is not what it was "
                f"written with: write it again with {COMMAND}"
            )
        begins = self._arrays["begins"]
        count = self.about.samples
        return [
            Said(*(self._arrays[name][begins[c] : begins[c + 1]] for name in Said._fields))
            for c in range(r * count, (r + 1) * count)
        ]

    def _mapped(self) -> dict[str, np.ndarray]:
        about = self.about
        completions = about.rows * about.samples
        lengths = {"begins": (completions + 1,), "keys": (about.rows,)}
        wide = (about.tokens, about.top_k)
        arrays = {}
        for name, dtype in (_PER_TOKEN | _PER_ROW).items():
            try:
                found = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise self._useless(f"{name}.npy: {error}") from error
            shape = wide if name in ("words", "top") else lengths.get(name, (about.tokens,))
            if found.shape != shape or found.dtype != dtype:
                raise self._useless(
                    f"{name}.npy is {found.dtype} {found.shape} instead of "
                    f"{np.dtype(dtype)} {shape}"
                )
            arrays[name] = found
        begins = arrays["begins"]
        if begins[0] != 0 or begins[-1] != about.tokens or (np.diff(begins) < 1).any():
            raise self._useless("begins.npy does not divide the tokens into completions")
        return arrays

    def _look(self, begin: int, arrays: dict[str, np.ndarray]) -> None:
        """Check some tokens, of which the first has the number `begin`."""
        tokens, token, words = arrays["tokens"], arrays["token"], arrays["words"]
        top, tail, size = arrays["top"], arrays["tail"], self.about.vocab_size
        mass = np.exp(top.astype(np.float64)).sum(1) + np.exp(tail.astype(np.float64))
        same = words == tokens[:, None]
        told = np.where(same, top, 0.0).sum(1)
        faults = {
            "is no word": ~(
                ((words >= 0) & (words < size)).all(1) & (tokens >= 0) & (tokens < size)
            ),
            "has a word twice": (np.diff(np.sort(words, axis=1), axis=1) == 0).any(1),
            "is not finite": ~(np.isfinite(top).all(1) & np.isfinite(tail) & np.isfinite(token)),
            "is above 0": (top > 1e-6).any(1) | (token > 1e-6),
            "is not in order": (np.diff(top, axis=1) > 0).any(1),
            "has masses whose sum is not 1": ~(np.abs(mass - 1.0) < MASS_ERROR),
            "has two log-probabilities": same.any(1) & (np.abs(told - token) > MASS_ERROR),
        }
        for fault, bad in faults.items():
            if bad.any():
                n = begin + int(np.argmax(bad))
                completion = int(np.searchsorted(self._arrays["begins"], n, side="right")) - 1
                raise self._useless(
                    f"token {n - int(self._arrays['begins'][completion])} of row "
                    f"{completion // self.about.samples} {fault}"
                )

    def _useless(self, why: str) -> TeacherFileError:
        return TeacherFileError(
            f"teacher.logprobs: {self.path}: {why}: write it again with {COMMAND}"
        )

    def _differs(self, name: str, written: Any, asked: Any) -> TeacherFileError:
        return TeacherFileError(
            f"teacher.logprobs: {self.path} was written with {name} = {written!r}, the run has "
            f"{asked!r}: set it so, or write it again with {COMMAND}"
        )
