"""The settings of distillation runs, as a config fills them."""

import dataclasses
from typing import Literal

from jaxlab import ranges
from jaxlab.data.settings import Data
from jaxlab.evals.loop import Eval
from jaxlab.interop.models import Model
from jaxlab.losses.methods.names import Loss
from jaxlab.rollouts.cached import Thinkers
from jaxlab.runtime.settings import Mesh
from jaxlab.sampling import SamplingConfig
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.trainers import optim, teachers
from jaxlab.trainers.settings import Train
from jaxlab.trainers.teachers import TeacherModel

Source = Literal["student", "teacher", "data"]


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """What is sampled at each step.

    Attributes:
        prompts: prompts per step.
        samples: completions per prompt.
        max_new_tokens: longest completion.
        temperature: of the sampler and of the loss; without truncation, so that the sampler's
            distribution is the one that the loss differentiates.
        prompt_multiple: prompts are padded to a multiple of this many tokens, so that few widths
            are compiled.
        response_multiple: columns behind the longest completion are cut off before teacher and
            student read the batch, down to a multiple of this many tokens.
        source: who answers: "student" (on policy), "teacher" (sequence-level distillation), or
            "data": the task's own completions (distillation on fixed data).
        student_share: with this probability the student answers all of a step's prompts, and
            `source` otherwise: lambda of GKD (Agarwal et al. 2024, algorithm 1). None: `source`
            always answers.
        updates: optimiser steps per batch of rollouts; with more than one, each takes every
            `updates`-th prompt, and the ratio refers to the policy before the first.
    """

    prompts: int = 16
    samples: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    prompt_multiple: int = 16
    response_multiple: int = 32
    source: Source = "student"
    student_share: float | None = None
    updates: int = 1

    def __post_init__(self) -> None:
        """Check that sizes and temperature are positive and that `updates` divides the batch."""
        ranges.check_counts(
            self,
            "prompts",
            "samples",
            "max_new_tokens",
            "prompt_multiple",
            "response_multiple",
            "updates",
        )
        ranges.check_temperature(self, "temperature")
        if self.student_share is not None:
            if not 0 <= self.student_share <= 1:
                raise ValueError(f"student_share must be in [0, 1], not {self.student_share}")
            if self.source == "student":
                raise ValueError(
                    'student_share: source is "student", who answers always: set source to "data" '
                    'or "teacher"'
                )
        if (self.prompts * self.samples) % self.updates:
            raise ValueError(
                f"updates: {self.updates} does not divide the batch of {self.prompts} x "
                f"{self.samples} completions"
            )

    def sampling(self, tokenizer: Tokenizer, samples: int | None = None) -> SamplingConfig:
        """How completions of a prompt are drawn; None: `self.samples` of them."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            stop_ids=tuple(tokenizer.eos_ids),
            pad_id=tokenizer.pad_id,
            vocab_size=tokenizer.vocab_size,
            num_samples=samples or self.samples,
            prompt_multiple=self.prompt_multiple,
        )


@dataclasses.dataclass(frozen=True)
class Distill:
    """A distillation run.

    Attributes:
        student: what is trained.
        data: prompts.
        train: length and logging.
        optim: optimiser.
        loss: {"name": one of `METHODS`, **options of that method}; "agg" chooses the aggregation
            over tokens.
        teacher: frozen; only some methods need one. A file may speak for it.
        thinkers: cached texts that the prompts hold (HeavySkill's second stage); None: none.
        reference: the frozen model of a method's KL; None: the student as it is at the start.
        rollout: what is sampled.
        eval: sampled evaluation.
        mesh: devices.
        seed: of data order and sampling.
        teacher_temperature: divides the logits of teacher and reference.
        statistics: measure KL(T||S), KL(S||T) and the teacher's entropy over the whole vocabulary
            at each step. Evaluations always do.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    student: Model
    data: Data
    train: Train
    optim: optim.Optim
    loss: Loss
    teacher: TeacherModel | None = None
    thinkers: Thinkers | None = None
    reference: Model | None = None
    rollout: Rollouts = dataclasses.field(default_factory=Rollouts)
    eval: Eval = dataclasses.field(default_factory=Eval)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    teacher_temperature: float = 1.0
    statistics: bool = False
    title: str | None = None
    trainer: Literal["distill"] = "distill"

    def __post_init__(self) -> None:
        """Check the loss and its options, and that teacher, rollouts and optimiser fit it."""
        ranges.check_temperature(self, "teacher_temperature")
        ranges.check_seed(self)
        name, needs, rollout = self.loss.name, self.loss.needs, self.rollout
        if self.teacher is None and (needs.teacher or rollout.source == "teacher"):
            raise ValueError(f"teacher: the loss {name} needs a teacher")
        if self.teacher is not None and self.teacher.logprobs is not None:
            self._check_fixed(self.teacher)
        if self.teacher_model is None and self.statistics:
            raise ValueError("statistics: there is no teacher whose distribution could be compared")
        if self.reference is not None and not needs.reference:
            raise ValueError(f"reference: the loss {name} with these options reads none")
        if needs.own_samples and rollout.source != "student":
            raise ValueError(
                f"rollout.source: the policy gradient of {name} needs the student's own "
                'completions: set it to "student"'
            )
        if rollout.samples < needs.group:
            raise ValueError(
                f"rollout.samples: {rollout.samples} completion per prompt, but the advantages of "
                f"{name} compare the completions of one prompt: set it to at least {needs.group}"
            )
        self.train.parts(rollout.prompts * rollout.samples // rollout.updates)
        self.optim.check_warmup(self.train.steps * rollout.updates)

    @property
    def teacher_model(self) -> Model | None:
        """The teacher, where the run has it in memory."""
        return self.teacher and self.teacher.model

    def _check_fixed(self, teacher: TeacherModel) -> None:
        """Check that all that a file is asked for are texts that it can know."""
        if self.rollout.source == "student":
            raise ValueError(
                "teacher.logprobs: a file knows fixed completions, and the student's are new at "
                'every step: set rollout.source to "data" or "teacher", or give teacher.path alone'
            )
        if self.loss.needs.teacher == "full":
            raise ValueError(teachers.WHOLE_VOCABULARY)
        if self.loss.needs.teacher is None and self.rollout.source == "data":
            raise ValueError(
                f"teacher.logprobs: the loss {self.loss.name} reads no teacher, and the "
                "completions are the data's: leave it out"
            )
        if self.rollout.student_share and self.loss.needs.teacher and teacher.model is None:
            raise ValueError(
                "teacher.path: with rollout.student_share somebody has to read the student's own "
                "completions, which no file knows: give the model beside teacher.logprobs"
            )
