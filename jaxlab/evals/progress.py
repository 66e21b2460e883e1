"""How long an evaluation will take, beside what inspect_ai shows of how far it is."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import (
    EvalLog,
    EvalSample,
    EvalSampleSummary,
    read_eval_log_sample_summaries,
)
from inspect_ai.scorer import Score, value_to_float

# A row's id, and whether its answer is right; None where there is no verdict to count.
Answer = tuple[str, bool | None]
# Samples that end within this many seconds of the first one were decoded together with it.
_TOGETHER_S = 1.0


class Remaining:
    """Prints a line of accuracy and time left, at most every `every` seconds, and one at the end.

    The rate is that of this process, without what comes before its first samples (loading,
    compilation); samples of an earlier process cost nothing. Accuracy is the mean over rows of the
    share of right answers, as in the report.
    """

    def __init__(
        self,
        total: int,
        before: Sequence[Answer] = (),
        *,
        every: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
            total: samples of the run, each completion counted.
            before: those that an earlier process has finished.
            every: seconds between lines.
            stream: where to print; stderr when None.
            clock: seconds, for tests.
        """
        self._total, self._answers, self._before = total, list(before), len(before)
        self._every, self._stream, self._clock = every, stream, clock
        self._begin = self._printed = clock()
        # When the first samples ended, and how many of them ended together.
        self._first, self._together = self._begin, 0

    def one(self, answer: Answer) -> None:
        """Tells that one more sample has ended."""
        self._answers.append(answer)
        now, done = self._clock(), len(self._answers) - self._before
        if done == 1:
            self._first = now
        if now - self._first < _TOGETHER_S:
            self._together = done
        if now - self._printed >= self._every:
            self._printed = now
            left = self._total - len(self._answers)
            self._print(f"left {_clock_time(self._seconds_each(now, done) * left)}")

    def end(self, answers: Sequence[Answer]) -> None:
        """Prints the last line, of all that the log holds."""
        self._answers = list(answers)
        self._print()

    def _seconds_each(self, now: float, done: int) -> float:
        later = done - self._together
        # Soon after the first ones, the next may be long under way together and not be there yet.
        if later >= self._together:
            return (now - self._first) / later
        return (now - self._begin) / done

    def _print(self, *more: str) -> None:
        shown = [f"{len(self._answers)}/{self._total} samples"]
        if (accuracy := _accuracy(self._answers)) is not None:
            shown.append(f"accuracy {accuracy:.3f}")
        shown += [f"elapsed {_clock_time(self._clock() - self._begin)}", *more]
        # Not the stream of the beginning: inspect_ai has put its display's in the place.
        print(" | ".join(shown), file=self._stream or sys.stderr, flush=True)


def _accuracy(answers: Sequence[Answer]) -> float | None:
    rows: dict[str, list[bool]] = {}
    for row, right in answers:
        if right is not None:
            rows.setdefault(row, []).append(right)
    means = [sum(found) / len(found) for found in rows.values()]
    return sum(means) / len(means) if means else None


# Whether a score is counted at all.
Counts = Callable[[Score], bool]
_current: list[tuple[Remaining, Counts]] = []


@hooks(name="jaxlab_remaining", description="Prints how long an evaluation of jaxlab will take.")
class _Ends(Hooks):
    def enabled(self) -> bool:
        return bool(_current)

    async def on_sample_end(self, data: SampleEnd) -> None:
        remaining, counts = _current[-1]
        remaining.one(_answer(data.sample, counts))


@contextlib.contextmanager
def shown(remaining: Remaining, counts: Counts) -> Iterator[None]:
    """Samples that end in this block are told to `remaining`."""
    _current.append((remaining, counts))
    try:
        yield
    finally:
        _current.pop()


def finished(log: EvalLog | None, counts: Counts) -> list[Answer]:
    """Samples of a log that a run which goes on does not ask again.

    What a killed run had not written into it yet is not among them: at most a twentieth.
    """
    if log is None:
        return []
    samples = read_eval_log_sample_summaries(log.location)
    return [_answer(sample, counts) for sample in samples if not sample.error]


def answers(log: EvalLog, counts: Counts) -> list[Answer]:
    """All samples that a whole log holds."""
    return [_answer(sample, counts) for sample in log.samples or []]


def _answer(sample: EvalSample | EvalSampleSummary, counts: Counts) -> Answer:
    score = next(iter((sample.scores or {}).values()), None)
    if sample.error is not None or score is None or not counts(score):
        return str(sample.id), None
    return str(sample.id), value_to_float()(score.value) == 1.0


def _clock_time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
