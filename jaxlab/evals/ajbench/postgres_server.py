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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Source = Literal["auto", "dsn", "system", "wheel"]
Role = Literal["owner", "reader"]
ROLES: tuple[Role, ...] = ("owner", "reader")
SOURCES: tuple[Source, ...] = ("dsn", "system", "wheel")
# Holds a DSN that must not be written down; options are, in config.json, logs and reports.
DSN = "JAXLAB_AJBENCH_DSN"
PROGRAMS = ("initdb", "pg_ctl", "postgres")
# DROP DATABASE ... WITH (FORCE) came with it.
OLDEST = 13
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

# Of large objects: PostgreSQL 15 lets them write in a read-only transaction.
_WRITING_FUNCTIONS = (
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_put",
    "lo_open",
    "lowrite",
    "lo_truncate",
    "lo_truncate64",
    "lo_unlink",
)

_STOPPING_SECONDS = 30.0

Found = TypeVar("Found")


class NoServer(RuntimeError):
    """No PostgreSQL server can be had; says why for each place that was tried."""


@dataclasses.dataclass(frozen=True)
class _Record:
    """What `clean` has to undo: a server (programs, data) or names on one (dsn), by prefix."""

    prefix: str
    programs: str | None = None
    data: str | None = None
    dsn: str | None = None


class Server:
    """Databases of one run on one server, each with two roles that have no rights anywhere else.

    A trajectory may change its role's password and settings, and a role sees and ends the
    statements of all its sessions; so no two databases have one in common. The databases are the
    administrator's: their own roles can neither rename, set nor drop them. What any role sees of
    the others are the names of databases and roles, which are random, and that they are connected.

    Attributes:
        prefix: of all names.
        programs: folder of psql and pg_restore; None where there are none.
    """

    def __init__(self, admin: str, prefix: str, programs: Path | None):
        """Looks whether the databases and roles can be made.

        Args:
            admin: conninfo of a role that may make databases and roles.
            prefix: of all names.
            programs: see the class.

        Raises:
            NoServer: the server is too old, or the role may not do that.
        """
        self.prefix, self.programs = prefix, programs
        self._admin_info = admin
        self._passwords: dict[str, dict[Role, str]] = {}
        self._templates: dict[str, str] = {}
        self._lock = threading.Lock()
        # Those who may write large objects: rights on functions are copied with a template, and
        # the roles of a copy are not those of its template.
        self._writers = sql.Identifier(f"{prefix}_writers")
        try:
            with self._admin() as connection:
                self._superuser = _may_make_roles(connection, _place(admin))
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(self._writers))
        except psycopg.Error as error:
            raise NoServer(f"{_place(admin)}: {_first_line(error)}") from None

    def template(self, key: str, fill: Any) -> str:
        """The template of this key; `fill(server, name)` fills it when it is first asked for."""
        with self._lock:
            if key not in self._templates:
                name = self.create()
                try:
                    fill(self, name)
                except BaseException:
                    self.drop(name)
                    raise
                self._templates[key] = name
            return self._templates[key]

    def create(self, template: str = "template0") -> str:
        """A new database and its roles; a copy of `template`, whose objects its owner gets.

        Raises:
            psycopg.Error: the server refuses; then nothing of it is left.
        """
        name = f"{self.prefix}_{secrets.token_hex(6)}"
        self._passwords[name] = {which: secrets.token_hex(16) for which in ROLES}
        database = sql.Identifier(name)
        encoding = sql.SQL(" ENCODING 'UTF8'" if template == "template0" else "")
        try:
            with self._admin() as admin:
                self._make_roles(admin, name)
                admin.execute(
                    sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                        database, sql.Identifier(template)
                    )
                    + encoding
                )
                # Rights on a database are not part of its template.
                for statement in (
                    "REVOKE ALL ON DATABASE {0} FROM PUBLIC",
                    "GRANT CREATE, CONNECT, TEMPORARY ON DATABASE {0} TO {1}",
                    "GRANT CONNECT ON DATABASE {0} TO {2}",
                ):
                    admin.execute(sql.SQL(statement).format(database, *self._roles(name)))
                if template == "template0":
                    # Now, while nobody has put anything into it: later a superuser never goes in.
                    self._harden(name)
                else:
                    self._hand_over(admin, template, name)
        except BaseException:
            with suppress(psycopg.Error):
                self.drop(name)
            raise
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected to it, and its roles."""
        with self._admin() as admin:
            try:
                _drop(admin, name)
            except psycopg.errors.ObjectInUse:
                self.settle(name)
                _drop(admin, name)
            for role in self._roles(name):
                # What is left of a template's roles in its copies goes with those.
                with suppress(psycopg.errors.DependentObjectsStillExist):
                    admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
        self._passwords.pop(name, None)

    def role(self, name: str, which: Role) -> str:
        """The role that owns what is in a database, or the one that may only read it."""
        return f"{name}_{which}"

    def conninfo(self, name: str, which: Role) -> str:
        """How one of both roles reaches a database."""
        password = self._passwords[name][which]
        return make_conninfo(
            self._admin_info, dbname=name, user=self.role(name, which), password=password
        )

    def url(self, name: str, which: Role) -> str:
        """The same as a URL, which other programs take."""
        fields = conninfo_to_dict(self.conninfo(name, which))
        part = {key: quote(str(fields.pop(key)), safe="") for key in ("user", "password", "dbname")}
        query = urlencode({key: str(value) for key, value in fields.items()})
        return f"postgresql://{part['user']}:{part['password']}@/{part['dbname']}?{query}"

    def settle(self, name: str) -> None:
        """Undo what a trajectory has done to its role's password and settings, or begun.

        A role is this run's and no part of the state; without its password the state could be
        neither hashed nor judged. A transaction that is prepared, where a server permits that,
        holds its locks and its database until somebody ends it.
        """
        owner = sql.Identifier(self.role(name, "owner"))
        password = sql.Literal(self._passwords[name]["owner"])
        with self._admin() as admin:
            for statement in (
                "ALTER ROLE {0} PASSWORD {1}",
                "ALTER ROLE {0} RESET ALL",
                "ALTER ROLE {0} IN DATABASE {2} RESET ALL",
            ):
                admin.execute(sql.SQL(statement).format(owner, password, sql.Identifier(name)))
        _end_prepared(self.conninfo(name, "owner"))

    def allow_reading(self, name: str) -> None:
        """Give the reader every table of a database; it is the owner who gives.

        The role pg_read_all_data would do it without a trace among the tables' rights, but it
        reads the passwords in pg_authid too.
        """
        self.settle(name)
        with psycopg.connect(self.conninfo(name, "owner"), autocommit=True) as owner:
            reader = sql.Identifier(self.role(name, "reader"))
            found = owner.execute(
                "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND "
                "nspname <> 'information_schema' AND pg_catalog.has_schema_privilege(oid, 'USAGE')"
            )
            for (schema,) in found.fetchall():
                for grant in ("USAGE ON", "SELECT ON ALL TABLES IN", "SELECT ON ALL SEQUENCES IN"):
                    with suppress(psycopg.Error):
                        owner.execute(
                            sql.SQL("GRANT {} SCHEMA {} TO {}").format(
                                sql.SQL(grant), sql.Identifier(schema), reader
                            )
                        )

    def run(self, program: str, arguments: Sequence[str], name: str, stdin: Any = None) -> str:
        """Run psql or pg_restore as the owner of a database; returns what it said on stderr.

        Raises:
            NoServer: the program is not there.
        """
        path = self.programs / program if self.programs else shutil.which(program)
        if path is None or not Path(path).exists():
            raise NoServer(f"restoring needs {program}: install PostgreSQL's client programs")
        fields = conninfo_to_dict(self.conninfo(name, "owner"))
        password = str(fields.pop("password"))
        environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGPASSWORD": password}
        done = subprocess.run(
            [str(path), *arguments, f"--dbname={make_conninfo('', **fields)}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
        )
        return done.stderr.decode("utf-8", "replace").strip()

    @contextmanager
    def _admin(self, name: str | None = None) -> Iterator[psycopg.Connection]:
        target = self._admin_info if name is None else make_conninfo(self._admin_info, dbname=name)
        with psycopg.connect(target, autocommit=True) as connection:
            yield connection

    def _roles(self, name: str) -> tuple[sql.Identifier, ...]:
        return tuple(sql.Identifier(self.role(name, which)) for which in ROLES)

    def _make_roles(self, admin: psycopg.Connection, name: str) -> None:
        owner, reader = self._roles(name)
        for role, password in zip((owner, reader), self._passwords[name].values(), strict=True):
            admin.execute(
                sql.SQL(
                    "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION "
                    "PASSWORD {}"
                ).format(role, sql.Literal(password))
            )
        read_only = "ALTER ROLE {} SET default_transaction_read_only = on"
        admin.execute(sql.SQL(read_only).format(reader))
        admin.execute(sql.SQL("GRANT {} TO {}").format(self._writers, owner))
        if self._superuser:
            # The judge has to see the rows that a policy hides, too.
            admin.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(reader))
        else:
            # Else it could neither give them anything nor end their connections.
            admin.execute(sql.SQL("GRANT {}, {} TO CURRENT_USER").format(owner, reader))

    def _harden(self, name: str) -> None:
        with self._admin(name) as admin:
            if self._superuser:
                functions = admin.execute(
                    "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = ANY(%s) AND "
                    "pronamespace = 'pg_catalog'::regnamespace",
                    [list(_WRITING_FUNCTIONS)],
                ).fetchall()
                for (function,) in functions:
                    text = sql.SQL(function)
                    admin.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(text))
                    grant = "GRANT EXECUTE ON FUNCTION {} TO {}"
                    admin.execute(sql.SQL(grant).format(text, self._writers))
            # Before PostgreSQL 15 it belongs to the superuser, and everybody may write to it.
            with suppress(psycopg.errors.InsufficientPrivilege):
                statement = "ALTER SCHEMA public OWNER TO {}"
                admin.execute(sql.SQL(statement).format(sql.Identifier(self.role(name, "owner"))))
        with psycopg.connect(self.conninfo(name, "owner"), autocommit=True) as connection:
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    def _hand_over(self, admin: psycopg.Connection, template: str, name: str) -> None:
        """Give what is in a copy to its own owner, who takes it himself."""
        before, after = (sql.Identifier(self.role(one, "owner")) for one in (template, name))
        admin.execute(sql.SQL("GRANT {} TO {}").format(before, after))
        try:
            with psycopg.connect(self.conninfo(name, "owner"), autocommit=True) as connection:
                connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(before, after))
        finally:
            admin.execute(sql.SQL("REVOKE {} FROM {}").format(before, after))


def _may_make_roles(admin: psycopg.Connection, place: str) -> bool:
    """Whether the role is a superuser.

    Raises:
        NoServer: the server is too old, or the role may not make databases and roles.
    """
    version = admin.info.server_version // 10000
    if version < OLDEST:
        raise NoServer(f"PostgreSQL {version} is too old: {OLDEST} or newer is needed")
    found = admin.execute(
        "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_catalog.pg_roles "
        "WHERE rolname = current_user"
    ).fetchone()
    assert found is not None
    name, superuser, *has = found
    rights = ("CREATEDB", "CREATEROLE")
    lacking = [right for right, there in zip(rights, has, strict=True) if not there]
    if lacking and not superuser:
        raise NoServer(
            f"{place}: the role {name} lacks {' and '.join(lacking)}, and every sample gets a "
            f"database and roles of its own: ALTER ROLE {name} {' '.join(lacking)}, or name "
            "another role in the DSN"
        )
    return bool(superuser)


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
            _drop_all(record.dsn, record.prefix)
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
            _may_make_roles(connection, _place(dsn))
    except psycopg.Error as error:
        raise NoServer(f"{_place(dsn)}: {_first_line(error)}") from None
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
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise NoServer(f"{path.name} failed: {said[-1] if said else done.returncode}")


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


def _drop_all(dsn: str, prefix: str) -> None:
    """Remove all databases and roles of a prefix."""
    if not re.fullmatch(r"ajb_[0-9a-f]{12}", prefix):
        raise ValueError(f"{prefix!r:.40} is no prefix of a run")
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as admin:
        pattern = f"{prefix}_%".replace("_", r"\_")
        for (name,) in admin.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [pattern]
        ).fetchall():
            try:
                _drop(admin, name)
            except psycopg.errors.ObjectInUse:
                owner, password = f"{name}_{ROLES[0]}", secrets.token_hex(16)
                change = sql.SQL("ALTER ROLE {} PASSWORD {}")
                admin.execute(change.format(sql.Identifier(owner), sql.Literal(password)))
                _end_prepared(make_conninfo(dsn, dbname=name, user=owner, password=password))
                _drop(admin, name)
        for (name,) in admin.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", [pattern]
        ).fetchall():
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def _drop(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _end_prepared(owner: str) -> None:
    """Roll back what an owner has prepared in his database and left so."""
    found = (
        "SELECT gid FROM pg_catalog.pg_prepared_xacts "
        "WHERE database = pg_catalog.current_database()"
    )
    with psycopg.connect(owner, autocommit=True) as connection:
        for (gid,) in connection.execute(found).fetchall():
            connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))


def _place(dsn: str) -> str:
    """Where a server is, without its password."""
    try:
        fields = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the DSN"
    return f"{fields.get('host', 'localhost')}:{fields.get('port', 5432)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
