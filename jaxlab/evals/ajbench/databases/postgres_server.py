"""PostgreSQL servers of samples: each has a cluster of its own, thrown away afterwards.

Roles, privileges and settings are a cluster's and not a database's, and part of what is judged. So
a state is restored once into a cluster, which is stopped, and every sample gets a copy of its
folder and a server on that. Such a server listens in a private folder alone, runs as a user without
rights and, where the kernel permits it, without a network.
"""

import concurrent.futures
import contextlib
import logging
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from jaxlab.evals.ajbench.databases import postgres_programs
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.sandbox import files, programs
from jaxlab.evals.ajbench.types import Source

Role = Literal["owner", "reader"]
# Recorded agents were "postgres", and name themselves so in rights and policies.
ROLES: dict[Role, str] = {"owner": "postgres", "reader": "jaxlab_reader"}
_ADMIN = "jaxlab_admin"
DATABASE = "state"
# Besides that of the state there is only this one, to set things up from: less has to be copied.
_SETUP = "template1"
# Holds a DSN that must not be written down; options are, in config.json, logs and reports.
DSN = "JAXLAB_AJBENCH_DSN"
# Names of sockets end here on Linux; the path has to leave room for "/.s.PGSQL.5432".
_SOCKET_PATH = 107 - len("/.s.PGSQL.5432")
# No disk has to survive anything here, and no other machine has to reach it.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "40",
    "max_parallel_workers": "0",
    "jit": "off",
    "temp_file_limit": "1GB",
    "client_connection_check_interval": "1s",
    "log_min_messages": "fatal",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    # Recorded agents were superusers, who may take on every role that they make.
    "createrole_self_grant": "set, inherit",
}
# What a database's settings must not change for a judge: these are the connection's own.
_READING = {
    "role": "none",
    "default_transaction_read_only": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "datestyle": "ISO",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
_ROLES_MADE = """
CREATE ROLE {owner} LOGIN CREATEROLE CREATEDB BYPASSRLS;
GRANT pg_read_all_data, pg_write_all_data, pg_monitor TO {owner}
    WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
CREATE ROLE {reader} LOGIN BYPASSRLS;
GRANT pg_read_all_data TO {reader};
"""
_STATE_ROLES = """
SELECT rolname FROM pg_catalog.pg_roles WHERE oid >= 16384
AND rolname NOT IN ('postgres', 'jaxlab_reader')
"""
_DATABASES_MADE = (
    "CREATE DATABASE {database} OWNER {owner}",
    "ALTER DATABASE template0 IS_TEMPLATE false",
    "DROP DATABASE template0",
    "DROP DATABASE postgres",
)
_STARTING_SECONDS = 60.0
_STOPPING_SECONDS = 30.0

# The kernel ends a server with the thread that started it (PR_SET_PDEATHSIG); this one stays.
_starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="postgres")

logger = logging.getLogger(__name__)


class Cluster:
    """One sample's server with one database, and three roles besides those of its state.

    `postgres` owns the database, may make roles, and passes over policies, as the role of that
    name that recorded agents had; it is no superuser, so that files and programs are out of its
    reach. The reader reads all rows, those in `pg_catalog` too, and writes none. A superuser sets
    both up before anything else is in the cluster, and later goes into no database in which a
    trajectory may have put anything. None has a password: the server asks the kernel which user is
    at the other end.

    Attributes:
        home: the folder of all this.
        database: its name.
    """

    def __init__(self, home: Path, bin_folder: Path, database: str = DATABASE):
        """Starts the server on `home`/data.

        Raises:
            NoServer: it does not start.
        """
        self.home, self.database = home, database
        arguments = ["-D", str(home / "data"), "-k", str(home)]
        with (home / "log").open("wb") as log:
            self._process = _starter.submit(
                postgres_programs.start,
                bin_folder / "postgres",
                arguments,
                home,
                offline=True,
                stdout=log,
                stderr=log,
            ).result()
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def conninfo(self, which: Role) -> str:
        """How one of both roles reaches the database."""
        settings = _READING if which == "reader" else {}
        return make_conninfo(
            "",
            **self._address(ROLES[which], self.database),
            options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
        )

    def url(self, which: Role) -> str:
        """The same as a URL, which other programs take."""
        fields = conninfo_to_dict(self.conninfo(which))
        user, database = (quote(str(fields.pop(key)), safe="") for key in ("user", "dbname"))
        query = urlencode({key: str(value) for key, value in fields.items()}, quote_via=quote)
        return f"postgresql://{user}@/{database}?{query}"

    def let_read(self) -> None:
        """Let a reader connect, to a state that has closed its database too, and try its roles out.

        He may take on each role of the state, one statement long and in order to read, and has
        none of their rights otherwise.
        """
        database, reader = sql.Identifier(self.database), sql.Identifier(ROLES["reader"])
        with self.admin() as admin:
            for statement in (
                "ALTER DATABASE {0} CONNECTION LIMIT -1",
                "GRANT CONNECT ON DATABASE {0} TO {1}",
            ):
                admin.execute(sql.SQL(statement).format(database, reader))
            for (role,) in admin.execute(_STATE_ROLES).fetchall():
                statement = "GRANT {} TO {} WITH ADMIN FALSE, INHERIT FALSE, SET TRUE"
                admin.execute(sql.SQL(statement).format(sql.Identifier(role), reader))

    def rename(self, database: str) -> None:
        """Give the database another name, while nobody is connected to it."""
        if database in (self.database, _SETUP):
            return
        with self.admin() as admin:
            names = sql.Identifier(self.database), sql.Identifier(database)
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*names))
        self.database = database

    def admin(self, database: str = _SETUP) -> psycopg.Connection:
        """A superuser's connection, for a `with`; for databases without foreign content."""
        return psycopg.connect(
            make_conninfo("", **self._address(_ADMIN, database)), autocommit=True
        )

    def stop(self) -> None:
        """End the server in order, after which its folder can be copied.

        Raises:
            NoServer: it does not end.
        """
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOPPING_SECONDS)
        except subprocess.TimeoutExpired:
            raise NoServer(f"PostgreSQL does not stop: {self._said()}") from None

    def close(self) -> None:
        """End the server at once and remove its folder."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # Also if somebody else has killed the server, and it could not end its own processes.
        _end_all(self.home / "data")
        files.remove(self.home)

    def _address(self, role: str, database: str) -> dict[str, str]:
        return {
            "host": str(self.home),
            "port": "5432",
            "user": role,
            "dbname": database,
            "client_encoding": "UTF8",
            "connect_timeout": "10",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _STARTING_SECONDS
        status = self.home / "data" / "postmaster.pid"
        while True:
            if self._process.poll() is not None:
                raise NoServer(f"PostgreSQL does not start: {self._said()}")
            if time.monotonic() > deadline:
                raise NoServer(f"PostgreSQL is not ready after {_STARTING_SECONDS:g} s")
            try:
                # A folder that is copied may hold the file of another server.
                lines = status.read_text().split("\n")
                if lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                    return
            except (OSError, IndexError):
                pass
            time.sleep(0.01)

    def _said(self) -> str:
        return said((self.home / "log").read_text(errors="replace"), self._process.returncode)


class Server:
    """The clusters of one run: templates of states, and copies of them for samples."""

    def __init__(self, folder: Path, source: Source = "auto"):
        """Looks for the programs; everything lies in `folder`.

        Raises:
            NoServer: there are none, or the folder's name is too long for sockets.
        """
        self._folder = folder
        self._programs = postgres_programs.server(source)
        self._templates: dict[str, Path | Exception] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        if len(str(self._home())) > _SOCKET_PATH:
            raise NoServer(f"{folder} is too long for a socket: set TMPDIR to a shorter folder")
        if not programs.confinement().offline:
            logger.warning(
                "this kernel gives PostgreSQL no network of its own; it listens on none, and its "
                "roles may open no connection"
            )

    def template(self, key: str, fill: Callable[[Cluster], None] | None = None) -> Path:
        """The folder of a stopped cluster; `fill` fills it when it is first asked for.

        Raises:
            ValueError: `fill` has raised it, now or the first time.
        """
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._templates.get(key)
            if found is None:
                try:
                    found = self._make(fill)
                except ValueError as error:
                    found = error
                self._templates[key] = found
        if isinstance(found, Exception):
            raise ValueError(str(found))
        return found

    def open(self, template: Path | None = None) -> Cluster:
        """A cluster of its own: a copy of a template, or an empty one.

        Raises:
            NoServer: it does not start.
        """
        source = self.template("") if template is None else template
        home = self._home()
        _make_folder(home)
        try:
            run(Path("cp"), ["-R", str(source / "data"), str(home / "data")], home)
            return Cluster(home, self._programs)
        except BaseException:
            files.remove(home)
            raise

    def _make(self, fill: Callable[[Cluster], None] | None) -> Path:
        if fill is None:
            return self._make_empty()
        cluster = self.open()
        try:
            fill(cluster)
            cluster.stop()
        except BaseException:
            cluster.close()
            raise
        return cluster.home

    def _make_empty(self) -> Path:
        home = self._home()
        _make_folder(home)
        data = home / "data"
        arguments = [f"--pgdata={data}", "--auth=peer", f"--username={_ADMIN}", "--wal-segsize=1"]
        arguments += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        run(self._programs / "initdb", arguments, home)
        text = "".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(text)
        (data / "pg_hba.conf").write_text("local all all peer map=jaxlab\n")
        name = pwd.getpwuid(os.getuid()).pw_name
        lines = (f'jaxlab "{name}" "{role}"\n' for role in (_ADMIN, *ROLES.values()))
        (data / "pg_ident.conf").write_text("".join(lines))
        cluster = Cluster(home, self._programs)
        try:
            with cluster.admin() as admin:
                roles = {name: sql.Identifier(role) for name, role in ROLES.items()}
                names = roles | {"database": sql.Identifier(DATABASE)}
                admin.execute(sql.SQL(_ROLES_MADE).format(**names))
                for statement in _DATABASES_MADE:
                    admin.execute(sql.SQL(statement).format(**names))
            cluster.let_read()
            cluster.stop()
        except BaseException:
            cluster.close()
            raise
        return home

    def _home(self) -> Path:
        return self._folder / f"pg-{secrets.token_hex(6)}"


def start(folder: Path, source: Source = "auto", dsn: str | None = None) -> Server:
    """The servers of the run whose folder this is.

    Args:
        folder: of `workspace.run_folder`, which cleans up after it.
        source: see `postgres_programs.server`.
        dsn: of a server of the user's, which is refused: roles would be common to all samples.

    Raises:
        NoServer: there are no programs, or a server is named.
    """
    _refuse(source, dsn)
    return Server(folder, source)


def look(source: Source = "auto", dsn: str | None = None) -> None:
    """Whether `start` would find programs, without starting any.

    Raises:
        NoServer: it would not.
    """
    _refuse(source, dsn)
    postgres_programs.server(source)


def _refuse(source: Source, dsn: str | None) -> None:
    where = "dsn" if dsn or source == "dsn" else DSN if os.environ.get(DSN) else None
    if where is not None:
        raise NoServer(
            f"no PostgreSQL server (dsn: roles are part of a state and common to all databases of "
            f"a server, so that every sample has one of its own: leave {where} out, and choose its "
            "programs by postgres=system or wheel)"
        )


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


def clean(folder: Path) -> None:
    """End the servers that a dead run has left in its folder.

    Raises:
        OSError: one does not end.
    """
    for data in sorted(folder.glob("pg-*/data")):
        if Path("/proc/self/cwd").exists():
            _end_all(data)
        elif (data / "postmaster.pid").exists():
            os.kill(int((data / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGQUIT)


def run(program: Path, arguments: list[str], home: Path) -> None:
    """Run a program of a server to its end.

    Raises:
        NoServer: it fails.
    """
    process = postgres_programs.start(
        program, arguments, home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = process.communicate()
    if process.returncode:
        text = said(output.decode("utf-8", "replace"), process.returncode)
        raise NoServer(f"{program.name} failed: {text}")


def said(text: str, code: int | None) -> str:
    """The cause in what a program has written: initdb says behind it that it clears away."""
    lines = [line for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if re.search(r"(?i)\b(error|fatal|panic): ", line)]
    return str([*causes, *lines[-1:], f"it ended with {code}"][0])


def _make_folder(home: Path) -> None:
    home.mkdir(mode=0o700)
    user = postgres_programs.user()
    if user is not None:
        shutil.chown(home, user)


def _end_all(data: Path) -> None:
    """End all processes of the server of a data folder, in which each of them works."""
    start, number = time.monotonic(), signal.SIGQUIT
    while found := _working_in(data):
        if time.monotonic() > start + _STOPPING_SECONDS:
            raise TimeoutError(f"the server in {data} does not end: kill process {found[0]}")
        if time.monotonic() > start + _STOPPING_SECONDS / 6:
            number = signal.SIGKILL
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        time.sleep(0.02)


def _working_in(folder: Path) -> list[int]:
    wanted, found = str(folder.resolve()), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == wanted:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
