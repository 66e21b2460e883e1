"""Skill1 (arXiv 2605.06130): episodes of query, rank, act and distil, learnt from one outcome.

One step: all episodes are played, batched by phase; their turns are credited by the utilities of
before (Algorithm 1); the policy is updated; then the library learns. With `source="script"` the
episodes are demonstrations, which are imitated.
"""

import base64
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlab import config as config_lib
from jaxlab.agents import skill1_terse
from jaxlab.agents.skill1 import PHASES, Played
from jaxlab.agents.skill_encoders import Encoder, HashedProjection
from jaxlab.agents.skill_library import SkillLibrary
from jaxlab.credit.segments import distil_reward
from jaxlab.data.index import example_ids
from jaxlab.evals import panel
from jaxlab.interop import models, sentence_encoder
from jaxlab.losses.methods.cross_entropy import CrossEntropy
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.models.decoder import Decoder, DecoderConfig, Params
from jaxlab.rollouts.episodes import Speaker, together
from jaxlab.rollouts.turns import Shape, Turn, experience
from jaxlab.rollouts.worlds import Told, source
from jaxlab.runtime.mesh import is_main, make_mesh
from jaxlab.runtime.settings import Rules
from jaxlab.text import tokenizer as tokenizers
from jaxlab.trainers import agent_credit, agent_notes, optim, routing, setup, state, teachers
from jaxlab.trainers.agent_play import Players
from jaxlab.trainers.agent_settings import Agent
from jaxlab.trainers.agent_waiting import Waiting
from jaxlab.trainers.learn import Learner, Learning
from jaxlab.trainers.loop import Evaluation, HostState, Program, StepOutput

__all__ = ["Agent", "program"]

NOTES = "notes.md"


class DeadError(RuntimeError):
    """No environment of a step came to its first turn."""


def program(config: Agent, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    return _Run(config, workdir).program()


class _Run:
    """The compiled pieces of one run, and its library."""

    def __init__(self, config: Agent, workdir: pathlib.Path):
        if jax.process_count() > 1:
            raise config_lib.ConfigError(
                "mesh.multihost: episodes and their library live in one process: set it to none"
            )
        self.config, self.workdir = config, workdir
        self.mesh = make_mesh(config.mesh.shape)
        self.tokenizer = self._tokenizer()
        size = self.tokenizer.vocab_size
        self.source = models.find(config.model, "model", vocab_size=size, seed=config.seed)
        models.describe(workdir, self.source, self.tokenizer)
        routing.check(config.train.balance_loss, self.source.config)
        self.student = Decoder(self.source.config)
        self._check_context()
        self.games = source(config.data)
        self.reference = teachers.load(
            config.reference,
            "reference",
            self.mesh,
            config.mesh.rules,
            vocab_size=size,
            seed=config.seed,
        )
        if config.loss.needs.reference and self.reference is None:
            start = self.source.load(self.mesh, config.mesh.rules)
            self.reference = teachers.Frozen(self.student, start)
        self.library = self._library()
        self.waiting = Waiting(config.credit)
        reference = self.reference and self.reference.decoder.config
        compiled = steps_of(config, self.source.config, reference, size, self.mesh)
        self.learner, self.abstract, self.create = compiled
        rules = config.mesh.decode_rules
        self.speaker = Speaker(self.student, self.tokenizer, config.rollout, self.mesh, rules)
        self.examinee = self.speaker
        if config.eval.temperature not in (None, config.rollout.temperature):
            speech = dataclasses.replace(config.rollout, temperature=config.eval.temperature)
            self.examinee = Speaker(self.student, self.tokenizer, speech, self.mesh, rules)
        self.players = Players(config, self.games, self.library, self.speaker)

    def program(self) -> Program:
        """The functions that the loop calls."""
        kept = None
        if self.library is not None:
            kept = HostState(self._dump, self._load)
        show = ("loss", "reward", "library")
        close = self.library.close if self.library is not None else lambda: None
        return Program(
            self.abstract, self._init, self._step, self._evaluate, show, kept, close=close
        )

    def _tokenizer(self) -> tokenizers.Tokenizer:
        config = self.config
        if config.tokenizer is not None:
            return tokenizers.load(config.tokenizer)
        own = models.tokenizer_at(config.model, "model")
        if own is not None:
            return own
        if config.rollout.words == "terse":
            return skill1_terse.tokenizer()
        raise config_lib.ConfigError(
            "tokenizer: the model has none: name a directory with tokenizer.json"
        )

    def _check_context(self) -> None:
        rollout = self.config.rollout
        longest = max(getattr(rollout.new_tokens, phase) for phase in PHASES)
        context = self.source.config.max_position
        if rollout.max_prompt + longest > context:
            raise config_lib.ConfigError(
                f"rollout.max_prompt: prompts of {rollout.max_prompt} and replies of {longest} "
                f"tokens exceed the model's context of {context}"
            )
        if not self.tokenizer.eos_ids:
            raise config_lib.ConfigError(
                f"tokenizer: {self.tokenizer.name} names no end-of-sequence token, so no reply "
                "would end"
            )

    def _library(self) -> SkillLibrary | None:
        skills = self.config.skills
        if skills is None or skills.told or self.config.source == "script":
            return None
        self.workdir.mkdir(parents=True, exist_ok=True)
        encoder: Encoder = HashedProjection(skills.dimensions)
        if skills.encoder.path is not None:
            encoder = sentence_encoder.load(skills.encoder.path)
        return SkillLibrary(self.workdir, encoder, skills.library)

    def _init(self) -> state.TrainState:
        if self.library is not None:
            # What a run left that was killed before its first checkpoint.
            self.library.clear()
        return self.create(self.source.load(self.mesh, self.config.mesh.rules))

    def _dump(self) -> dict[str, Any]:
        assert self.library is not None
        return {
            "library": base64.b64encode(self.library.snapshot()).decode(),
            "waiting": self.waiting.dump(),
        }

    def _load(self, kept: dict[str, Any]) -> None:
        assert self.library is not None
        self.library.restore(base64.b64decode(kept["library"]))
        self.waiting.load(kept["waiting"])

    def _step(self, current: state.TrainState, index: int) -> StepOutput:
        config, rollout = self.config, self.config.rollout
        before = agent_notes.compiled()
        ids = example_ids(index, rollout.tasks, self.games.count, config.seed)
        games = [self.games.train(int(i)) for i in ids for _ in range(rollout.samples)]
        tasks = [i for i in range(rollout.tasks) for _ in range(rollout.samples)]
        if config.source == "script":
            played, turns = self.players.demonstrate(games, index)
        else:
            answer = functools.partial(
                self.speaker.answer,
                current.params,
                setup.step_key(config.seed, index),
                rollout.episodes,
            )
            episodes = [self.players.episode(game, training=True) for game in games]
            played, turns = together(episodes, answer)
        if not turns:
            raise DeadError(
                f"step {index}: all {len(played)} environments died before their first turn: "
                f"{played[0].error}"
            )
        batch, rows = self._rows(played, tasks, turns)
        reference = self.reference and self.reference.params
        scored, of_credit = self.learner.score(current.params, None, reference, batch, index)
        metrics: dict[str, Any] = {}
        every = config.eval.meter_every
        if config.source == "policy" and every and index % every == 0:
            norms, gap = self.learner.meter(current.params, None, scored, len(PHASES), batch.phase)
            metrics = {f"gradient_{phase}": norms[i] for i, phase in enumerate(PHASES)}
            metrics["logprob_gap"] = gap
        current, more = self.learner.update(current, None, scored)
        learned = self._learn(index, played, tasks, turns)
        host = self._host_metrics(games, played, turns) | learned | rows
        host["compiled"] = agent_notes.compiled() - before
        return StepOutput(current, metrics | more | dict(of_credit), lambda: host)

    def _rows(
        self, played: Sequence[Played], tasks: Sequence[int], turns: list[Turn]
    ) -> tuple[Any, dict[str, float]]:
        """Experience of the turns; with matured skills of earlier steps behind them."""
        config, rollout = self.config, self.config.rollout
        shape = Shape(rollout.turn_multiple, rollout.prompt_multiple, rollout.response_multiple)
        pad = self.tokenizer.pad_id
        if not isinstance(config.loss, Grpo):
            return experience(turns, shape, pad, self.mesh), {}
        found = agent_credit.worth(played, tasks, turns, config.loss, config.credit)
        stored = None
        if config.credit.mode == "delayed" and self.library is not None:
            ripe = self.waiting.ripe(self.library)
            stored = [False] * len(turns) + [True] * len(ripe)
            found = agent_credit.joined(
                found,
                [one.credit(u, config.credit.distil_weight) for one, u in ripe],
                sum(one.error is None for one in played),
                config.credit,
            )
            turns = [*turns, *(one.turn for one, _ in ripe)]
        batch = experience(
            turns,
            shape,
            pad,
            self.mesh,
            advantage=found.advantage,
            weight=found.weight,
            valid=found.valid,
            stored=stored,
        )
        metrics = {"turns": float(len(turns))}
        if stored is not None:
            metrics |= {"matured": float(sum(stored)), "pending": float(len(self.waiting))}
            metrics["pending_lost"] = float(self.waiting.lost)
        return batch, metrics

    def _learn(
        self, index: int, played: Sequence[Played], tasks: Sequence[int], turns: Sequence[Turn]
    ) -> dict[str, float]:
        """Have the library learn; what it did, as metrics."""
        if self.library is None:
            return {}
        alive = [i for i, one in enumerate(played) if one.error is None]
        outcomes: dict[int, list[float]] = {}
        for i in alive:
            outcomes.setdefault(tasks[i], []).append(played[i].episode().reward)
        means = {task: sum(found) / len(found) for task, found in outcomes.items()}
        learned = self.library.learn(
            index + 1,
            [dataclasses.replace(played[i].episode(), group_mean=means[tasks[i]]) for i in alive],
        )
        if self.config.credit.mode == "delayed":
            written = dict(zip(alive, self.library.written, strict=True))
            self.waiting.add(self.library, played, written, turns)
        counts = {f"skills_{name}": float(number) for name, number in learned.items()}
        return counts | {"library": float(len(self.library))}

    def _host_metrics(
        self, games: Sequence[Told], played: Sequence[Played], turns: Sequence[Turn]
    ) -> dict[str, float]:
        won = [one.reward == 1 for one in played]
        found = panel.behaviour(played) | {
            "reward": sum(won) / len(won),
            "tokens": float(sum(len(turn.response) for turn in turns)),
            "cut_prompts": float(sum(turn.cut for turn in turns)),
        }
        if self.library is not None:
            above = [
                distil_reward(float(w), [c.entry.utility for c in one.candidates])
                for w, one in zip(won, played, strict=True)
            ]
            found["distil_reward"] = float(np.mean(above))
        return found

    def _evaluate(self, current: state.TrainState, index: int) -> Evaluation:
        config, rows = self.config, self.config.rollout.episodes
        # The same randomness at every evaluation: differences come from params and library.
        key = setup.step_key(config.seed, setup.EVAL_STEP)
        played: list[Played] = []
        saved: list[dict[str, Any]] = []
        games = self.games.panel
        for begin in range(0, len(games), rows):
            some = games[begin : begin + rows]
            answer = functools.partial(
                self.examinee.answer, current.params, jax.random.fold_in(key, begin), rows
            )
            episodes = [self.players.episode(game, training=False) for _, game in some]
            found, turns = together(episodes, answer)
            played += found
            for i, (split, game) in enumerate(some):
                own = [turn for turn in turns if turn.asked.episode == i]
                saved.append(agent_notes.transcript(game, split, found[i], own))
        parts = {
            "family": [game.family or "other" for _, game in games],
            "split": [split for split, _ in games],
        }
        scores = panel.success([one.reward == 1 for one in played], parts)
        scores |= panel.behaviour(played)
        if self.library is not None:
            scores["library"] = float(len(self.library))
        if is_main():
            entries = [] if self.library is None else self.library.entries()
            digest = self.games.digest()[:16]
            text = f"Panel of {len(games)} games, digest {digest}, after {index} steps.\n\n"
            self.workdir.mkdir(parents=True, exist_ok=True)
            notes = text + agent_notes.notes(entries, saved)
            (self.workdir / NOTES).write_text(notes, encoding="utf-8")
        metrics = {f"eval/{name}": value for name, value in scores.items()}
        return Evaluation(metrics, saved[: config.eval.save_episodes])


def steps_of(
    config: Agent,
    model: DecoderConfig,
    reference: DecoderConfig | None,
    vocab_size: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Learner, state.TrainState, Callable[[Params], state.TrainState]]:
    """The learner of a run of these decoders, the state's shapes, and params -> state."""
    rollout = config.rollout
    learning = Learning(
        samples=1,
        steps=config.train.steps,
        vocab_size=vocab_size,
        temperature=rollout.temperature or 1.0,
        updates=rollout.updates,
        parts=rollout.parts,
        balance_loss=config.train.balance_loss,
        skip_nonfinite=config.train.nonfinite == "skip",
    )
    assert isinstance(config.loss, (Grpo, CrossEntropy))
    recipe = _Recipe(model, reference, config.loss, config.optim, learning)
    return _compiled(recipe, mesh, config.mesh.rules)


class _Recipe(NamedTuple):
    """What decides about the compiled functions: runs that differ in seed or library share them."""

    model: DecoderConfig
    reference: DecoderConfig | None
    method: Grpo | CrossEntropy
    optim: optim.Optim
    learning: Learning


@functools.lru_cache(maxsize=4)
def _compiled(
    recipe: _Recipe, mesh: jax.sharding.Mesh, rules: Rules
) -> tuple[Learner, state.TrainState, Callable[[Params], state.TrainState]]:
    """The learner, the state's shapes, and params -> state."""
    updates = recipe.learning.steps * recipe.learning.updates
    optimizer = optim.make(recipe.optim, updates)
    abstract = state.abstract(models.abstract_params(recipe.model), optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    reference = None if recipe.reference is None else Decoder(recipe.reference)
    learner = Learner(
        Decoder(recipe.model),
        recipe.method,
        optimizer,
        optim.schedule(recipe.optim, updates),
        mesh,
        shardings,
        recipe.learning,
        reference=reference,
    )
    create = jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings)
    return learner, abstract, create
