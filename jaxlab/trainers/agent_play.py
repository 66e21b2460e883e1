"""Who plays in an agent's run: the policy, or the script whose play is imitated."""

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from jaxlab.agents import skill1, skill1_prompts, skill1_shopping, skill1_terse
from jaxlab.agents.skill1 import Generate, Phase, Played, Searched, Wording
from jaxlab.agents.skill1_script import Rehearsal, Script
from jaxlab.envs.household import Game, Household
from jaxlab.rollouts.episodes import Speaker, together
from jaxlab.rollouts.turns import Asked, Turn
from jaxlab.rollouts.worlds import Source, Told
from jaxlab.trainers.agent_settings import Agent

# World and kind of words -> the prompts.
WORDS: dict[tuple[str, str], Wording] = {
    ("household", "paper"): skill1_prompts,
    ("household", "terse"): skill1_terse,
    ("webshop", "paper"): skill1_shopping,
}

Episode = Callable[[Generate], Coroutine[Any, Any, Played]]


class Players:
    """Makes the episodes of a run."""

    def __init__(self, config: Agent, games: Source, library: Searched | None, speaker: Speaker):
        self._config, self._games, self._library = config, games, library
        self._speaker, self._words = speaker, WORDS[config.data.name, config.rollout.words]

    def episode(self, game: Told, training: bool) -> Episode:
        """A game with the library, where there is one; nothing is distilled in evaluation."""
        skills = self._config.skills
        distil: bool | Literal["raw"] = False
        if training and skills is not None and not skills.told:
            distil = "raw" if skills.distil == "raw" else True

        def begin(generate: Generate) -> Coroutine[Any, Any, Played]:
            env = self._games.load(game)
            library = self._library
            if skills is not None and skills.told:
                assert isinstance(env, Household)
                library = Rehearsal(env, random.Random(0), top_k=1, right=1.0)
            return skill1.play(
                env,
                game.task,
                generate,
                library,
                greedy=not training,
                distil=distil,
                select=skills is None or skills.select,
                history=self._config.rollout.history,
                words=self._words,
            )

        return begin

    def demonstrate(self, games: Sequence[Game], index: int) -> tuple[list[Played], list[Turn]]:
        """Episodes of step `index` by the script; in every second one it is offered lessons."""
        config, script = self._config, self._config.script
        authors: list[Script] = []
        episodes: list[Episode] = []
        for i, game in enumerate(games):
            env = Household(game, config.data.max_steps)
            rng = random.Random(f"script {config.seed} {index} {i}")
            authors.append(Script(env, self._words, rng, script.quality))
            library = Rehearsal(env, rng, script.lessons, script.right) if i % 2 else None
            episodes.append(self._demonstration(env, library))

        def answer(phase: Phase, asked: Sequence[Asked]) -> list[Turn]:
            replies = [authors[q.episode].reply(phase, q.prompt, q.choices) for q in asked]
            return [self._speaker.turn(q, reply) for q, reply in zip(asked, replies, strict=True)]

        return together(episodes, answer)

    def _demonstration(self, env: Household, library: Searched | None) -> Episode:
        def begin(generate: Generate) -> Coroutine[Any, Any, Played]:
            return skill1.play(
                env,
                env.game.task,
                generate,
                library,
                distil=True,
                history=self._config.rollout.history,
                words=self._words,
            )

        return begin
