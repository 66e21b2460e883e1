"""Skill1's trainer: credit by hand, runs that go on, and what each phase is taught."""

import asyncio
import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxlab import config as config_lib
from jaxlab import train
from jaxlab.agents import skill1_terse
from jaxlab.agents.skill1 import Played
from jaxlab.agents.skill_library import SkillLibrary
from jaxlab.agents.skill_options import Candidate, Entry, Skill
from jaxlab.evals import report
from jaxlab.losses.methods.gigpo import Gigpo
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.rollouts.turns import Asked, Turn
from jaxlab.rollouts.worlds import source
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.trainers import agent
from jaxlab.trainers.agent_credit import joined, worth
from jaxlab.trainers.agent_play import Players
from jaxlab.trainers.agent_settings import Agent, Credit
from jaxlab.trainers.agent_waiting import Waiting

SKILL = Skill("mug at shelf 1", "mug")


def turns_of(episode, phases, tokens=2):
    return [
        Turn(Asked(episode, i, phase, "", ()), "", (1,), (5,) * tokens, (0.0,) * tokens, True)
        for i, phase in enumerate(phases)
    ]


def played(reward, utilities, order, states, bad, error=None, skill=SKILL):
    candidates = tuple(
        Candidate(Entry(i, SKILL, u, 0, 0, 0, 0, True), 1.0, 1.0) for i, u in enumerate(utilities)
    )
    actions = ("look",) * len(states)
    return Played(
        *(reward, actions, candidates, 0, skill, {}, "mug", order, tuple(states), tuple(bad), error)
    )


# One game, four episodes: won by a wrong ranking, lost by the right one, a library that was empty,
# and an environment that died.
PHASES = ("query", "rank", "act", "act", "distil")
EPISODES = [
    played(1.0, (0.25, 0.75), (0, 1), ("a", "b"), (False, True)),
    played(0.0, (0.25, 0.75), (1, 0), ("a", "c"), (False, False)),
    played(0.0, (), None, ("d", "e"), (False, False), skill=None),
    played(0.0, (0.5,), None, ("a", "b"), (False, False), error="OSError: gone"),
]
TURNS = [
    *turns_of(0, PHASES),
    *turns_of(1, PHASES),
    *turns_of(2, PHASES[2:]),
    *turns_of(3, PHASES[:4]),
]


def by_turn(values):
    """Values of each episode's turns, as lists."""
    found = [[] for _ in EPISODES]
    for turn, value in zip(TURNS, values, strict=True):
        found[turn.asked.episode].append(value)
    return found


def test_the_papers_credit_by_hand():
    """Outcomes 1, 0, 0: mean 1/3, deviation sqrt(2)/3. Distil rewards 1/4, -3/4, 0."""
    found = worth(EPISODES, [0] * 4, TURNS, Grpo(), Credit(invalid_penalty=0.1))
    won, lost = 2**0.5, -(2**-0.5)
    # Ranks of utilities are 1 and 2: the wrong order has (1 + 2 / log2 3) / (2 + 1 / log2 3).
    wrong = (1 + 2 / np.log2(3)) / (2 + 1 / np.log2(3))
    rewards = np.array([0.25, -0.75, 0.0])
    distil = 0.3 * (rewards - rewards.mean()) / rewards.std()
    expected = [
        [won, 0.3 * wrong, won, won - 0.1, distil[0]],
        [lost, 0.3, lost, lost, distil[1]],
        [lost, lost, distil[2]],
        [0.0] * 4,
    ]
    for one, other in zip(by_turn(found.advantage), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert by_turn(found.valid) == [[True] * 5, [True] * 5, [True] * 3, [False] * 4]
    # 13 turns that count, 3 episodes; of two tokens each: |tau| is 6 with a query and 4 without.
    scale = 13 / 3
    with_query = [scale / 3, 2 * scale, scale / 3, scale / 3, scale]
    assert by_turn(found.weight)[:3] == [
        pytest.approx(with_query),
        pytest.approx(with_query),
        pytest.approx([scale / 2, scale / 2, scale]),
    ]


def test_the_trajectorys_weights_are_the_papers_reduction():
    """Mean over turns of token means, weighed, is the mean over episodes of Eq. 8 to 10."""
    found = worth(EPISODES, [0] * 4, TURNS, Grpo(), Credit())
    rng, total, expected = np.random.default_rng(0), 0.0, 0.0
    rows = sum(found.valid)
    for turn, weight, valid in zip(TURNS, found.weight, found.valid, strict=True):
        if not valid:
            continue
        losses = rng.normal(size=len(turn.response))
        total += weight * losses.mean() / rows
        size = {0: 6, 1: 6, 2: 4}[turn.asked.episode]
        share = {"rank": 1.0, "distil": 1 / len(losses)}.get(turn.asked.phase, 1 / size)
        expected += losses.sum() * share / 3
    assert total == pytest.approx(expected)


def test_gigpo_adds_the_comparison_of_steps_from_one_state():
    """State "a" is before both: returns 0.95 - 0.095 and 0, so +-1; the dead one does not count."""
    plain = worth(EPISODES, [0] * 4, TURNS, Grpo(), Credit())
    found = worth(EPISODES, [0] * 4, TURNS, Gigpo(step_weight=0.5), Credit())
    more = by_turn(np.array(found.advantage) - np.array(plain.advantage))
    assert more[0] == pytest.approx([0, 0, 0.5, 0, 0], abs=1e-4)
    assert more[1] == pytest.approx([0, 0, -0.5, 0, 0], abs=1e-4)
    assert more[2] == [0] * 3
    assert more[3] == [0] * 4


def test_gigpo_credits_success_alone():
    """A purchase that is worth 0.9 is none: steps from one state are then alike."""
    pair = [
        played(0.9, (), None, ("a",), (False,)),
        played(0.0, (), None, ("a",), (False,)),
    ]
    turns = [*turns_of(0, ["act"]), *turns_of(1, ["act"])]
    assert worth(pair, [0, 0], turns, Gigpo(), Credit()).advantage == [0.0, 0.0]
    pair[0] = dataclasses.replace(pair[0], reward=1.0)
    found = worth(pair, [0, 0], turns, Gigpo(), Credit()).advantage
    assert found == pytest.approx([2.0, -2.0], abs=1e-4)


def test_matured_skills_weigh_as_the_others_do():
    """Behind 13 turns of 3 episodes two skills: by trajectory each is its own mean over 3."""
    for reduction, own, more in (("turns", 1.0, 1.0), ("trajectory", 15 / 13, 15 / 3)):
        credit = Credit(mode="delayed", reduction=reduction)
        before = worth(EPISODES, [0] * 4, TURNS, Grpo(), credit)
        found = joined(before, [0.25, -0.5], 3, credit)
        assert found.advantage == [*before.advantage, 0.25, -0.5]
        assert found.valid == [*before.valid, True, True]
        assert found.weight[:-2] == pytest.approx([own * w for w in before.weight])
        assert found.weight[-2:] == pytest.approx([more] * 2)


def test_the_released_credit_teaches_no_skill():
    found = worth(EPISODES, [0] * 4, TURNS, Grpo(), Credit(mode="released"))
    assert by_turn(found.valid)[0] == [True] * 4 + [False]
    first = by_turn(found.advantage)[0]
    assert first[0] == first[1] == first[2] == pytest.approx(first[3] + 0.1)


# As many for every phase: one program writes them all.
NEW_TOKENS = dict.fromkeys(("query", "rank", "act", "distil"), 7)


@pytest.fixture(scope="module")
def warm(config, tmp_path_factory):
    """Demonstrations imitated long enough to write what can be read."""
    workdir = tmp_path_factory.mktemp("warm")
    stage = config("skill1_household", "tiny")["stages"]["warmup"]
    stage["train"] |= {"steps": 60, "eval_every": 60, "checkpoint_every": 60, "log_every": 1}
    stage["rollout"]["new_tokens"] = NEW_TOKENS
    stage["optim"] |= {"learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 0}
    train.train(stage, workdir)
    return workdir


@pytest.fixture(scope="module")
def cell(config, warm):
    """A cell of the study that starts from there; every skill that can be read is kept."""

    def make(name, steps=4):
        stage = config("skill1_household", "tiny")["stages"][name]
        stage["model"]["path"] = str(warm)
        stage["train"] |= {"steps": steps, "eval_every": 2, "checkpoint_every": 2}
        stage["rollout"]["new_tokens"] = NEW_TOKENS
        stage["optim"]["learning_rate"] = 1e-2
        if stage["skills"] is not None and "library" in stage["skills"]:
            stage["skills"]["library"] |= {"admit": "always", "floor": None}
        stage["credit"] |= {"uses": 1} if name == "delayed" else {}
        return stage

    return make


@pytest.fixture(scope="module")
def whole(cell, tmp_path_factory):
    """A run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("whole")
    train.train(cell("delayed"), workdir)
    return workdir


TIMES = ("step_seconds", "tokens_per_second", "compiled")


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def test_demonstrations_are_imitated(warm):
    steps = [row for row in rows(warm) if "loss" in row]
    assert steps[-1]["loss"] < 0.75 * steps[0]["loss"]
    assert not (warm / "skills.sqlite").exists()


def test_a_run_learns_from_every_phase_and_compiles_nothing_late(whole):
    found = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in found if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    # Of two skills or more rankings are taught though no game was won, which teaches no action; a
    # skill is taught once its worth is known.
    assert steps[0]["gradient_rank"] == 0
    ranked = [before["library"] > 1 for before in steps[:-1]]
    assert [row["gradient_rank"] > 0 for row in steps[1:]] == ranked
    assert any(ranked)
    assert all((row["gradient_act"] > 0) == (row["reward"] not in (0, 1)) for row in steps)
    assert all((row["gradient_distil"] > 0) == (row["matured"] > 0) for row in steps)
    assert steps[-1]["matured"] > 0
    # What an earlier policy wrote has another probability now; all else is of this one.
    assert all((abs(row["ratio_max"] - 1) > 1e-4) == (row["matured"] > 0) for row in steps)
    assert all(row["logprob_gap"] < 1e-4 for row in steps)
    assert steps[-1]["compiled"] == 0
    assert [row["library"] for row in steps] == sorted(row["library"] for row in steps)
    assert steps[-1]["library"] > 1
    evaluations = [row for row in found if "eval/success" in row]
    assert [row["step"] for row in evaluations] == [0, 2, 4]
    assert {"eval/success_seen_low", "eval/success_unseen", "eval/u_hat"} <= evaluations[1].keys()
    notes = (whole / "notes.md").read_text()
    assert "Three skills of the library" in notes
    assert "[act] " in notes


def test_the_report_shows_scores_curves_skills_and_an_episode(whole, tmp_path):
    written = report.write(tmp_path, {"whole": whole}, "Agents")
    text = (tmp_path / "report.md").read_text()
    assert "| success | success_seen | success_unseen | " in text
    assert "| selection_precision | u_hat |" in text
    assert "## whole" in text
    assert "One episode of the panel" in text
    assert tmp_path / "curves.png" in written


def test_a_run_that_goes_on_has_the_library_of_its_step(cell, whole, tmp_path):
    """Interrupted at 2; what happens to the library's file until it goes on does not matter."""
    half = cell("delayed")
    half["train"]["stop_after"] = 2
    train.train(half, tmp_path)
    with SkillLibrary(tmp_path) as library:
        assert len(library)
        library.clear()
    train.train(cell("delayed"), tmp_path)
    assert rows(tmp_path) == rows(whole)
    states = [Checkpointer(w / "checkpoints").restore_params(4) for w in (tmp_path, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    with SkillLibrary(tmp_path) as one, SkillLibrary(whole) as other:
        assert one.entries() == other.entries()
        assert len(one) > 0
    for name in ("samples.jsonl", "notes.md"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["library", "no_library", "told", "no_selection", "no_distillation", "lambdas_0", "released"],
)
def test_every_cell_of_the_study_trains(cell, name, tmp_path):
    """All share the compiled programs of the first."""
    train.train(cell(name, steps=2), tmp_path)
    last = [row for row in rows(tmp_path) if "loss" in row][-1]
    assert last["step"] == 2
    assert ("library" in last) == (name not in ("no_library", "told"))
    if name == "told":
        # One lesson in every episode, and no skill is asked for.
        assert last["retrieved"] == last["similarity"] == 1
        assert last["unread_distil"] == 0
        assert not (tmp_path / "skills.sqlite").exists()
    assert last["unread_query"] <= 1
    if name in ("lambdas_0", "released"):
        assert last["gradient_distil"] == 0
    if name == "lambdas_0":
        assert last["gradient_rank"] == 0
    if name == "no_distillation":
        with SkillLibrary(tmp_path) as library:
            assert library.entries()[0].skill.strategy.count(";") == 2


def test_what_is_told_is_true(config):
    """In training and in evaluation, one lesson about where the thing of the task lies."""
    stage = config_lib.build(Agent, config("skill1_household", "tiny")["stages"]["told"])
    worlds = source(stage.data)
    players = Players(stage, worlds, None, None)
    asked = []

    async def generate(phase, prompt, choices):
        asked.append(phase)
        return "look"

    for number in range(12):
        game = worlds.train(number)
        played = asyncio.run(players.episode(game, training=number % 2 == 0)(generate))
        (candidate,) = played.candidates
        thing, place = candidate.entry.skill.strategy.split(" at ")
        assert thing == game.id.split("-")[1].lower()
        env = worlds.load(game)
        env.reset()
        names, inside = env.state.world.names, env.state.inside
        (there,) = (p for p in env.state.world.where if skill1_terse.short(names[p]) == place)
        assert thing in {names[x].split()[0] for x in inside[there]}
    assert "act" in asked
    assert "distil" not in asked


def test_what_waits_for_its_worth_survives_json():
    credit = Credit(mode="delayed", uses=2, pending=1)
    waiting = Waiting(credit)
    turn = turns_of(0, ["distil"])[0]

    class Library:
        def __init__(self, updates, utility=0.5):
            self.entry = Entry(7, SKILL, utility, 0, updates, 0, 0, True)

        def entries(self):
            return [self.entry]

    for _ in range(2):
        waiting.add(Library(3), [EPISODES[0]], {0: 7}, [turn])
    assert (len(waiting), waiting.lost) == (1, 1)
    again = Waiting(credit)
    again.load(json.loads(json.dumps(waiting.dump())))
    assert again.dump() == waiting.dump()
    assert again.ripe(Library(4)) == []
    ((one, utility),) = again.ripe(Library(5, utility=0.95))
    assert (one.turn.response, utility) == (turn.response, 0.95)
    # U is 0.95 now, the best candidate had 0.75 then.
    assert one.credit(utility, 0.3) == pytest.approx(0.3 * 0.2)
    assert not len(again)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"loss": {"name": "opd"}}, "episodes are reinforced by grpo or gigpo, not opd"),
        ({"source": "script"}, "demonstrations need cross_entropy, not grpo"),
        ({"loss": {"name": "dapo"}}, "token_mean would weigh turns anew"),
        ({"loss": {"name": "kdrl"}}, "episodes are reinforced by grpo or gigpo, not kdrl"),
        (
            {"loss": {"name": "grpo", "advantages": "centred"}},
            "loss.advantages: .* to group",
        ),
        ({"loss": {"name": "gigpo", "zero_variance": "drop"}}, "loss.zero_variance: .* to keep"),
        ({"train": {"steps": 1, "microbatch": 2}}, "set rollout.parts"),
        ({"credit": {"mode": "later"}}, "mode"),
        (
            {"skills": {"told": True}, "data": {"name": "household", "engine": "textworld"}},
            "skills.told: the truth is told in terse words",
        ),
        (
            {"skills": {"told": True, "distil": "raw"}},
            "skills.distil: told episodes have no library",
        ),
        ({"tokenizer": "nowhere"}, "nowhere has no tokenizer.json"),
        ({"data": {"name": "household", "train": "nowhere"}}, "nowhere: is no folder of games"),
    ],
)
def test_a_bad_config_is_one_line(cell, tmp_path, change, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        agent.program(
            config_lib.build(agent.Agent, cell("delayed") | change, "config"), tmp_path / "run"
        )
