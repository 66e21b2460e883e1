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

from jaxlab.evals.ajbench.databases import (
    postgres,
    postgres_cluster,
    postgres_programs,
    postgres_restore,
    postgres_server,
    sql_tools,
)
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
from jaxlab.evals.ajbench.environments import workspace
from jaxlab.evals.ajbench.sandbox.limits import Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Toolbox


@pytest.fixture
def reader(unchanged):
    connection = postgres.Database(unchanged.conninfo("reader"), limits=Limits(seconds=0.5))
    before = postgres.digest(unchanged.conninfo("reader"))
    yield connection
    connection.close()
    assert postgres.digest(unchanged.conninfo("reader")) == before


@pytest.fixture
def writer(database):
    limits = Limits(seconds=0.5)
    connection = postgres.Database(database.conninfo("owner"), False, limits)
    yield connection
    connection.close()


@pytest.fixture
def digest(database):
    return lambda: postgres.digest(database.conninfo("reader"))


def test_a_reader_reads_everything_and_writes_nothing(reader):
    assert json.loads(reader.query("SELECT * FROM t ORDER BY a")) == [
        {"a": 1, "b": "x", "c": 1.5},
        {"a": 2, "b": "y", "c": None},
    ]
    # A policy that hides rows from users does not hide them from the judge.
    assert reader.query("SELECT s FROM secret") == '[{"s": "s"}]'
    for sql in ("UPDATE t SET b = ''", "SELECT writes()", "CREATE TABLE u (a int)"):
        with pytest.raises(ToolError, match="read-only"):
            reader.query(sql)


def test_a_mode_cannot_be_changed_for_the_next_statement(reader):
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


def test_results_are_cut_while_they_come(unchanged):
    reader = postgres.Database(unchanged.conninfo("reader"), limits=Limits(entries=3))
    text = reader.query("SELECT g FROM generate_series(1, 50000) g")
    assert text == '[{"g": 1}, {"g": 2}, {"g": 3}, "more rows were left out"]'
    reader.close()


def test_a_huge_value_does_not_get_through(unchanged):
    reader = postgres.Database(unchanged.conninfo("reader"), limits=Limits(seconds=20))
    with pytest.raises(ToolError, match="out of memory"):
        reader.query("SELECT repeat(repeat('x', 1000), 1000000)")
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


def test_a_trajectory_does_not_fill_the_disk(database):
    limits = Limits(seconds=60, database_bytes=16 << 20)
    writer = postgres.Database(database.conninfo("owner"), False, limits)
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


CHANGES = [
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
    "CREATE ROLE another",
    "DROP OWNED BY clerk",
    "ALTER ROLE clerk CREATEDB",
    "ALTER ROLE clerk PASSWORD 'x'",
    "ALTER ROLE clerk SET search_path = x",
    "CREATE ROLE a ROLE clerk",
    "GRANT INSERT (b) ON t TO clerk",
    "GRANT CREATE ON SCHEMA public TO clerk; ALTER TABLE t OWNER TO clerk",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO clerk",
    "CREATE POLICY clerks ON secret TO clerk",
    "ALTER POLICY clerks ON secret TO PUBLIC",
    "REVOKE CONNECT ON DATABASE state FROM PUBLIC",
]


def test_the_digest_sees_every_change(writer, digest):
    """One after the other, and nothing between them."""
    seen = [digest()]
    assert digest() == seen[0]
    for statement in CHANGES:
        writer.query(statement)
        seen.append(digest())
        assert seen[-1] not in seen[:-1], statement


def test_the_digest_does_not_depend_on_the_order_of_rows(writer, digest):
    before = digest()
    writer.query("UPDATE t SET b = 'q' WHERE a = 1; UPDATE t SET b = 'x' WHERE a = 1")
    writer.query("VACUUM FULL t")
    assert writer.query("SELECT a FROM t") == '[{"a": 2}, {"a": 1}]'
    assert digest() == before


def test_the_digest_runs_with_the_rights_of_a_reader_alone(writer, digest):
    """A cast of the trajectory's own runs in it; it must not get an administrator's rights."""
    writer.query(
        "CREATE TABLE trap (a int); INSERT INTO trap VALUES (1);"
        "CREATE FUNCTION sprung(trap) RETURNS text LANGUAGE plpgsql AS $$ BEGIN "
        "EXECUTE 'COPY t TO PROGRAM ''touch /tmp/ajb-pwned'''; RETURN 'x'; END $$;"
        "CREATE CAST (trap AS text) WITH FUNCTION sprung(trap)"
    )
    with pytest.raises(ToolError, match="permission denied to COPY"):
        digest()
    assert not pathlib.Path("/tmp/ajb-pwned").exists()


def test_tools_under_their_names(reader):
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


def test_a_row_that_is_too_large_is_held_once(unchanged):
    """And not as a text and as JSON as well."""
    size = 20_000_000
    info = unchanged.conninfo("reader")
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


def test_what_a_security_task_does(writer, database):
    """Roles, rights and policies, which the agent tries out and the judge looks up."""
    made = (
        "CREATE ROLE analyst LOGIN; GRANT USAGE ON SCHEMA public TO analyst;"
        "GRANT SELECT ON t TO analyst; ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON t TO analyst USING (b = current_setting('app.me', true));"
        "GRANT CONNECT ON DATABASE state TO analyst; GRANT pg_read_all_data TO clerk;"
        "CREATE POLICY all_rows ON t TO postgres USING (true);"
        "REVOKE CONNECT ON DATABASE state FROM PUBLIC;"
        "SET ROLE analyst; SET app.me = 'x'"
    )
    writer.query(made)
    assert writer.query("SELECT b FROM t") == '[{"b": "x"}]'
    with pytest.raises(ToolError, match="permission denied for table secret"):
        writer.query("SELECT * FROM secret")
    with pytest.raises(ToolError, match="permission denied"):
        writer.query("INSERT INTO t (b) VALUES ('z')")
    writer.query(
        "RESET ROLE; ALTER ROLE analyst BYPASSRLS CREATEDB; REASSIGN OWNED BY analyst TO clerk"
    )
    database.let_read()
    reader = postgres.Database(database.conninfo("reader"))
    assert reader.query("SELECT count(*) AS n FROM t") == '[{"n": 2}]'
    found = "SELECT policyname, roles FROM pg_policies WHERE tablename = 't' ORDER BY 1"
    assert reader.rows(found) == [
        {"policyname": "all_rows", "roles": "{postgres}"},
        {"policyname": "own", "roles": "{analyst}"},
    ]
    (found,) = reader.rows(
        "SELECT has_table_privilege('analyst', 't', 'SELECT') AS can, rolbypassrls, relacl::text "
        "FROM pg_roles, pg_class WHERE rolname = 'analyst' AND relname = 't'"
    )
    # What the role sees, and no more than one statement long.
    as_analyst = "set role analyst; SELECT b FROM t"
    assert reader.query(as_analyst) == '[{"b": "x"}, {"b": "y"}]'
    with pytest.raises(ToolError, match="permission denied for table secret"):
        reader.query("SET LOCAL ROLE analyst;\nSELECT * FROM secret")
    with pytest.raises(ToolError, match="read-only"):
        reader.query('SET ROLE "analyst"; CREATE TABLE u (a int)')
    for role in ("postgres", "jaxlab_admin", "pg_read_server_files", "nobody_there"):
        with pytest.raises(ToolError, match=r"permission denied to set role|does not exist"):
            reader.query(f"SET ROLE {role}; SELECT 1")
    assert reader.query("SELECT current_user AS u") == '[{"u": "jaxlab_reader"}]'
    # Judging has left no right among those of the table.
    acl = "{postgres=arwdDxt/postgres,clerk=r/postgres,analyst=r/postgres}"
    assert found == {"can": True, "rolbypassrls": True, "relacl": acl}
    reader.close()


def test_samples_do_not_see_each_other(make, writer):
    other = make()
    writer.query("DELETE FROM t; CREATE ROLE mine; DROP OWNED BY clerk; DROP ROLE clerk")
    reader = postgres.Database(other.conninfo("reader"))
    assert reader.query("SELECT count(*) AS n FROM t") == '[{"n": 2}]'
    roles = "SELECT rolname FROM pg_roles WHERE rolname !~ '^(pg|jaxlab)_' ORDER BY 1"
    assert [row["rolname"] for row in reader.rows(roles)] == ["clerk", "postgres"]
    reader.close()
    other.close()


def test_a_server_of_ones_own_ends_with_its_sample(make):
    cluster = make()
    assert cluster.home.exists()
    assert postgres_cluster.working_in(cluster.home / "data")
    cluster.close()
    assert postgres_cluster.working_in(cluster.home / "data") == []
    assert not cluster.home.exists()
    cluster.close()


def test_the_environment_does_not_reach_a_connection(unchanged, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere")
    monkeypatch.setenv("PGDATABASE", "elsewhere")
    writer = postgres.Database(unchanged.conninfo("owner"), False)
    assert writer.query("SELECT a FROM t ORDER BY a LIMIT 1") == '[{"a": 1}]'
    writer.close()


@pytest.fixture(scope="module")
def empty(server):
    cluster = server.open()
    cluster.let_read()
    yield cluster
    cluster.close()


CLEAR = """
DO $$ DECLARE one name; BEGIN
    FOR one IN SELECT nspname FROM pg_namespace WHERE nspowner >= 16384 LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', one);
    END LOOP;
    FOR one IN SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
            AND oid >= 16384 AND rolname <> current_user LOOP
        EXECUTE format('DROP OWNED BY %I CASCADE', one);
        EXECUTE format('DROP ROLE %I', one);
    END LOOP;
END $$;
DROP SCHEMA IF EXISTS public CASCADE;
CREATE SCHEMA public;
"""


@pytest.fixture
def restored(empty, tmp_path):
    """Restores a script, or a file; what is asked of it then, and what was passed over."""

    def restore(content, query=None, name="d.sql"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with psycopg.connect(empty.conninfo("owner")) as connection:
            connection.execute(CLEAR)
        passed = postgres_restore.restore(empty, path)
        reader = postgres.Database(empty.conninfo("reader"))
        try:
            return reader.query(query) if query else None, passed
        finally:
            reader.close()

    return restore


def test_dumps_are_restored(server, writer, database, digest, tmp_path):
    """With rights and comments; a dump has no roles, which have to be there."""
    writer.query(
        "COMMENT ON TABLE t IS 'x'; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO clerk;"
        "SELECT lo_from_bytea(0, 'x')"
    )
    program, wanted = postgres_programs.client("pg_dump"), digest()
    for end, form in (("backup", "c"), ("tar", "t"), ("sql", "p")):
        path = tmp_path / f"d.{end}"
        command = [program, f"--format={form}", f"--file={path}", database.conninfo("owner")]
        subprocess.run(command, check=True)
        cluster = server.open()
        with psycopg.connect(cluster.conninfo("owner")) as connection:
            connection.execute("CREATE ROLE clerk")
        assert postgres_restore.restore(cluster, path) == []
        cluster.let_read()
        assert postgres.digest(cluster.conninfo("reader")) == wanted
        cluster.close()


def test_a_script_with_roles_is_restored(restored):
    script = (
        "CREATE ROLE postgres;\nALTER ROLE postgres WITH SUPERUSER LOGIN;\n"
        "CREATE ROLE clerk LOGIN PASSWORD 'x';\nCREATE ROLE staff;\nGRANT staff TO clerk;\n"
        "CREATE TABLE t (a int);\nGRANT SELECT ON t TO staff;\n"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY;\n"
        "CREATE POLICY p ON t TO clerk USING (a = 1);\n"
    )
    query = (
        "SELECT rolname, has_table_privilege(rolname, 't', 'SELECT') AS can, "
        "(SELECT roles::text FROM pg_policies) AS roles FROM pg_roles WHERE rolname = 'clerk'"
    )
    text, passed = restored(script, query)
    assert json.loads(text) == [{"rolname": "clerk", "can": True, "roles": "{clerk}"}]
    assert len(passed) == 2


def test_a_script_of_sql_cannot_run_programs(restored, tmp_path):
    witness = tmp_path / "witness"
    for line in (
        f"\\! touch {witness}",
        f"SELECT 1 \\g |touch {witness}",
        f"\\o {witness}\n\\unrestrict abc",
        f"COPY before TO PROGRAM 'touch {witness}';",
        f"COPY before TO '{witness}';",
        "\\connect postgres",
    ):
        with pytest.raises(ValueError, match=r"restricted|permission denied to COPY"):
            restored(f"CREATE TABLE before (a int);\n{line}\n")
    assert not witness.exists()


LOSING = {
    "CREATE TABLE a (v no_such_type);": 'type "no_such_type" does not exist .CREATE TABLE a',
    "CREATE TABLE b (i int);\nCOPY b FROM stdin;\n1\nx\n\\.": "invalid input syntax",
    "SELECT 1/0;": "division by zero",
    "CREATE EXTENSION no_such;": '"no_such" is not available .*: install it',
    'CREATE TABLE a (t text COLLATE "xx_XX.utf8");': "collation .* does not exist",
    "CREATE TABLE a (i int);\nGRANT SELECT ON a TO nobody_there;": "begins with CREATE ROLE",
    "CREATE TABLE a (i int);\nCREATE POLICY p ON a TO nobody_there;": "begins with CREATE ROLE",
    "ALTER DEFAULT PRIVILEGES FOR ROLE gone GRANT SELECT ON TABLES TO PUBLIC;": "gone",
    "CREATE ROLE boss SUPERUSER;": "permission denied to create role",
    "GRANT pg_execute_server_program TO postgres;": "permission denied to grant",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS 'x';": "plpython3u",
    "CREATE TABLE a (i int UNIQUE);\nINSERT INTO a VALUES (1), (1);": "duplicate key",
    "GRANT SELECT ON pg_authid TO PUBLIC;": "permission denied",
    "SET client_encoding = 'LATIN1';\nSET no_such = 1;\nSET TIME ZONE 'x/y';": "x/y",
    "CREATE TABLE a (i int);\nBEGIN;\nINSERT INTO a VALUES (1);": "it ends within a statement",
    "CREATE TABLE a (t text);\nCOPY a FROM stdin;\nx": "it ends within .* the rows of a COPY",
    "CREATE TABLE a (t text);\nINSERT INTO a VALUES ('": "unterminated|it ends within",
    "CREATE TABLE a (t text);\n/* INSERT": "unterminated",
    "CREATE TABLE a (t text": "syntax error|it ends within",
    "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE a (i int);": "dump complete",
    "CREATE TABLE a (i int);\nSELECT 'x\xff';": "invalid byte sequence",
}


@pytest.mark.parametrize("script", LOSING)
def test_a_dump_that_loses_anything_is_refused(restored, script):
    """The database would be another one than the trajectory's, and nobody would know."""
    with pytest.raises(ValueError, match=rf"d\.sql is not restored.*{LOSING[script]}"):
        restored(script.encode("latin-1"))


def test_errors_that_lose_nothing_are_passed_over(restored):
    """What pg_dump --clean writes first, what a newer one sets, whose things are; and a mark."""
    script = (
        "\ufeffCREATE SCHEMA s;\nSET no_such_setting = 0;\n"
        "ALTER TABLE ONLY s.t DROP CONSTRAINT k;\n"
        "DROP TABLE s.t;\nCREATE TABLE s.t (i int);\nINSERT INTO s.t VALUES (1);\n"
        "ALTER TABLE s.t OWNER TO somebody;\nCREATE SCHEMA public;\n"
        "COMMENT ON EXTENSION plpgsql IS 'x';\nCREATE EXTENSION plpgsql;\n"
    )
    text, passed = restored(script, "SELECT i FROM s.t")
    assert text == '[{"i": 1}]'
    assert len(passed) == 7


def test_a_dump_that_is_none_or_cut_off(restored, database, tmp_path):
    with pytest.raises(ValueError, match=r"d\.backup is not restored.*"):
        restored("no dump", name="d.backup")
    path = tmp_path / "x.backup"
    command = [postgres_programs.client("pg_dump"), "-Fc", f"--file={path}"]
    subprocess.run([*command, database.conninfo("owner")], check=True)
    with pytest.raises(ValueError, match=r"d\.backup is not restored.*end of file"):
        restored(path.read_bytes()[:-2000], name="d.backup")
    # Its roles are not in it, and what they may do would be lost.
    with pytest.raises(ValueError, match=r'role "clerk" does not exist .GRANT.*CREATE ROLE'):
        restored(path.read_bytes(), name="d.backup")


def test_an_extension_that_only_computes_is_made_for_the_owner(restored):
    script = (
        "CREATE EXTENSION vector;\nCREATE TABLE a (v vector(2));\nINSERT INTO a VALUES ('[1,2]');"
    )
    try:
        text, _ = restored(script, "SELECT v FROM a")
    except ValueError as error:
        pytest.skip(str(error))
    assert text == '[{"v": "[1,2]"}]'


def test_a_state_that_is_not_restored_is_tried_once(server):
    tried = []

    def fill(cluster):
        tried.append(cluster)
        raise ValueError("no state")

    for _ in range(2):
        with pytest.raises(ValueError, match="no state"):
            server.template("failing", fill)
    assert len(tried) == 1
    assert not tried[0].home.exists()


def test_why_there_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_programs, "SERVER", ("no-such-program",))
    with pytest.raises(NoServer, match=r"system: no no-such-program .*install.*; wheel: "):
        postgres_server.start(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(postgres_programs, "version", lambda path: 15)
    with pytest.raises(NoServer, match="PostgreSQL 15 is too old: 16 or newer is needed"):
        postgres_server.start(tmp_path, "system")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="programs run as who starts them")
def test_programs_in_a_closed_folder_are_copied_to_where_nobody_can_run_them(tmp_path, base):
    here = postgres_programs.server("wheel")  # .../pgserver/pginstall/bin
    for name in ("pgserver", "pgserver.libs"):
        shutil.copytree(here.parents[2] / name, tmp_path / name, symlinks=True)
    tmp_path.chmod(0o700)
    with workspace.run_folder(base) as folder:
        found = postgres_programs.reachable(tmp_path / "pgserver" / "pginstall" / "bin", folder)
        assert folder in found.parents
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        program = postgres_programs.start(found / "initdb", ["--version"], folder, **pipe)
        assert program.communicate()[0].startswith(b"initdb (PostgreSQL) ")
    system = pathlib.Path("/usr/bin")
    assert postgres_programs.reachable(system, tmp_path) == system.resolve()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("echo 'initdb: error: No space left'; echo 'initdb: removing data directory'", "No space"),
        ("echo 'FATAL:  no shared memory' >&2; echo 'Examine the log output.'", "no shared mem"),
        ("echo 'out of luck'", "out of luck"),
        (":", "3"),
    ],
)
def test_why_a_program_of_the_server_fails(base, lines, cause):
    home = base / "failing"
    home.mkdir(mode=0o755)
    program = home / "initdb"
    program.write_text(f"#!/bin/sh\n{lines}\nexit 3\n")
    program.chmod(0o755)
    try:
        with pytest.raises(NoServer, match=f"initdb failed: .*{cause}"):
            postgres_cluster.run(program, [], home)
    finally:
        shutil.rmtree(home)


PROGRAM = """
import pathlib, sys, time
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.environments import workspace
with workspace.run_folder(pathlib.Path(sys.argv[1])) as folder:
    postgres_server.start(folder).open()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_a_killed_run_leaves_no_server_after_the_next(server):
    base = pathlib.Path(tempfile.mkdtemp(prefix="ajb-"))
    base.chmod(0o711)
    command = [sys.executable, "-c", PROGRAM, str(base)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    folder = pathlib.Path(child.stdout.readline().strip())
    assert any(map(postgres_cluster.working_in, folder.glob("pg-*/data")))
    child.send_signal(signal.SIGKILL)
    child.wait()
    with workspace.run_folder(base):
        assert not folder.exists()
    assert not any(map(postgres_cluster.working_in, folder.glob("pg-*/data")))
    assert list(base.iterdir()) == []
    shutil.rmtree(base)
