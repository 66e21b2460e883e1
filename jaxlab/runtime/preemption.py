"""A signal that asks for the end becomes a request: save, then leave."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)


class Preemption:
    """Turns SIGTERM, and the first SIGINT, into a request to save and leave.

    Use as a context manager around the loop, and ask `reached(step)` once at every step:

        with Preemption() as preemption:
            for step in range(first, last):
                ...
                if preemption.reached(step):
                    checkpointer.save(step, state)
                    checkpointer.close()
                    preemption.leave()

    With several processes SIGTERM is left to JAX's preemption service, in which they agree on one
    step that all can still reach; a SIGINT is then only `requested`, in this process.
    """

    EXIT_CODE = 128 + signal.SIGTERM

    def __init__(self):
        self.requested = False
        self._interruptible = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        signals = [signal.SIGINT]
        # A handler of ours would take the signal away from the preemption service.
        if jax.process_count() == 1:
            signals.append(signal.SIGTERM)
        for number in signals:
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def pending(self) -> bool:
        """Whether a request has come on which this process alone decides."""
        return self.requested and jax.process_count() == 1

    def reached(self, step: int) -> bool:
        """True if the run is to save this step and leave; the same in every process."""
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """What is inside ends early when a request comes.

        For long work that can be done again, such as an evaluation: the grace before SIGKILL may be
        shorter. With several processes it runs to its end, since they have to agree.
        """
        try:
            self._interruptible = jax.process_count() == 1
            try:
                yield
            finally:
                self._interruptible = False
        except _Interrupted:
            pass

    def leave(self) -> None:
        """Ends the program with the exit code of a terminated process, 143."""
        sys.exit(self.EXIT_CODE)

    def _request(self, number, frame):
        del frame
        self.requested = True
        if number == signal.SIGINT:
            # The second Ctrl-C interrupts at once.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.warning("received %s: saving, then leaving", signal.Signals(number).name)
        if self._interruptible:
            self._interruptible = False
            raise _Interrupted


class _Interrupted(BaseException):
    """Passes through whatever handles errors on its way out of `Preemption.interrupting`."""
