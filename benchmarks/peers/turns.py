"""Contenders of a benchmark: each in a process of its own, asked in alternating turns.

Two frameworks in one process starve each other's threads, and two processes that compute at once
share the cores; here one process computes while the others wait for their turn. A process that
is to be measured calls `serve`, or `Pipe` where another library owns its loop. The benchmark holds
one `Contender` for each and calls `alternate`.

A turn counts as disturbed if its process stood still for part of it, or if other programs took
more than a tenth of the cores that it may use. Disturbed turns are repeated; a contender that has
only disturbed ones is reported as disturbed and not as slow.

Needs the standard library alone: peers from other environments import this file.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# A process that runs all the time has at least its wall time as processor time.
STANDSTILL = 1.25
# Share of the usable cores that other programs may take.
OTHERS = 0.10
# The system counts the cores' time in steps of 10 ms.
TICKS = 0.03
# Threads of the last contender may spin for a moment before they sleep.
PAUSE = 0.25
# Variables that would give contenders different numbers of threads, or other packages.
CLEARED = (
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONPATH",
)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One measured call.

    Attributes:
        seconds: wall time.
        cpu_seconds: processor time of all threads of the process.
        others_seconds: processor time of all other programs meanwhile, on the cores that the
            process may use; None where the system does not tell.
        cores: number of those cores.
        peak_mib: largest resident memory of the process so far.
        reply: what the call itself returned.
    """

    seconds: float
    cpu_seconds: float
    others_seconds: float | None = None
    cores: int = 1
    peak_mib: float = 0.0
    reply: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def disturbance(self) -> str | None:
        """Why the turn's wall time says little about the contender; None if it does."""
        if self.seconds - TICKS > STANDSTILL * self.cpu_seconds:
            return (
                f"it computed for {self.cpu_seconds:.2f} s of {self.seconds:.2f} s and stood still "
                "otherwise"
            )
        if self.others_seconds is not None:
            available = self.cores * self.seconds
            if self.others_seconds - TICKS > OTHERS * available:
                share = min(self.others_seconds / available, 1.0)
                return f"other programs took {share:.0%} of the cores"
        return None


# The side of a contender ------------------------------------------------------------------------


@contextlib.contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Measure the block; the mapping holds the fields of `Turn` once it has ended."""
    row: dict[str, Any] = {}
    busy, cpu, wall = _busy_seconds(), time.process_time(), time.perf_counter()
    yield row
    row["seconds"] = time.perf_counter() - wall
    row["cpu_seconds"] = time.process_time() - cpu
    busy_after = _busy_seconds()
    if busy is not None and busy_after is not None:
        row["others_seconds"] = max(busy_after - busy - row["cpu_seconds"], 0.0)
    row["cores"] = len(usable_cores())
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Pipe:
    """Requests on the standard input, answers on what the standard output was at the start.

    Whatever the process prints goes to the standard error from then on.
    """

    def __init__(self, versions: Mapping[str, str]):
        """Take the standard output, and say with these versions that the process is ready."""
        sys.stdout.flush()
        self._answers = os.dup(1)
        os.dup2(2, 1)
        self.answer({"versions": dict(versions)})

    def requests(self) -> Iterator[dict[str, Any]]:
        """The requests one by one, until the benchmark has no more."""
        for line in iter(sys.stdin.readline, ""):
            yield json.loads(line)

    def answer(self, row: Mapping[str, Any]) -> None:
        """One JSON line."""
        os.write(self._answers, (json.dumps(row) + "\n").encode())


def serve(run: Callable[..., Mapping[str, Any] | None], versions: Mapping[str, str]) -> None:
    """Answer requests until there are no more.

    Args:
        run: called with the request's keys as keyword arguments, and measured; it returns when
            its work is done, with what the benchmark is to see.
        versions: of the packages that are measured.
    """
    pipe = Pipe(versions)
    for request in pipe.requests():
        with measured() as row:
            reply = run(**request)
        pipe.answer(row | {"reply": reply or {}})


def usable_cores() -> set[int]:
    """Numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _busy_seconds() -> float | None:
    """Time that the usable cores have spent on anything since the system started."""
    names = {f"cpu{core}" for core in usable_cores()}
    try:
        lines = pathlib.Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ticks = 0
    for name, *counts in map(str.split, filter(None, lines)):
        if name in names:
            user, nice, system, _, _, *interrupts = map(int, counts[:8])
            ticks += user + nice + system + sum(interrupts)
    return ticks / os.sysconf("SC_CLK_TCK")


# The side of the benchmark ----------------------------------------------------------------------


class Contender:
    """A process that computes when asked, with all cores to itself."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ):
        """Start it and wait until it is ready.

        Args:
            name: in reports and errors.
            command: a program that calls `serve` or answers through `Pipe`.
            environment: variables beside those of the benchmark, of which `CLEARED` are left out.

        Raises:
            RuntimeError: it ended first; the message has the end of its standard error.
        """
        self.name = name
        inherited = {key: value for key, value in os.environ.items() if key not in CLEARED}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=inherited | dict(environment or {}),
        )
        self.versions: dict[str, str] = self._read()["versions"]

    def ask(self, **request: Any) -> Turn:
        """One turn.

        Raises:
            RuntimeError: the process ended; the message has the end of its standard error.
        """
        assert self._process.stdin is not None
        # A process that is gone says why when it is read from.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return Turn(**self._read())

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> "Contender":
        """The contender itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read()[-2000:]
            raise RuntimeError(f"{self.name} ended with code {code}:\n{said}")
        return json.loads(line)


def alternate(
    calls: Mapping[str, Callable[[], Turn]],
    repeats: int,
    *,
    most: int | None = None,
    pause: float = PAUSE,
) -> dict[str, list[Turn]]:
    """Turns of each, one after the other, until each has `repeats` that are not disturbed.

    Args:
        calls: by name, for example `functools.partial(contender.ask, samples=8)`; the first turn
            of each is not counted, in which it may compile.
        repeats: undisturbed turns wanted of each.
        most: rounds after which the disturbed turns are given up; three times `repeats` if None.
        pause: seconds before each turn.

    Returns:
        All counted turns by name, in order; entry i of each is from round i.
    """
    found: dict[str, list[Turn]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(most or 3 * repeats):
        for name, call in calls.items():
            time.sleep(pause)
            found[name].append(call())
        if all(len(undisturbed(turns)) >= repeats for turns in found.values()):
            break
    return found


def undisturbed(turns: Sequence[Turn]) -> list[Turn]:
    """Those whose wall time counts."""
    return [turn for turn in turns if turn.disturbance is None]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Turns of one contender.

    Attributes:
        seconds, cpu_seconds: medians over the undisturbed turns; None where there are none.
        peak_mib: largest resident memory.
        count, disturbed: how many turns there were, and how many of them were disturbed.
        why: what disturbed the last of those; None without one.
    """

    seconds: float | None
    cpu_seconds: float | None
    peak_mib: float
    count: int
    disturbed: int
    why: str | None

    def __str__(self) -> str:
        """The seconds, or that there are none to report."""
        if self.seconds is None:
            return f"disturbed in all {self.count} turns: {self.why}"
        return f"{self.seconds:.3f} s{self.note}"

    @property
    def note(self) -> str:
        """How many of the turns were disturbed; empty if none was."""
        return f" ({self.disturbed} of {self.count} turns disturbed)" if self.disturbed else ""


def summary(turns: Sequence[Turn]) -> Summary:
    """Medians of the undisturbed turns."""
    good = undisturbed(turns)
    reasons = [turn.disturbance for turn in turns if turn.disturbance]
    return Summary(
        seconds=statistics.median(turn.seconds for turn in good) if good else None,
        cpu_seconds=statistics.median(turn.cpu_seconds for turn in good) if good else None,
        peak_mib=max((turn.peak_mib for turn in turns), default=0.0),
        count=len(turns),
        disturbed=len(reasons),
        why=reasons[-1] if reasons else None,
    )


def ratio(turns: Sequence[Turn], to: Sequence[Turn]) -> float | None:
    """Median over the rounds of seconds of `turns` : seconds of `to`, where neither is disturbed.

    Returns:
        None if there is no such round.
    """
    pairs = [
        one.seconds / other.seconds
        for one, other in zip(turns, to, strict=True)
        if one.disturbance is None and other.disturbance is None
    ]
    return statistics.median(pairs) if pairs else None


def machine() -> dict[str, Any]:
    """Processor, usable cores, load, system and Python, for the head of a report."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": name,
        "cores": len(usable_cores()),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
    }
