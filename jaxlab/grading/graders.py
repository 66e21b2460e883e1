"""Rule-based grading of mathematical answers, safe against hostile text.

Most answers are plain numbers, or the reference's own text, and are compared here, in microseconds.
The rest goes to `equality`, whose sympy may hang, exhaust memory or crash on what a model writes;
it runs in worker processes under a hard time limit for each item.
"""

import faulthandler
import importlib.util
import logging
import math
import os
import resource
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Literal

from jaxlab.grading import answers, spelling, syntax

Reason = Literal[
    "match",
    "mismatch",
    "no_answer",
    "bad_gold",
    "timeout",
    "crash",
    "truncated",
    "no_verdict",
    "grader_error",
]

# Where nothing was compared: these count as wrong and are reported as failures to parse.
PARSE_FAILURES: tuple[Reason, ...] = (
    "no_answer",
    "bad_gold",
    "timeout",
    "crash",
    "no_verdict",
    "grader_error",
)

# A worker imports sympy first, which takes seconds on a busy machine; no item waits on this clock.
START_LIMIT_S = 120.0
# Address space of a worker: a sympy bomb ends in a MemoryError of its own.
WORKER_MEMORY_BYTES = 4 << 30

_MAX_PARSED = 200
# Number of the item, reference, answer, decimal places.
_Job = tuple[int, str, str, int | None]


@dataclass(frozen=True)
class Verdict:
    """The outcome for one text.

    Attributes:
        correct: whether its answer equals the reference.
        parsed: the answer that was found, cut to 200 characters; None if none was.
        reason: "match"; "mismatch"; "no_answer": nothing in the text parses; "bad_gold": the
            reference does not parse; "timeout" and "crash": what became of the worker;
            "truncated": cut off by its length, and therefore wrong; "no_verdict": a judge was
            needed and there was none, or its reply was no verdict; "grader_error": the grader
            itself failed, see `grader_errors.accounted`.
    """

    correct: bool
    parsed: str | None
    reason: Reason


class MathVerifier:
    """Compares the final answer of a text with a reference answer.

    Where a text says what its answer is, `answers.find` says, and `equality` what is equal.

    Workers start when first needed, and a worker that hangs or dies is replaced; it costs its own
    item alone. They are fresh interpreters that import sympy and nothing of the caller's
    program, so never jax. Use it as a context manager, from one thread.
    """

    def __init__(
        self,
        workers: int = 1,
        timeout_s: float = 5.0,
        *,
        float_rounding: int | None = None,
    ):
        """Starts nothing yet.

        Args:
            workers: processes.
            timeout_s: limit for one item, from the moment a ready worker receives it.
            float_rounding: decimal places to which numbers are rounded before they are compared;
                None: see `equality`.

        Raises:
            ValueError: no worker, or no time.
        """
        self._workers: list[_Worker] = []
        if workers < 1 or timeout_s <= 0:
            raise ValueError(
                f"workers >= 1 and timeout_s > 0 are needed, got {workers}, {timeout_s}"
            )
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._float_rounding = float_rounding

    def verify(self, gold: str, text: str) -> Verdict:
        """`verify_batch` of one pair."""
        return self.verify_batch([gold], [text])[0]

    def verify_batch(
        self,
        golds: Sequence[str],
        texts: Sequence[str],
        float_rounding: Sequence[int | None] | None = None,
        anchor: answers.Anchor = "anywhere",
    ) -> list[Verdict]:
        """Grades each text against its reference; never raises over what a text holds.

        Args:
            golds: reference answers: numbers or LaTeX, without dollar signs around.
            texts: what the model wrote.
            float_rounding: decimal places for each item; None is the verifier's own.
            anchor: where an answer may stand, see `answers.find`.

        Raises:
            ImportError: an item needs sympy and it is not installed.
            RuntimeError: the workers do not start.
        """
        verdicts: dict[int, Verdict] = {}
        queue: deque[_Job] = deque()
        places = float_rounding or [None] * len(texts)
        for i, (gold, text, own) in enumerate(zip(golds, texts, places, strict=True)):
            gold, text = answers.normalized(gold), answers.normalized(text)
            answer = answers.find(text, anchor)
            if answer is None:
                verdicts[i] = Verdict(False, None, "no_answer")
                continue
            verdict = quick_verdict(gold, answer)
            if verdict is None:
                queue.append((i, gold, answer, self._float_rounding if own is None else own))
            else:
                verdicts[i] = verdict
        if queue:
            try:
                verdicts |= self._run(queue)
            except BaseException:
                # An item may be under way; its late answer must not meet the next call.
                self.close()
                raise
        return [verdicts[i] for i in range(len(texts))]

    def close(self) -> None:
        """Ends the workers; a later call starts new ones."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def __enter__(self) -> "MathVerifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _run(self, queue: deque[_Job]) -> dict[int, Verdict]:
        if importlib.util.find_spec("sympy") is None:
            raise ImportError(
                "grading this answer needs sympy; install it with: pip install jaxlab[evals]"
            )
        verdicts: dict[int, Verdict] = {}
        while len(self._workers) < min(self._num_workers, len(queue)):
            self._workers.append(_Worker(self._timeout_s))
        while queue or any(worker.item is not None for worker in self._workers):
            self._hand_out(queue)
            active = [worker for worker in self._workers if worker.deadline < math.inf]
            patience = min(worker.deadline for worker in active) - time.monotonic()
            wait([worker.pipe for worker in active], max(0.0, patience))
            for worker in active:
                verdict = self._collect(worker)
                if verdict is not None:
                    verdicts[verdict[0]] = verdict[1]
        return verdicts

    def _hand_out(self, queue: deque[_Job]) -> None:
        for worker in [worker for worker in self._workers if worker.idle]:
            if queue:
                job = queue.popleft()
                try:
                    worker.send(job)
                except OSError:  # it died while idle, which no item is to blame for
                    queue.appendleft(job)
                    self._replace(worker)

    def _collect(self, worker: "_Worker") -> tuple[int, Verdict] | None:
        """The finished item of `worker`, which is replaced if it is late or dead."""
        item = worker.item
        verdict: Verdict | None = None
        try:
            if worker.pipe.poll():
                reply = worker.pipe.recv()
                verdict = None if item is None else Verdict(*reply)
                worker.rest()
            elif time.monotonic() >= worker.deadline:
                verdict = Verdict(False, None, "timeout")
                self._replace(worker)
        except (EOFError, OSError):
            verdict = Verdict(False, None, "crash")
            self._replace(worker)
        return None if item is None or verdict is None else (item, verdict)

    def _replace(self, worker: "_Worker") -> None:
        worker.kill()
        if not worker.ready:
            raise RuntimeError(
                "a worker of the grader did not start; see why with: "
                f"{sys.executable} -c 'import jaxlab.grading.equality'"
            )
        self._workers[self._workers.index(worker)] = _Worker(self._timeout_s)


def quick_verdict(gold: str, answer: str) -> Verdict | None:
    """Compares plain numbers and equal texts; None where `equality` has to decide."""
    reference, number = answers.number(gold), answers.number(answer)
    if reference is None or number is None:
        # As `equality` begins; a short text cannot keep the regular expressions of it busy.
        same = gold == answer and len(gold) <= _MAX_PARSED
        readable = same and syntax.squeezed(spelling.canonical(gold))
        return Verdict(True, answer, "match") if readable else None
    if reference == number:
        return Verdict(True, str(number), "match")
    # Different integers are different; 0.72 and 72 % are not, nor are numbers that were rounded.
    if "%" in f"{gold}{answer}" or reference != int(reference) or number != int(number):
        return None
    return Verdict(False, str(number), "mismatch")


class _Worker:
    """One interpreter that runs `serve`.

    It starts (`ready` is False), rests, or works on `item`; `deadline` is infinite while it rests.
    """

    def __init__(self, timeout_s: float):
        # Not multiprocessing.Process: its spawn runs the caller's main module again in the child,
        # which would import jax there.
        self.pipe, theirs = Pipe()
        code = (
            "import sys; from jaxlab.grading.graders import serve; serve(*map(float, sys.argv[1:]))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno()), str(timeout_s)],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._timeout_s = timeout_s
        self.ready = False
        self.item: int | None = None
        self.deadline = time.monotonic() + START_LIMIT_S

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def idle(self) -> bool:
        return self.ready and self.item is None

    def send(self, job: _Job) -> None:
        self.item, *arguments = job
        self.pipe.send(tuple(arguments))
        self.deadline = time.monotonic() + self._timeout_s

    def rest(self) -> None:
        self.ready, self.item, self.deadline = True, None, math.inf

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.pipe.close()


def serve(pipe_fd: float, timeout_s: float) -> None:
    """The main loop of a worker process: grades what comes through the pipe until it closes."""
    logging.disable(logging.CRITICAL)
    # The first call imports sympy and compiles regular expressions; no item should pay for that.
    math_verdict("x > \\frac{1}{2}", "2x > 1", None)
    if sys.platform == "linux":  # elsewhere the limit is refused or ignored
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY_BYTES, WORKER_MEMORY_BYTES))
    pipe = Connection(int(pipe_fd))
    pipe.send("ready")
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        # A thread in C that ends this process even in the midst of a long integer power, should
        # the parent be gone and nobody left to do it.
        faulthandler.dump_traceback_later(2 * timeout_s + 1, exit=True, file=sys.stderr)
        reply = math_verdict(*job)
        faulthandler.cancel_dump_traceback_later()
        pipe.send(reply)


def math_verdict(gold: str, answer: str, places: int | None) -> tuple[bool, str | None, Reason]:
    """The fields of a `Verdict` by `equality`, without a time limit."""
    from jaxlab.grading import equality

    if not equality.readable(gold):
        return False, None, "bad_gold"
    if not equality.readable(answer):
        return False, None, "no_answer"
    correct = equality.equal(gold, answer, places)
    return correct, answer[:_MAX_PARSED], "match" if correct else "mismatch"
