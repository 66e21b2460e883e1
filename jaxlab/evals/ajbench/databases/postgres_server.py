"""PostgreSQL servers of samples: each has a cluster of its own, thrown away afterwards.

Roles, privileges and settings are a cluster's and not a database's, and part of what is judged. So
a state is restored once into a cluster, which is stopped, and every sample gets a copy of its
folder and a server on that. Such a server listens in a private folder alone, runs as a user without
rights and, where the kernel permits it, without a network.
"""

import logging
import os
import pwd
import secrets
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from jaxlab.evals.ajbench.databases import postgres_programs
from jaxlab.evals.ajbench.databases.postgres_cluster import (
    ADMIN,
    DATABASE,
    ROLES,
    Cluster,
    end_all,
    run,
)
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.sandbox import files, programs
from jaxlab.evals.ajbench.types import Source

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
_ROLES_MADE = """
CREATE ROLE {owner} LOGIN CREATEROLE CREATEDB BYPASSRLS;
GRANT pg_read_all_data, pg_write_all_data, pg_monitor TO {owner}
    WITH ADMIN TRUE, INHERIT FALSE, SET FALSE;
CREATE ROLE {reader} LOGIN BYPASSRLS;
GRANT pg_read_all_data TO {reader};
"""
_DATABASES_MADE = (
    "CREATE DATABASE {database} OWNER {owner}",
    "ALTER DATABASE template0 IS_TEMPLATE false",
    "DROP DATABASE template0",
    "DROP DATABASE postgres",
)
logger = logging.getLogger(__name__)


class Server:
    """The clusters of one run: templates of states, and copies of them for samples."""

    def __init__(self, folder: Path, source: Source = "auto"):
        """Looks for the programs; everything lies in `folder`.

        Raises:
            NoServer: there are none, or the folder's name is too long for sockets.
        """
        self._folder = folder
        found = postgres_programs.server(source)
        self._templates: dict[str, Path | Exception] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        if len(str(self._home())) > _SOCKET_PATH:
            raise NoServer(f"{folder} is too long for a socket: set TMPDIR to a shorter folder")
        self._programs = postgres_programs.reachable(found, folder)
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
        arguments = [f"--pgdata={data}", "--auth=peer", f"--username={ADMIN}", "--wal-segsize=1"]
        arguments += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        run(self._programs / "initdb", arguments, home)
        text = "".join(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())
        with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(text)
        (data / "pg_hba.conf").write_text("local all all peer map=jaxlab\n")
        name = pwd.getpwuid(os.getuid()).pw_name
        lines = (f'jaxlab "{name}" "{role}"\n' for role in (ADMIN, *ROLES.values()))
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


def start(folder: Path, source: Source = "auto") -> Server:
    """Returns the servers of the run whose folder this is.

    Args:
        folder: of `workspace.run_folder`, which cleans up after it.
        source: see `postgres_programs.server`.

    Raises:
        NoServer: there are no programs.
    """
    return Server(folder, source)


def look(source: Source = "auto") -> None:
    """Check that `start` would find programs, without starting any.

    Raises:
        NoServer: it would not.
    """
    postgres_programs.server(source)


def clean(folder: Path) -> None:
    """End the servers that a dead run has left in its folder.

    Raises:
        OSError: one does not end.
    """
    for data in sorted(folder.glob("pg-*/data")):
        if Path("/proc/self/cwd").exists():
            end_all(data)
        elif (data / "postmaster.pid").exists():
            os.kill(int((data / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGQUIT)


def _make_folder(home: Path) -> None:
    home.mkdir(mode=0o700)
    user = postgres_programs.user()
    if user is not None:
        shutil.chown(home, user)
