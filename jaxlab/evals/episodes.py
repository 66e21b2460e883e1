"""Episodes of an environment as an inspect_ai task: a model plays, and wins or not."""

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import anyio
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from jaxlab.agents import skill1, skill1_prompts, skill_files
from jaxlab.agents.skill_encoders import Encoder, HashedProjection
from jaxlab.agents.skill_library import Library, SkillLibrary
from jaxlab.envs.protocol import Environment
from jaxlab.evals.options import Asked
from jaxlab.evals.played import Playing
from jaxlab.grading.rows import sample_seed


@dataclasses.dataclass(frozen=True)
class World:
    """What is played.

    Attributes:
        id: of the episode, in results.
        task: what is to be done.
        begin: makes its environment.
        about: by which the report groups it.
    """

    id: str
    task: str
    begin: Callable[[], Environment]
    about: Mapping[str, str]


def task(
    worlds: Sequence[World],
    asked: Asked,
    options: Playing,
    *,
    panel: str,
    rejected: Sequence[str] = (),
    words: skill1.Wording = skill1_prompts,
) -> Task:
    """A model plays each world; `asked.samples` times.

    Args:
        worlds: with ids of their own.
        asked: how often and with which seed; its path and limit are the caller's.
        options: how it plays.
        panel: digest of the worlds.
        rejected: what was left out, and why.
        words: the module of the prompts, see `skill1.play`.

    Raises:
        ValueError: the library cannot be opened.
    """
    if options.library == "frozen":
        opened(options).close()
    return Task(
        dataset=MemoryDataset(
            [
                Sample(
                    input=world.task,
                    target="won",
                    id=world.id,
                    metadata={**world.about, "cluster": world.id},
                )
                for world in worlds
            ]
        ),
        solver=play({world.id: world for world in worlds}, options, asked.seed, words),
        epochs=asked.samples,
        metadata={"panel": panel, "rejected": list(rejected)},
    )


def opened(options: Playing) -> SkillLibrary:
    """The library of these options.

    Raises:
        ValueError: it cannot be opened, was made with another encoder, or there is no such encoder.
    """
    asked = Library(top_k=options.top_k, similarity_weight=options.similarity_weight)
    path = options.skills or ""
    encoder: Encoder
    if options.encoder is not None:
        encoder = _sentence_encoder(options.encoder)
    elif options.reembed:
        encoder = HashedProjection()
    else:
        encoder = skill_files.encoder_of(path)
    readonly = options.library == "frozen"
    return SkillLibrary(path, encoder, asked, readonly, options.reembed)


@functools.lru_cache(maxsize=1)
def _sentence_encoder(path: str) -> Encoder:
    # It brings jax; whoever plays without it does without.
    from jaxlab.interop import sentence_encoder

    return sentence_encoder.load(Path(path))


def play(worlds: Mapping[str, World], options: Playing, seed: int, words: skill1.Wording) -> Solver:
    """Plays a sample's world; what came of it is in its metadata."""
    one_at_a_time = anyio.Lock()
    # Opened once, by the first episode: its vectors may have to be computed.
    frozen = functools.cache(lambda: opened(options))

    @contextlib.asynccontextmanager
    async def library_of_now() -> AsyncIterator[SkillLibrary | None]:
        if options.library == "off":
            yield None
        elif options.library == "frozen":
            yield frozen()
        else:
            # An episode is played with what those before it left.
            async with one_at_a_time:
                with opened(options) as library:
                    yield library

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        world, model, calls = worlds[str(state.sample_id)], get_model(), 0
        drawn = sample_seed(seed, world.id, state.epoch)
        used = {"input_tokens": 0, "output_tokens": 0}

        async def reply(phase: skill1.Phase, prompt: str, choices: Sequence[str] = ()) -> str:
            nonlocal calls
            del choices  # a model behind an API writes what it likes
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

        async with library_of_now() as library:
            growing = options.library == "growing"
            played = await skill1.play(
                world.begin(),
                world.task,
                reply,
                library,
                distil=growing,
                history=options.history,
                words=words,
            )
            # Of an environment that died there is nothing to learn.
            if library is not None and growing and played.error is None:
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

    # The worlds are no argument of what is registered: all arguments would stand in the log.
    return solver("play")(lambda: solve)()


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def episode_won() -> Scorer:
    """Whether the episode was won: its reward is 1."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        won = state.metadata["reward"] == 1
        return Score(
            value=float(won),
            answer="won" if won else "lost",
            metadata={"reason": "match" if won else "mismatch", "grader": "the environment"},
        )

    return score
