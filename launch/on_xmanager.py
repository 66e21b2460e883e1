"""Run a config, or the members of its sweep, as an XManager experiment on this machine.

    xmanager launch launch/on_xmanager.py -- -- --config=configs/NAME.py[:variant] --workdir=DIR
        --python=.venv/bin/python [--sweep] [--dry_run] [--processes=2] [--config.KEY=VALUE ...]

The second "--" keeps XManager from reading the flags. XManager has an environment of its own, since
its protobuf is older than that of jaxlab's libraries (docs/launch.md has the two lines that make
it): --python names the interpreter of jaxlab's. Each member is a Binary under xm_local.Local that
runs launch/local.py, which starts the processes, restarts what was stopped, and keeps the logs.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from launch import jobs

if "xmanager" in sys.modules:
    # `xmanager launch` imports this file, then gives it a flag that this module defines.
    from xmanager.xm import utils  # noqa: F401


def main(argv: Sequence[str]) -> None:
    """What XManager calls; `argv` begins with the program's name, as absl has it."""
    jobs.run(launch, [word for word in argv[1:] if word != "--"])


def launch(argv: Sequence[str] | None = None) -> int:
    """Launch the experiment of the command line; returns the exit code."""
    arguments = jobs.parse(jobs.parser(__doc__), argv)
    # XManager may run a job from another folder.
    arguments.config = _absolute(arguments.config)
    arguments.python = str(pathlib.Path(arguments.python).absolute())
    found = jobs.jobs(arguments)
    commands = [_command(job, arguments) for job in found]
    if arguments.dry_run:
        for job, words in zip(found, commands, strict=True):
            print(f"# {job.name}: xm.Binary under xm_local.Local")
            print(jobs.show([arguments.python, *words]))
        return 0
    try:
        from xmanager import xm, xm_local
    except ModuleNotFoundError:
        raise jobs.LaunchError(
            "xmanager is missing: uv venv xm && uv pip install --python xm/bin/python xmanager"
        ) from None
    title = pathlib.PurePath(arguments.workdir).name
    with xm_local.create_experiment(experiment_title=title) as experiment:
        (python,) = experiment.package(
            [xm.binary(executor_spec=xm_local.Local.Spec(), path=arguments.python)]
        )
        for words in commands:
            experiment.add(xm.Job(python, executor=xm_local.Local(), args=words))
    rows = [_row(job) for job in found]
    print(jobs.table(rows))
    return int(any(row["code"] != 0 for row in rows))


def _row(job: jobs.Job) -> dict[str, object]:
    """What launch/local.py left of a job."""
    path = job.logs / jobs.RESULT
    left = json.loads(path.read_text()) if path.exists() else {"code": "-", "restarts": "-"}
    return {"job": job.name, **left, **jobs.last_metrics(job.workdir), "logs": job.logs}


def _command(job: jobs.Job, arguments: argparse.Namespace) -> list[str]:
    """Words after the interpreter: launch/local.py with the member's overrides."""
    own = {
        "config": arguments.config,
        "workdir": job.workdir,
        "processes": arguments.processes,
        "max_restarts": arguments.max_restarts,
        "module": arguments.module,
        "python": arguments.python,
    }
    members = [f"--config.{key}={jobs.text(value)}" for key, value in job.overrides.items()]
    env = [f"--env={pair}" for pair in arguments.env]
    flags = [f"--{key}={value}" for key, value in own.items()]
    return [str(jobs.ROOT / "launch" / "local.py"), *flags, *env, *arguments.door, *members]


def _absolute(config: str) -> str:
    path, colon, variant = config.partition(":")
    return (
        f"{pathlib.Path(path).absolute()}{colon}{variant}"
        if pathlib.Path(path).exists()
        else config
    )


if __name__ == "__main__":
    try:
        from absl import app
    except ModuleNotFoundError:
        main(sys.argv)
    else:
        # XManager reads flags of its own; ours are behind the "--".
        app.run(main, argv=[sys.argv[0], "--", *sys.argv[1:]])
