"""Programs of PostgreSQL: where they are, which of them fit, and how they are started."""

import functools
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlab.evals.ajbench.sandbox import marks, programs
from jaxlab.evals.ajbench.types import Source

SOURCES: tuple[Source, ...] = ("system", "wheel")
SERVER = ("initdb", "postgres")
# Before it, whoever may make roles could give himself those that read files and run programs.
OLDEST = 16
# Address space of each process, so that one row cannot take the machine's memory.
_ADDRESS_KIB = 1 << 20
_LIMITED = f'ulimit -v {_ADDRESS_KIB} 2>/dev/null; ulimit -c 0; exec "$@"'


class NoServer(RuntimeError):
    """No PostgreSQL server can be had; says why for each place that was tried."""


def server(source: Source = "auto") -> Path:
    """The folder with initdb and postgres.

    Args:
        source: "system" (installed programs), "wheel" (those of the package pgserver), or "auto":
            the first of these that fits.

    Raises:
        NoServer: there is none, or it is too old.
    """
    reasons = []
    for one in SOURCES if source == "auto" else (source,):
        try:
            return _fitting(one)
        except NoServer as error:
            reasons.append(f"{one}: {error}")
    raise NoServer(f"no PostgreSQL server ({'; '.join(reasons)})")


def reachable(place: Path, folder: Path) -> Path:
    """The folder of the programs, or that of a copy in `folder` where their user cannot come there.

    Root's programs run as nobody, who cannot pass into /root or a private temporary folder, where a
    virtual environment may well lie.
    """
    place = place.resolve()
    passable = all(path.stat().st_mode & stat.S_IXOTH for path in (place, *place.parents))
    if user() is None or passable:
        return place
    # As in the wheel: its programs look for their libraries in a folder beside the package.
    package = place.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / "postgresql"
    shutil.copytree(place.parent, copy / package.name / place.parent.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / place.parent.name / place.name


def client(program: str) -> Path:
    """The newest pg_restore, or the newest psql that a script cannot make run programs.

    Raises:
        NoServer: there is none.
    """
    found = [place / program for place in _places("system") + _places("wheel")]
    fitting = [path for path in found if os.access(path, os.X_OK) and _restricted(path, program)]
    if not fitting:
        raise NoServer(
            f"restoring needs {program}"
            + (
                " 16.10, 17.6 or newer, which runs no program that a script names, or a state "
                "that is a .backup of pg_dump -Fc"
                if program == "psql"
                else ""
            )
            + ": install PostgreSQL's client programs"
        )
    return max(fitting, key=lambda path: version(path))


@functools.cache
def version(path: Path) -> int:
    """Major version of a program; 0 where it does not say."""
    said = _said(path, "--version")
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0


def start(
    path: Path, arguments: Sequence[str], home: Path, offline: bool = False, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a server's program in `home`: not as root, and without the environment of the run.

    Args:
        path: of the program.
        arguments: of it.
        home: its folder, which marks it as the sample's.
        offline: give it a network of its own without any connection, where the kernel permits.
        options: of Popen.
    """
    confined = programs.confinement()
    prefix: tuple[str, ...] = ()
    if offline:
        prefix = confined.prefix
        if prefix[:1] == ("unshare",):
            # With its own goes what a killed server leaves in the kernel's shared memory.
            prefix = ("unshare", "--ipc", *prefix[1:])
    if os.getuid() == 0 and (not prefix or confined.uid == 0):
        prefix, who = (), "nobody"
        options |= {"user": who, "group": _group(who), "extra_groups": []}
    return subprocess.Popen(
        [*prefix, "sh", "-c", _LIMITED, "sh", str(path), *arguments],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )


def environment(home: Path) -> Mapping[str, str]:
    """Variables of the programs: none of the run's."""
    return {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(home),
        marks.MARK: str(home),
    }


def user() -> str | None:
    """Whose the programs' files must be, where that is not this process's user."""
    return "nobody" if os.getuid() == 0 else None


def _group(name: str) -> int:
    import pwd

    return pwd.getpwnam(name).pw_gid


def _fitting(source: Source) -> Path:
    places = _places(source)
    complete = [
        place for place in places if all(os.access(place / name, os.X_OK) for name in SERVER)
    ]
    cure = "pip install jaxlab[evals]" if source == "wheel" else "install the package postgresql"
    if not complete:
        where = " or ".join(map(str, places)) or ("pgserver" if source == "wheel" else "PATH")
        raise NoServer(f"no {' and '.join(SERVER)} in {where}: {cure}")
    for place in complete:
        if version(place / "postgres") >= OLDEST:
            return place
    raise NoServer(
        f"PostgreSQL {version(complete[0] / 'postgres')} is too old: {OLDEST} or newer is needed, "
        "where who may make roles may not run programs"
    )


def _places(source: Source) -> list[Path]:
    """Folders that may hold programs: the one of PATH, then newer ones before older ones."""
    if source == "wheel":
        spec = importlib.util.find_spec("pgserver")
        if spec is None or spec.origin is None:
            return []
        return [Path(spec.origin).parent / "pginstall" / "bin"]
    on_path = [shutil.which(name) for name in ("initdb", "psql")]
    first = [Path(path).resolve().parent for path in on_path if path is not None]
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    rest = sorted(installed, key=lambda path: path.parent.name.zfill(4), reverse=True)
    return list(dict.fromkeys([*first, *rest]))


@functools.cache
def _restricted(path: Path, program: str) -> bool:
    return program != "psql" or r"\restrict" in _said(path, "--help=commands")


def _said(path: Path, option: str) -> str:
    try:
        done = subprocess.run([path, option], capture_output=True, env={"LC_ALL": "C"}, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
