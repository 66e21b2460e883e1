"""A PostgreSQL server for one sample, on a folder that is thrown away with it."""

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from jaxlab.evals.ajbench.databases import postgres_programs
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.sandbox import files

Role = Literal["owner", "reader"]
# Recorded agents were "postgres", and name themselves so in rights and policies.
ROLES: dict[Role, str] = {"owner": "postgres", "reader": "jaxlab_reader"}
ADMIN = "jaxlab_admin"
DATABASE = "state"
# Besides that of the state there is only this one, to set things up from: less has to be copied.
SETUP = "template1"
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
_STATE_ROLES = """
SELECT rolname FROM pg_catalog.pg_roles WHERE oid >= 16384
AND rolname NOT IN ('postgres', 'jaxlab_reader')
"""
_STARTING_SECONDS = 60.0
_STOPPING_SECONDS = 30.0

# The kernel ends a server with the thread that started it (PR_SET_PDEATHSIG); this one stays.
_starter = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="postgres")


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
        if database in (self.database, SETUP):
            return
        with self.admin() as admin:
            names = sql.Identifier(self.database), sql.Identifier(database)
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*names))
        self.database = database

    def admin(self, database: str = SETUP) -> psycopg.Connection:
        """A superuser's connection, for a `with`; for databases without foreign content."""
        return psycopg.connect(make_conninfo("", **self._address(ADMIN, database)), autocommit=True)

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
        end_all(self.home / "data")
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
            # Until the server has written all lines of the file, it is asked again.
            with contextlib.suppress(OSError, IndexError):
                lines = status.read_text().split("\n")
                # A folder that is copied may hold the file of another server.
                if lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.01)

    def _said(self) -> str:
        return said((self.home / "log").read_text(errors="replace"), self._process.returncode)


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


def end_all(data: Path) -> None:
    """End all processes of the server of a data folder, in which each of them works."""
    start, number = time.monotonic(), signal.SIGQUIT
    while found := working_in(data):
        if time.monotonic() > start + _STOPPING_SECONDS:
            raise TimeoutError(f"the server in {data} does not end: kill process {found[0]}")
        if time.monotonic() > start + _STOPPING_SECONDS / 6:
            number = signal.SIGKILL
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        time.sleep(0.02)


def working_in(folder: Path) -> list[int]:
    """Ids of the processes whose working directory is this folder."""
    wanted, found = str(folder.resolve()), []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == wanted:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
