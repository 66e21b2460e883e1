"""What is wrong with a run of judges is said before its first sample; passwords are not written."""

import os

import pytest

pytest.importorskip("inspect_ai")

from psycopg.conninfo import conninfo_to_dict

from jaxlab.evals import harness, tasks
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.environments import subdomains
from tests.evals.ajbench import layout, web_trees


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (
            {"arm": "agents"},
            "options.arm: expected one of 'text', 'agent', got 'agents' .*; did you mean 'agent'",
        ),
        ({"scaffold": "plan"}, "options.scaffold: expected one of 'loop', 'react', got 'plan'"),
        ({"replay": "maybe"}, "options.replay: expected one of 'true', 'false', 'prebuilt_state'"),
        ({"definitions": "nowhere"}, "definitions: there is no folder nowhere"),
        ({"max_turns": 0}, "max_turns must be at least 1"),
        ({"servers": {"DS-SQLite": {"args": []}}}, "options.servers.DS-SQLite.command is missing"),
    ],
)
def test_bad_options_are_named_at_once(tmp_path, options, cause):
    with pytest.raises((ValueError, FileNotFoundError), match=cause):
        harness.prepare(layout.run(tmp_path, **options), tmp_path, regrade=False)


def test_a_subdomain_without_environment_is_named_at_once(tmp_path, monkeypatch):
    run = layout.run(tmp_path, ("DS-SQLite",))
    monkeypatch.delitem(subdomains.ENVIRONMENTS, "DS-SQLite")
    with pytest.raises(ValueError, match=r"no environment for DS-SQLite: .*set arm=text"):
        harness.prepare(run, tmp_path, regrade=False)
    harness.prepare(layout.run(tmp_path, ("DS-SQLite",), arm="text"), tmp_path, regrade=False)


@pytest.mark.parametrize(
    ("dsn", "cause"),
    [
        ("postgresql://u:geheim@h/d", "in the environment as JAXLAB_AJBENCH_DSN"),
        ("host=h password=geheim", "in the environment as JAXLAB_AJBENCH_DSN"),
        ("postgresql://u:ge/heim@h:x/d", "the DSN is malformed"),
        ("password", "the DSN is malformed"),
    ],
)
def test_a_task_takes_no_dsn_with_a_password(tmp_path, dsn, cause):
    layout.write(tmp_path, ("sqlite",))
    with pytest.raises(ValueError, match=cause) as error:
        tasks.ajbench(str(tmp_path / "src"), arm="text", dsn=dsn)
    assert "geheim" not in str(error.value)
    tasks.ajbench(str(tmp_path / "src"), arm="text", dsn="postgresql://u@h/d")


def test_the_harness_keeps_a_password_to_itself(tmp_path, monkeypatch):
    monkeypatch.setenv(postgres_server.DSN, "")
    run = layout.run(tmp_path, arm="text", dsn="postgresql://u:geheim@h:5433/d")
    shown = harness.without_secrets(run).benchmark.options["dsn"]
    assert conninfo_to_dict(shown) == {"user": "u", "host": "h", "port": "5433", "dbname": "d"}
    assert os.environ[postgres_server.DSN] == "postgresql://u:geheim@h:5433/d"
    # What is shown leads back to the whole one; another server's does not.
    for dsn, held in ((shown, "geheim"), (None, "geheim"), ("host=other user=u", "other")):
        again = harness.without_secrets(layout.run(tmp_path, arm="text", dsn=dsn))
        assert "geheim" not in again.benchmark.options["dsn"]
        assert held in os.environ[postgres_server.DSN]
    with pytest.raises(ValueError, match="malformed"):
        harness.without_secrets(layout.run(tmp_path, arm="text", dsn="postgresql://u:ge heim@h:x"))


def test_a_live_web_needs_a_server(tmp_path):
    web_trees.make(tmp_path / "src")
    run = layout.run(tmp_path, ("Search-Wide",), web="live")
    with pytest.raises(ValueError, match="web=live: name a server with a browser"):
        harness.prepare(run, tmp_path, regrade=False)
    servers = {"Search-Wide": {"command": "browser"}}
    harness.prepare(
        layout.run(tmp_path, ("Search-Wide",), web="live", servers=servers), tmp_path, regrade=False
    )


def test_missing_states_are_named_before_the_first_sample(tmp_path):
    run = layout.run(tmp_path, ("DS-SQLite",))
    (tmp_path / "states" / "sqlite" / "books.sql").unlink()
    with pytest.raises(ValueError, match=r"2 of 2 units lack what .*: DS-SQLite/.*books\.sql"):
        harness.prepare(run, tmp_path, regrade=False)


def test_a_missing_server_is_named_before_the_first_sample(tmp_path, monkeypatch):
    """Looked for once, and not for every unit."""
    monkeypatch.setenv(postgres_server.DSN, "")
    looked = []
    look = postgres_server.look
    monkeypatch.setattr(
        postgres_server, "look", lambda *which: looked.append(which) or look(*which)
    )
    dsn = f"host={tmp_path} user=u"
    run = layout.run(tmp_path, ("DS-Postgres",), dsn=dsn)
    with pytest.raises(
        ValueError, match=r"2 of 2 units lack what they need: .*no PostgreSQL server \(dsn"
    ):
        harness.prepare(run, tmp_path, regrade=False)
    assert len(looked) == 1
    harness.prepare(layout.run(tmp_path, ("DS-SQLite",), dsn=dsn), tmp_path, regrade=False)
    harness.prepare(
        layout.run(tmp_path, ("DS-Postgres",), dsn=dsn, arm="text"), tmp_path, regrade=False
    )
    assert len(looked) == 1
