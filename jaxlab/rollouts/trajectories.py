"""Thinkers' texts on disk, one JSON line each: written once by a job, read by trainers. No jax.

A line has the question as thinkers read it, its `split` and `row` in the task, the `sample`'s
number, the `text`, why it ended (`stop`), its `output_tokens`, its mean `logprob` and the
`reward`. `python -m jaxlab.heavy --thinkers FILE --id train/17` reads the same file.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxlab.agents.heavy_files import CUT
from jaxlab.data.tasks.types import Split
from jaxlab.grading.sources import parse_row

NAME = "thinkers.jsonl"

# Split and row of a question.
Key = tuple[Split, int]


class Text(NamedTuple):
    """One thinker's text.

    Attributes:
        text: whole.
        finished: not cut off by its length.
        tokens: that were generated; None where the file does not say.
        logprob: mean log-probability of its tokens in nats; None where the file does not say.
        reward: by the task's grader; None where the file does not say.
    """

    text: str
    finished: bool = True
    tokens: int | None = None
    logprob: float | None = None
    reward: float | None = None


@dataclass(frozen=True)
class Question:
    """A question and its texts by the number of the sample."""

    prompt: str
    texts: Mapping[int, Text]


def line(key: Key, prompt: str, sample: int, text: Text) -> bytes:
    """A text as a line of the file."""
    split, row = key
    content = {
        "id": f"{split}/{row}",
        "split": split,
        "row": row,
        "sample": sample,
        "question": prompt,
        "text": text.text,
        "stop": "stop" if text.finished else "max_tokens",
        "output_tokens": text.tokens,
        "logprob": text.logprob,
        "reward": text.reward,
    }
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def read(path: Path) -> dict[Key, Question]:
    """The questions of a file, in its order.

    Args:
        path: a .jsonl file, or a directory that holds `thinkers.jsonl`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: "file:line: cause" for a line that is none, that names another question by a row
            that has one, or that repeats a sample; or the file is empty.
    """
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there are no thinkers: run a config of the trainer 'think' first"
        )
    with path.open("rb") as file:
        found = _gathered(path, enumerate(file, start=1))
    if not found:
        raise ValueError(f"{path}: the file is empty: run the job that writes it to its end")
    return found


class Store:
    """A file that is being written: texts that are there are not asked for again.

    What a kill cut short is the last line, which has no end: it is removed.
    """

    def __init__(self, path: Path):
        """Open the file, or begin it.

        Raises:
            ValueError: it holds something else.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        try:
            lines = enumerate(whole.splitlines(), start=1)
            self._known = _gathered(path, lines)
        except ValueError:
            self._file.close()
            raise

    def check(self, prompt: Callable[[Key], str | None]) -> None:
        """Compare every question that is there with what `prompt` says of its split and row.

        Raises:
            ValueError: one is another.
        """
        for key in self._known:
            self.texts(key, prompt(key) or "no question")

    def texts(self, key: Key, prompt: str) -> Mapping[int, Text]:
        """The texts of a question by sample; none where it is not there.

        Raises:
            ValueError: another question has its row.
        """
        question = self._known.get(key)
        if question is None:
            return {}
        if question.prompt != prompt:
            raise ValueError(
                f"{self._file.name}: {key[0]}/{key[1]} is {question.prompt!r:.60}, not "
                f"{prompt!r:.60}: the data have changed; give another --workdir"
            )
        return question.texts

    def add(self, key: Key, prompt: str, texts: Mapping[int, Text]) -> None:
        """Keep texts; those of samples that are there stay as they are."""
        held = dict(self.texts(key, prompt))
        new = {sample: text for sample, text in texts.items() if sample not in held}
        self._file.write(b"".join(line(key, prompt, *pair) for pair in new.items()))
        self._file.flush()
        self._known[key] = Question(prompt, held | new)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _gathered(path: Path, lines: Iterable[tuple[int, bytes]]) -> dict[Key, Question]:
    found: dict[Key, Question] = {}
    texts: dict[Key, dict[int, Text]] = {}
    for number, content in lines:
        if not content.strip():
            continue
        where = f"{path}:{number}"
        row = parse_row(content, where, ("question", "text", "split"))
        key, sample = _place(row, where)
        held = texts.setdefault(key, {})
        if sample in held:
            raise ValueError(f"{where}: sample {sample} of {key[0]}/{key[1]} stands there twice")
        question = found.setdefault(key, Question(row["question"], held))
        if question.prompt != row["question"]:
            raise ValueError(f"{where}: {key[0]}/{key[1]} has another question in an earlier line")
        held[sample] = Text(
            row["text"],
            row.get("stop") not in CUT,
            _number(row, "output_tokens", where, int),
            _number(row, "logprob", where, int, float),
            _number(row, "reward", where, int, float),
        )
    return found


def _place(row: Mapping[str, Any], where: str) -> tuple[Key, int]:
    split = row["split"]
    if split not in ("train", "test"):
        raise ValueError(f"{where}: split is {split!r}, neither 'train' nor 'test'")
    found = []
    for name in ("row", "sample"):
        value = _number(row, name, where, int)
        if value is None or value < 0:
            raise ValueError(f"{where}: {name} must be a whole number from 0, not {value!r}")
        found.append(value)
    return (split, found[0]), found[1]


def _number(row: Mapping[str, Any], name: str, where: str, *kinds: type[int] | type[float]) -> Any:
    value: Any = row.get(name)
    if value is None:
        return None
    if isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(float(value)):
        return value
    raise ValueError(f"{where}: {name} must be a number, not {value!r:.60}")
