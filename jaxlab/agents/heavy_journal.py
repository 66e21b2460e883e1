"""Texts that models wrote, and the file that keeps them."""

import fcntl
import hashlib
import json
from pathlib import Path
from typing import Any

from jaxlab.grading.unicode import well_formed


class Completion(str):
    """A text that also says how it ended and what it cost.

    Attributes:
        finished: False where it was cut off by its length.
        tokens: that were generated; None where nobody counted.
        prompt_tokens: that were read for it; of texts of one prompt the first has them, where the
            prompt was read once; None where nobody counted.
        logprob: mean log-probability of its tokens in nats, where known.
    """

    finished: bool
    tokens: int | None
    prompt_tokens: int | None
    logprob: float | None

    def __new__(
        cls,
        text: str,
        finished: bool = True,
        tokens: int | None = None,
        prompt_tokens: int | None = None,
        logprob: float | None = None,
    ) -> "Completion":
        """The text with its attributes."""
        self = super().__new__(cls, text)
        self.finished, self.tokens, self.prompt_tokens = finished, tokens, prompt_tokens
        self.logprob = logprob
        return self


def completion(text: str) -> Completion:
    """The text as a `Completion`, with U+FFFD for halves of surrogate pairs.

    A plain text is unfinished where a thought begins and does not end.
    """
    whole = str(well_formed(str(text)))
    if isinstance(text, Completion):
        return Completion(whole, **vars(text))
    return Completion(whole, finished="<think>" not in whole or "</think>" in whole)


class Journal:
    """Texts on disk, one JSON line each, found again by stage, prompt and seed.

    A run that was killed finds what it had; a text that was being written is generated again.
    """

    def __init__(self, path: Path, subject: str):
        """Open the file, or begin it.

        Args:
            path: a .jsonl file of its own.
            subject: who answers and how; a journal of another subject is refused.

        Raises:
            ValueError: the file is of another subject, or holds something else, or another process
                writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._known = self._read(path, subject)
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise ValueError(f"{path}: another process writes it: wait for its end") from None
            raise

    def get(self, key: str) -> Completion | None:
        """The text of this key, if it was kept."""
        row = self._known.get(key)
        return None if row is None else Completion(**row)

    def put(self, key: str, text: Completion) -> None:
        """Keep a text."""
        row = {"text": well_formed(str(text)), **vars(text)}
        self._known[key] = row
        self._write({"key": key, **row})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, path: Path, subject: str) -> dict[str, dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        # What a kill cut short is the last line, which has no end.
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        known = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                if number == 1:
                    held = row["subject"]
                else:
                    known[row.pop("key")] = row
                    Completion(**row)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{path}:{number}: no line of a journal: remove it") from None
        if not whole:
            self._write({"subject": subject})
        elif held != subject:
            raise ValueError(
                f"{path} has texts of {held}, not of {subject}: name another file or folder"
            )
        return known

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()


def key(stage: str, prompt: str, seed: int) -> str:
    """Where a journal keeps the text of a stage, prompt and seed."""
    content = json.dumps([stage, prompt, seed])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
