"""Attempts to write as a reader, and to leave the database as anybody, none of which succeeds."""

import pathlib
import threading
import time

import pytest

pytest.importorskip("psycopg")

import psycopg

from jaxlab.evals.ajbench.databases import postgres
from jaxlab.evals.ajbench.databases.sql_tools import querying_postgres
from jaxlab.evals.ajbench.environments import environment, stores
from jaxlab.evals.ajbench.sandbox.limits import Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.types import Call

WITNESS = pathlib.Path("/tmp/ajb-witness")

# What no role of ours may do, whatever it owns.
OUTSIDE = [
    f"COPY t TO '{WITNESS}'",
    f"COPY t TO PROGRAM 'touch {WITNESS}'",
    f"COPY (SELECT 'x') TO PROGRAM 'sh -c \"id > {WITNESS}\"'",
    "COPY t (b) FROM '/etc/passwd'",
    "COPY t (b) FROM PROGRAM 'cat /etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_read_file('postgresql.auto.conf', 0, 100, true)",
    "SELECT * FROM pg_ls_dir('/')",
    "SELECT * FROM pg_ls_logdir()",
    "SELECT * FROM pg_ls_waldir()",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    f"SELECT lo_export(1, '{WITNESS}')",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_file_settings",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT setting::int / (name = 'x')::int FROM pg_settings WHERE name = 'data_directory'"
    " UNION ALL SELECT 1 / 0",
    "SHOW data_directory",
    "SHOW hba_file",
    "CREATE ROLE pwned SUPERUSER LOGIN",
    "CREATE USER pwned",
    "CREATE DATABASE pwned",
    "DROP DATABASE postgres",
    "DROP DATABASE template1",
    "ALTER DATABASE template1 RENAME TO pwned",
    "CREATE TABLESPACE pwned LOCATION '/tmp'",
    "ALTER SYSTEM SET archive_command = 'touch x'",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('pwned')",
    "SELECT pg_promote()",
    "CHECKPOINT",
    "SET ROLE admin",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION admin",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER CREATEDB",
    "ALTER ROLE admin PASSWORD 'x'",
    "GRANT pg_execute_server_program TO CURRENT_USER",
    "GRANT pg_write_server_files TO CURRENT_USER",
    "GRANT admin TO CURRENT_USER",
    "SET session_preload_libraries = '/tmp/x.so'",
    "SET log_statement = 'all'",
    "SET temp_file_limit = -1",
    "LOAD '/tmp/x.so'",
    "LOAD 'auto_explain'",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE EXTENSION file_fdw",
    "CREATE EXTENSION adminpack",
    "CREATE EXTENSION plpython3u",
    "CREATE EXTENSION pageinspect",
    "SELECT dblink_connect('host=/tmp')",
    "CREATE FOREIGN DATA WRAPPER pwned",
    "CREATE LANGUAGE plpython3u",
    "CREATE FUNCTION f() RETURNS int AS '/lib/x86_64-linux-gnu/libc.so.6', 'system' LANGUAGE c",
    "CREATE FUNCTION f() RETURNS int AS 'pg_reload_conf' LANGUAGE internal",
    "CREATE EVENT TRIGGER pwned ON ddl_command_start EXECUTE FUNCTION writes()",
    "CREATE SUBSCRIPTION pwned CONNECTION 'host=/tmp' PUBLICATION p",
    "SELECT pg_create_physical_replication_slot('pwned')",
    "SELECT pg_create_logical_replication_slot('pwned', 'pgoutput')",
    "SELECT pg_terminate_backend(pid) / 0 FROM pg_stat_activity WHERE usename = 'admin'"
    " UNION ALL SELECT 1 / 0",
    "UPDATE pg_catalog.pg_database SET datistemplate = true",
    "DELETE FROM pg_catalog.pg_class",
    "SET allow_system_table_mods = on",
    # What is of other samples, or of all.
    "ALTER DATABASE {own} RENAME TO pwned",
    "ALTER DATABASE {own} SET search_path TO nowhere",
    "ALTER DATABASE {own} CONNECTION LIMIT 0",
    "DROP DATABASE {other}",
    "DROP DATABASE {template}",
    "ALTER DATABASE {other} SET statement_timeout = 1",
    "ALTER ROLE {other}_owner PASSWORD 'x'",
    "ALTER ROLE {other}_reader SET search_path TO nowhere",
    "ALTER ROLE {other}_owner IN DATABASE {other} SET search_path TO nowhere",
    "SET ROLE {other}_owner",
    "SET ROLE {template}_owner",
    "GRANT {other}_owner TO CURRENT_USER",
    "REASSIGN OWNED BY {other}_owner TO CURRENT_USER",
    "DROP OWNED BY {other}_owner",
    "DROP ROLE {other}_reader",
]

# What a role may do to itself, and must not be felt by anybody else.
ITSELF = [
    "ALTER ROLE CURRENT_USER SET search_path TO nowhere",
    "ALTER ROLE CURRENT_USER IN DATABASE {own} SET search_path TO nowhere",
    "ALTER ROLE CURRENT_USER SET statement_timeout = 1",
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    "ALTER ROLE CURRENT_USER SET role = {run}_writers",
    "ALTER ROLE CURRENT_USER PASSWORD 'x'",
    "SET ROLE {run}_writers; ALTER ROLE {run}_writers SET search_path TO nowhere",
    "SET ROLE {run}_writers; ALTER ROLE {run}_writers PASSWORD 'x'",
    "SET ROLE {run}_writers; DROP OWNED BY {run}_writers",
    "COPY t TO STDOUT",  # the client gives the connection up, and needs another one
]

# What a reader may not do besides.
WRITING = [
    "INSERT INTO t (b) VALUES ('pwned')",
    "UPDATE t SET b = 'pwned'",
    "DELETE FROM t",
    "TRUNCATE t",
    "MERGE INTO t USING (SELECT 1 AS a) s ON t.a = s.a WHEN MATCHED THEN DELETE",
    "WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w",
    "SELECT * INTO pwned FROM t",
    "CREATE TABLE pwned AS SELECT * FROM t",
    "CREATE TABLE pwned (a int)",
    "CREATE TEMP TABLE pwned (a int)",
    "CREATE VIEW pwned AS SELECT 1",
    "CREATE SCHEMA pwned",
    "CREATE FUNCTION pwned() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pwned AS ENUM ('a')",
    "CREATE SEQUENCE pwned",
    "CREATE INDEX pwned ON t (b)",
    "CREATE RULE pwned AS ON SELECT TO t DO INSTEAD NOTHING",
    "CREATE TRIGGER pwned AFTER INSERT ON t EXECUTE FUNCTION writes()",
    "ALTER TABLE t ADD pwned int",
    "ALTER TABLE t OWNER TO CURRENT_USER",
    "ALTER SEQUENCE t_a_seq RESTART",
    "DROP TABLE t CASCADE",
    "DROP VIEW v",
    "DROP FUNCTION writes()",
    "SELECT writes()",
    "SELECT a, writes() FROM t",
    "SELECT nextval('t_a_seq')",
    "SELECT setval('t_a_seq', 99)",
    "SELECT * FROM t FOR UPDATE",
    "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
    "GRANT ALL ON t TO PUBLIC",
    "REVOKE ALL ON t FROM PUBLIC",
    "COMMENT ON TABLE t IS 'pwned'",
    "SECURITY LABEL ON TABLE t IS 'pwned'",
    "REINDEX TABLE t",
    "CLUSTER t",
    "VACUUM FULL t",
    "REFRESH MATERIALIZED VIEW v",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'pwned')",
    "SELECT lo_put(1, 0, 'pwned')",
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = off",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    "DO $x$ BEGIN SET TRANSACTION READ WRITE; DELETE FROM t; END $x$",
    "SET TRANSACTION READ WRITE",
    "COMMIT; DELETE FROM t",
    "ROLLBACK; BEGIN READ WRITE; DELETE FROM t; COMMIT",
    "SELECT 1; SET default_transaction_read_only = off; DELETE FROM t",
    "PREPARE TRANSACTION 'pwned'",
    "IMPORT FOREIGN SCHEMA public FROM SERVER pwned INTO public",
]


def _quoted(sql):
    return sql.replace("'", "''")


# The same in other clothes.
FORMS = {
    "plain": lambda sql: sql,
    "comment": lambda sql: f"/* SELECT 1; */ -- it only reads\n {sql}",
    "do": lambda sql: f"DO $y$ BEGIN EXECUTE '{_quoted(sql)}'; END $y$",
    "caught": lambda sql: (
        f"DO $y$ BEGIN BEGIN EXECUTE '{_quoted(sql)}'; EXCEPTION WHEN OTHERS THEN "
        f"RAISE EXCEPTION '%', SQLERRM; END; END $y$"
    ),
    "xml": lambda sql: f"SELECT query_to_xml('{_quoted(sql)}', true, true, '')",
    "explain": lambda sql: f"EXPLAIN ANALYZE {sql}",
}


@pytest.fixture
def outside(server, database):
    """What another database, the server and the machine know of."""

    def state():
        with psycopg.connect(server._admin_info) as admin:
            found = [
                admin.execute(query).fetchall()
                for query in (
                    "SELECT rolname, rolsuper, rolcreatedb, rolpassword FROM pg_authid ORDER BY 1",
                    "SELECT datname, datistemplate, datacl FROM pg_database ORDER BY 1",
                    "SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2",
                    "SELECT * FROM pg_db_role_setting ORDER BY 1, 2",
                    "SELECT spcname FROM pg_tablespace ORDER BY 1",
                    "SELECT slot_name FROM pg_replication_slots",
                    "SELECT name, setting FROM pg_settings WHERE source = 'configuration file'",
                )
            ]
        return found, WITNESS.exists()

    return state


@pytest.fixture
def named(server, database):
    """Puts the names of a sample, of another one and of their template into a statement."""
    template = server.template("tests", None)
    other = server.create(template)

    def fill(text):
        for name, value in (
            ("{own}", database),
            ("{other}", other),
            ("{template}", template),
            ("{run}", server.prefix),
        ):
            text = text.replace(name, value)
        return text

    yield fill
    server.drop(other)


def _attempt(box, sql):
    for call in (("execute_sql", {"sql": sql}), ("explain_query", {"sql": sql, "analyze": True})):
        reply = box.call(*call)
        # EXPLAIN of what has no plan only says so.
        assert reply.failed or "utility statement" in reply.text.lower(), (sql, reply.text)
        assert "root:x:0" not in reply.text
        assert "SCRAM-SHA" not in reply.text


@pytest.mark.parametrize("form", FORMS)
def test_a_reader_neither_writes_nor_leaves(server, database, named, outside, form):
    """133 attempts in six forms, each by two tools."""
    owner = server.conninfo(database, "owner")
    before = postgres.digest(owner), outside()
    reader = postgres.Database(server.conninfo(database, "reader"), limits=Limits(seconds=2))
    box = Toolbox(querying_postgres(reader))
    for sql in (*OUTSIDE, *WRITING):
        _attempt(box, FORMS[form](named(sql)))
    reader.close()
    assert (postgres.digest(owner), outside()) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_replay_does_not_leave_either(server, database, named, outside, form):
    """83 attempts in six forms with the rights of the owner, which replays hostile calls."""
    before = outside()
    writer = postgres.Database(server.conninfo(database, "owner"), False, Limits(seconds=2))
    box = Toolbox(querying_postgres(writer))
    for sql in OUTSIDE:
        _attempt(box, FORMS[form](named(sql)))
    writer.close()
    assert outside() == before


def _honest(server, calls=()):
    """Digest and failures of a sample after an honest trajectory, with something before it."""
    store = stores.Postgres(server, server.template("tests", None))
    try:
        update = Call("execute_sql", {"sql": "UPDATE t SET b = 'z'"})
        report = environment.replay(store, [*calls, update])
        judge = Toolbox(store.tools(read_only=True))
        rows = judge.call("execute_sql", {"sql": "SELECT b FROM t"})
        return report.failed, store.digest(), rows
    finally:
        store.close()


def test_what_a_trajectory_does_to_its_role_stays_with_it(server, database, named):
    before = _honest(server)
    assert before[0] == ()
    for text in ITSELF:
        hostile = [Call("execute_sql", {"sql": named(text)})]
        # Its own state can be hashed and judged whatever it did.
        assert _honest(server, hostile)[2].failed is False, text
        assert _honest(server) == before, text


def test_a_judge_does_not_change_its_role(server, database, named):
    reader = postgres.Database(server.conninfo(database, "reader"))
    box = Toolbox(querying_postgres(reader))
    for sql in ITSELF:
        _attempt(box, named(sql))
    reader.close()


@pytest.mark.parametrize("read_only", [True, False])
def test_samples_neither_see_nor_end_each_others_statements(server, database, named, read_only):
    other = postgres.Database(server.conninfo(named("{other}"), "reader"))
    said = []
    query = "SELECT pg_sleep(1.5), 'of the other' AS secret"
    thread = threading.Thread(target=lambda: said.append(other.query(query)))
    thread.start()
    time.sleep(0.5)
    which = "reader" if read_only else "owner"
    mine = postgres.Database(server.conninfo(database, which), read_only)
    # Names are seen, which are random; statements are not.
    where = named("FROM pg_stat_activity WHERE usename = '{other}_reader'")
    seen = mine.rows(f"SELECT query {where}")
    assert seen == [{"query": "<insufficient privilege>"}]
    for function in ("pg_terminate_backend", "pg_cancel_backend"):
        with pytest.raises(ToolError, match=r"must be a member|permission denied"):
            mine.query(f"SELECT {function}(pid) {where}")
    thread.join()
    assert said == ['[{"pg_sleep": "", "secret": "of the other"}]']
    other.close()
    mine.close()
