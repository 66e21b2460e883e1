"""Train what a config describes. The first door.

    python -m jaxlab.train --config=configs/NAME.py[:variant] --workdir=DIR [--config.KEY=VALUE ...]

The same command again goes on from the last checkpoint. A config with `stages` runs them in order,
each in a directory of its own under --workdir: --list names them, --stages=A,B runs some of them.
--compile_only --topology=v5p:4x4x4 says what the run would take of these devices, without them.
"""

import contextlib
import dataclasses
import graphlib
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union

from absl import flags

from jaxlab import compiling, doors, exporting
from jaxlab import config as config_lib
from jaxlab.evals import report
from jaxlab.exporting import export
from jaxlab.losses.methods import names
from jaxlab.rollouts.text import LongPromptError
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import workdir as workdir_lib
from jaxlab.runtime.metrics import WandbError, import_wandb
from jaxlab.runtime.preemption import exit_on_sigterm
from jaxlab.runtime.workdir import expand, local_paths
from jaxlab.trainers import agent, distill, lm, loop, probe, representation, resuming, sft, think
from jaxlab.trainers.loop import Program
from jaxlab.trainers.teacher_file import TeacherFileError

flags.declare_key_flag("config")
flags.declare_key_flag("workdir")
STAGES = flags.DEFINE_list(
    "stages", None, "Run these of the config's stages alone; names, separated by commas."
)
LIST = flags.DEFINE_bool("list", False, "Print the names of the config's stages in order; no run.")
LIST_SWEEP = flags.DEFINE_bool(
    "list_sweep",
    False,
    "Print the overrides that sweep() of the config file yields, a JSON object per line; no run.",
)

LIST_METHODS = flags.DEFINE_bool(
    "list_methods", False, "Print the methods of the trainer distill, with sources and options."
)

TRAINERS: dict[str, tuple[type[Any], Callable[[Any, pathlib.Path], Program]]] = {
    "sft": (sft.Sft, sft.program),
    "distill": (distill.Distill, distill.program),
    "lm": (lm.Lm, lm.program),
    "probe": (probe.Probe, probe.program),
    "think": (think.Think, think.program),
    "representation": (representation.Representation, representation.program),
    "agent": (agent.Agent, agent.program),
}

# What stands in the work directory of a single run, for which one with such a stage would be taken.
_OF_A_RUN = ("checkpoints", "model", "tokens", "profile", "tensorboard", "wandb")

# Failures on the way whose message says it all.
_ON_THE_WAY = (
    *(loop.NonFiniteError, LongPromptError, WandbError, agent.DeadError),
    TeacherFileError,
)

# By name: run with -m, this module is __main__.
logger = logging.getLogger("jaxlab.train")


@dataclasses.dataclass(frozen=True)
class Study:
    """A config with stages.

    Attributes:
        stages: runs by name, each in a directory of that name.
        export: stage -> the HuggingFace directory that is written of it, below the work directory.
        title: heading of the report.
    """

    stages: dict[str, dict[str, Any]]
    export: dict[str, str] = dataclasses.field(default_factory=dict)
    title: str | None = None

    def __post_init__(self) -> None:
        """Check that there are stages, and that each can be a directory's name."""
        if not self.stages:
            raise ValueError("stages is empty: name at least one stage")
        for name in self.stages:
            if name.startswith(".") or pathlib.PurePath(name).name != name:
                raise ValueError(f"stages: {name!r} cannot be the name of a directory")
            if name in _OF_A_RUN:
                raise ValueError(f"stages: {name!r} is what a run calls a part of its directory")


def schema(config: Mapping[str, Any]) -> Any:
    """The annotation of a config: its trainer's dataclass, or one with stages of them."""
    classes: Any = Union[tuple(cls for cls, _ in TRAINERS.values())]  # noqa: UP007
    run: Any = Annotated[classes, config_lib.by("trainer")]
    if "stages" not in config:
        return run
    typed = [("stages", dict[str, run])]
    return dataclasses.make_dataclass("Study", typed, bases=(Study,), frozen=True)


def main(argv: list[str]) -> None:
    """Run the config of the command line."""
    del argv
    exit_on_sigterm()
    if LIST_METHODS.value:
        print("\n".join(names.table()))
        return
    with doors.reading_input():
        config = doors.config()
        if LIST.value or LIST_SWEEP.value:
            print("\n".join(listed(config) if LIST.value else sweep()))
            return
        ahead = compiled_ahead(config, STAGES.value) if compiling.wanted() else None
    if ahead is not None:
        compiling.trained(ahead)
        return
    with doors.reading_input():
        workdir = doors.workdir()
    run(config, workdir, STAGES.value)


def listed(config: dict[str, Any]) -> list[str]:
    """The names of the stages in the order in which they run.

    Raises:
        ConfigError: the config has none, or does not fit.
    """
    if "stages" not in config:
        raise config_lib.ConfigError("--list: the config is a single run, without stages")
    return list(check(config, ""))


def compiled_ahead(config: dict[str, Any], only: Sequence[str] | None) -> dict[str, Any]:
    """The settings of the stages to be compiled; a single run is called "".

    Raises:
        ConfigError: they do not fit, or a stage is named that there is not.
    """
    stages = check(config, "")
    chosen = stages if only is None else _named(config, stages, only)
    return {
        name: settings(compiling.described(stage, stages), f"stages.{name}" if name else "config")
        for name, stage in chosen.items()
    }


def sweep() -> list[str]:
    """The overrides of the config file's sweep(), each as a JSON object on a line.

    Raises:
        ValueError: the file has no sweep(), or an override does not fit; names which.
    """
    lines = []
    for i, one in enumerate(doors.sweep()):
        try:
            check(doors.with_overrides(one), "")
        except ValueError as error:
            raise ValueError(f"sweep()[{i}]: {error}") from error
        lines.append(json.dumps(config_lib.to_json(one)))
    return lines


def run(config: dict[str, Any], workdir: pathlib.Path, only: Sequence[str] | None = None) -> None:
    """Run a config, or its stages in order; then report, and export what it says.

    Args:
        config: one run, or stages.
        workdir: of the run, or the directory above the stages'.
        only: names of the stages to run; None: all.
    """
    with contextlib.ExitStack() as held:
        with doors.reading_input():
            workdir = workdir_lib.directory(str(workdir), "--workdir")
            name = workdir.resolve().name
            stages = check(config, name)
            if only is not None:
                stages = _chosen(config, stages, only, workdir)
            mesh_lib.start(_multihost(stages), _decode_devices(stages))
            study = "stages" in config
            runs = {stage: workdir / stage if study else workdir for stage in stages}
            there = in_order(config["stages"]) if study else {}
            reported = {stage: workdir / stage for stage in there} or runs
            exports = {}
            for stage, out in config.get("export", {}).items():
                if stage not in stages:
                    continue
                out = workdir / expand(out, f"export.{stage}")
                exports[stage] = exporting.check_out(out, workdir, runs.values())
            _check_apart(exports)
            resolved = {stage: _resolve(part, workdir) for stage, part in stages.items()}
            if study:
                held.enter_context(doors.alone(workdir))
                resuming.check_place(workdir, study=True)
                # The last stage is not to be refused when the others have been trained.
                for stage, part in resolved.items():
                    _compare(part, runs[stage])
                _note_study(config, workdir)
        for stage, part in resolved.items():
            logger.info("== %s (%s)", stage, runs[stage])
            train(part, runs[stage])
        with doors.working(exporting.ParityError):
            if mesh_lib.is_main():
                begun = {stage: run for stage, run in reported.items() if _begun(run)}
                title = config.get("title") or name
                written = report.write(workdir, begun, title)
                for path in [*written, *probe.summary(workdir, begun, title)]:
                    logger.info("wrote %s", path)
            for stage, out in exports.items():
                export(runs[stage], out)
                logger.info("exported %s to %s (a HuggingFace directory)", stage, out)


def train(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """One run: build it, which ends the program with code 2 if the input is bad; then train."""
    with contextlib.ExitStack() as held:
        with doors.reading_input():
            run = settings(config)
            new = config_lib.to_json(run)
            held.enter_context(doors.alone(workdir))
            changes, warnings = _compare(config, workdir)
            program = TRAINERS[run.trainer][1](run, workdir)
            resuming.check_fit(workdir, program.abstract, changes)
            resuming.note(workdir, new, [*warnings, *resuming.told(changes)], config)
        with doors.working(*_ON_THE_WAY):
            loop.run(program, run.train, workdir, new)


def _compare(
    config: dict[str, Any], workdir: pathlib.Path
) -> tuple[list[resuming.Change], list[str]]:
    """Check that a run can begin or go on in its directory; nothing is written.

    Returns:
        What has changed in its config, and what else the user should know.

    Raises:
        ConfigError: the directory holds something that does not fit the config.
        ImportError: a service that the run reports to is not installed.
    """
    run = settings(config)
    if run.train.wandb is not None:
        import_wandb()
    resuming.check_place(workdir, study=False)
    new, old = config_lib.to_json(run), _recorded(workdir)
    return resuming.changes(new, old, resuming.written(config, workdir)), resuming.check(
        workdir, new, old
    )


def settings(config: dict[str, Any], where: str = "config") -> Any:
    """The config as its trainer's dataclass.

    Raises:
        ConfigError: it is not one; `where` is the prefix of the keys that errors name.
    """
    trainer = config.get("trainer")
    if trainer not in TRAINERS:
        raise config_lib.ConfigError(
            f"{where}.trainer: {trainer!r} is not one of {', '.join(TRAINERS)}"
        )
    return config_lib.build(TRAINERS[trainer][0], local_paths(config, where), where)


def check(config: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The stages in order, or the one run under `name`, after a look at all of them.

    The last of them is not to fail on a misspelt key when the others have been trained.

    Raises:
        ConfigError: a stage does not fit its trainer, or a stage is named that there is not.
    """
    if "stages" not in config:
        settings(config)
        for stage in _stages_named(config):
            raise config_lib.ConfigError(f'path: "@{stage}" is a stage, but the config has none')
        return {name: config}
    study = config_lib.build(Study, config)
    for stage, part in study.stages.items():
        settings(part, f"config.stages.{stage}")
    stages = in_order(study.stages)
    for exported in study.export:
        if exported not in stages:
            raise config_lib.ConfigError(
                f"export: there is no stage {exported!r}; there are {', '.join(stages)}"
            )
    return stages


def _check_apart(exports: dict[str, pathlib.Path]) -> None:
    """Check that no export replaces another, or is a part of one.

    Raises:
        ConfigError: two go to one directory, or one into the other's.
    """
    for stage, out in exports.items():
        for other, held in exports.items():
            if stage != other and held in (out, *out.parents):
                raise config_lib.ConfigError(
                    f"export.{stage}: {out} is, or is within, that of {other!r}, {held}: give each "
                    "stage a directory of its own"
                )


def _named(
    config: dict[str, Any], stages: dict[str, dict[str, Any]], only: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The stages of these names, in order.

    Raises:
        ConfigError: there is no such stage.
    """
    if "stages" not in config:
        raise config_lib.ConfigError("--stages: the config is a single run, without stages")
    for name in only:
        if name not in stages:
            near = config_lib.nearest(name, stages)
            cure = f"did you mean {near!r}?" if near else f"there are {', '.join(stages)}"
            raise config_lib.ConfigError(f"--stages: there is no stage {name!r}; {cure}")
    chosen = {name: stage for name, stage in stages.items() if name in only}
    if not chosen:
        raise config_lib.ConfigError(f"--stages is empty; there are {', '.join(stages)}")
    return chosen


def _chosen(
    config: dict[str, Any],
    stages: dict[str, dict[str, Any]],
    only: Sequence[str],
    workdir: pathlib.Path,
) -> dict[str, dict[str, Any]]:
    """As `_named`; what a stage starts from must have run, or be one of them.

    Raises:
        ConfigError: there is no such stage, or one starts from a stage that has not run.
    """
    chosen = _named(config, stages, only)
    for name, stage in chosen.items():
        for needed in _stages_named(stage):
            if needed not in chosen and not any((workdir / needed).glob("checkpoints/*")):
                raise config_lib.ConfigError(
                    f"--stages: {name} starts from {needed}, which has no checkpoint in {workdir}: "
                    "add it"
                )
    return chosen


def _begun(workdir: pathlib.Path) -> bool:
    return (workdir / resuming.METRICS).exists()


def in_order(stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The stages, each after those whose models it starts from.

    Raises:
        ConfigError: a stage is named that there is not, or stages wait for each other.
    """
    needs = {name: dict.fromkeys(_stages_named(stage)) for name, stage in stages.items()}
    for name, needed in needs.items():
        for unknown in needed.keys() - stages.keys():
            raise config_lib.ConfigError(
                f"stages.{name}: there is no stage {unknown!r}; there are {', '.join(stages)}"
            )
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise config_lib.ConfigError(f"stages wait for each other: {error.args[1]}") from error
    return {name: stages[name] for name in order}


def _note_study(config: dict[str, Any], workdir: pathlib.Path) -> None:
    new = _complete(config)
    given = resuming.written(config, workdir)
    warnings = resuming.told(resuming.changes(new, _recorded(workdir), given))
    resuming.note(workdir, new, warnings, config)


def _recorded(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The config in a work directory, with the defaults that it leaves out; None without one."""
    path = workdir / resuming.CONFIG
    if not path.exists():
        return None
    config = config_lib.load_json(path)
    try:
        return _complete(config)
    except config_lib.ConfigError:
        return config  # of another version


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A config, or one with stages, as JSON with all of its defaults."""
    if "stages" not in config:
        return config_lib.to_json(settings(config))
    study = config_lib.build(Study, config)
    stages = {name: settings(stage) for name, stage in study.stages.items()}
    return config_lib.to_json(dataclasses.replace(study, stages=stages))


def _resolve(config: Any, workdir: pathlib.Path, key: str = "") -> Any:
    """The stage with every `path` "@NAME" turned into the work directory of stage NAME."""
    if isinstance(config, dict):
        return {name: _resolve(value, workdir, name) for name, value in config.items()}
    return str(workdir / config[1:]) if _is_stage(key, config) else config


def _stages_named(config: Any, key: str = "") -> list[str]:
    if isinstance(config, dict):
        return [found for name in config for found in _stages_named(config[name], name)]
    return [config[1:]] if _is_stage(key, config) else []


def _is_stage(key: str, value: Any) -> bool:
    return key == "path" and isinstance(value, str) and value.startswith("@")


def _multihost(stages: dict[str, dict[str, Any]]) -> str:
    return settings(next(iter(stages.values()))).mesh.multihost


def _decode_devices(stages: dict[str, dict[str, Any]]) -> int | None:
    """The number in the stages that give one: devices belong to the process that they share.

    Raises:
        ConfigError: two stages give different numbers.
    """
    found = {name: stage.get("mesh", {}).get("decode_devices") for name, stage in stages.items()}
    given = {name: number for name, number in found.items() if number is not None}
    if len(set(given.values())) > 1:
        raise config_lib.ConfigError(
            "mesh.decode_devices: the stages run in one process and must agree on a number, not "
            + ", ".join(f"{number} ({name})" for name, number in given.items())
        )
    return next(iter(given.values()), None)


def start() -> None:
    """Run the program of the command line: `python -m jaxlab.train`."""
    needed = [] if "--list_methods" in sys.argv else ["config"]
    doors.run(main, required=needed, configs="(?!eval_)", schema=schema)


if __name__ == "__main__":
    start()
