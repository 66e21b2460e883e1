"""The config of an agent's run: what is played, by whom, and what is learnt from it."""

import dataclasses
from typing import Literal

from jaxlab import ranges
from jaxlab.agents.skill_options import Library
from jaxlab.credit.segments import Mode
from jaxlab.interop.models import Model
from jaxlab.losses.methods.grpo import Grpo
from jaxlab.losses.methods.names import Loss
from jaxlab.rollouts.episodes import Speech
from jaxlab.rollouts.household import Games
from jaxlab.rollouts.worlds import World
from jaxlab.runtime.settings import Mesh
from jaxlab.trainers import optim
from jaxlab.trainers.settings import Train


@dataclasses.dataclass(frozen=True)
class Rollouts(Speech):
    """The episodes of a step.

    Attributes:
        tasks: games per step.
        samples: G, episodes of each game.
        words: of the prompts: "paper" (the content of Skill1's appendix G), or "terse", for small
            decoders with a vocabulary of household words.
        history: so many of the last steps are in a prompt.
        updates: optimiser steps per batch; the ratio refers to the policy before the first.
        parts: microbatches of an update.
        turn_multiple: the turns of a step are rounded up to a multiple of so many rows; `updates`
            times `parts` divides it.
        response_multiple: their replies to a multiple of so many tokens.
    """

    tasks: int = 16
    samples: int = 16
    words: Literal["paper", "terse"] = "paper"
    history: int = 2
    updates: int = 1
    parts: int = 1
    turn_multiple: int = 64
    response_multiple: int = 16

    def __post_init__(self) -> None:
        """Check counts, and that a batch can be divided."""
        super().__post_init__()
        ranges.check_choices(self)
        names = ("tasks", "samples", "updates", "parts", "turn_multiple", "response_multiple")
        ranges.check_counts(self, *names)
        ranges.check(self, "history", least=0, below=ranges.COUNTS)
        if self.turn_multiple % (self.updates * self.parts):
            raise ValueError(
                f"turn_multiple: {self.turn_multiple} is no multiple of updates x parts = "
                f"{self.updates} x {self.parts}"
            )

    @property
    def episodes(self) -> int:
        """Episodes of a step."""
        return self.tasks * self.samples


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What queries are compared with descriptions by.

    Attributes:
        path: directory of a sentence encoder, all-MiniLM-L6-v2 in the paper; None: a hashed
            projection of words.
    """

    path: str | None = None


@dataclasses.dataclass(frozen=True)
class Skills:
    """The library of skills, and the paper's two ablations of it.

    Attributes:
        library: its switches.
        encoder: of queries and descriptions.
        dimensions: of the hashed projection, where there is no other encoder.
        select: ask for a query and a ranking; False: the task is the query, and the first
            candidate is used ("without selection").
        distil: "write": the policy writes skills; "raw": trajectories are kept as they are
            ("without distillation").
        told: in place of a library each episode is offered one lesson, and a true one, of which
            nothing is learnt: what lessons are worth at most to this policy. A control, for
            household games by the fast engine.
    """

    library: Library = dataclasses.field(default_factory=Library)
    encoder: Encoder = dataclasses.field(default_factory=Encoder)
    dimensions: int = 128
    select: bool = True
    distil: Literal["write", "raw"] = "write"
    told: bool = False

    def __post_init__(self) -> None:
        """Check choices and the number."""
        ranges.check_choices(self)
        ranges.check_counts(self, "dimensions")
        if self.told:
            for name in ("library", "encoder", "dimensions", "distil"):
                if getattr(self, name) != getattr(Skills(), name):
                    raise ValueError(f"skills.{name}: told episodes have no library: leave it out")


@dataclasses.dataclass(frozen=True)
class Credit:
    """How the outcome of an episode becomes advantages of its phases (`credit.segments`).

    Attributes:
        mode: "paper", "released" or "delayed".
        rank_weight: lambda_1.
        distil_weight: lambda_2.
        invalid_penalty: subtracted from the advantage of an action that cannot be read or is not
            admissible; under gigpo also from its step's reward.
        uses: outcomes after which a skill's utility counts as known, in mode "delayed".
        pending: skills whose utility is awaited, at most; the oldest go, and are counted.
        reduction: "trajectory": query and action tokens weigh 1 / |tau| of their episode, a
            ranking its sum, a skill's tokens 1 / |s| (Eq. 8 to 10); "turns": the loss's `agg`
            over turns alone.
    """

    mode: Mode = "paper"
    rank_weight: float = 0.3
    distil_weight: float = 0.3
    invalid_penalty: float = 0.1
    uses: int = 5
    pending: int = 4096
    reduction: Literal["trajectory", "turns"] = "trajectory"

    def __post_init__(self) -> None:
        """Check choices and numbers."""
        ranges.check_choices(self)
        ranges.check(self, "rank_weight", "distil_weight", "invalid_penalty", least=0)
        ranges.check_counts(self, "uses", "pending")


@dataclasses.dataclass(frozen=True)
class Script:
    """The player of demonstrations: good at acting, weak at the library's phases.

    Attributes:
        quality: how often its query, its ranking and its skill are right.
        lessons: that its made-up library offers in half of the episodes.
        right: how often the lesson about the task's thing is true.
    """

    quality: float = 0.5
    lessons: int = 3
    right: float = 0.8

    def __post_init__(self) -> None:
        """Check shares and the number."""
        ranges.check(self, "quality", "right", least=0, most=1)
        ranges.check_counts(self, "lessons")


@dataclasses.dataclass(frozen=True)
class Panel:
    """How the panel is played; the library is frozen and greedy, as in the released trainer.

    Attributes:
        temperature: of the sampler; None: that of training, whose programs are then used.
        save_episodes: transcripts kept in samples.jsonl.
        meter_every: steps between measurements of the gradient of each phase; 0: never.
    """

    temperature: float | None = None
    save_episodes: int = 2
    meter_every: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check(self, "temperature", least=0)
        ranges.check(self, "save_episodes", "meter_every", least=0, below=ranges.COUNTS)


@dataclasses.dataclass(frozen=True)
class Agent:
    """A run of Skill1: demonstrations imitated, or episodes reinforced.

    Attributes:
        model: what is trained.
        data: the world: "household" or "webshop", by its name.
        train: length and logging.
        optim: optimiser.
        loss: "grpo" or "gigpo" with their options, or "cross_entropy" for demonstrations.
        reference: the frozen model of the KL; None: the model as it is at the start.
        source: who plays in training: the "policy", or the "script", which is imitated.
        script: the latter.
        rollout: episodes of a step.
        skills: the library; None: there is none, and nothing is distilled.
        credit: advantages.
        eval: the panel.
        tokenizer: directory with tokenizer.json; None: the model's own, or that of the words.
        mesh: devices.
        seed: of games and sampling.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Model
    data: World
    train: Train
    optim: optim.Optim
    loss: Loss = dataclasses.field(default_factory=Grpo)
    reference: Model | None = None
    source: Literal["policy", "script"] = "policy"
    script: Script = dataclasses.field(default_factory=Script)
    rollout: Rollouts = dataclasses.field(default_factory=Rollouts)
    skills: Skills | None = None
    credit: Credit = dataclasses.field(default_factory=Credit)
    eval: Panel = dataclasses.field(default_factory=Panel)
    tokenizer: str | None = None
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    title: str | None = None
    trainer: Literal["agent"] = "agent"

    def __post_init__(self) -> None:
        """Check that source, loss and credit fit each other."""
        ranges.check_seed(self)
        ranges.check_choices(self)
        rollout, loss, needs = self.rollout, self.loss, self.loss.needs
        if not isinstance(self.data, Games):
            for name, value in (("words", "paper"), ("actions", "text")):
                if getattr(rollout, name) != value:
                    raise ValueError(
                        f"rollout.{name}: a search takes any words, and a shop is told of in whole "
                        f"sentences: {value}"
                    )
        if self.train.microbatch is not None:
            raise ValueError("train.microbatch: turns vary in number: set rollout.parts")
        self.optim.check_warmup(self.train.steps * rollout.updates)
        games = isinstance(self.data, Games) and self.data.engine == "fast"
        terse = games and rollout.words == "terse"
        if self.skills is not None and self.skills.told and not terse:
            raise ValueError(
                "skills.told: the truth is told in terse words, in games of the fast engine: set "
                "rollout.words and data.engine, or skills.told"
            )
        if self.source == "script":
            if loss.name != "cross_entropy":
                raise ValueError(f"loss.name: demonstrations need cross_entropy, not {loss.name}")
            if not terse:
                raise ValueError(
                    "source: the script plays the fast engine in terse words: set rollout.words "
                    "and data.engine, or source"
                )
            return
        if not isinstance(loss, Grpo) or needs.sequence or needs.teacher:
            raise ValueError(
                f"loss.name: episodes are reinforced by grpo or gigpo, not {loss.name}"
            )
        if self.reference is not None and not needs.reference:
            raise ValueError("reference: nothing reads it unless loss.kl_weight is above 0")
        ranges.check_temperature(rollout, "temperature")
        if rollout.top_p != 1:
            raise ValueError("rollout.top_p: the loss differentiates the whole distribution: 1")
        if rollout.samples < 2:
            raise ValueError("rollout.samples: advantages compare episodes of a game: at least 2")
        whole = loss.agg == "seq_mean_token_mean"
        if self.credit.reduction == "trajectory" and not whole:
            raise ValueError(
                f"loss.agg: {loss.agg} would weigh turns anew: set it to seq_mean_token_mean, or "
                'credit.reduction to "turns"'
            )
        for name, value in (("advantages", "group"), ("zero_variance", "keep")):
            if getattr(loss, name) != value:
                raise ValueError(
                    f"loss.{name}: outcomes of episodes are normalised within their game, and all "
                    f"turns count: set it to {value}"
                )
