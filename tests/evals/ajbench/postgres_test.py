import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc

import pytest

pytest.importorskip("psycopg")

import psycopg

from jaxlab.evals.ajbench.databases import postgres, postgres_databases, postgres_server, sql_tools
from jaxlab.evals.ajbench.databases.postgres_databases import NoServer
from jaxlab.evals.ajbench.environments import states, workspace
from jaxlab.evals.ajbench.sandbox.limits import Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Toolbox


@pytest.fixture
def reader(server, database):
    connection = postgres.Database(server.conninfo(database, "reader"), limits=Limits(seconds=0.5))
    yield connection
    connection.close()


@pytest.fixture
def writer(server, database):
    limits = Limits(seconds=0.5)
    connection = postgres.Database(server.conninfo(database, "owner"), False, limits)
    yield connection
    connection.close()


@pytest.fixture
def digest(server, database):
    return lambda: postgres.digest(server.conninfo(database, "owner"))


def test_a_reader_reads_everything_and_writes_nothing(reader, digest):
    before = digest()
    assert json.loads(reader.query("SELECT * FROM t ORDER BY a")) == [
        {"a": 1, "b": "x", "c": 1.5},
        {"a": 2, "b": "y", "c": None},
    ]
    # A policy that hides rows from users does not hide them from the judge.
    assert reader.query("SELECT s FROM secret") == '[{"s": "s"}]'
    for sql in ("UPDATE t SET b = ''", "SELECT writes()", "CREATE TABLE u (a int)"):
        with pytest.raises(ToolError, match="read-only"):
            reader.query(sql)
    assert digest() == before


def test_a_mode_cannot_be_changed_for_the_next_statement(reader, digest):
    before = digest()
    for sql in (
        "SET default_transaction_read_only = off",
        "COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT set_config('statement_timeout', '0', false)",
    ):
        reader.query(sql)
        with pytest.raises(ToolError):
            reader.query("SELECT writes()")
    for sql in ("SET TRANSACTION READ WRITE", "BEGIN READ WRITE"):
        with pytest.raises(ToolError, match="must be set before any query"):
            reader.query(sql)
    assert json.loads(reader.query("SHOW statement_timeout")) == [{"statement_timeout": "500ms"}]
    assert digest() == before


@pytest.mark.parametrize("mode", ["reader", "writer"])
def test_statements_without_end_are_ended(request, mode):
    database = request.getfixturevalue(mode)
    for sql in (
        "SELECT pg_sleep(100)",
        "SELECT endless()",
        "SELECT * FROM generate_series(1, 1e9)",
    ):
        start = time.monotonic()
        with pytest.raises(ToolError, match=r"took more than|timeout"):
            database.query(sql)
        assert time.monotonic() - start < 10
        assert database.query("SELECT 1 AS one") == '[{"one": 1}]'


def test_results_are_cut_while_they_come(server, database):
    reader = postgres.Database(server.conninfo(database, "reader"), limits=Limits(entries=3))
    text = reader.query("SELECT g FROM generate_series(1, 50000) g")
    assert text == '[{"g": 1}, {"g": 2}, {"g": 3}, "more rows were left out"]'
    reader.close()


def test_a_huge_value_does_not_get_through(server, database):
    reader = postgres.Database(server.conninfo(database, "reader"), limits=Limits(seconds=20))
    with pytest.raises(ToolError, match="out of memory"):
        reader.query("SELECT repeat('x', 1000000000)")
    assert reader.query("SELECT 1 AS one") == '[{"one": 1}]'
    reader.close()


def test_a_writer_works_as_the_recorded_server(writer):
    """Several statements in a text, committed together; the rows of the last."""
    count = "SELECT count(*) AS n FROM t"
    assert writer.query(f"INSERT INTO t (b) VALUES ('z'); {count}") == '[{"n": 3}]'
    with pytest.raises(ToolError, match="does not exist"):
        writer.query("DELETE FROM t; SELECT nothing")
    assert writer.query(count) == '[{"n": 3}]'
    writer.query("BEGIN; DELETE FROM t WHERE b = 'z'")
    assert writer.query(count) == '[{"n": 2}]'
    for sql in ("COPY t TO STDOUT", "COPY t FROM STDIN"):
        with pytest.raises(ToolError, match="COPY"):
            writer.query(sql)
    assert writer.query(count) == '[{"n": 2}]'


def test_a_trajectory_does_not_fill_the_disk(server, database):
    limits = Limits(seconds=60, database_bytes=16 << 20)
    writer = postgres.Database(server.conninfo(database, "owner"), False, limits)
    size = writer.rows(f"SELECT {postgres._SIZE} AS size")[0]["size"]
    wide = "string_agg(md5((g * i)::text), '') AS x FROM generate_series(1, 60) i"
    with pytest.raises(ToolError, match="grown by more than 16777216 bytes"):
        writer.query(
            f"CREATE TABLE big AS SELECT (SELECT {wide}) FROM generate_series(1, 1000000) g"
        )
    assert writer.rows(f"SELECT {postgres._SIZE} AS size")[0]["size"] < size + (1 << 20)
    # Small steps come as far as one large one.
    step = f"CREATE TABLE s{{}} AS SELECT (SELECT {wide}) FROM generate_series(1, 2000) g"
    said = []
    for number in range(9):
        try:
            said.append(writer.query(step.format(number)))
        except ToolError as error:
            said.append(str(error))
    assert said[0] == "[]"
    assert "grown by more than" in said[-1]
    writer.close()


def test_values_are_json(reader):
    def refuse(constant):
        raise AssertionError(constant)

    values = {
        "true": True,
        "'NaN'::float8": "NaN",
        "'-Infinity'::float4": "-Infinity",
        "'NaN'::numeric": "NaN",
        "1e400::numeric": str(10**400),
        "1.50::numeric": 1.5,
        "0.12345678901234567890": "0.12345678901234567890",
        "'infinity'::date": "infinity",
        "'2024-02-29 12:30'::timestamp": "2024-02-29 12:30:00",
        "'\\x00ff'::bytea": r"\x00ff",
        "'{1,2}'::int[]": "{1,2}",
        "'{\"k\": [1]}'::jsonb": {"k": [1]},
        "9223372036854775807": 9223372036854775807,
        "NULL": None,
    }
    text = reader.query(f"SELECT {', '.join(f'{value} AS a' for value in values)}")
    (row,) = json.loads(text, parse_constant=refuse)
    # They have one name, and each its place.
    assert list(row) == ["a", *(f"a_{number}" for number in range(2, len(values) + 1))]
    assert list(row.values()) == list(values.values())
    assert reader.query("""SELECT '{"a": 1e400, "a": 2.50}'::json AS j""") == (
        '[{"j": {"a": 1e400, "a": 2.50}}]'
    )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET c = 2 WHERE a = 1",
        "INSERT INTO t (b) VALUES ('x')",
        "CREATE INDEX i ON t (b)",
        "ALTER TABLE t ALTER b SET NOT NULL",
        "ALTER TABLE t ALTER b SET DEFAULT 'd'",
        "CREATE OR REPLACE VIEW v AS SELECT a + 0 AS a FROM t",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",
        "DROP FUNCTION writes()",
        "SELECT nextval('t_a_seq')",
        "DROP POLICY nobody ON secret",
        "ALTER TABLE secret DISABLE ROW LEVEL SECURITY",
        "GRANT SELECT ON t TO PUBLIC",
        "CREATE TYPE mood AS ENUM ('ok')",
        "CREATE SCHEMA other",
        "COMMENT ON COLUMN t.b IS 'text'",
        "SELECT lo_from_bytea(0, 'x')",
        "CREATE TRIGGER r BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION "
        "suppress_redundant_updates_trigger()",
        "CREATE EXTENSION IF NOT EXISTS plpgsql; ALTER TABLE t ADD CHECK (a > 0)",
    ],
)
def test_the_digest_sees_every_change(writer, digest, sql):
    before = digest()
    assert digest() == before
    writer.query(sql)
    assert digest() != before


def test_the_digest_does_not_depend_on_the_order_of_rows(writer, digest):
    before = digest()
    writer.query("UPDATE t SET b = 'q' WHERE a = 1; UPDATE t SET b = 'x' WHERE a = 1")
    writer.query("VACUUM FULL t")
    assert writer.query("SELECT a FROM t") == '[{"a": 2}, {"a": 1}]'
    assert digest() == before


def test_the_digest_runs_with_the_rights_of_the_owner_alone(writer, digest, tmp_path):
    """A cast of the trajectory's own runs in it; it must not get an administrator's rights."""
    writer.query(
        "CREATE TABLE trap (a int); INSERT INTO trap VALUES (1);"
        "CREATE FUNCTION sprung(trap) RETURNS text LANGUAGE plpgsql AS $$ BEGIN "
        "EXECUTE 'COPY t TO PROGRAM ''touch /tmp/ajb-pwned'''; RETURN 'x'; END $$;"
        "CREATE CAST (trap AS text) WITH FUNCTION sprung(trap)"
    )
    with pytest.raises(ToolError, match="superuser"):
        digest()
    assert not pathlib.Path("/tmp/ajb-pwned").exists()


def test_tools_under_their_names(reader, writer):
    box = Toolbox(sql_tools.querying_postgres(reader))

    def ask(name, **arguments):
        reply = box.call(name, arguments)
        assert not reply.failed, reply.text
        return json.loads(reply.text)

    assert {"public", "pg_catalog"} <= {row["schema_name"] for row in ask("list_schemas")}
    tables = ask("list_objects", schema_name="public")
    assert [row["name"] for row in tables] == ["secret", "t"]
    assert ask("list_objects", schema_name="public", object_type="view")[0]["name"] == "v"
    details = ask("get_object_details", schema_name="public", object_name="t")
    assert [column["column"] for column in details["columns"]] == ["a", "b", "c"]
    assert details["constraints"][0]["definition"] == "PRIMARY KEY (a)"
    assert ask("get_object_details", schema_name="public", object_name="v", object_type="view")
    sequence = {"object_name": "t_a_seq", "object_type": "sequence"}
    assert ask("get_object_details", schema_name="public", **sequence)[0]["last_value"] == 2
    assert "Plan" in str(ask("explain_query", sql="SELECT * FROM t"))
    assert ask("execute_sql", sql="SELECT 1 AS one") == [{"one": 1}]
    assert box.call("explain_query", {"sql": "DELETE FROM t", "analyze": True}).failed
    assert box.call("explain_query", {"sql": "SELECT 1", "hypothetical_indexes": [{}]}).failed
    assert box.call("list_objects", {"schema_name": "x", "object_type": "file"}).failed
    assert box.call("list_objects", {"schema_name": "a' OR '1'='1"}).text == "[]"


def test_a_row_that_is_too_large_is_held_once(server, database):
    """And not as a text and as JSON as well."""
    size = 20_000_000
    info = server.conninfo(database, "reader")
    reader = postgres.Database(info, limits=Limits(seconds=60.0))
    tracemalloc.start()
    try:
        reply = reader.query(f"SELECT repeat('x', {size}) AS a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        reader.close()
    assert reply == '["more rows were left out"]'
    assert size < peak < 1.5 * size


def test_samples_do_not_see_each_other(server, database, writer):
    other = server.create(server.template("tests", None))
    server.allow_reading(other)
    connection = postgres.Database(server.conninfo(other, "reader"))
    writer.query("DELETE FROM t")
    assert connection.query("SELECT count(*) AS n FROM t") == '[{"n": 2}]'
    connection.close()
    server.drop(other)


def _dump(server, database, path, *arguments):
    owner = server.conninfo(database, "owner")
    program = server.programs / "pg_dump"
    subprocess.run([program, f"--file={path}", *arguments, owner], check=True)


@pytest.mark.parametrize(("end", "form"), [("backup", "--format=c"), ("sql", "--format=p")])
def test_dumps_are_restored(server, database, digest, tmp_path, end, form):
    # Roles are no part of a dump, and those of one sample are not there for another.
    _dump(server, database, tmp_path / f"d.{end}", form, "--no-owner", "--no-privileges")
    name = server.create()
    assert states.restore(server, name, tmp_path / f"d.{end}") == []
    server.allow_reading(name)
    assert postgres.digest(server.conninfo(name, "owner")) == digest()
    server.drop(name)


def test_a_script_of_sql_cannot_run_programs(server, tmp_path):
    witness = tmp_path / "witness"
    script = tmp_path / "s.sql"
    script.write_text(
        "CREATE TABLE before (a int);\n"
        f"\\! touch {witness}\n"
        f"SELECT 1 \\g |touch {witness}\n"
        f"\\o {witness}\n\\unrestrict abc\n"
        f"COPY before TO PROGRAM 'touch {witness}';\n"
        "COPY before FROM stdin;\n1\n\\.\n"
    )
    name = server.create()
    errors = states.restore(server, name, script)
    assert sum("restricted" in error for error in errors) >= 2
    assert not witness.exists()
    reader = postgres.Database(server.conninfo(name, "owner"))
    assert reader.query("SELECT a FROM before") == '[{"a": 1}]'
    reader.close()
    server.drop(name)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE a (v no_such_type);\nCREATE TABLE b (i int);\nINSERT INTO a VALUES ('1');\n",
        "CREATE TABLE b (i int);\nCOPY b FROM stdin;\n1\nx\n\\.\n",
        "SELECT 1/0;\n",
    ],
)
def test_a_dump_that_loses_rows_is_refused(server, tmp_path, script):
    """The database would be another one than the trajectory's, and nobody would know."""
    (tmp_path / "d.sql").write_text(script)
    name = server.create()
    with pytest.raises(ValueError, match=r"d\.sql: .*ERROR"):
        states.restore(server, name, tmp_path / "d.sql")
    server.drop(name)


def test_errors_that_lose_nothing_are_passed_over(server, tmp_path, caplog):
    """What pg_dump --clean writes first, and what a newer one sets; a mark at the beginning too."""
    (tmp_path / "d.sql").write_text(
        "\ufeffCREATE SCHEMA s;\nSET no_such_setting = 0;\n"
        "ALTER TABLE ONLY s.t DROP CONSTRAINT k;\n"
        "DROP TABLE s.t;\nCREATE TABLE s.t (i int);\nINSERT INTO s.t VALUES (1);\n"
    )
    name = server.create()
    assert len(states.restore(server, name, tmp_path / "d.sql")) == 3
    assert "3 errors, such as" in caplog.text
    reader = postgres.Database(server.conninfo(name, "owner"))
    assert reader.query("SELECT i FROM s.t") == '[{"i": 1}]'
    reader.close()
    server.drop(name)


def test_a_dump_that_is_none(server, tmp_path):
    path = tmp_path / "d.backup"
    path.write_text("no dump")
    name = server.create()
    with pytest.raises(ValueError, match=r"d.backup: .*error"):
        states.restore(server, name, path)
    server.drop(name)


def test_why_there_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_server, "PROGRAMS", ("no-such-program",))
    with pytest.raises(NoServer, match=r"dsn: none was given; system: .*install.*; wheel: "):
        postgres_server.start(tmp_path)
    # A server that is named and does not answer is not replaced by another one.
    with pytest.raises(NoServer, match=r"\(dsn: [^;]*\)"):
        postgres_server.start(tmp_path, dsn=f"host={tmp_path} user=x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("echo 'initdb: error: No space left'; echo 'initdb: removing data directory'", "No space"),
        ("echo 'FATAL:  no shared memory' > log; echo 'Examine the log output.'", "no shared mem"),
        ("echo 'out of luck'", "out of luck"),
        (":", "3"),
    ],
)
def test_why_a_program_of_the_server_fails(tmp_path, lines, cause):
    program = tmp_path / "initdb"
    program.write_text(f"#!/bin/sh\n{lines}\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(NoServer, match=f"initdb failed: .*{cause}"):
        postgres_server._program(program, [], tmp_path, None)


def test_programs_of_the_wheel(base):
    pytest.importorskip("pgserver")
    with workspace.run_folder(base) as folder:
        server = postgres_server.start(folder, "wheel")
        name = server.create()
        writer = postgres.Database(server.conninfo(name, "owner"), read_only=False)
        writer.query("CREATE TABLE t (a int); INSERT INTO t VALUES (7)")
        server.allow_reading(name)
        reader = postgres.Database(server.conninfo(name, "reader"))
        assert reader.query("SELECT a FROM t") == '[{"a": 7}]'


def _admin(server, **more):
    return psycopg.conninfo.make_conninfo(server._admin_info, **more)


@pytest.fixture
def user_dsn(server):
    """A user's server, where the user is no superuser."""
    with psycopg.connect(_admin(server), autocommit=True) as admin:
        admin.execute("CREATE ROLE someone LOGIN CREATEDB CREATEROLE PASSWORD 'p'")
        admin.execute("GRANT CONNECT ON DATABASE postgres TO someone")
    yield _admin(server, user="someone", password="p")
    with psycopg.connect(_admin(server), autocommit=True) as admin:
        admin.execute("REVOKE ALL ON DATABASE postgres FROM someone; DROP ROLE someone")


def _names(server):
    with psycopg.connect(_admin(server)) as admin:
        found = admin.execute(
            "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles"
        )
        return sorted(name for (name,) in found.fetchall())


def test_a_server_of_the_user(base, server, user_dsn):
    before = _names(server)
    with workspace.run_folder(base) as folder:
        mine = postgres_server.start(folder, "auto", user_dsn)
        name = mine.create(mine.create())
        # A role for all of them, and two of each database.
        assert len(_names(server)) == len(before) + 1 + 2 * 3
        writer = postgres.Database(mine.conninfo(name, "owner"), read_only=False)
        writer.query("CREATE SCHEMA s; CREATE TABLE s.t (a int); INSERT INTO s.t VALUES (7)")
        mine.allow_reading(name)
        reader = postgres.Database(mine.conninfo(name, "reader"))
        assert reader.query("SELECT a FROM s.t") == '[{"a": 7}]'
        with pytest.raises(ToolError):
            reader.query("DELETE FROM s.t")
        writer.query("ALTER ROLE CURRENT_USER PASSWORD 'x'")
        mine.allow_reading(name)
        assert postgres.digest(mine.conninfo(name, "owner"))
        mine.drop(name)
        assert len(_names(server)) == len(before) + 1 + 3
    assert _names(server) == before


@pytest.mark.parametrize("right", ["CREATEROLE", "CREATEDB"])
def test_a_role_without_rights_is_named(tmp_path, server, user_dsn, right):
    before = _names(server)
    with psycopg.connect(_admin(server), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE someone NO{right}")
    cause = f"the role someone lacks {right}, and .*: ALTER ROLE someone {right}, or"
    with pytest.raises(NoServer, match=cause):
        postgres_server.start(tmp_path, "dsn", user_dsn)
    assert _names(server) == before


PROGRAM = """
import pathlib, sys, time
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.environments import workspace
with workspace.run_folder(pathlib.Path(sys.argv[1])) as folder:
    server = postgres_server.start(folder, dsn=sys.argv[2] or None)
    server.create(server.create())
    print(folder, flush=True)
    time.sleep(60)
"""


def _killed(base, dsn=""):
    command = [sys.executable, "-c", PROGRAM, str(base), dsn]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    folder = pathlib.Path(child.stdout.readline().strip())
    child.send_signal(signal.SIGKILL)
    child.wait()
    return folder


def _servers_in(folder):
    found = []
    for place in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if folder in pathlib.Path(os.readlink(place)).parents:
                found.append(place)
        except OSError:
            pass
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_killed_run_leaves_no_server_after_the_next(server):
    base = pathlib.Path(tempfile.mkdtemp(prefix="ajb-"))
    base.chmod(0o711)
    folder = _killed(base)
    assert _servers_in(folder)
    with workspace.run_folder(base):
        assert not folder.exists()
    end = time.monotonic() + 10
    while _servers_in(folder) and time.monotonic() < end:
        time.sleep(0.05)  # its own children follow the server
    assert _servers_in(folder) == []
    assert list(base.iterdir()) == []
    shutil.rmtree(base)


def test_a_killed_run_leaves_nothing_on_the_users_server(tmp_path, server, user_dsn):
    before = _names(server)
    _killed(tmp_path, user_dsn)
    assert len(_names(server)) == len(before) + 1 + 2 * 3
    with workspace.run_folder(tmp_path):
        assert _names(server) == before
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_transaction_holds_nobody_up(base, monkeypatch):
    """Where a server permits them, they outlive their session and keep locks and the database."""
    settings = postgres_server._SETTINGS | {"max_prepared_transactions": "5"}
    monkeypatch.setattr(postgres_server, "_SETTINGS", settings)
    begun = "BEGIN; INSERT INTO t VALUES (1); LOCK TABLE t; PREPARE TRANSACTION"
    with workspace.run_folder(base) as folder:
        server = postgres_server.start(folder)
        before = _names(server)

        def opened():
            name = server.create()
            writer = postgres.Database(server.conninfo(name, "owner"), read_only=False)
            writer.query("CREATE TABLE t (a int)")
            writer.query(f"{begun} '{name}'")
            return name, writer

        name, writer = opened()
        server.allow_reading(name)
        reader = postgres.Database(server.conninfo(name, "reader"))
        assert reader.query("SELECT a FROM t") == "[]"
        writer.query(f"{begun} 'again'")
        server.drop(name)
        assert _names(server) == before
        # After a kill nobody knows the roles' passwords.
        name, _ = opened()
        postgres_databases.drop_all(server._admin_info, server.prefix)
        assert not [found for found in _names(server) if found.startswith(name)]


def test_what_cannot_be_cleaned_now_is_kept_for_later(tmp_path, server, user_dsn):
    folder = _killed(tmp_path, user_dsn)
    before = len(_names(server))
    with psycopg.connect(_admin(server), autocommit=True) as admin:
        admin.execute("ALTER ROLE someone NOLOGIN")
        with workspace.run_folder(tmp_path):
            assert folder.exists()
        assert len(_names(server)) == before
        admin.execute("ALTER ROLE someone LOGIN")
    with workspace.run_folder(tmp_path):
        assert len(_names(server)) == before - 1 - 2 * 3
    assert list(tmp_path.iterdir()) == []
