"""A reader of saved texts, which stand in for thinkers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxlab.agents.heavy_journal import Completion, completion
from jaxlab.grading.sources import check_text, parse_row

TEXT = ("text", "completion", "response", "output", "generation")
QUESTION = ("question", "problem", "prompt")
# Why a generation ended, where that was its length.
CUT = ("length", "max_tokens", "model_length")


class Saved(NamedTuple):
    """What a file holds: the question, where its rows say it, and the texts in their order."""

    question: str | None
    thinkers: list[Completion]


def read(path: str | Path, identity: str | None = None) -> Saved:
    """The texts of a file.

    Args:
        path: a .jsonl file of objects, or a .json array of objects or of texts. An object has its
            text in one of `TEXT`, perhaps the question in one of `QUESTION`, an "id", the reason of
            its end as "stop" or "finish_reason", and "output_tokens"; samples.jsonl of an
            evaluation is such a file.
        identity: only the rows of this id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: "file:line: cause" for a row that is none; or there is none of the id; or rows
            are of several ids or questions, of which one is to be named.
    """
    path = Path(path)
    rows = _rows(path)
    ids = list(dict.fromkeys(str(row["id"]) for _, row in rows if "id" in row))
    if identity is not None:
        rows = [(where, row) for where, row in rows if str(row.get("id")) == identity]
        if not rows:
            known = ", ".join(ids[:5]) or "none"
            raise ValueError(f"{path}: no row has the id {identity!r}; the ids are {known}")
    elif len(ids) > 1:
        raise ValueError(
            f"{path}: rows of {len(ids)} questions ({', '.join(ids[:5])}, ...): name one by --id"
        )
    questions = list(dict.fromkeys(q for _, row in rows if (q := _first(row, QUESTION))))
    if len(questions) > 1:
        raise ValueError(f"{path}: rows of {len(questions)} questions: keep those of one")
    return Saved(questions[0] if questions else None, [_completion(*pair) for pair in rows])


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; name a .jsonl or .json file of texts")
    content = path.read_bytes()
    if path.suffix != ".json":
        lines = enumerate(content.splitlines(), start=1)
        rows = [
            (f"{path}:{n}", parse_row(line, f"{path}:{n}")) for n, line in lines if line.strip()
        ]
    else:
        try:
            array = json.loads(content.decode("utf-8-sig"))
            check_text(array)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: malformed JSON: {error}") from None
        if not isinstance(array, list):
            raise ValueError(f"{path}: expected an array of texts, got {type(array).__name__}")
        rows = [
            (f"{path}[{i}]", {"text": row} if isinstance(row, str) else row)
            for i, row in enumerate(array)
        ]
    if not rows:
        raise ValueError(f"{path}: no row")
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object or a text, got {type(row).__name__}")
    return rows


def _completion(where: str, row: Mapping[str, Any]) -> Completion:
    name = next((name for name in TEXT if name in row), None)
    if name is None or not isinstance(row[name], str):
        have = ", ".join(row) or "nothing"
        raise ValueError(f"{where}: no field {' or '.join(TEXT)} that is a text; it has {have}")
    tokens = row.get("output_tokens")
    ended = row.get("stop", row.get("finish_reason"))
    known = tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None
    # Without a reason of its end, an open thought says that a text was cut off.
    finished = completion(row[name]).finished if ended is None else ended not in CUT
    return Completion(row[name], finished=finished, tokens=known)


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    found = (row[name] for name in names if isinstance(row.get(name), str) and row[name].strip())
    return next(found, None)
