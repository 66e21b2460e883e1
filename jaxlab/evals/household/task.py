"""Household games as an inspect_ai task: a model plays, and wins or not.

inspect eval jaxlab/household -T path=alfworld --model openai/gpt-5-mini
inspect eval jaxlab/household -T path=made_up -T library=growing -T skills=S --model jaxlab/MODEL
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import anyio
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from jaxlab.agents import skill1
from jaxlab.agents.skill_library import Library, SkillLibrary
from jaxlab.envs import household
from jaxlab.envs.household import generate as games_
from jaxlab.evals.household.options import Options
from jaxlab.evals.options import Asked
from jaxlab.grading.rows import sample_seed


def games(asked: Asked, options: Options) -> Task:
    """A model that plays each game of a panel; `asked.samples` times.

    Args:
        asked: its path is "alfworld" or "made_up", the panel of 240 tasks in AI2-THOR's rooms or in
            made-up ones, or a folder with game.tw-pddl files in it, of which those whose file
            says that they cannot be won are left out and listed, as ALFWorld leaves them out.
        options: how it plays.

    Raises:
        ValueError: a game cannot be read, two have the same id, the library cannot be opened, or
            there is no game that can be won.
        FileNotFoundError: there is no such folder, or no inventory of AI2-THOR's rooms.
    """
    found, rejected = _panel(asked.path, options)
    chosen = sorted(found, key=lambda game: hashlib.sha256(game.id.encode()).hexdigest())
    kept = {game.id for game in chosen[: asked.limit]}
    panel = [game for game in found if game.id in kept]
    if options.library == "frozen":
        _open(options).close()
    dataset = MemoryDataset(
        [
            Sample(
                input=game.task,
                target="won",
                id=game.id,
                metadata={"family": game.family, "split": _split(game.id), "cluster": game.id},
            )
            for game in panel
        ]
    )
    return Task(
        dataset=dataset,
        solver=play({game.id: game for game in panel}, options, asked.seed),
        epochs=asked.samples,
        metadata={"panel": games_.digest(panel)[:16], "rejected": rejected},
    )


def _panel(path: str, options: Options) -> tuple[list[household.Game], list[str]]:
    """Games, and why others of the folder are left out."""
    if path in get_args(games_.Inventory):
        return list(games_.panel(path)), []
    folder = Path(path)
    if not folder.is_dir():
        names = " or ".join(get_args(games_.Inventory))
        raise FileNotFoundError(f"{path}: is no folder of games, nor {names}")
    files = sorted(folder.rglob("game.tw-pddl"))
    if not files:
        raise ValueError(f"{path}: has no game.tw-pddl in it")
    places: dict[str, Path] = {}
    found, rejected = [], []
    for file in files:
        game = household.read(file, any_rules=options.engine == "textworld")
        if game.solvable is False:
            rejected.append(f"{file}: its field 'solvable' is false")
            continue
        if game.id in places:
            raise ValueError(
                f"{file}: the game {game.id} is in {places[game.id]} too; give one folder of them"
            )
        places[game.id] = file
        found.append(game)
    if not found:
        raise ValueError(f"{path}: none of {len(rejected)} games can be won: {rejected[0]}")
    return found, rejected


def _split(name: str) -> str:
    parts = name.rsplit("trial_", 1)[-1].split("_")
    return parts[0] if parts[0] in get_args(games_.Split) else "of the folder"


def _open(options: Options) -> SkillLibrary:
    asked = Library(top_k=options.top_k, similarity_weight=options.similarity_weight)
    readonly = options.library == "frozen"
    return SkillLibrary(options.skills or "", options=asked, readonly=readonly)


@solver
def play(games: dict[str, household.Game], options: Options, seed: int) -> Solver:
    """Play a sample's game; what came of it is in its metadata."""
    one_at_a_time = anyio.Lock()

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[SkillLibrary | None]:
        if options.library == "off":
            yield None
        elif options.library == "frozen":
            with _open(options) as library:
                yield library
        else:
            # A game is played with what the games before it left.
            async with one_at_a_time:
                with _open(options) as library:
                    yield library

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        game, model, calls = games[str(state.sample_id)], get_model(), 0
        drawn = sample_seed(seed, game.id, state.epoch)
        used = {"input_tokens": 0, "output_tokens": 0}

        async def reply(phase: skill1.Phase, prompt: str) -> str:
            nonlocal calls
            calls += 1
            config = GenerateConfig(seed=(drawn + calls) % 2**31)
            output = await model.generate([ChatMessageUser(content=prompt)], config=config)
            state.messages += [
                ChatMessageUser(content=prompt, metadata={"phase": phase}),
                ChatMessageAssistant(content=output.completion, metadata={"phase": phase}),
            ]
            state.output = output
            for name in used:
                used[name] += getattr(output.usage, name, 0) if output.usage else 0
            return output.completion

        env = household.load(game, options.engine, options.max_steps)
        async with opened() as library:
            growing = options.library == "growing"
            played = await skill1.play(
                env, game.task, reply, library, distil=growing, history=options.history
            )
            if library is not None and growing:
                library.learn(
                    max([e.used for e in library.entries()], default=0) + 1, [played.episode()]
                )
        selected = None if played.selected is None else played.candidates[played.selected]
        state.metadata |= {
            **used,
            **played.counts,
            "reward": played.reward,
            "steps": len(played.actions),
            "actions": list(played.actions),
            "skill": None if selected is None else selected.entry.id,
            "utility": None if selected is None else selected.entry.utility,
        }
        return state

    return solve


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def household_won() -> Scorer:
    """Whether the game was won."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        won = state.metadata["reward"] == 1
        return Score(
            value=float(won),
            answer="won" if won else "lost",
            metadata={"reason": "match" if won else "mismatch", "grader": "the game"},
        )

    return score
