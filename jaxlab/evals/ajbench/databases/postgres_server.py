"""A PostgreSQL server for a run: a user's, or one of its own that ends with it.

Everything that is made on a server carries the run's prefix, and a record of it lies in the run's
folder before it is made. `clean` undoes what the records say, at the end of the run, or at the
beginning of the next one if the run was killed.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from jaxlab.evals.ajbench.databases.postgres_databases import (
    NoServer,
    Server,
    address,
    check_rights,
    drop_all,
    first_line,
)

Source = Literal["auto", "dsn", "system", "wheel"]
SOURCES: tuple[Source, ...] = ("dsn", "system", "wheel")
# Holds a DSN that must not be written down; options are, in config.json, logs and reports.
DSN = "JAXLAB_AJBENCH_DSN"
PROGRAMS = ("initdb", "pg_ctl", "postgres")
# Names of sockets end here on Linux; the path has to leave room for "/.s.PGSQL.5432".
_SOCKET_PATH = 107 - len("/.s.PGSQL.5432")
# No disk has to survive anything here, and no other machine has to reach it.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_parallel_workers": "0",
    "jit": "off",
    "temp_file_limit": "1GB",
    "client_connection_check_interval": "1s",
    "log_min_messages": "fatal",
}
# Address space of each of its processes, so that one row cannot take the machine's memory.
_ADDRESS_KIB = 1 << 20

_STOPPING_SECONDS = 30.0

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class _Record:
    """What `clean` has to undo: a server (programs, data) or names on one (dsn), by prefix."""

    prefix: str
    programs: str | None = None
    data: str | None = None
    dsn: str | None = None


def start(folder: Path, source: Source = "auto", dsn: str | None = None) -> Server:
    """A server for the run whose folder this is.

    Args:
        folder: of `workspace.run_folder`, which cleans up after it.
        source: "dsn" (the user's server), "system" (installed programs), "wheel" (those of the
            package pgserver), or "auto": the first of these, in this order, that there is.
        dsn: conninfo or URL of the user's server; what the variable `DSN` holds by default.

    Raises:
        NoServer: there is none.
    """
    return _first(source, dsn, functools.partial(_start_one, folder))


def look(source: Source = "auto", dsn: str | None = None) -> None:
    """Whether `start` would find a server, without starting any.

    Raises:
        NoServer: there is none.
    """

    def found(one: Source, dsn: str | None) -> None:
        if one == "dsn":
            _reach(dsn)
        else:
            programs(one)

    _first(source, dsn, found)


def _first(source: Source, dsn: str | None, found: Callable[[Source, str | None], Found]) -> Found:
    """What is found at the first place where there is something.

    Raises:
        NoServer: there is nothing.
    """
    dsn = dsn or os.environ.get(DSN)
    reasons = []
    for one in SOURCES if source == "auto" else (source,):
        try:
            return found(one, dsn)
        except NoServer as error:
            reasons.append(f"{one}: {error}")
            # Somebody who names a server wants that one, and to know what is wrong with it.
            if one == "dsn" and dsn is not None:
                break
    raise NoServer(f"no PostgreSQL server ({'; '.join(reasons)})")


def without_password(dsn: str) -> str:
    """The server, database and role of a DSN, as conninfo that can be written down.

    Raises:
        ValueError: it is malformed; it is not repeated, for a password may be what is wrong.
    """
    try:
        fields = conninfo_to_dict(dsn)
        # A password with a slash that is not escaped becomes part of these.
        if not re.fullmatch(r"[\d,]*", str(fields.get("port", ""))):
            raise ValueError
        if "://" in dsn and "@" in str(fields.get("dbname", "")):
            raise ValueError
    except (psycopg.Error, ValueError):
        raise ValueError(
            "the DSN is malformed: postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE is wanted, with "
            "%XX for what is no letter or digit, or 'host=... user=... dbname=...'"
        ) from None
    return make_conninfo("", **{key: fields[key] for key in fields if "password" not in key})


def programs(source: Source) -> Path:
    """The folder with initdb, pg_ctl and postgres.

    Raises:
        NoServer: there is none.
    """
    if source == "wheel":
        spec = importlib.util.find_spec("pgserver")
        if spec is None or spec.origin is None:
            raise NoServer("the package pgserver is not installed: pip install jaxlab[evals]")
        places = [Path(spec.origin).parent / "pginstall" / "bin"]
    else:
        on_path = shutil.which("initdb")
        installed = Path("/usr/lib/postgresql").glob("*/bin")
        places = [Path(on_path).resolve().parent] if on_path else []
        places += sorted(installed, key=lambda path: path.parent.name.zfill(4), reverse=True)
    for place in places:
        if all(os.access(place / program, os.X_OK) for program in PROGRAMS):
            return place
    raise NoServer(
        f"no {', '.join(PROGRAMS)} in {' or '.join(map(str, places)) or 'PATH'}: install the "
        "package postgresql of the system"
    )


def clean(folder: Path) -> None:
    """Undo what the records in a run's folder say; what is gone already is no error.

    Raises:
        psycopg.Error, OSError: a server cannot be reached, or does not end.
    """
    for path in sorted(folder.glob("postgres-*.json")):
        record = _Record(**json.loads(path.read_text(encoding="utf-8")))
        if record.data is not None:
            _stop(Path(record.programs or ""), Path(record.data))
        if record.dsn is not None:
            drop_all(record.dsn, record.prefix)
        path.unlink()


def _start_one(folder: Path, source: Source, dsn: str | None) -> Server:
    token = secrets.token_hex(6)
    prefix = f"ajb_{token}"
    path = folder / f"postgres-{token}.json"
    if source == "dsn":
        dsn = _reach(dsn)
        _save(path, _Record(prefix, dsn=dsn))
        return Server(dsn, prefix, _client_programs())
    bin_folder = programs(source)
    home = folder / f"pg-{token}"
    if len(str(home)) > _SOCKET_PATH:
        raise NoServer(f"{home} is too long for a socket: set TMPDIR to a shorter folder")
    home.mkdir(mode=0o700)
    user = _unprivileged()
    if user is not None:
        shutil.chown(home, user)
    data = home / "data"
    password = home / "password"
    secret = secrets.token_hex(16)
    password.write_text(secret, encoding="utf-8")
    password.chmod(0o600)
    if user is not None:
        shutil.chown(password, user)
    _save(path, _Record(prefix, programs=str(bin_folder), data=str(data)))
    arguments = ["--auth=scram-sha-256", "--username=admin", f"--pwfile={password}"]
    arguments += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
    _program(bin_folder / "initdb", [f"--pgdata={data}", *arguments], home, user)
    password.unlink()
    settings = _SETTINGS | {"unix_socket_directories": str(home)}
    text = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(text)
    arguments = [f"--pgdata={data}", f"--log={home / 'log'}", "--wait", "--silent", "start"]
    _program(bin_folder / "pg_ctl", arguments, home, user)
    admin = make_conninfo(
        "", host=str(home), port=5432, user="admin", password=secret, dbname="postgres"
    )
    server = Server(admin, prefix, bin_folder if (bin_folder / "pg_restore").exists() else None)
    with psycopg.connect(admin, autocommit=True) as connection:
        for name in ("postgres", "template1"):
            statement = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC")
            connection.execute(statement.format(sql.Identifier(name)))
    return server


def _reach(dsn: str | None) -> str:
    """The DSN, if its server answers and its role may do what a run does.

    Raises:
        NoServer: otherwise.
    """
    if not dsn:
        raise NoServer("none was given")
    try:
        without_password(dsn)
    except ValueError as error:
        raise NoServer(str(error)) from None
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            check_rights(connection, address(dsn))
    except psycopg.Error as error:
        raise NoServer(f"{address(dsn)}: {first_line(error)}") from None
    return dsn


def _program(path: Path, arguments: Sequence[str], home: Path, user: str | None) -> None:
    """Run a server's program, not as root, and without the environment of the run."""
    command = ["sh", "-c", f'ulimit -v {_ADDRESS_KIB} 2>/dev/null; exec "$@"', "sh"]
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user, "group": _group(user), "extra_groups": []}
    log = home / "log.start"
    with log.open("w+") as output:
        done = subprocess.run(
            [*command, str(path), *arguments],
            cwd=home,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            # A pipe would be held open by the server itself.
            stdout=output,
            stderr=subprocess.STDOUT,
            **identity,
        )
    if done.returncode:
        # pg_ctl says where the cause is written, and initdb behind it that it clears away.
        texts = [file.read_text(errors="replace") for file in (log, home / "log") if file.exists()]
        said = [line for line in "\n".join(texts).splitlines() if line.strip()]
        causes = [line for line in said if re.search(r"(?i)\b(error|fatal|panic): ", line)]
        raise NoServer(f"{path.name} failed: {[*causes, *said[-1:], done.returncode][0]}")


def _unprivileged() -> str | None:
    """The user under whom a server runs where this process is root, which PostgreSQL refuses."""
    return "nobody" if os.getuid() == 0 else None


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _client_programs() -> Path | None:
    for source in SOURCES[1:]:
        with suppress(NoServer):
            return programs(source)
    found = shutil.which("psql")
    return Path(found).parent if found else None


def _save(path: Path, record: _Record) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(dataclasses.asdict(record)), encoding="utf-8")


def _stop(bin_folder: Path, data: Path) -> None:
    """End the server of a data folder, and wait for it."""
    if not Path("/proc/self/cwd").exists():
        command = [str(bin_folder / "pg_ctl"), f"--pgdata={data}", "--mode=immediate", "stop"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return
    deadline = time.monotonic() + _STOPPING_SECONDS
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        # Numbers of processes are used again; PostgreSQL works in its data folder.
        while Path(os.readlink(f"/proc/{pid}/cwd")) == data.resolve():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the server in {data} does not end: kill process {pid}")
            os.kill(pid, signal.SIGQUIT)
            time.sleep(0.02)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return
