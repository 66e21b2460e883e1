"""Graded completions: the rows of samples.jsonl, from which every table is made."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxlab.grading.graders import PARSE_FAILURES


@dataclass(frozen=True)
class Result:
    """One completion of one row.

    Attributes:
        id: of the row.
        sample: its number among the row's completions, from 1.
        correct: the verdict.
        answer: what was found in the completion and compared; None if nothing was.
        reason: why, as in `graders.Verdict`.
        grader: who decided: "rule" or "judge:NAME".
        cluster: rows of one cluster are not independent.
        meta: of the row.
        prompt: what the model read.
        target: the reference.
        completion: what the model wrote.
        stop: why it ended: "stop", "max_tokens", ...
        input_tokens: of the prompt.
        output_tokens: of the completion.
    """

    id: str
    sample: int
    correct: bool
    answer: str | None
    reason: str
    grader: str
    cluster: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""
    target: str = ""
    completion: str = ""
    stop: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def parsed(self) -> bool:
        """Whether there was something to compare."""
        return self.reason not in PARSE_FAILURES


def write(path: Path, results: Sequence[Result]) -> None:
    """One JSON object per line, in order of id and sample."""
    ordered = sorted(results, key=lambda result: (result.id, result.sample))
    lines = [json.dumps(dataclasses.asdict(result)) + "\n" for result in ordered]
    path.write_text("".join(lines), encoding="utf-8")


def read(path: Path) -> list[Result]:
    """What `write` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Result(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the samples of a benchmark: {error}") from None


def by_row(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The completions of each row, in order of their numbers."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: (result.id, result.sample)):
        groups.setdefault(result.id, []).append(result)
    return groups


def row_means(results: Sequence[Result]) -> tuple[list[str], np.ndarray, list[str]]:
    """Ids, the share of right completions of each row, and the rows' clusters."""
    groups = by_row(results)
    means = [float(np.mean([result.correct for result in group])) for group in groups.values()]
    return list(groups), np.array(means), [group[0].cluster for group in groups.values()]
