"""Rows in metrics.jsonl, and a progress line with the time left."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from jaxlab.runtime import atomic, mesh


class WandbError(RuntimeError):
    """Weights & Biases does not start; the message is one line for the user."""


class MetricsWriter:
    """Appends one JSON object per logged step to `<workdir>/metrics.jsonl`.

    Rows are strict JSON: a NaN or infinite metric is null, and its name is in "nonfinite". Only
    process 0 writes; elsewhere every method does nothing.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        tensorboard: bool = False,
        wandb: Mapping[str, Any] | None = None,
    ):
        """Opens the file, without what a killed run left of its last line.

        Args:
            workdir: the work directory; made if absent.
            tensorboard: also write event files to `<workdir>/tensorboard`.
            wandb: also log to Weights & Biases; the arguments of `wandb.init`.

        Raises:
            ImportError: `wandb` is asked for and not installed.
            WandbError: it does not start.
        """
        self._file: TextIO | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None
        self._purge_step: int | None = None
        if not mesh.is_main():
            return
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.jsonl"
        self._events = workdir / "tensorboard" if tensorboard else None
        if wandb is not None:
            try:
                self._wandb = import_wandb().init(**{"dir": str(workdir), **wandb})
            except ImportError:
                raise
            except Exception as error:  # of many kinds: no key, no network, no such project
                raise WandbError(f"Weights & Biases cannot be reached: {error}") from error
        keep_rows(self._path, lambda step: True)
        self._file = self._path.open("a")

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any):
        self.close(_exit_code(error))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one row and flushes it.

        Args:
            step: the row's step.
            metrics: scalars by name: numbers, or arrays with one element (which are waited for).
        """
        if self._file is None:
            return
        if {"step", "nonfinite"} & set(metrics):
            raise ValueError("a metric cannot be named step or nonfinite: the row has these itself")
        values = {name: float(value) for name, value in metrics.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        row: dict[str, Any] = {"step": int(step), **values, **dict.fromkeys(bad)}
        if bad:
            row["nonfinite"] = bad
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                self._event_writer().add_scalar(name, value, int(step))
        if self._wandb is not None:
            self._wandb.log(values, step=int(step))

    def truncate_after(self, step: int) -> None:
        """Drops the rows of later steps; call it when a run resumes from `step`."""
        if self._file is None:
            return
        self._file.close()
        keep_rows(self._path, lambda row_step: row_step <= step)
        self._file = self._path.open("a")
        self._purge_step = step + 1

    def row(self, step: int) -> dict[str, Any]:
        """The metrics that the file has for `step`, of all its rows; for process 0, else {}."""
        if self._file is None:
            return {}
        rows = map(json.loads, self._path.read_bytes().splitlines())
        return {name: value for row in rows if row["step"] == step for name, value in row.items()}

    def close(self, exit_code: int = 0) -> None:
        """Closes the file and the services.

        Args:
            exit_code: of the program; anything but 0 marks the run of Weights & Biases as failed.
        """
        file, self._file = self._file, None
        tensorboard, self._tensorboard = self._tensorboard, None
        run, self._wandb = self._wandb, None
        with contextlib.ExitStack() as closing:
            # From the last to the first, and all of them, whichever fails.
            if file is not None:
                closing.callback(file.close)
            if tensorboard is not None:
                closing.callback(tensorboard.close)
            if run is not None:
                closing.callback(run.finish, exit_code=exit_code)

    def _event_writer(self) -> Any:
        if self._tensorboard is None:
            # Imported here: only runs that ask for TensorBoard pay for protobuf.
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(self._events), purge_step=self._purge_step)
        return self._tensorboard


class Progress:
    """One status line: step, metrics, step time, tokens/s, elapsed and remaining time.

    On a terminal the line rewrites itself; elsewhere a line is printed at most every `every`
    seconds, and for the last step. The time up to the first update is compilation and is left out
    of the rates and of the time left.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: TextIO | None = None,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
            total: the last step.
            stream: where to print; stderr when None.
            every: seconds between lines where the stream is no terminal.
            clock: seconds, for tests.
        """
        self._total, self._clock = total, clock
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = 0.1 if self._terminal else every
        self._begin = clock()
        self._first: tuple[int, float] | None = None
        self._tokens = 0
        self._printed: float | None = None

    def update(self, step: int, metrics: Mapping[str, Any] | None = None, tokens: int = 0) -> None:
        """Tells that `step` is done.

        Args:
            step: number of steps done so far.
            metrics: the scalars to show.
            tokens: tokens processed since the update before this one.
        """
        if not mesh.is_main():
            return
        now = self._clock()
        if self._first is None:
            self._first = (step, now)
        else:
            self._tokens += tokens
        due = self._printed is None or now - self._printed >= self._every
        if due or step >= self._total:
            self._printed = now
            line = self._line(step, now, metrics or {})
            self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Ends the rewritten line."""
        if self._terminal and self._printed is not None:
            self._stream.write("\n")
            self._stream.flush()

    def _line(self, step: int, now: float, metrics: Mapping[str, Any]) -> str:
        assert self._first is not None
        parts = [f"step {step}/{self._total}"]
        parts += [f"{name} {float(value):.4g}" for name, value in metrics.items()]
        done, seconds = step - self._first[0], now - self._first[1]
        remaining = "?"
        if done > 0 and seconds > 0:
            parts.append(f"{_short(seconds / done)}/step")
            if self._tokens:
                parts.append(f"{self._tokens / seconds:,.0f} tok/s")
            remaining = _clock_time((self._total - step) * seconds / done)
        parts += [f"elapsed {_clock_time(now - self._begin)}", f"left {remaining}"]
        return " | ".join(parts)


def keep_rows(path: pathlib.Path, wanted: Callable[[int], bool]) -> None:
    """Rewrites a jsonl file with the whole rows whose step is wanted.

    Atomic, and idle if all are wanted or there is no such file.
    """
    if not path.exists():
        return
    old = path.read_bytes()
    new = b"".join(
        line for line in old.splitlines(keepends=True) if _is_row(line) and wanted(_step(line))
    )
    if new == old:
        return
    atomic.write(path, new)


def _is_row(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line).get("step"), int)
    except (ValueError, AttributeError):
        return False


def _step(line: bytes) -> int:
    return json.loads(line)["step"]


def import_wandb() -> Any:
    """The package of Weights & Biases.

    Raises:
        ImportError: it is not installed; the message names the extra.
    """
    absent = "logging to Weights & Biases needs the wandb package: pip install 'jaxlab[wandb]'"
    try:
        import wandb
    except ImportError as error:
        raise ImportError(absent) from error
    # A folder of that name, as the package itself leaves behind, can be imported too.
    if not hasattr(wandb, "init"):
        raise ImportError(absent)
    return wandb


def _exit_code(error: BaseException | None) -> int:
    """The code with which the program ends if nothing handles the error."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return 0
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
