import asyncio
import json

import pytest

from jaxlab.agents import skill1, skill1_prompts
from jaxlab.agents.skill_library import Episode, Skill, SkillLibrary
from jaxlab.envs.protocol import Step

LESSONS = {"task_success": True, "action_lesson": "open it first", "navigation_lesson": "go left"}
GOOD = json.dumps({**LESSONS, "description_head": "when closed"})


@pytest.mark.parametrize(
    ("text", "query", "read"),
    [
        ("<query> where are\n mugs </query>", "where are mugs", True),
        ("<query>no</query> or <query>yes</query>", "yes", True),
        ("<think>hm</think> where are mugs", "where are mugs", False),
        ("", "", False),
        ("x" * 10**6, "x" * 500, False),
    ],
)
def test_queries(text, query, read):
    assert skill1_prompts.read_query(text) == (query, read)


@pytest.mark.parametrize(
    ("text", "order", "read"),
    [
        ("<rank>3, 1,2</rank>", [2, 0, 1], True),
        ("<rank>2,2,9,0,-1</rank>", [1, 0, 2], True),
        ("<rank>none</rank>", [0, 1, 2], False),
        ("3,2,1", [0, 1, 2], False),
        ("<rank>" + "9" * 5000 + "</rank>", [0, 1, 2], False),
    ],
)
def test_rankings(text, order, read):
    """Twice and out of range is dropped; what is missing follows in the order of retrieval."""
    assert skill1_prompts.read_rank(text, 3) == (order, read)


@pytest.mark.parametrize(
    ("text", "action", "read"),
    [
        ("<think>a</think><action>look</action>", "look", True),
        ("<action> GO  to shelf 1\n</action>", "go to shelf 1", True),
        ("I think I\nlook", "look", False),
        ("<action>fly</action>", "fly", False),
        ("", "", False),
    ],
)
def test_actions(text, action, read):
    assert skill1_prompts.read_action(text, ("look", "go to shelf 1")) == (action, read)


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        (GOOD, "Action Insight: open it first | Navigation Insight: go left"),
        (f"<think>{{}}</think> {{ oh }} ```json\n{GOOD}\n```", "Action Insight: open it first"),
        (GOOD.replace("go left", "left"), "Action Insight: open it first"),
        (GOOD.replace("when closed", " "), None),
        (GOOD[:-1], None),
        ("[]", None),
        ('{"action_lesson": 7, "description_head": "x"}', None),
        ("{" * 10**5, None),
    ],
)
def test_skills(text, strategy):
    """Lessons of at most five characters are skipped; without one, or a description, none."""
    found = skill1_prompts.read_skill(text, "the task")
    if strategy is None:
        assert found is None
    else:
        assert found.strategy.startswith(strategy)
        assert found.strategy.count("|") == text.count("go left")
        assert (found.description, found.task) == ("when closed", "the task")


class Corridor:
    """Won by "on" twice; ends after five steps."""

    def reset(self):
        self.steps, self.went = 0, 0
        return Step("a corridor", admissible=("on", "back"))

    def step(self, action):
        self.steps += 1
        self.went += action == "on"
        won = self.went == 2
        return Step(f"place {self.went}", float(won), won or self.steps == 5, ("on", "back"))


def run(replies, library=None, **options):
    """Play with these replies by phase; also what was asked, by phase."""
    asked = []

    async def generate(phase, prompt, choices):
        asked.append((phase, prompt))
        return replies[phase] if isinstance(replies[phase], str) else replies[phase].pop(0)

    played = asyncio.run(skill1.play(Corridor(), "reach the end", generate, library, **options))
    return played, asked


def test_without_a_library_it_only_acts():
    acts = ["<action>on</action>", "<action>up</action>", "<action>on</action>"]
    played, asked = run({"act": list(acts)}, history=1)
    assert (played.reward, played.actions, played.selected) == (1.0, ("on", "up", "on"), None)
    assert played.counts == {"act": 1, "inadmissible": 1}
    assert [phase for phase, _ in asked] == ["act"] * 3
    last = asked[2][1]
    assert "You have taken 2 actions" in last
    assert "You saw: place 1\nYou did: up" in last
    assert "You did: on" not in last
    assert "reflections" not in last
    assert played.episode() == Episode(1.0)


def test_an_episode_with_a_library_is_learned_from(tmp_path):
    with SkillLibrary(tmp_path) as library:
        acts = {"act": "<action>on</action>", "distil": GOOD}
        played, asked = run(acts, library, distil=True)
        assert [phase for phase, _ in asked] == ["act", "act", "distil"]
        assert "successfully" in asked[-1][1]
        assert "unsuccessfully" not in asked[-1][1]
        library.learn(1, [played.episode(), Episode(1.0, skill=Skill("run away", "fire"))])

        replies = {"query": "fire!", "rank": "?", "act": "", "distil": "sorry"}
        played, asked = run(replies, library, distil=True)
        assert [phase for phase, _ in asked] == ["query", "rank", *["act"] * 5, "distil"]
        assert played.counts == {"query": 1, "rank": 1, "act": 5, "inadmissible": 5, "distil": 1}
        assert "unsuccessfully" in asked[-1][1]
        # Nothing was ranked: the first retrieved is the one, and its lesson alone is there.
        assert played.episode() == Episode(0.0, (2, 1), 2)
        assert "reflections on similar tasks: run away\n" in asked[2][1]
        assert "open it first" not in asked[2][1]
        library.learn(2, [played.episode()])
        assert [(e.utility, e.selections) for e in library.entries()] == [(0.475, 0), (0.475, 1)]


class Hostile(Corridor):
    """Says too much and ends by raising."""

    def reset(self):
        self.steps = 0
        return Step("\ud800 <action>on</action> " * 10**5, admissible=("on",))

    def step(self, action):
        self.steps += 1
        if self.steps == 2:
            raise ValueError("the game is broken")
        return Step("{}" * 10**6, admissible=("on",))


def test_hostile_text_is_bounded_and_a_dead_environment_ends_the_episode():
    asked = []

    async def generate(phase, prompt, choices):
        asked.append((phase, len(prompt), choices))
        return "<action>on</action>" + "x" * 10**5

    played = asyncio.run(skill1.play(Hostile(), "t", generate, distil=True))
    assert [phase for phase, *_ in asked] == ["act", "act"]
    assert max(length for _, length, _ in asked) < 2 * skill1.MOST_TEXT + 2000
    assert asked[0][2] == ["<action>on</action>"]
    assert (played.reward, played.error) == (0.0, "ValueError: the game is broken")
    assert played.counts["died"] == 1
    assert played.counts["cut_texts"] == 2
    assert len(played.states) == len(played.actions) == len(played.bad) == 2


def test_without_selection_the_task_is_the_query_and_the_first_candidate_is_used(tmp_path):
    with SkillLibrary(tmp_path) as library:
        library.learn(1, [Episode(1.0, skill=Skill("run", "reach the end"))])
        played, asked = run({"act": "<action>on</action>"}, library, select=False, distil="raw")
    assert [phase for phase, _ in asked] == ["act", "act"]
    assert (played.query, played.selected, played.order) == ("reach the end", 0, None)
    assert played.skill == Skill("on; on", "reach the end", "reach the end")
