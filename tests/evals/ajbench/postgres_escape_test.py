"""Attempts to write as a reader, and to leave the database as anybody, none of which succeeds."""

import os
import pathlib

import pytest

pytest.importorskip("psycopg")

import psycopg

from jaxlab.evals.ajbench.databases import postgres
from jaxlab.evals.ajbench.databases.sql_tools import querying_postgres
from jaxlab.evals.ajbench.environments import environment, stores
from jaxlab.evals.ajbench.sandbox import programs
from jaxlab.evals.ajbench.sandbox.limits import Limits
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
    "SELECT setting::int / (name = 'x')::int FROM pg_settings WHERE name = 'data_directory'"
    " UNION ALL SELECT 1 / 0",
    "SHOW data_directory",
    "SHOW hba_file",
    "CREATE ROLE pwned SUPERUSER LOGIN",
    "CREATE ROLE pwned REPLICATION LOGIN",
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
    "SET ROLE jaxlab_admin",
    "SET ROLE pg_read_server_files",
    "SET SESSION AUTHORIZATION jaxlab_admin",
    "CREATE ROLE pwned ROLE jaxlab_admin IN ROLE pg_execute_server_program",
    "CREATE ROLE pwned IN ROLE pg_read_server_files",
    "GRANT pg_read_server_files TO postgres",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER REPLICATION",
    "ALTER ROLE ALL SET search_path = pwned",
    "ALTER ROLE jaxlab_admin PASSWORD 'x'",
    "ALTER ROLE jaxlab_admin NOLOGIN",
    "ALTER ROLE jaxlab_reader NOLOGIN",
    "ALTER ROLE jaxlab_reader NOBYPASSRLS",
    "ALTER ROLE jaxlab_reader SET role = postgres",
    "DROP ROLE jaxlab_reader",
    "DROP OWNED BY jaxlab_admin",
    "REASSIGN OWNED BY jaxlab_admin TO CURRENT_USER",
    "GRANT jaxlab_reader TO CURRENT_USER",
    "GRANT pg_execute_server_program TO CURRENT_USER",
    "GRANT pg_write_server_files TO CURRENT_USER",
    "GRANT jaxlab_admin TO CURRENT_USER",
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
    "CREATE EXTENSION vector",
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
    "SELECT pg_terminate_backend(pid) / 0 FROM pg_stat_activity WHERE usename = 'jaxlab_admin'"
    " UNION ALL SELECT 1 / 0",
    "UPDATE pg_catalog.pg_database SET datistemplate = true",
    "DELETE FROM pg_catalog.pg_class",
    "SET allow_system_table_mods = on",
    "ALTER DATABASE template1 OWNER TO CURRENT_USER",
    "ALTER DATABASE {own} RENAME TO pwned",
    "ALTER DATABASE {own} TABLESPACE pwned",
    "SELECT pg_ls_archive_statusdir()",
    "SELECT * FROM pg_ls_tmpdir()",
    "SELECT pg_current_logfile()",
    "SELECT pg_log_backend_memory_contexts(1)",
    "SELECT pg_import_system_collations('pg_catalog')",
    "SELECT lo_unlink(1) FROM pg_largeobject WHERE 1 / 0 = 1",
]

# What a state may do to its own server, and must not be felt by anybody else.
ITSELF = [
    "ALTER ROLE CURRENT_USER SET search_path TO nowhere",
    "ALTER ROLE CURRENT_USER IN DATABASE {own} SET search_path TO nowhere",
    "ALTER ROLE CURRENT_USER SET statement_timeout = 1",
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    "ALTER ROLE CURRENT_USER PASSWORD 'x'; ALTER ROLE CURRENT_USER VALID UNTIL '2000-01-01'",
    "ALTER ROLE CURRENT_USER NOLOGIN",
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT 0",
    "CREATE ROLE boss CREATEROLE CREATEDB; SET ROLE boss; CREATE ROLE pwned IN ROLE postgres",
    "CREATE DATABASE pwned",
    "ALTER DATABASE {own} SET statement_timeout = 1",
    "ALTER DATABASE {own} SET default_transaction_read_only = on",
    "ALTER DATABASE {own} SET role = 'postgres'",
    "ALTER DATABASE {own} SET bytea_output = 'escape'",
    "ALTER DATABASE {own} SET idle_session_timeout = 1",
    "ALTER DATABASE {own} CONNECTION LIMIT 0",
    "REVOKE ALL ON DATABASE {own} FROM PUBLIC, jaxlab_reader",
    "REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON t FROM PUBLIC, jaxlab_reader",
    "REVOKE pg_read_all_data FROM jaxlab_reader",
    "GRANT pg_read_all_data, pg_monitor, pg_write_all_data TO CURRENT_USER",
    "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
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
    "role": lambda sql: f"SET ROLE clerk; {sql}",
}


ROLES = (
    "SELECT rolname, rolsuper, rolreplication, rolpassword FROM pg_authid "
    "WHERE rolname ~ '^jaxlab_' OR rolsuper OR rolreplication ORDER BY 1",
    "SELECT roleid, member FROM pg_auth_members WHERE roleid IN ('pg_read_server_files'::regrole, "
    "'pg_write_server_files'::regrole, 'pg_execute_server_program'::regrole, "
    "'jaxlab_admin'::regrole) OR member = 'jaxlab_reader'::regrole ORDER BY 1, 2",
    "SELECT * FROM pg_db_role_setting WHERE setrole <> 'postgres'::regrole ORDER BY 1, 2",
    "SELECT spcname FROM pg_tablespace ORDER BY 1",
    "SELECT slot_name FROM pg_replication_slots",
    "SELECT name, setting FROM pg_settings WHERE source = 'configuration file'",
)


def outside(cluster):
    """What the machine knows of, and who has rights beyond the state in its server."""
    with cluster.admin() as admin:
        found = [admin.execute(query).fetchall() for query in ROLES]
    return found, WITNESS.exists()


def _attempt(box, sql):
    for call in (("execute_sql", {"sql": sql}), ("explain_query", {"sql": sql, "analyze": True})):
        reply = box.call(*call)
        # EXPLAIN of what has no plan only says so.
        assert reply.failed or "utility statement" in reply.text.lower(), (sql, reply.text)
        assert "root:x:0" not in reply.text


@pytest.fixture(scope="module")
def attacked(make):
    cluster = make()
    yield cluster
    cluster.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_reader_neither_writes_nor_leaves(attacked, form):
    """Each attempt in seven forms, by two tools."""
    before = postgres.digest(attacked.conninfo("reader")), outside(attacked)
    reader = postgres.Database(attacked.conninfo("reader"), limits=Limits(seconds=2))
    box = Toolbox(querying_postgres(reader))
    for sql in (*OUTSIDE, *WRITING):
        _attempt(box, FORMS[form](sql.replace("{own}", attacked.database)))
    reader.close()
    assert (postgres.digest(attacked.conninfo("reader")), outside(attacked)) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_replay_does_not_leave_either(attacked, form):
    """The same with the rights of the owner, who may make roles; it replays hostile calls."""
    before = outside(attacked)
    writer = postgres.Database(attacked.conninfo("owner"), False, Limits(seconds=2))
    box = Toolbox(querying_postgres(writer))
    for sql in OUTSIDE:
        _attempt(box, FORMS[form](sql.replace("{own}", attacked.database)))
    writer.close()
    assert outside(attacked) == before


@pytest.mark.parametrize(
    "before",
    [
        "GRANT pg_read_all_data, pg_monitor, pg_write_all_data TO CURRENT_USER WITH INHERIT TRUE",
        "CREATE ROLE boss CREATEROLE CREATEDB BYPASSRLS; SET ROLE boss",
    ],
)
def test_no_role_that_can_be_had_leads_out(make, before):
    """Whatever a replay may give to itself first."""
    seen = {
        "SHOW data_directory",  # its own
        "SHOW hba_file",
        "SELECT * FROM pg_ls_logdir()",
        "SELECT * FROM pg_ls_waldir()",
        "SELECT * FROM pg_ls_tmpdir()",
        "SELECT pg_ls_archive_statusdir()",
        "SELECT pg_current_logfile()",
    }
    cluster = make()
    known = outside(cluster)
    writer = postgres.Database(cluster.conninfo("owner"), False, Limits(seconds=2))
    writer.query(before)
    box = Toolbox(querying_postgres(writer))
    for sql in OUTSIDE:
        if sql not in seen and "data_directory" not in sql:
            _attempt(box, sql.replace("{own}", cluster.database))
    writer.close()
    assert outside(cluster) == known
    cluster.close()


def test_a_server_has_no_rights_on_the_machine(unchanged, tmp_path):
    """Even its superuser, whom nobody here can become, is nobody outside."""
    process = pathlib.Path("/proc") / str(unchanged._process.pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    if os.getuid() == 0:
        assert "0" not in status["Uid"].split()
        assert status["Groups"].strip() in ("", "65534")
        assert int(status["CapEff"], 16) == 0
    if programs.confinement().offline:
        assert os.readlink(process / "ns/net") != os.readlink("/proc/self/ns/net")
    with unchanged.admin() as admin:
        (found,) = admin.execute("SELECT setting FROM pg_settings WHERE name = 'listen_addresses'")
        assert found == ("",)
        # A folder of ours: the server would have to be us to write there.
        witness = tmp_path / "witness"
        with pytest.raises(psycopg.Error):
            admin.execute(f"COPY (SELECT 'x') TO '{witness}'")
        assert not witness.exists()
    assert unchanged.home.stat().st_mode & 0o077 == 0


def test_what_a_trajectory_does_to_its_role_stays_with_it(server, make):
    """And its own state can be hashed and judged whatever it did."""
    cluster = make()
    template = server.template("tests")
    store = stores.Postgres(cluster)
    judge = Toolbox(store.tools(read_only=True))
    bytes_of = {"sql": "SELECT b, 'x'::bytea AS x FROM t ORDER BY a"}
    wanted = judge.call("execute_sql", bytes_of).text
    for text in ITSELF:
        hostile = [Call("execute_sql", {"sql": text.replace("{own}", cluster.database)})]
        environment.replay(store, hostile)
        store._open.pop(True).close()
        found = Toolbox(store.tools(read_only=True)).call("execute_sql", bytes_of)
        assert (found.failed, found.text) == (False, wanted), text
        assert store.digest(), text
    store.close()
    other = stores.Postgres(server.open(template))
    update = Call("execute_sql", {"sql": "UPDATE t SET b = 'z'"})
    assert environment.replay(other, [update]).failed == ()
    other.close()


def test_a_judge_does_not_change_its_server(unchanged):
    reader = postgres.Database(unchanged.conninfo("reader"))
    box = Toolbox(querying_postgres(reader))
    for sql in ITSELF:
        _attempt(box, sql.replace("{own}", unchanged.database))
    reader.close()
