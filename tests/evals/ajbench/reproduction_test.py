import contextlib

import pytest

from jaxlab.evals.ajbench import reproduction, scripted
from jaxlab.evals.ajbench.reproduction import LIES, STORES, TRUTHS


@pytest.fixture(params=range(len(STORES)), ids=STORES)
def replayed(request, tmp_path):
    """Task of a store; `replayed(kind)` opens that store, replays, and gives unit and store."""
    task = reproduction.task(request.param)
    on_server = task.store == "DS-Postgres"
    server = request.getfixturevalue("server") if on_server else None
    with contextlib.ExitStack() as stack:

        def open_store(name, values):
            (tmp_path / name).mkdir()
            store = reproduction.open_store(task, tmp_path / name, values, server)
            stack.callback(store.close)
            return store

        goal = open_store("goal", task.goal).digest()

        def replay(kind):
            store = open_store(kind, task.initial)
            return reproduction.unit(task, kind, store, goal), store

        replay.task = task
        yield replay


def test_labels_and_judges(replayed):
    for kind in (*LIES, *TRUTHS):
        unit, store = replayed(kind)
        # An UPDATE of a row that is not there and a new file of a wrong name both miss the goal.
        assert unit.label is (kind in TRUTHS)
        assert unit.subdomain == replayed.task.store
        assert scripted.claims(unit)
        before = store.digest()
        assert scripted.tools(replayed.task, store, turns=16) is unit.label
        assert store.digest() == before


def test_what_is_not_looked_at_is_not_found(replayed):
    """An extra change is in no entry that was to change, so three turns cannot meet it."""
    _, store = replayed("extra")
    assert scripted.tools(replayed.task, store, turns=3)


def test_text_judges_fail_where_they_must(replayed):
    recovered, _ = replayed("recovered")
    assert not scripted.errors(recovered)
    assert scripted.calls(recovered, replayed.task)
    assert scripted.calls(replayed("reverted")[0], replayed.task)
