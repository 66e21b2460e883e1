"""Evaluate a model. The second door.

    python -m jaxlab.evaluate --config=configs/eval_NAME.py --workdir=DIR \\
        --config.model.path=MODEL --config.benchmark.path=ROWS [--config.KEY=VALUE ...]
    python -m jaxlab.evaluate --workdir=DIR --compare DIR_A DIR_B ...

MODEL is a HuggingFace directory or a work directory of training. A config with `benchmark` is run
by inspect_ai (extra "evals"): the same command again goes on where a run was killed, and --regrade
grades its answers again, by another grader, without generating. A config with `tracks` trains
LARY's probes on an encoder's features. With --compile_only --topology=NAME nothing is decoded: it
says what a batch would take of these devices. Any other evaluates a training task's test rows in
one process group, as training does. Writes metrics.jsonl, samples.jsonl, report.json and
report.md.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from jaxlab import compiling, doors, ranges
from jaxlab import config as config_lib
from jaxlab.data import settings
from jaxlab.data.settings import Data
from jaxlab.evals import compare, options, report
from jaxlab.evals.loop import Eval, Evaluator
from jaxlab.evals.settings import Run
from jaxlab.interop import channels, models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.rollouts.text import text_task
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import provenance
from jaxlab.runtime import workdir as workdir_lib
from jaxlab.runtime.metrics import MetricsWriter
from jaxlab.runtime.settings import Mesh
from jaxlab.runtime.workdir import local_paths
from jaxlab.trainers import loop, panel
from jaxlab.trainers.panel import Panel

flags.declare_key_flag("config")
flags.declare_key_flag("workdir")
REGRADE = flags.DEFINE_bool(
    "regrade", False, "Grade the answers that --workdir holds again, by the config's grader."
)
COMPARE = flags.DEFINE_string(
    "compare", None, "Work directories of benchmark runs, separated by spaces; the last flag."
)

# By name: run with -m, this module is __main__.
logger = logging.getLogger("jaxlab.evaluate")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """An evaluation of a training task.

    Attributes:
        model: what is evaluated.
        data: the task; only its test rows are used.
        eval: how it is sampled.
        mesh: devices.
        seed: of sampling.
    """

    model: Model
    data: Data
    eval: Eval
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the seed."""
        ranges.check_seed(self)


def main(argv: list[str]) -> None:
    """Run the config of the command line, compile it ahead, or compare runs."""
    with doors.reading_input():
        ahead = build(doors.config()) if compiling.wanted() else None
    if ahead is not None:
        compiling.decoded(ahead)
        return
    with doors.reading_input():
        workdir = doors.workdir()
    if COMPARE.value is not None:
        with doors.reading_input():
            tables = compare.write(
                workdir, [pathlib.Path(run) for run in [COMPARE.value, *argv[1:]]]
            )
        logger.info("%s", "\n".join(line for table in tables for line in table.markdown()))
        return
    with doors.reading_input():
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}; flags begin with --")
        if doors.CONFIG.value is None:
            raise ValueError("flag --config must have a value other than None")
        held = config_lib.load_json(path) if (path := workdir / "config.json").exists() else {}
        if (workdir / "checkpoints").exists() or "trainer" in held or "stages" in held:
            raise ValueError(f"--workdir={workdir} is a training run: give the results another one")
        config = build(doors.config())
    if isinstance(config, Run):
        _benchmark(config, workdir)
    elif isinstance(config, Panel):
        _panel(config, workdir)
    else:
        _task(config, workdir)


def schema(config: Mapping[str, Any]) -> Any:
    """The dataclass that a config fills."""
    if "tracks" in config:
        return Panel
    return Run if "benchmark" in config else Evaluate


def build(config: dict[str, Any]) -> Evaluate | Run | Panel:
    """The config's dataclass: a benchmark's run, LARY's panel, or a training task's evaluation.

    Raises:
        ConfigError: a key is unknown, missing or ill-typed.
    """
    config = local_paths(config)
    built: Evaluate | Run | Panel = config_lib.build(schema(config), config)
    return built


def _options_help() -> str:
    """The options of each benchmark, for --help."""
    lines = []
    for name, cls in options.OPTIONS.items():
        lines += ["", f"benchmark.options of {name}:", ""]
        lines += [f"    {line}" for line in config_lib.describe(cls)]
    return "\n".join([*lines, ""])


def _benchmark(config: Run, workdir: pathlib.Path) -> None:
    with doors.reading_input():
        with doors.naming_the_extra("this benchmark"):
            from jaxlab.evals import harness

            config = harness.resolved(config)
            task = harness.prepare(config, workdir, regrade=REGRADE.value)
        held = workdir_lib.lock(workdir)
        model = None if REGRADE.value else harness.subject(config)
        try:
            log = harness.regrade(config, workdir) if REGRADE.value else None
        except RuntimeError as error:
            doors.failed(error)
        config_lib.save_json(config, workdir / "config.json")
        made = provenance.provenance(devices=config.model.path is not None)
        config_lib.save_json(made, workdir / provenance.FILE)
    try:
        with held:
            if log is None:
                log = harness.generate(config, task, workdir, model)
            outcome = harness.finish(config, task, log, workdir)
    except RuntimeError as error:
        doors.failed(error)
    except KeyboardInterrupt:
        doors.stopped("the finished answers are kept, and the same command goes on")
    _write_metrics(workdir, outcome.scores)
    for path in outcome.files:
        logger.info("wrote %s", path)
    logger.info("transcripts: inspect view --log-dir %s", workdir / "logs")
    on = f"the same command{' without --regrade' * REGRADE.value}"
    if outcome.ended:
        doors.failed(RuntimeError(f"the run ended {outcome.ended}; {on} goes on"))
    if outcome.failures:
        doors.failed(
            RuntimeError(
                f"{len(outcome.failures)} samples failed, the first with {outcome.failures[0]}; "
                f"{on} tries them again"
            )
        )
    if outcome.ungraded:
        kinds = ", ".join(f"{kind} {n}" for kind, n in outcome.grader_errors.items())
        doors.failed(
            RuntimeError(
                f"the grader failed on {len(outcome.ungraded)} answers, which count as wrong "
                f"({kinds}); the first is {outcome.ungraded[0]}; --regrade grades the answers again"
            )
        )
    share, most = outcome.scores["parse_failure_rate"], config.benchmark.max_parse_failures
    if share > most:
        doors.failed(
            RuntimeError(
                f"nothing could be compared in {share:.1%} of the completions, more than the "
                f"{most:.1%} of benchmark.max_parse_failures: see Outcomes in the report"
            )
        )


def _panel(config: Panel, workdir: pathlib.Path) -> None:
    with contextlib.ExitStack() as held:
        with doors.reading_input():
            mesh_lib.start(config.mesh.multihost, config.mesh.decode_devices)
            held.enter_context(doors.alone(workdir))
            config_lib.save_json(config, workdir / "config.json")
            config_lib.save_json(provenance.provenance(), workdir / provenance.FILE)
        with doors.reading_input(), doors.working(loop.NonFiniteError):
            for path in panel.run(config, workdir):
                logger.info("wrote %s", path)


def _task(config: Evaluate, workdir: pathlib.Path) -> None:
    with doors.reading_input():
        mesh_lib.start(config.mesh.multihost, config.mesh.decode_devices)
        held = contextlib.ExitStack()
        held.enter_context(doors.alone(workdir))
        config_lib.save_json(config, workdir / "config.json")
        config_lib.save_json(provenance.provenance(), workdir / provenance.FILE)
        mesh = mesh_lib.make_mesh(config.mesh.shape)
        tokenizer = settings.tokenizer(config.data, models.tokenizer_at(config.model, "model"))
        source = models.find(
            config.model, "model", vocab_size=tokenizer.vocab_size, seed=config.seed
        )
        text = text_task(config.data, tokenizer)
        found = None
        if config.eval.attention.calibration == "checkpoint":
            found = channels.read(source.directory)
        evaluator = Evaluator(
            Decoder(source.config), text, config.eval, mesh, config.mesh.decode_rules,
            None if found is None else found.channels,
        )  # fmt: skip
        params = source.load(mesh, config.mesh.rules)
        if found is not None:
            found.check(params, str(source.directory))
    with held:
        scores, samples = evaluator(params, jax.random.key(config.seed))
        if not mesh_lib.is_main():
            return
        _write_metrics(workdir, scores)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in samples]
        (workdir / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        title = f"{config.data.task}: evaluation"
        for path in report.write(workdir, {workdir.name: workdir}, title):
            logger.info("wrote %s", path)


def _write_metrics(workdir: pathlib.Path, scores: dict[str, float]) -> None:
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    with MetricsWriter(workdir) as writer:
        writer.write(0, {f"eval/{name}": value for name, value in scores.items()})
    for name, value in scores.items():
        logger.info("%s %.4g", name, value)


def start() -> None:
    """Run the program of the command line: `python -m jaxlab.evaluate`."""
    # Compiling ahead writes nothing that it is not asked for.
    ahead = any(
        word.startswith("--compile_only") and not word.endswith("=false") for word in sys.argv
    )
    doors.run(
        main,
        required=["config" if ahead else "workdir"],
        positional=True,
        configs="eval_",
        schema=schema,
        more_help=_options_help,
    )


if __name__ == "__main__":
    start()
