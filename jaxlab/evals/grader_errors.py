"""What becomes of the exceptions of graders under inspect_ai.

A scorer that raises fails its sample, and the answer is thrown away and asked for again.
`accounted` keeps the answer and counts the error, where everyone sees it: as a metric of the log
and in the report. Errors of set-up, which would meet every answer, end the run instead.
"""

import functools
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    metric,
    value_to_float,
)
from inspect_ai.solver import TaskState
from inspect_ai.util import registry_info
from rich.markup import escape

from jaxlab import config as config_lib
from jaxlab.grading.unicode import well_formed

try:
    # It prints these in one line, without a traceback.
    from inspect_ai._util.error import PrerequisiteError
except ImportError:  # its place is no promise
    PrerequisiteError = RuntimeError  # type: ignore[misc, assignment]

REASON = "grader_error"
_LONGEST_CAUSE = 500
# HTTP: no credentials, no rights, no such model. All further requests would end likewise.
_STATUS_OF_SETUP = (401, 403, 404)


class Refused(config_lib.ConfigError, PrerequisiteError):
    """A task that cannot be built as asked; inspect_ai prints its one line."""

    def __init__(self, message: str) -> None:
        """Keep the message for both parents, one of which prints it as markup."""
        ValueError.__init__(self, message)
        self.message = escape(message)


@contextmanager
def refusing() -> Iterator[None]:
    """What is wrong with options, rows or models inside becomes `Refused`."""
    try:
        yield
    except Refused:
        raise
    except (ValueError, OSError, ImportError, PrerequisiteError) as error:
        raise Refused(text_of(error)) from error


def text_of(error: BaseException) -> str:
    """The message of an exception on one line; those for inspect_ai's display have marks in it."""
    text = str(getattr(error, "message", "") or error)
    for mark in ("[bold]", "[/bold]", "ERROR: "):
        text = text.replace(mark, "")
    return " ".join(text.split())


def is_setup(error: BaseException) -> bool:
    """Whether an error is of the set-up: a package, a model, a key or an option is missing."""
    if isinstance(error, PrerequisiteError | config_lib.ConfigError | ImportError):
        return True
    # inspect_ai has no type of its own for a model that there is not.
    raised_in = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    unknown_model = isinstance(error, ValueError) and raised_in[-1:] == ["get_model"]
    return unknown_model or getattr(error, "status_code", None) in _STATUS_OF_SETUP


def accounted(scoring: Scorer) -> Scorer:
    """The scorer, whose exceptions are wrong answers of their own kind that a metric counts.

    Errors of set-up pass through.
    """

    @functools.wraps(scoring)
    async def score(state: TaskState, target: Target) -> Score | None:
        try:
            return await scoring(state, target)
        except Exception as error:  # whatever it is, it is the grader's
            if is_setup(error):
                raise
            cause = well_formed(f"{type(error).__name__}: {error}"[:_LONGEST_CAUSE])
            return Score(value=0.0, explanation=cause, metadata={"reason": REASON, "cause": cause})

    known = registry_info(score).metadata
    metrics = known.get("metrics")
    # Scorers of the user's own may have metrics by key of a dictionary instead.
    if isinstance(metrics, list | tuple) and not any(map(_counts_errors, metrics)):
        known["metrics"] = [*metrics, grader_errors()]
    return score


def fault(score: Score) -> str | None:
    """Why a score is no verdict: its grader failed, or says something between right and wrong."""
    notes = score.metadata or {}
    if notes.get("reason") == REASON:
        return str(notes.get("cause"))
    number = value_to_float()(score.value) if isinstance(score.value, str | int | float) else None
    if number in (0.0, 1.0):
        return None
    return f"the score {score.value!r} is neither right (1) nor wrong (0)"


def kinds(faults: Iterable[str]) -> dict[str, int]:
    """How many there are of each kind of fault, the most frequent first."""
    named = (
        "neither right nor wrong" if text.startswith("the score ") else text.partition(":")[0]
        for text in faults
    )
    return dict(Counter(named).most_common())


@metric(scores="unreduced")
def grader_errors() -> Metric:
    """How many answers the grader failed on, in all and by kind of error; 0 in a sound run."""

    def count(scores: list[SampleScore]) -> Value:
        notes = [each.score.metadata or {} for each in scores]
        found = kinds(str(note.get("cause")) for note in notes if note.get("reason") == REASON)
        by_kind = {f"grader_errors: {kind}": number for kind, number in found.items()}
        return {"grader_errors": sum(found.values()), **by_kind}

    return count


def _counts_errors(each: object) -> bool:
    return getattr(each, "__qualname__", "").startswith("grader_errors.")
