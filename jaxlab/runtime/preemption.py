"""A signal that asks for the end becomes a request: save, then leave."""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)

EXIT_CODE = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """End the program by SystemExit where SIGTERM would kill it, so that it removes scratch files.

    `Preemption` takes over for as long as it is entered. With several processes JAX's preemption
    service does, once they have joined.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_CODE))


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

    A second SIGINT ends the process at once, with code 130, whatever it is doing: an exception
    would have to find its way out of threads that write a checkpoint. In an interactive session
    it is a KeyboardInterrupt, so that the session stays.

    With several processes SIGTERM is left to JAX's preemption service, in which they agree on one
    step that all can still reach; a SIGINT is then only `requested`, in this process.
    """

    EXIT_CODE = EXIT_CODE

    def __init__(self):
        self.requested = False
        self._interruptible = False
        self._previous: dict[int, Any] = {}
        self._watch: _SecondInterrupt | None = None

    def __enter__(self) -> "Preemption":
        signals = [signal.SIGINT]
        # A handler of ours would take the signal away from the preemption service.
        if jax.process_count() == 1:
            signals.append(signal.SIGTERM)
        for number in signals:
            self._previous[number] = signal.signal(number, self._request)
        if not hasattr(sys, "ps1"):
            self._watch = _SecondInterrupt()
        return self

    def __exit__(self, *_):
        if self._watch is not None:
            self._watch.close()
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
        sys.exit(EXIT_CODE)

    def _request(self, number, frame):
        del frame
        self.requested = True
        if number == signal.SIGINT and self._watch is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.warning("received %s: saving, then leaving", signal.Signals(number).name)
        if self._interruptible:
            self._interruptible = False
            raise _Interrupted


class _SecondInterrupt:
    """A thread that ends the process at the second SIGINT.

    The kernel's handler tells it of every signal, also while the main thread waits for a
    compilation or a device and runs no Python, for which two signals would then be one.
    """

    EXIT_CODE = 128 + signal.SIGINT

    def __init__(self):
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, name="second-interrupt", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no longer."""
        signal.set_wakeup_fd(self._previous)
        self._write.setblocking(True)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _wait(self) -> None:
        interrupts = 0
        while received := self._read.recv(64):
            interrupts += received.count(signal.SIGINT)
            if interrupts > 1:
                os.write(2, b"interrupted twice: left without saving\n")
                os._exit(self.EXIT_CODE)


class _Interrupted(BaseException):
    """Passes through whatever handles errors on its way out of `Preemption.interrupting`."""
