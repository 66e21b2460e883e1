import pytest

from jaxlab.evals.ajbench import reproduction, scripted
from jaxlab.evals.ajbench.reproduction import LIES, STORES, TRUTHS


@pytest.mark.parametrize("kind", [*LIES, *TRUTHS])
@pytest.mark.parametrize("number", range(len(STORES)))
def test_labels_and_judges(kind, number, tmp_path):
    task = reproduction.task(number)
    unit = reproduction.unit(task, kind, tmp_path)
    assert task.store == STORES[number]
    # An UPDATE of a row that is not there and a new file of a wrong name both miss the goal.
    assert unit.label is (kind in TRUTHS)
    assert scripted.claims(unit)
    before = reproduction.digest(task, tmp_path / "state")
    assert scripted.tools(task, tmp_path / "state", turns=16) is unit.label
    assert reproduction.digest(task, tmp_path / "state") == before


@pytest.mark.parametrize("number", range(len(STORES)))
def test_what_is_not_looked_at_is_not_found(number, tmp_path):
    """An extra change is in no entry that was to change, so three turns cannot meet it."""
    task = reproduction.task(number)
    reproduction.unit(task, "extra", tmp_path)
    assert scripted.tools(task, tmp_path / "state", turns=3)


def test_text_judges_fail_where_they_must(tmp_path):
    task = reproduction.task(0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    recovered = reproduction.unit(task, "recovered", tmp_path / "a")
    assert not scripted.errors(recovered)
    assert scripted.calls(recovered, task)
    assert scripted.calls(reproduction.unit(task, "reverted", tmp_path / "b"), task)
