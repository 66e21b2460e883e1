import pytest

from jaxlab.agents.skill1 import Played
from jaxlab.agents.skill_options import Candidate, Entry, Skill
from jaxlab.evals import panel


def played(reward, utilities=(), selected=None, similarity=0.5, **counts):
    candidates = tuple(
        Candidate(Entry(i, Skill("s", "d"), u, 0, 0, 0, 0, True), similarity, 0.0)
        for i, u in enumerate(utilities)
    )
    return Played(reward, ("look", "go"), candidates, selected, None, counts)


def test_success_by_part_with_wilsons_interval():
    found = panel.success([True, False, True], {"split": ["seen", "unseen", "seen"]})
    assert found["success"] == pytest.approx(2 / 3)
    assert (found["success_seen"], found["success_unseen"]) == (1.0, 0.0)
    # 2 of 2: from 1 / (1 + z^2 / 2).
    assert found["success_seen_low"] == pytest.approx(1 / (1 + 1.959964**2 / 2))
    assert found["success_seen_high"] == 1.0


def test_what_the_library_did_by_hand():
    found = panel.behaviour(
        [
            played(1.0, (0.4, 0.8), selected=0, inadmissible=1),
            played(0.0, (0.6,), selected=0, similarity=1.0, rank=1),
            played(1.0, died=1),
            played(0.0),
        ]
    )
    assert found == {
        "actions": 2.0,
        "inadmissible": 1 / 8,
        "died": 0.25,
        "unread_query": 0.0,
        "unread_rank": 0.25,
        "unread_act": 0.0,
        "unread_distil": 0.0,
        "retrieved": 0.5,
        "selection_precision": pytest.approx(0.5),
        "u_hat": pytest.approx(0.7),
        # 1 > 0.8, and 1 > 0 with nothing retrieved.
        "distil_positive": 0.5,
        "similarity": pytest.approx(0.75),
    }
    # A purchase that is worth 0.9 is no success.
    partly = [played(0.9, (0.4,), selected=0), played(0.9)]
    assert panel.behaviour(partly)["distil_positive"] == 0.0
    assert "u_hat" not in panel.behaviour([played(1.0)])
