"""PostgreSQL databases as an environment: reading without writing, and nothing outside.

What a statement may do is decided by the rights of the role that it runs under, and is decided by
the server. A reader's statement runs alone in a read-only transaction that is always rolled back,
so that a function with its owner's rights cannot write either.
"""

import contextlib
import hashlib
import json
import re
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import psycopg
from psycopg import pq, sql

from jaxlab.evals.ajbench.databases import json_form
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT, Limits, ToolError

# Of a client that waits for a statement that the server should have ended.
_GRACE = 1.0
# How often a writing statement is looked after.
_LOOK = 0.5
# Of all databases that stand where this one does: its owner may make more of them.
_SIZE = (
    "(SELECT pg_catalog.pg_tablespace_size(dattablespace) FROM pg_catalog.pg_database "
    "WHERE datname = pg_catalog.current_database())"
)
# In front of a reader's statement, which then runs with the rights of this role; nothing of it is
# left for the next one, and the transaction is read-only all the same.
_ROLE = re.compile(
    rb'\s*SET\s+(?:LOCAL\s+)?ROLE\s+("(?:[^"]|"")+"|\w+)\s*;\s*(?=\S)', re.IGNORECASE
)
_INTEGERS = {20, 21, 23, 26}
_NUMBERS = {700, 701, 1700}
_BOOL, _JSON, _JSONB = 16, 114, 3802
# Sums over large tables take longer than a judge's statement may.
_DIGEST_LIMITS = Limits(seconds=120.0, characters=1 << 26, entries=1 << 20)
_COPY = {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}


class Database:
    """One connection, for one statement at a time."""

    def __init__(self, conninfo: str, read_only: bool = True, limits: Limits = DEFAULT):
        """Connects.

        Args:
            conninfo: of `Server.conninfo`; the rights are those of its role.
            read_only: run every statement alone in a read-only transaction that is rolled back.
                Otherwise several may stand in one text; they are committed together, and the
                session lives on.
            limits: on time and results.
        """
        self._conninfo, self._read_only, self._limits = conninfo, read_only, limits
        self._connection = self._connect()
        self._largest: int | None = None

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def query(self, text: object, parameters: Sequence[str] | None = None) -> str:
        """The rows of a statement as JSON, cut to the limits; of several, those of the last.

        Args:
            text: SQL.
            parameters: of $1, $2, ...; then it is one statement in either mode.

        Raises:
            ToolError: the statement is refused, wrong, or takes too long.
        """
        columns, lines, cut = self._collect(text, parameters)
        del columns
        if cut:
            lines.append('"more rows were left out"')
        return f"[{', '.join(lines)}]"

    def rows(self, text: str, parameters: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The same as objects.

        Raises:
            ToolError: as in `query`, or there are more rows than the limits allow.
        """
        _, lines, cut = self._collect(text, parameters)
        if cut:
            raise ToolError("postgres: too many rows")
        return [json.loads(line) for line in lines]

    def _collect(
        self, text: object, parameters: Sequence[str] | None
    ) -> tuple[list[str], list[str], bool]:
        if not isinstance(text, str) or "\0" in text:
            raise ToolError("sql must be a string without NUL")
        try:
            command = text.encode()
            values = None if parameters is None else [value.encode() for value in parameters]
        except UnicodeEncodeError:
            raise ToolError("sql must be valid Unicode") from None
        if values and any(b"\0" in value for value in values):
            raise ToolError("an argument must not hold NUL")
        try:
            if self._connection.closed or self._connection.pgconn.status != pq.ConnStatus.OK:
                self._connection = self._connect()
            return self._guarded(command, values)
        except ToolError:
            raise
        except psycopg.Error as error:
            self._connection.close()
            raise ToolError(f"postgres: {str(error).strip() or 'connection lost'}") from None

    def _guarded(
        self, command: bytes, parameters: list[bytes] | None
    ) -> tuple[list[str], list[str], bool]:
        deadline = time.monotonic() + self._limits.seconds + _GRACE
        milliseconds = max(1, int(self._limits.seconds * 1000))
        if not self._read_only:
            try:
                begin = f"SET statement_timeout = {milliseconds}; SELECT {_SIZE} AS size"
                _, (row,), _ = self._send(begin.encode(), None, deadline)
                self._check_size(json.loads(row)["size"])
                return self._send(command, parameters, deadline)
            finally:
                self._end_transaction(deadline)
        # The first statement takes the snapshot, after which the mode cannot be changed any more.
        begin = f"BEGIN READ ONLY; SELECT set_config('statement_timeout', '{milliseconds}', true)"
        self._send(begin.encode(), None, deadline)
        try:
            if found := _ROLE.match(command):
                self._send(b"SET LOCAL ROLE " + found[1], None, deadline)
                command = command[found.end() :]
            return self._send(command, parameters or [], deadline)
        finally:
            if self._alive():
                self._send(b"ROLLBACK", None, deadline + _GRACE)
                self._send(b"DISCARD ALL", None, deadline + _GRACE)

    def _end_transaction(self, deadline: float) -> None:
        """Commit what a text left open, as the tool's server does."""
        if not self._alive():
            return
        status = self._connection.pgconn.transaction_status
        if status == pq.TransactionStatus.INTRANS:
            self._send(b"COMMIT", None, deadline + _GRACE)
        elif status == pq.TransactionStatus.INERROR:
            self._send(b"ROLLBACK", None, deadline + _GRACE)

    def _send(
        self, command: bytes, parameters: list[bytes] | None, deadline: float
    ) -> tuple[list[str], list[str], bool]:
        """Run it; columns, rows as JSON, and whether some were left out.

        Rows arrive one by one, so that a result without end takes no memory.
        """
        connection = self._connection.pgconn
        if parameters is None:
            connection.send_query(command)
        else:
            connection.send_query_params(command, parameters)
        connection.set_single_row_mode()
        columns: list[str] = []
        lines: list[str] = []
        size, cut, error = 0, False, None
        fresh = True
        for result in self._results(deadline):
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = result.get_error_message("utf-8")
            elif result.status in _COPY:
                self._connection.close()
                raise ToolError("postgres: COPY from or to the client is not possible here")
            if fresh:
                columns, lines, size, cut = _columns(result), [], 0, False
            fresh = result.status != pq.ExecStatus.SINGLE_TUPLE
            if cut or result.status != pq.ExecStatus.SINGLE_TUPLE:
                continue
            values = [result.get_value(0, number) for number in range(len(columns))]
            # It has a character for four bytes at least; as text and as JSON it would be there
            # twice more.
            if sum(len(value or b"") for value in values) > 4 * self._limits.characters:
                cut = True
                continue
            line = json_form.row(columns, _literals(result, values))
            size += len(line) + 2
            cut = len(lines) == self._limits.entries or size > self._limits.characters
            if not cut:
                lines.append(line)
        if error is not None:
            raise ToolError(f"postgres: {error.strip()}")
        return columns, lines, cut

    def _results(self, deadline: float) -> Iterator[Any]:
        connection = self._connection.pgconn
        poll = select.poll()
        poll.register(connection.socket, select.POLLIN)
        while connection.flush():
            self._wait(poll, deadline, select.POLLIN | select.POLLOUT)
            connection.consume_input()
        while True:
            while connection.is_busy():
                self._wait(poll, deadline, select.POLLIN)
                connection.consume_input()
            # Also rows that come without a pause have an end.
            if time.monotonic() > deadline:
                self._late()
            result = connection.get_result()
            if result is None:
                return
            yield result

    def _wait(self, poll: Any, deadline: float, events: int) -> None:
        poll.modify(self._connection.pgconn.socket, events)
        while not poll.poll(min(_LOOK, max(0.0, deadline - time.monotonic())) * 1000):
            if time.monotonic() > deadline:
                self._late()
            if not self._read_only:
                self._look()

    def _look(self) -> None:
        """End a statement that fills the disk; nothing of it stays."""
        try:
            with self._connect() as other:
                found = other.execute(f"SELECT {_SIZE}").fetchone()
        except psycopg.Error:
            # Nobody could end it later either.
            self._late()
        assert found is not None
        try:
            self._check_size(found[0])
        except ToolError:
            self._end()
            raise

    def _check_size(self, size: int) -> None:
        if self._largest is None:
            self._largest = size + self._limits.database_bytes
        if size > self._largest:
            raise ToolError(
                f"postgres: the database has grown by more than {self._limits.database_bytes} bytes"
            )

    def _late(self) -> NoReturn:
        """A statement that has caught its own cancellation."""
        self._end()
        raise ToolError(f"postgres: took more than {self._limits.seconds:g} s")

    def _end(self) -> None:
        """End the connection's process."""
        pid = self._connection.info.backend_pid
        self._connection.close()
        with contextlib.suppress(psycopg.Error), self._connect() as other:
            # A role may end the processes of its own.
            other.execute(f"SELECT pg_catalog.pg_terminate_backend({pid})")

    def _alive(self) -> bool:
        return not self._connection.closed

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._conninfo, autocommit=True, connect_timeout=10)


def digest(conninfo: str) -> str:
    """SHA-256 over definitions, roles, rights and rows, whatever the order of the rows.

    Args:
        conninfo: of a reader of everything. What a trajectory has put into the database may run
            here (a cast to text), so that it must not be a superuser's.

    Raises:
        ToolError: it takes too long, or what is in there cannot be read.
    """
    database = Database(conninfo, read_only=True, limits=_DIGEST_LIMITS)
    try:
        lines = [json.dumps(row) for row in database.rows(_DEFINITIONS)]
        parts = [_sum_of(row) for row in database.rows(_STORES)]
        lines += [json.dumps(row) for row in database.rows("\nUNION ALL ".join([_OBJECTS, *parts]))]
        text = "\n".join(sorted(lines))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    finally:
        database.close()


def _sum_of(store: dict[str, Any]) -> str:
    """A query for the name and the content of a table or sequence."""
    name = sql.Literal(f"{store['schema']}.{store['name']}").as_string(None)
    table = sql.Identifier(store["schema"], store["name"]).as_string(None)
    if store["kind"] == "S":
        return f"SELECT {name} AS name, last_value::text || is_called::text AS sum FROM {table}"
    return (
        f"SELECT {name} AS name, pg_catalog.md5(pg_catalog.string_agg(h, '' ORDER BY h)) AS sum "
        f"FROM (SELECT pg_catalog.md5(t::text) AS h FROM ONLY {table} t) rows"
    )


def _columns(result: Any) -> list[str]:
    found = range(result.nfields)
    return json_form.names([(result.fname(i) or b"").decode("utf-8", "replace") for i in found])


def _literals(result: Any, values: list[bytes | None]) -> list[str]:
    return [_literal(result.ftype(number), value) for number, value in enumerate(values)]


def _literal(kind: int, data: bytes | None) -> str:
    """A value that the server has written as text, in JSON."""
    if data is None:
        return "null"
    text = data.decode("utf-8", "replace")
    if kind == _BOOL:
        return "true" if text == "t" else "false"
    if kind in _INTEGERS:
        return text
    if kind in _NUMBERS:
        return json_form.number(text)
    return json_form.document(text) if kind in (_JSON, _JSONB) else json.dumps(text)


_USER_SCHEMAS = (
    "SELECT oid, nspname FROM pg_catalog.pg_namespace "
    "WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
)

# Tables and materialised views with rows, and sequences.
_STORES = f"""
SELECT relkind AS kind, nspname AS schema, relname AS name
FROM pg_catalog.pg_class c JOIN ({_USER_SCHEMAS}) n ON n.oid = c.relnamespace
WHERE relkind IN ('r', 'S') OR relkind = 'm' AND relispopulated
"""
_OBJECTS = """
SELECT pg_catalog.concat('large object ', loid, ' ', pageno) AS name, pg_catalog.md5(data) AS sum
FROM pg_catalog.pg_largeobject
"""

_DEFINITIONS = f"""
WITH n AS ({_USER_SCHEMAS})
SELECT 'schema' AS kind, nspname AS name, nspacl::text AS a, nspowner::regrole::text AS b,
    NULL AS c
FROM pg_catalog.pg_namespace WHERE oid IN (SELECT oid FROM n)
UNION ALL SELECT 'relation', nspname || '.' || relname, relkind::text,
    pg_catalog.concat(relacl, relrowsecurity, relforcerowsecurity, reloptions, relowner::regrole),
    CASE WHEN relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(r.oid) END
FROM pg_catalog.pg_class r JOIN n ON n.oid = relnamespace
UNION ALL SELECT 'column', nspname || '.' || relname || '.' || attname,
    pg_catalog.concat(pg_catalog.format_type(atttypid, atttypmod), attnotnull, attidentity),
    pg_catalog.pg_get_expr(adbin, adrelid), attacl::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class r ON r.oid = attrelid
JOIN n ON n.oid = relnamespace
LEFT JOIN pg_catalog.pg_attrdef d ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'constraint', nspname || '.' || conname, pg_catalog.pg_get_constraintdef(k.oid),
    conrelid::regclass::text, NULL
FROM pg_catalog.pg_constraint k JOIN n ON n.oid = connamespace
UNION ALL SELECT 'index', nspname || '.' || relname, pg_catalog.pg_get_indexdef(indexrelid),
    indisvalid::text, NULL
FROM pg_catalog.pg_index JOIN pg_catalog.pg_class r ON r.oid = indexrelid
JOIN n ON n.oid = relnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text || '.' || tgname,
    pg_catalog.pg_get_triggerdef(oid), tgenabled::text, NULL
FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'rule', ev_class::regclass::text || '.' || rulename,
    pg_catalog.pg_get_ruledef(u.oid), NULL, NULL
FROM pg_catalog.pg_rewrite u JOIN pg_catalog.pg_class r ON r.oid = ev_class
JOIN n ON n.oid = relnamespace WHERE rulename <> '_RETURN'
UNION ALL SELECT 'policy', polrelid::regclass::text || '.' || polname,
    pg_catalog.concat(polcmd, polpermissive, polroles::regrole[]),
    pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid)
FROM pg_catalog.pg_policy
UNION ALL SELECT 'function', p.oid::regprocedure::text,
    CASE WHEN prokind IN ('f', 'p') THEN pg_catalog.pg_get_functiondef(p.oid) END,
    proacl::text, proowner::regrole::text
FROM pg_catalog.pg_proc p JOIN n ON n.oid = pronamespace
UNION ALL SELECT 'enum', enumtypid::regtype::text || '.' || enumlabel, enumsortorder::text,
    NULL, NULL
FROM pg_catalog.pg_enum
UNION ALL SELECT 'domain', t.oid::regtype::text,
    pg_catalog.concat(pg_catalog.format_type(typbasetype, typtypmod), typnotnull), typdefault, NULL
FROM pg_catalog.pg_type t JOIN n ON n.oid = typnamespace WHERE typtype = 'd'
UNION ALL SELECT 'extension', extname, extversion, NULL, NULL FROM pg_catalog.pg_extension
UNION ALL SELECT 'comment', objoid::regclass::text || '.' || objsubid, description, NULL, NULL
FROM pg_catalog.pg_description WHERE classoid = 'pg_catalog.pg_class'::regclass
    AND objoid IN (SELECT r.oid FROM pg_catalog.pg_class r JOIN n ON n.oid = relnamespace)
UNION ALL SELECT 'type', t.oid::regtype::text, typacl::text, typowner::regrole::text, NULL
FROM pg_catalog.pg_type t JOIN n ON n.oid = typnamespace
UNION ALL SELECT 'large object', oid::text, lomacl::text, lomowner::regrole::text, NULL
FROM pg_catalog.pg_largeobject_metadata
UNION ALL SELECT 'role', rolname, pg_catalog.concat_ws(' ', rolsuper, rolinherit, rolcreaterole,
    rolcreatedb, rolcanlogin, rolreplication, rolbypassrls), pg_catalog.concat_ws(' ', rolconnlimit,
    rolvaliduntil, rolpassword IS NULL), NULL
FROM pg_catalog.pg_authid
UNION ALL SELECT 'member', roleid::regrole::text, member::regrole::text, grantor::regrole::text,
    pg_catalog.concat_ws(' ', admin_option, inherit_option, set_option)
FROM pg_catalog.pg_auth_members
UNION ALL SELECT 'setting', CASE setrole WHEN 0 THEN '' ELSE setrole::regrole::text END,
    datname, setconfig::text, NULL
FROM pg_catalog.pg_db_role_setting LEFT JOIN pg_catalog.pg_database d ON d.oid = setdatabase
UNION ALL SELECT 'default right', defaclrole::regrole::text, nspname, defaclobjtype::text,
    defaclacl::text
FROM pg_catalog.pg_default_acl LEFT JOIN pg_catalog.pg_namespace s ON s.oid = defaclnamespace
UNION ALL SELECT 'database', datname, datacl::text, datdba::regrole::text, datconnlimit::text
FROM pg_catalog.pg_database
"""
