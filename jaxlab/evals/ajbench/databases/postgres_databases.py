"""Databases of one run on a PostgreSQL server, and the roles that may go into them.

Everything that is made on a server carries the run's prefix, so that `drop_all` finds it.
"""

import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Role = Literal["owner", "reader"]
ROLES: tuple[Role, ...] = ("owner", "reader")
# DROP DATABASE ... WITH (FORCE) came with it.
OLDEST = 13
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


class NoServer(RuntimeError):
    """No PostgreSQL server can be had; says why for each place that was tried."""


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
                self._superuser = check_rights(connection, address(admin))
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(self._writers))
        except psycopg.Error as error:
            raise NoServer(f"{address(admin)}: {first_line(error)}") from None

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


def check_rights(admin: psycopg.Connection, place: str) -> bool:
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


def drop_all(dsn: str, prefix: str) -> None:
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


def address(dsn: str) -> str:
    """Where a server is, without its password."""
    try:
        fields = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the DSN"
    return f"{fields.get('host', 'localhost')}:{fields.get('port', 5432)}"


def first_line(error: Exception) -> str:
    """What an error of a server says, in a line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
