"""The one training loop. Trainers give it a `Program`; they neither copy nor subclass it.

The order within a step, which a test guards:

    1. evaluate        if due: what is evaluated at step s is what a checkpoint of s holds;
                       a request to leave ends it, and the resumed run begins with it
    2. checkpoint      if due, after the metrics of all steps before it were read and checked
    3. preemption      save and leave
    4. step            fetch the batch, dispatch; nothing waits for the device
    5. read metrics    of the step before, so that the device always has the next step's work

Randomness, data and schedules are functions of the step, so a run that was killed goes on from its
last checkpoint as if nothing had happened.
"""

import contextlib
import hashlib
import json
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import profiling
from jaxlab.runtime.checkpoint import Checkpointer, CheckpointError, Restored
from jaxlab.runtime.metrics import MetricsWriter, Progress, keep_rows
from jaxlab.runtime.preemption import Preemption
from jaxlab.trainers.settings import Train, Until
from jaxlab.trainers.state import TrainState

logger = logging.getLogger(__name__)

Scalars = Mapping[str, Any]


class StepOutput(NamedTuple):
    """What one step leaves.

    Attributes:
        state: after the step.
        metrics: device scalars; `loss` and `grad_norm` must be among them.
        host_metrics: called one step later, when waiting costs nothing: scalars that are computed
            on the host, such as the reward of decoded text. `tokens` counts the step's tokens,
            `model_flops` its model FLOPs, those of padding included.
    """

    state: TrainState
    metrics: Scalars
    host_metrics: Callable[[], Scalars]


class Evaluation(NamedTuple):
    """Scalars for metrics.jsonl, whose names begin with "eval/"; rows for the two other files."""

    metrics: Scalars
    samples: Sequence[dict[str, Any]] = ()
    histograms: Sequence[dict[str, Any]] = ()


class HostState(NamedTuple):
    """What a run keeps on the host from step to step, such as a library of skills.

    Attributes:
        dump: JSON-able, the state after the steps whose metrics were read; process 0's is kept.
        load: takes what `dump` gave; called once, before the first step of a resumed run.
    """

    dump: Callable[[], Any]
    load: Callable[[Any], None]


class Program(NamedTuple):
    """A training run as functions.

    Attributes:
        abstract: shapes, dtypes and shardings of the state.
        init: the state before the first step, on its devices; not called when a run resumes.
        step: (state, number of the step) -> StepOutput; the state passed in is consumed.
        evaluate: (state, steps done) -> Evaluation.
        show: metrics on the progress line.
        host_state: part of every checkpoint; None: nothing on the host matters.
        close: called when the run ends, however it does.
    """

    abstract: TrainState
    init: Callable[[], TrainState]
    step: Callable[[TrainState, int], StepOutput]
    evaluate: Callable[[TrainState, int], Evaluation]
    show: tuple[str, ...] = ("loss",)
    host_state: HostState | None = None
    close: Callable[[], None] = lambda: None


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite."""


def run(
    program: Program,
    config: Train,
    workdir: pathlib.Path,
    about: Mapping[str, Any] | None = None,
) -> TrainState:
    """Train from the last good checkpoint of `workdir`, or from the start, to the last step.

    With `config.until` the last step is that of the first evaluation with the score.

    Args:
        program: what to train.
        config: how long, and what to leave.
        workdir: gets metrics.jsonl, samples.jsonl, histograms.jsonl and checkpoints/.
        about: the whole config, JSON-able, for Weights & Biases.

    Returns:
        The state after the last step.

    Raises:
        ValueError: evaluations do not have the metric of `until`.
        NonFiniteError: with `nonfinite="stop"`; names the step and the last good checkpoint.
        SystemExit: code 143 after SIGTERM or Ctrl-C, with a checkpoint saved.
    """
    last = config.steps if config.stop_after is None else min(config.stop_after, config.steps)
    with (
        contextlib.closing(program),
        # Around all others: a request also counts while the last checkpoint is written.
        Preemption() as preemption,
        MetricsWriter(workdir, config.tensorboard, _wandb(config, workdir, about)) as writer,
        Checkpointer(
            workdir / "checkpoints", keep=config.keep_checkpoints, keep_every=config.keep_every
        ) as checkpointer,
    ):
        restored = checkpointer.restore(program.abstract)
        first, state = (0, program.init()) if restored is None else _resumed(program, restored)
        kept = -1 if restored is None else first
        writer.truncate_after(kept)
        there = mesh_lib.broadcast(writer.row(kept))
        evaluated = any(name.startswith("eval/") for name in there)
        ends = evaluated and _reached(config.until, there)
        samples = StepRows(workdir / "samples.jsonl", kept)
        histograms = StepRows(workdir / "histograms.jsonl", kept)
        progress = Progress(last)
        reader = _Reader(config, checkpointer, writer, progress, program, first, last)
        trace = None
        if config.profile_start is not None:
            trace = profiling.TraceWindow(config.profile_start, 5, workdir / "profile")
        for step in range(first, last + 1):
            resumed_here = restored is not None and step == first
            wanted = step % config.eval_every == 0 or step == last
            if wanted and not (resumed_here and evaluated) and not preemption.pending:
                reader.flush()
                evaluation = None
                with reader.paused(), preemption.interrupting():
                    evaluation = program.evaluate(state, step)
                if evaluation is not None:
                    ends = _reached(config.until, evaluation.metrics)
                    writer.write(step, evaluation.metrics)
                    samples.write(step, evaluation.samples)
                    histograms.write(step, evaluation.histograms)
            leaving = preemption.reached(step)
            ends = ends or step == last
            due = ends or (step > 0 and step % config.checkpoint_every == 0)
            if not resumed_here and (due or leaving):
                reader.flush()
                with reader.paused():
                    checkpointer.save(step, state, **_extra(program))
            if leaving:
                checkpointer.close()
                preemption.leave()
            if ends:
                break
            with contextlib.nullcontext() if trace is None else trace.step(step):
                output = program.step(state, step)
            state = output.state
            reader.read_previous(step + 1, output)
        reader.flush()
        progress.close()
        if trace is not None:
            trace.close()
        checkpointer.close()
        if preemption.reached(last + 1):
            # What comes after this run, such as the next stage, is not begun.
            preemption.leave()
    return state


def _reached(until: Until | None, metrics: Scalars) -> bool:
    """Whether an evaluation has the score that ends the run.

    Raises:
        ValueError: it does not have the metric.
    """
    if until is None:
        return False
    name = f"eval/{until.metric}"
    if name not in metrics:
        known = ", ".join(sorted(x.removeprefix("eval/") for x in metrics if x.startswith("eval/")))
        raise ValueError(f"train.until.metric: {until.metric!r} is not evaluated; {known} are")
    if metrics[name] < until.at_least:
        return False
    logger.info("%s is %.4g, as train.until asks: the run ends", until.metric, metrics[name])
    return True


def _resumed(program: Program, restored: Restored) -> tuple[int, TrainState]:
    """The step and the state that a run goes on from; what it kept on the host is loaded."""
    logger.info("resuming from the checkpoint of step %d", restored.step)
    if program.host_state is not None:
        program.host_state.load(_host_state(restored))
    return restored.step, restored.state


def _extra(program: Program) -> dict[str, Any]:
    if program.host_state is None:
        return {}
    return {"extra": {"host_state": program.host_state.dump()}}


def _host_state(restored: Restored) -> Any:
    """What `dump` gave; a state that is not there must not pass for an empty one."""
    if "host_state" not in restored.extra:
        raise CheckpointError(
            f"the checkpoint of step {restored.step} has no host state, which this run needs: it "
            "was written by a run of another kind; begin in a new work directory"
        )
    return restored.extra["host_state"]


class _Reader:
    """Reads each step's metrics while the next one runs; checks, logs and shows them."""

    def __init__(
        self,
        config: Train,
        checkpointer: Checkpointer,
        writer: MetricsWriter,
        progress: Progress,
        program: Program,
        start: int,
        last: int,
    ):
        self._last = last
        self._config, self._checkpointer, self._writer = config, checkpointer, writer
        self._progress, self._program = progress, program
        self._rates: dict[str, float] = {}
        self._flops, self._devices = 0.0, _devices(program.abstract)
        self._pending: tuple[int, Scalars, Callable[[], Scalars]] | None = None
        self._clock, self._clock_step, self._tokens = time.monotonic(), start, 0.0

    def read_previous(self, step: int, output: StepOutput) -> None:
        """Hand in the output of the step that made `step`; read the one before."""
        self.flush()
        # Without the state, which must not be kept alive: the next step reuses its memory.
        self._pending = (step, output.metrics, output.host_metrics)

    def flush(self) -> None:
        """Read what is still to be read."""
        if self._pending is None:
            return
        (step, device_metrics, host_metrics), self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(device_metrics).items()}
        self._check(step, metrics)
        metrics |= host_metrics()
        tokens = metrics.pop("tokens", 0)
        self._tokens += tokens
        self._flops += metrics.pop("model_flops", 0.0)
        if step % self._config.log_every == 0 or step == self._last:
            self._rates = self._measured(step)
            self._writer.write(step, metrics | self._rates)
        shown = _chosen(metrics | self._rates, (*self._program.show, "mfu"))
        self._progress.update(step, shown, int(tokens))

    def _measured(self, step: int) -> dict[str, float]:
        """Rates since the row before; MFU where a device's peak is known."""
        now = time.monotonic()
        seconds, steps = now - self._clock, step - self._clock_step
        tokens, self._tokens = self._tokens, 0.0
        flops, self._flops = self._flops / seconds, 0.0
        self._clock, self._clock_step = now, step
        rates = {"step_seconds": seconds / steps, "tokens_per_second": tokens / seconds}
        if flops:
            rates["model_flops_per_second"] = flops
            utilisation = profiling.mfu(flops, self._devices)
            if utilisation is not None:
                rates["mfu"] = utilisation
        return rates

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no part of a training step's time."""
        begin = time.monotonic()
        yield
        self._clock += time.monotonic() - begin

    def _check(self, step: int, metrics: Scalars) -> None:
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
        if not bad or self._config.nonfinite == "skip":
            return
        self._writer.write(step, metrics)
        self._checkpointer.wait()
        good = self._checkpointer.latest()
        where = "there is no checkpoint yet" if good is None else f"the last checkpoint is {good}"
        raise NonFiniteError(
            f"step {step}: {' and '.join(bad)} not finite; {where} (train.nonfinite='skip' goes on "
            "without such steps)"
        )


def _devices(abstract: TrainState) -> int:
    """How many devices a run's state lies on: a mesh may leave some of a host's out."""
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(abstract)]
    return max((len(one.device_set) for one in shardings if one is not None), default=1)


class StepRows:
    """A jsonl file of rows that belong to steps."""

    def __init__(self, path: pathlib.Path, last_step: int):
        """Drop what a killed run wrote after `last_step`, from which this one goes on."""
        self._path = path
        if mesh_lib.is_main():
            keep_rows(path, lambda step: step <= last_step)

    def write(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, each with its step."""
        if not mesh_lib.is_main() or not rows:
            return
        with self._path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")


def _chosen(metrics: Scalars, names: tuple[str, ...]) -> dict[str, float]:
    return {name: metrics[name] for name in names if name in metrics}


def _wandb(
    config: Train, workdir: pathlib.Path, about: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    if config.wandb is None:
        return None
    # The id makes a resumed run the same one.
    run_id = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
    return {
        "project": config.wandb,
        "name": workdir.resolve().name,
        "id": run_id,
        "resume": "allow",
        "config": dict(about or {}),
        # A resumed run may have another length or learning rate.
        "allow_val_change": True,
    }
