"""Parts of all launchers: flags, jobs of a sweep, environment of a process, the closing table.

The standard library alone; nothing of jaxlab is imported. What only jaxlab knows, the members of a
sweep and the stages of a config, is asked of `python -m jaxlab.train` in a process of its own.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Exit codes of the doors (jaxlab/doors.py).
BAD_INPUT = 2
STOPPED = 143
# What launch/local.py leaves in `Job.logs`: code, restarts, minutes.
RESULT = "result.json"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class LaunchError(Exception):
    """A launch that is impossible; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: of the member of the sweep; the work directory's name without a sweep.
        workdir: of the run.
        command: the door with its flags, without what differs between processes.
        overrides: of the member; empty without a sweep.
    """

    name: str
    workdir: str
    command: tuple[str, ...]
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def logs(self) -> pathlib.Path:
        """Folder of the launcher's own files, below the work directory."""
        return pathlib.Path(self.workdir, "launch")


def parser(doc: str, python: str = sys.executable) -> argparse.ArgumentParser:
    """Flags that every launcher takes; `python` is the default interpreter of the jobs."""
    flags = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    flags.add_argument("--config", required=True, help="configs/NAME.py[:variant]")
    flags.add_argument("--workdir", required=True, help="of the run; of a sweep, the folder above")
    flags.add_argument(
        "--sweep", action="store_true", help="a job per member of the config's sweep"
    )
    flags.add_argument("--dry_run", action="store_true", help="print what would be run")
    flags.add_argument("--processes", type=int, default=1, help="processes of a job")
    flags.add_argument("--max_restarts", type=int, default=3, help="of a job that was stopped")
    flags.add_argument("--module", default="jaxlab.train", help="the door, or a module like it")
    flags.add_argument("--python", default=python, help="the jobs' interpreter")
    flags.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="more environment"
    )
    return flags


def parse(flags: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The launcher's flags; what is for the door is in `door`.

    Ends the program with code 2 for a flag that is neither.
    """
    arguments, rest = flags.parse_known_args(argv)
    value = False
    for word in rest:
        ours = re.match(r"--(no)?config[.]|--stages(=|$)", word)
        if not ours and (word.startswith("-") or not value):
            flags.error(f"{word}: unknown; --config.KEY=VALUE and --stages=A,B go to the door")
        value = bool(ours) and "=" not in word
    for name, number in vars(arguments).items():
        if type(number) is not int:
            continue
        least = 0 if name == "max_restarts" else min(1, flags.get_default(name))
        if number < least:
            flags.error(f"--{name} must be {least} or more, not {number}")
    for pair in arguments.env:
        if not re.match(r"[A-Za-z_]\w*=", pair):
            flags.error(f"--env: {pair!r} is not NAME=VALUE")
    if _URL.match(arguments.workdir):
        flags.error(f"--workdir: {arguments.workdir} is no folder: mount it, and name where it is")
    arguments.workdir = str(pathlib.Path(arguments.workdir).expanduser().absolute())
    arguments.door = rest
    return arguments


def refuse(
    flags: argparse.ArgumentParser, arguments: argparse.Namespace, why: str, *names: str
) -> None:
    """End the program with code 2 where a flag is set that would do nothing."""
    for name in names:
        if getattr(arguments, name) != flags.get_default(name):
            flags.error(f"--{name}: {why}")


def jobs(arguments: argparse.Namespace, multihost: str | None = None) -> list[Job]:
    """The jobs to run, one without a sweep.

    Args:
        arguments: of `parse`.
        multihost: how the processes of a job find each other, a value of mesh.multihost; None
            leaves it to the config.

    Raises:
        LaunchError: the config has no sweep, or cannot be read.
    """
    base = [f"--config={arguments.config}", *arguments.door]
    if multihost is not None:
        stages = _stages(arguments, base)
        keys = [f"stages.{stage}.mesh" for stage in stages] if stages else ["mesh"]
        base += [f"--config.{key}.multihost={multihost}" for key in keys]
    start = (arguments.python, "-m", arguments.module)
    if not arguments.sweep:
        name = pathlib.PurePath(arguments.workdir).name
        return [Job(name, arguments.workdir, (*start, f"--workdir={arguments.workdir}", *base))]
    done = _ask(arguments, [*base, "--list_sweep"])
    if done.returncode:
        raise LaunchError(f"--sweep: {_last_line(done.stderr)}")
    members = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not members:
        raise LaunchError(f"--sweep: sweep() of {arguments.config} yields nothing")
    found = []
    for i, overrides in enumerate(members):
        name = _name(i, overrides)
        workdir = f"{arguments.workdir}/{name}"
        words = [f"--config.{key}={text(value)}" for key, value in overrides.items()]
        command = (*start, f"--workdir={workdir}", *base, *words)
        found.append(Job(name, workdir, command, overrides))
    return found


def environment(coordinator: str, processes: int, index: int) -> dict[str, str]:
    """The variables by which process `index` finds the others (mesh.multihost=env)."""
    return {
        "JAXLAB_COORDINATOR": coordinator,
        "JAXLAB_NUM_PROCESSES": str(processes),
        "JAXLAB_PROCESS_ID": str(index),
    }


def variables(arguments: argparse.Namespace) -> dict[str, str]:
    """The environment that was asked for, and where the checkout's packages are."""
    path = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    given = dict(pair.split("=", 1) for pair in arguments.env)
    return {"PYTHONPATH": os.pathsep.join(path), **given}


def show(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """A command as a line for a shell."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()]
    return " ".join([*words, shlex.join(command)])


def last_metrics(workdir: str) -> dict[str, Any]:
    """Step and loss of the last row of a run's metrics.jsonl that has a loss; "-" without any."""
    found: dict[str, Any] = {"step": "-", "loss": "-"}
    path = pathlib.Path(workdir, "metrics.jsonl")
    if not path.exists():
        return found
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # half written by a process that was killed
        if "loss" in row or found["loss"] == "-":
            found = {name: row.get(name, "-") for name in found}
    return found


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows under the names of their keys, in columns."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def need(tool: str, cure: str) -> str:
    """The path of a program.

    Raises:
        LaunchError: it is missing; says how to install it.
    """
    found = shutil.which(tool)
    if found is None:
        raise LaunchError(f"{tool} is missing: {cure}")
    return found


def run(main: Any, argv: Sequence[str] | None = None) -> None:
    """Call a launcher's `main` and end the program; a `LaunchError` is one line and code 2."""
    try:
        sys.exit(main(argv))
    except LaunchError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _stages(arguments: argparse.Namespace, base: Sequence[str]) -> list[str]:
    """Names of the config's stages; none if it is a single run.

    Raises:
        LaunchError: the config cannot be read.
    """
    done = _ask(arguments, [*base, "--list"])
    if done.returncode == 0:
        return done.stdout.split()
    cause = _last_line(done.stderr)
    if "the config is a single run" in cause:
        return []
    raise LaunchError(cause)


def _ask(arguments: argparse.Namespace, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What jaxlab.train says of a config; the launcher's own interpreter if it is not found."""
    python = arguments.python if os.path.exists(arguments.python) else sys.executable
    command = [python, "-m", arguments.module, *words]
    # Reading a config needs no device.
    variables_ = {**os.environ, **variables(arguments), "JAX_PLATFORMS": "cpu"}
    try:
        return subprocess.run(command, env=variables_, capture_output=True, text=True)
    except OSError as error:
        raise LaunchError(f"--python: {python}: {error.strerror}") from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


def text(value: object) -> str:
    """A value as --config.KEY=VALUE takes it."""
    return value if isinstance(value, str) else repr(value)


def _name(i: int, overrides: Mapping[str, object]) -> str:
    """A member's directory: its number and its overrides."""
    words = ",".join(f"{key}={text(value)}" for key, value in overrides.items())
    return f"{i:02d}-{re.sub(r'[^A-Za-z0-9=,._+-]+', '_', words)}"[:80].rstrip("-_")
