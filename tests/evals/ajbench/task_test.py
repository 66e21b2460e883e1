"""What is wrong with a run of judges is said before its first sample; passwords are not written."""

import pytest

pytest.importorskip("inspect_ai")


from jaxlab.evals import harness
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.databases.postgres_programs import NoServer
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
    looked = []

    def look(*which):
        looked.append(which)
        raise NoServer("no PostgreSQL server (system: none)")

    monkeypatch.setattr(postgres_server, "look", look)
    run = layout.run(tmp_path, ("DS-Postgres",))
    with pytest.raises(
        ValueError, match=r"2 of 2 units lack what they need: .*no PostgreSQL server \(system"
    ):
        harness.prepare(run, tmp_path, regrade=False)
    assert len(looked) == 1
    harness.prepare(layout.run(tmp_path, ("DS-SQLite",)), tmp_path, regrade=False)
    harness.prepare(layout.run(tmp_path, ("DS-Postgres",), arm="text"), tmp_path, regrade=False)
    assert len(looked) == 1
