r"""Restoring a dump: every error but a few ends it, for what is judged would be another state.

A dump is somebody else's: it is restored with the rights of the database's owner, and a script in
psql's restricted mode, in which it has no \! and no files.
"""

import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import psycopg
from psycopg import sql

from jaxlab.evals.ajbench.databases import postgres_programs
from jaxlab.evals.ajbench.databases.postgres_cluster import DATABASE, Cluster

# What loses nothing that anybody could judge: (statement, error).
_HARMLESS = (
    # Owners that this cluster has not, or to whom only a superuser may give.
    (
        r"ALTER [\w\s]+? \S.* OWNER TO ",
        r'role ".*" does not exist|must be (owner|able to SET ROLE)|permission denied for schema',
    ),
    # The cluster has both, and they are not the owner's.
    (r"COMMENT ON (EXTENSION|DATABASE) ", r"must be owner of|database .* does not exist"),
    (r"CREATE EXTENSION ", r"extension .* already exists"),
    (r"CREATE SCHEMA public\b", r'schema "public" already exists'),
    # pg_dumpall has every role, that of the recorded superuser too.
    (r'(CREATE|ALTER) ROLE "?postgres\b', r"already exists|permission denied to alter role"),
    # pg_dump --clean drops what is not there yet.
    (
        r"(DROP|ALTER TABLE (IF EXISTS )?(ONLY )?\S+ (DROP|ALTER COLUMN \S+ DROP)) ",
        "does not exist",
    ),
    # Settings of the session that a newer pg_dump knows.
    (r"SET \w+ =", "unrecognized configuration parameter"),
)
# They only compute; the owner of a database may not make them, unlike a recorded superuser.
_EXTENSIONS = {"vector", "postgis", "pg_stat_statements", "earthdistance"}
_CREATES = re.compile(
    rb'^\s*CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?"?([\w-]+)|^\d+; .* EXTENSION - ([\w-]+)',
    re.IGNORECASE | re.MULTILINE,
)
_ERROR = re.compile(
    r"(?:psql:<stdin>:\d+|psql|pg_restore): "
    r"(?:error: could not execute query: )?(?:error|ERROR|FATAL|PANIC|fatal):\s+(.*)"
)
_STATEMENT = re.compile(r"(?:psql:<stdin>:\d+: STATEMENT: |Command was:) +(.*)")
# A right that is not given is an error, although the server only warns.
_LOST_RIGHT = re.compile(r".*WARNING:\s+((?:no|not all) privileges were granted.*)")
_OWN_RESTRICTION = re.compile(rb"\\(un)?restrict [A-Za-z0-9]+\s*")
# What pg_dump begins and ends a script with.
_BEGIN = re.compile(rb"^-- PostgreSQL database (cluster )?dump\s*$", re.MULTILINE)
_END = re.compile(rb"^-- PostgreSQL database (cluster )?dump complete\s*$", re.MULTILINE)
_LOOK = 4096  # bytes of a script's beginning and end
# Only outside of everything that a script can have begun is it a statement, and is this its answer.
_LAST = b"\n;\nSET client_min_messages = notice;\nCOMMIT;\n"
_ANSWER = "WARNING:  there is no transaction in progress"


class _Error(NamedTuple):
    message: str
    statement: str


def restore(cluster: Cluster, source: Path) -> list[str]:
    """Fill an empty cluster from a dump; returns the errors that were passed over.

    Args:
        cluster: which has nothing in it yet.
        source: a script (.sql), or whatever pg_restore reads.

    Raises:
        ValueError: anything else failed; names the dump, the first causes and their statements.
        NoServer: the client programs are missing or too old.
    """
    script = source.suffix == ".sql"
    _make_extensions(cluster, source, script)
    said, code = _psql(cluster, source) if script else _pg_restore(cluster, source)
    errors = list(_errors(said))
    serious = [error for error in errors if not _harmless(error)]
    if not serious and not errors and code:
        serious = [_Error(f"ended with {code}: {said[-200:]}", "")]
    if not serious and script:
        serious = [_Error(cause, "") for cause in _incomplete(source, said)]
    if serious:
        shown = "; ".join(_shown(error) for error in serious[:3])
        more = f"; and {len(serious) - 3} more" if len(serious) > 3 else ""
        raise ValueError(f"{source} is not restored, so there is no state: {shown}{more}")
    return [error.message for error in errors]


def _pg_restore(cluster: Cluster, source: Path) -> tuple[str, int]:
    return _run(cluster, "pg_restore", [f"--dbname={cluster.conninfo('owner')}", str(source)])


def _psql(cluster: Cluster, source: Path) -> tuple[str, int]:
    with tempfile.TemporaryFile() as script:
        script.write(f"\\restrict {secrets.token_hex(8)}\n".encode())
        with source.open("rb") as content:
            # A mark that psql passes over at the beginning alone.
            content.seek(3 if content.read(3) == b"\xef\xbb\xbf" else 0)
            for line in content:
                # pg_dump's own; inside another restriction they would be errors.
                if not _OWN_RESTRICTION.fullmatch(line):
                    script.write(line)
        script.write(_LAST)
        script.seek(0)
        options = ["--no-psqlrc", "--quiet", "--echo-errors", "--file=-"]
        return _run(cluster, "psql", [*options, cluster.conninfo("owner")], script)


def _run(
    cluster: Cluster, program: str, arguments: list[str], stdin: IO[bytes] | None = None
) -> tuple[str, int]:
    """What a program says on standard error, and its exit code."""
    done = subprocess.run(
        [str(postgres_programs.client(program)), *arguments],
        env=dict(postgres_programs.environment(cluster.home)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
    )
    return done.stderr.decode("utf-8", "replace"), done.returncode


def _make_extensions(cluster: Cluster, source: Path, script: bool) -> None:
    """Make those that a dump asks for and that its owner may not make himself."""
    if script:
        with source.open("rb") as content:
            found = {match for line in content for match in _CREATES.findall(line)}
    else:
        program = str(postgres_programs.client("pg_restore"))
        listed = subprocess.run([program, "--list", str(source)], capture_output=True)
        found = set(_CREATES.findall(listed.stdout))
    names = {(one or other).decode() for one, other in found} & _EXTENSIONS
    if not names:
        return
    with cluster.admin(DATABASE) as admin:
        for name in sorted(names):
            statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA public CASCADE")
            try:
                admin.execute(statement.format(sql.Identifier(name)))
            except psycopg.Error:
                continue  # the dump's own statement fails too, and says so


def _errors(said: str) -> Iterator[_Error]:
    """Errors with the first line of their statements."""
    message = None
    for line in said.splitlines():
        found = _ERROR.match(line) or _LOST_RIGHT.match(line)
        statement = _STATEMENT.match(line)
        if statement is not None and message is not None:
            yield _Error(message, statement[1])
            message = None
        elif found is not None:
            if message is not None:
                yield _Error(message, "")
            message = found[1]
    if message is not None:
        yield _Error(message, "")


def _harmless(error: _Error) -> bool:
    return any(
        re.match(statement, error.statement, re.IGNORECASE) and re.search(cause, error.message)
        for statement, cause in _HARMLESS
    )


def _incomplete(source: Path, said: str) -> Iterator[str]:
    """Whether a script ends before its end."""
    with source.open("rb") as content:
        head = content.read(_LOOK)
        content.seek(max(0, content.seek(0, 2) - _LOOK))
        tail = content.read()
    if not said.rstrip().endswith(_ANSWER):
        yield "it ends within a statement, a transaction, or the rows of a COPY"
    elif _BEGIN.search(head) and not _END.search(tail):
        yield 'it ends without "-- PostgreSQL database dump complete", with which pg_dump ends'


def _shown(error: _Error) -> str:
    where = f" ({error.statement:.120})" if error.statement else ""
    cure = ""
    if "backslash commands are restricted" in error.message:
        cure = r": take \connect, \i and the like out of the script"
    elif re.search(r"extension \".*\" is not available|extension control file", error.message):
        cure = ": install it, or choose programs that have it (postgres=system or wheel)"
    elif re.search(r'role ".*" does not exist', error.message):
        cure = ": give a .sql that begins with CREATE ROLE"
    elif "unsupported version" in error.message:
        cure = ": it is of a newer pg_dump; install newer client programs, or give a .sql"
    return f"{error.message}{where}{cure}"
