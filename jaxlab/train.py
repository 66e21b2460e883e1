"""Train what a config describes. The first door.

    python -m jaxlab.train --config=configs/NAME.py[:variant] --workdir=DIR [--config.KEY=VALUE ...]

The same command again goes on from the last checkpoint. A config with `stages` runs them in order,
each in a directory of its own under --workdir.
"""

import contextlib
import graphlib
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from jaxlab import config as config_lib
from jaxlab import doors
from jaxlab.evals import report
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime import workdir as workdir_lib
from jaxlab.runtime.checkpoint import CheckpointError
from jaxlab.runtime.preemption import exit_on_sigterm
from jaxlab.trainers import distill, lm, loop, setup, sft
from jaxlab.trainers.exporting import export
from jaxlab.trainers.loop import Program

flags.declare_key_flag("config")
flags.declare_key_flag("workdir")

TRAINERS: dict[str, tuple[type[Any], Callable[[Any, pathlib.Path], Program]]] = {
    "sft": (sft.Sft, sft.program),
    "distill": (distill.Distill, distill.program),
    "lm": (lm.Lm, lm.program),
}

# By name: run with -m, this module is __main__.
logger = logging.getLogger("jaxlab.train")


def main(argv: list[str]) -> None:
    """Run the config of the command line."""
    del argv
    exit_on_sigterm()
    with doors.reading_input():
        config = doors.CONFIG.value.to_dict()
        workdir = pathlib.Path(doors.WORKDIR.value or "")
    run(config, workdir)


def run(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Run a config, or its stages in order; then report, and export what it says."""
    with contextlib.ExitStack() as held:
        with doors.reading_input():
            stages = check(config, workdir.name)
            mesh_lib.start(_multihost(config), _decode_devices(stages))
            study = "stages" in config
            runs = {name: workdir / name if study else workdir for name in stages}
            if study:
                held.enter_context(alone(workdir))
                note_config(config, workdir)
        for name, stage in stages.items():
            logger.info("== %s (%s)", name, runs[name])
            train(_resolve(stage, workdir), runs[name])
        if mesh_lib.is_main():
            written = report.write(workdir, runs, config.get("title") or workdir.resolve().name)
            for path in written:
                logger.info("wrote %s", path)
        for name, out in config.get("export", {}).items():
            directory = export(runs[name], workdir / out)
            logger.info("exported %s to %s (a HuggingFace directory)", name, directory)


def train(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """One run: build it, which ends the program with code 2 if the input is bad; then train."""
    with contextlib.ExitStack() as held:
        with doors.reading_input():
            run = settings(config)
            held.enter_context(alone(workdir))
            program = TRAINERS[run.trainer][1](run, workdir)
            note_config(config, workdir)
        try:
            loop.run(program, run.train, workdir, config_lib.to_json(run))
        except (CheckpointError, loop.NonFiniteError, setup.LongPromptError) as error:
            doors.failed(error)


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """While inside, no other run can begin in the directory; the processes of one run share it.

    Raises:
        WorkdirError: another run is in it.
    """
    lock, fault = None, None
    if mesh_lib.is_main():
        try:
            lock = workdir_lib.lock(workdir)
        except workdir_lib.WorkdirError as error:
            fault = str(error)
    fault = mesh_lib.broadcast(fault)
    if fault is not None:
        raise workdir_lib.WorkdirError(fault)
    with lock or contextlib.nullcontext():
        yield


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
    return config_lib.build(TRAINERS[trainer][0], config, where)


def check(config: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The stages in order, or the one run under `name`, after a look at all of them.

    The last of them is not to fail on a misspelt key when the others have been trained.

    Raises:
        ConfigError: a stage does not fit its trainer, or a stage is named that there is not.
    """
    if "stages" not in config:
        settings(config)
        return {name: config}
    stages = in_order(config["stages"])
    for stage in stages:
        settings(stages[stage], f"config.stages.{stage}")
    for exported in config.get("export", {}):
        if exported not in stages:
            raise config_lib.ConfigError(
                f"export: there is no stage {exported!r}; there are {', '.join(stages)}"
            )
    return stages


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


def note_config(config: dict[str, Any], workdir: pathlib.Path) -> None:
    """Write workdir/config.json; tell which keys changed since the run began."""
    if not mesh_lib.is_main():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if path.exists():
        old, new = _flat(config_lib.load_json(path)), _flat(config_lib.to_json(config))
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                logger.warning(
                    "config changed since this run began: %s: %r -> %r",
                    key,
                    old.get(key),
                    new.get(key),
                )
    config_lib.save_json(config, path)


def _resolve(config: Any, workdir: pathlib.Path) -> Any:
    """The stage with every path "@NAME" turned into the work directory of stage NAME."""
    if isinstance(config, dict):
        return {key: _resolve(value, workdir) for key, value in config.items()}
    if isinstance(config, str) and config.startswith("@"):
        return str(workdir / config[1:])
    return config


def _stages_named(config: Any) -> list[str]:
    if isinstance(config, dict):
        return [name for value in config.values() for name in _stages_named(value)]
    return [config[1:]] if isinstance(config, str) and config.startswith("@") else []


def _multihost(config: dict[str, Any]) -> str:
    first = next(iter(config["stages"].values())) if config.get("stages") else config
    return first.get("mesh", {}).get("multihost", "none")


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


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


if __name__ == "__main__":
    doors.run(main, required=["config", "workdir"], configs="(?!eval_)")
