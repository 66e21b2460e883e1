import pathlib
import shutil
import tempfile

import pytest


@pytest.fixture(scope="session")
def base():
    """Where runs of the tests keep their folders: short enough for sockets, open to `nobody`."""
    pytest.importorskip("psycopg")
    path = pathlib.Path(tempfile.mkdtemp(prefix="ajb-"))
    path.chmod(0o711)
    yield path
    left = [entry.name for entry in path.iterdir()]
    shutil.rmtree(path)
    assert left == []


@pytest.fixture(scope="session")
def server(base):
    """What makes PostgreSQL servers; skips where none can be had at all."""
    from jaxlab.evals.ajbench.databases import postgres_server
    from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
    from jaxlab.evals.ajbench.environments import workspace

    with workspace.run_folder(base) as folder:
        try:
            found = postgres_server.start(folder)
        except NoServer as error:
            pytest.skip(str(error))
        yield found


def _fill(cluster):
    import psycopg

    with psycopg.connect(cluster.conninfo("owner")) as connection:
        connection.execute(
            "CREATE TABLE t (a serial PRIMARY KEY, b text, c numeric);"
            "INSERT INTO t (b, c) VALUES ('x', 1.5), ('y', NULL);"
            "CREATE TABLE secret (s text); INSERT INTO secret VALUES ('s');"
            "ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY nobody ON secret USING (false);"
            "CREATE ROLE clerk; GRANT SELECT ON t TO clerk;"
            "CREATE VIEW v AS SELECT a FROM t;"
            "CREATE FUNCTION writes() RETURNS int SECURITY DEFINER LANGUAGE plpgsql AS "
            "$$ BEGIN INSERT INTO t (b) VALUES ('pwned'); RETURN 1; END $$;"
            "CREATE FUNCTION endless() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP BEGIN "
            "PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; "
            "END $$;"
        )


@pytest.fixture(scope="session")
def make(server):
    """Opens a private server with two tables, a view, a sequence and a role."""

    def make():
        cluster = server.open(server.template("tests", _fill))
        cluster.let_read()
        return cluster

    return make


@pytest.fixture
def database(make):
    """One of them, for a test that changes it."""
    cluster = make()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def unchanged(make):
    """One of them, for tests that only read."""
    cluster = make()
    yield cluster
    cluster.close()
