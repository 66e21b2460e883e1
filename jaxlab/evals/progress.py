"""How long an evaluation will take, beside what inspect_ai shows of how far it is."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from inspect_ai.hooks import Hooks, SampleEnd, hooks
from inspect_ai.log import EvalLog, read_eval_log_sample_summaries


class Remaining:
    """Prints a line of the time left, at most every `every` seconds and after the last sample.

    The rate is that of this process: samples of an earlier one cost nothing.
    """

    def __init__(
        self,
        total: int,
        before: int = 0,
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
        self._total, self._before, self._done = total, before, 0
        self._every, self._stream, self._clock = every, stream, clock
        self._begin = self._printed = clock()

    def one(self) -> None:
        """Tells that one more sample has ended."""
        self._done += 1
        now, left = self._clock(), self._total - self._before - self._done
        if now - self._printed < self._every and left != 0:
            return
        self._printed = now
        seconds = now - self._begin
        shown = [f"{self._total - left}/{self._total} samples", f"elapsed {_clock_time(seconds)}"]
        shown.append(f"left {_clock_time(seconds / self._done * left)}")
        # Not the stream of the beginning: inspect_ai has put its display's in the place.
        print(" | ".join(shown), file=self._stream or sys.stderr, flush=True)


_current: list[Remaining] = []


@hooks(name="jaxlab_remaining", description="Prints how long an evaluation of jaxlab will take.")
class _Ends(Hooks):
    def enabled(self) -> bool:
        return bool(_current)

    async def on_sample_end(self, data: SampleEnd) -> None:
        _current[-1].one()


@contextlib.contextmanager
def shown(remaining: Remaining) -> Iterator[None]:
    """Samples that end in this block are told to `remaining`."""
    _current.append(remaining)
    try:
        yield
    finally:
        _current.remove(remaining)


def finished(log: EvalLog | None) -> int:
    """Samples of a log that a run which goes on does not ask again.

    What a killed run had not written into it yet is not counted: at most a twentieth.
    """
    if log is None:
        return 0
    return sum(1 for sample in read_eval_log_sample_summaries(log.location) if not sample.error)


def _clock_time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
