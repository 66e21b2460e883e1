"""On-policy training of a student: by a teacher's distributions, or by reward.

One step: the student answers prompts, the teacher reads the answers, the student is updated on
its own tokens. `loss.name` chooses what it learns from them.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import config as config_lib
from jaxlab import ranges
from jaxlab.credit import advantages
from jaxlab.data import settings
from jaxlab.data.settings import Data
from jaxlab.evals.loop import Eval, Evaluator
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.losses import chunked_vocab, distillation, policy_gradient
from jaxlab.losses.aggregate import AGGREGATIONS, count, per_token, summarise
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.rollouts.policy import Policy, Rollout, cropped, response_hidden, to_host
from jaxlab.rollouts.text import text_task
from jaxlab.runtime.mesh import host_batch_slice, make_mesh, put_global
from jaxlab.runtime.settings import Mesh
from jaxlab.runtime.sharding import ambient
from jaxlab.sampling import SamplingConfig
from jaxlab.trainers import microbatch, optim, setup, state
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train

# Losses that compare the student with a teacher at each of the student's tokens.
METHODS = {
    "opd": distillation.Opd,
    "aopd": distillation.Aopd,
    "gkd": distillation.Gkd,
    "full_reverse_kl": distillation.FullReverseKl,
}

# Losses that are policy gradients, which only the student's own completions estimate.
ON_POLICY = ("opd", "aopd", "grpo")

ADVANTAGES = {
    "group": advantages.group_normalised,
    "centred": advantages.group_centred,
    "leave_one_out": advantages.leave_one_out,
}

# A student samples tokens that its teacher gives e^-20; beyond, the bins at the ends count.
ADVANTAGE_EDGES = np.linspace(-20.0, 5.0, 101)


@dataclasses.dataclass(frozen=True)
class Grpo:
    """Group relative policy optimisation (Shao et al. 2024): the reward alone, no teacher.

    Attributes:
        clip_low: the ratio counts down to 1 - clip_low; at most 1.
        clip_high: and up to 1 + clip_high (above clip_low: DAPO's clip-higher).
        advantages: "group" (GRPO), "centred" (Dr. GRPO) or "leave_one_out" (RLOO).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    advantages: Literal["group", "centred", "leave_one_out"] = "group"

    def __post_init__(self) -> None:
        """Check the ends of the clipped range."""
        policy_gradient.check_clips(self)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of the sampled tokens; with `rollout.source="teacher"` this is SeqKD."""


# Every loss by the name that a config gives it in `loss.name`.
LOSSES: dict[str, type[Any]] = {**METHODS, "grpo": Grpo, "cross_entropy": CrossEntropy}


def _choice(name: str, cls: type[Any]) -> type[Any]:
    """The loss's dataclass with the keys that `loss` has for all of them: its name, and `agg`."""
    more = [
        ("name", Literal[name], dataclasses.field(default=name)),
        ("agg", Literal[AGGREGATIONS], dataclasses.field(default=AGGREGATIONS[0])),
    ]
    return dataclasses.make_dataclass(cls.__name__, more, bases=(cls,), frozen=True)


if TYPE_CHECKING:
    Loss = Any
else:
    Loss = Annotated[
        Union[tuple(_choice(*item) for item in LOSSES.items())],  # noqa: UP007
        config_lib.by("name"),
    ]


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
        source: who answers: "student" (on policy), or "teacher" (sequence-level distillation).
        updates: optimiser steps per batch of rollouts; with more than one, the batch is split in
            order and the ratio refers to the policy before the first.
    """

    prompts: int = 16
    samples: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    prompt_multiple: int = 16
    response_multiple: int = 32
    source: Literal["student", "teacher"] = "student"
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
        if (self.prompts * self.samples) % self.updates:
            raise ValueError(
                f"updates: {self.updates} does not divide the batch of {self.prompts} x "
                f"{self.samples} completions"
            )


@dataclasses.dataclass(frozen=True)
class Distill:
    """A distillation run.

    Attributes:
        student: what is trained.
        data: prompts.
        train: length and logging.
        optim: optimiser.
        loss: {"name": one of `LOSSES`, **options of that loss}; "agg" chooses the aggregation over
            tokens.
        teacher: frozen; not needed by grpo.
        rollout: what is sampled.
        eval: sampled evaluation.
        mesh: devices.
        seed: of data order and sampling.
        teacher_temperature: divides the teacher's logits.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    student: Model
    data: Data
    train: Train
    optim: optim.Optim
    loss: Loss
    teacher: Model | None = None
    rollout: Rollouts = dataclasses.field(default_factory=Rollouts)
    eval: Eval = dataclasses.field(default_factory=Eval)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    teacher_temperature: float = 1.0
    title: str | None = None
    trainer: Literal["distill"] = "distill"

    def __post_init__(self) -> None:
        """Check the loss and its options, and that teacher, rollouts and optimiser fit it."""
        ranges.check_temperature(self, "teacher_temperature")
        ranges.check_seed(self)
        name = self.loss.name
        rollout = self.rollout
        if self.teacher is None and (name in METHODS or rollout.source == "teacher"):
            raise ValueError(f"teacher: the loss {name} needs a teacher")
        if name in ON_POLICY and rollout.source == "teacher":
            raise ValueError(
                f"rollout.source: the policy gradient of {name} needs the student's own "
                'completions: set it to "student"'
            )
        if name == "grpo" and rollout.samples < 2:
            raise ValueError(
                f"rollout.samples: {rollout.samples} completion per prompt, but the advantages of "
                "grpo compare the completions of one prompt: set it to at least 2"
            )
        self.train.parts(rollout.prompts * rollout.samples // rollout.updates)
        self.optim.check_warmup(self.train.steps * rollout.updates)


class Scored(NamedTuple):
    """A batch of rollouts and all that the loss needs beside the student.

    Attributes:
        rollout: B rows.
        teacher_hidden: [B, N, d_teacher], or None where the loss compares with no teacher.
        old_logp: float32 [B, N] of the trainer's own forward pass before the first update; None
            with one update per batch, where the current policy is that one.
        advantages: float32 [B], from rewards; None where the loss wants none.
    """

    rollout: Rollout
    teacher_hidden: jax.Array | None
    old_logp: jax.Array | None
    advantages: jax.Array | None


def program(config: Distill, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    return _Run(config, workdir).program()


class _Run:
    """The compiled pieces of one run."""

    def __init__(self, config: Distill, workdir: pathlib.Path):
        self.config = config
        self.loss_options = config.loss
        self.name, self.agg = config.loss.name, config.loss.agg
        self.mesh = make_mesh(config.mesh.shape)
        known = (
            models.tokenizer_at(config.student, "student"),
            models.tokenizer_at(config.teacher, "teacher"),
        )
        tokenizer = settings.tokenizer(config.data, *known)
        setup.check_same_words(tokenizer, "teacher", known[1])
        # Tables may be padded beyond the tokenizer's words, each model's differently: sampling,
        # log-probabilities and losses are over the words.
        self.vocab_size = size = tokenizer.vocab_size
        self.source = models.find(config.student, "student", vocab_size=size, seed=config.seed)
        models.describe(workdir, self.source, tokenizer)
        self.student = Decoder(self.source.config)
        self.text = text_task(config.data, tokenizer)
        self.teacher, self.teacher_params = self._load_teacher(size)
        _check_context(config, self.student)
        host_batch_slice(config.rollout.prompts, self.mesh)
        batch = config.rollout.prompts * config.rollout.samples
        self.parts = config.train.parts(batch // config.rollout.updates)
        # Completions of one prompt that a microbatch has side by side: they share its reading.
        rows = batch // config.rollout.updates // self.parts
        self.group = math.gcd(rows, config.rollout.samples)
        updates = config.train.steps * config.rollout.updates
        self.optimizer = optim.make(config.optim, updates)
        self.rate = optim.schedule(config.optim, updates)
        self.abstract = state.abstract(
            self.source.abstract_params(), self.optimizer, self.mesh, config.mesh.rules
        )
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        sampling = SamplingConfig(
            max_new_tokens=config.rollout.max_new_tokens,
            temperature=config.rollout.temperature,
            stop_ids=tuple(tokenizer.eos_ids),
            pad_id=tokenizer.pad_id,
            vocab_size=size,
            num_samples=config.rollout.samples,
            prompt_multiple=config.rollout.prompt_multiple,
        )
        author = self.teacher if config.rollout.source == "teacher" else self.student
        assert author is not None
        self.policy = Policy(
            author, sampling, self.mesh, tokenizer.pad_id, config.mesh.decode_rules
        )
        self.evaluator = Evaluator(
            self.student, self.text, config.eval, self.mesh, config.mesh.decode_rules
        )
        self.score = jax.jit(ambient(self.mesh)(self._score))
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.update = jax.jit(
            ambient(self.mesh)(self._update),
            donate_argnums=0,
            out_shardings=(self.shardings, everywhere),
        )
        self.diagnose = jax.jit(ambient(self.mesh)(self._diagnose), out_shardings=everywhere)

    def program(self) -> Program:
        show = ("loss", "reward", "kl_reverse")
        return Program(self.abstract, self._init, self._step, self._evaluate, show)

    def _load_teacher(self, vocab_size: int) -> tuple[Decoder | None, Params | None]:
        spec = self.config.teacher
        if spec is None:
            return None, None
        source = models.find(spec, "teacher", vocab_size=vocab_size, seed=self.config.seed)
        return Decoder(source.config), source.load(self.mesh, self.config.mesh.rules)

    def _init(self) -> state.TrainState:
        params = self.source.load(self.mesh, self.config.mesh.rules)
        create = jax.jit(lambda p: state.create(p, self.optimizer), out_shardings=self.shardings)
        return create(params)

    def _step(self, current: state.TrainState, index: int) -> StepOutput:
        config = self.config
        rows = setup.training_rows(self.text, index, config.rollout.prompts, config.seed)
        prompts = [prompt for _, prompt in rows]
        author = self.teacher_params if config.rollout.source == "teacher" else current.params
        assert author is not None
        rollout = self.policy(author, prompts, setup.step_key(config.seed, index))
        rollout = cropped(rollout, config.rollout.response_multiple)
        examples = [example for example, _ in rows for _ in range(config.rollout.samples)]

        def grade() -> np.ndarray:
            response, mask, stopped = to_host(rollout)
            texts = self.text.texts(response, mask)
            grades = self.text.grade(examples, texts, stopped)
            return np.array([grade.reward for grade in grades], np.float32)

        # Only GRPO waits for the reward; the others grade while the device works.
        rewards = grade() if self.name == "grpo" else None
        scored = self.score(current.params, self.teacher_params, rollout, self._advantages(rewards))
        batches = _split(scored, config.rollout.updates)
        metrics: dict[str, jax.Array] = {}
        for batch in batches:
            current, metrics = self.update(current, self.teacher_params, batch)
        # With several updates per batch the last one is reported: it is the most off-policy.
        current = current._replace(step=current.step + 1)

        def host_metrics() -> dict[str, float]:
            mask = np.asarray(to_host(rollout)[1])
            graded = grade() if rewards is None else rewards
            return {"reward": float(graded.mean()), "tokens": int(mask.sum())}

        return StepOutput(current, metrics, host_metrics)

    def _advantages(self, rewards: np.ndarray | None) -> jax.Array | None:
        if rewards is None:
            return None
        estimate = ADVANTAGES[self.loss_options.advantages]
        groups = jnp.asarray(rewards).reshape(-1, self.config.rollout.samples)
        flat = np.asarray(estimate(groups)).reshape(-1)
        return put_global(flat[host_batch_slice(len(flat), self.mesh)], self.mesh)

    def _score(
        self,
        params: Params,
        teacher_params: Params | None,
        rollout: Rollout,
        advantage: jax.Array | None,
    ) -> Scored:
        """What is fixed while the student is updated on this batch."""
        teacher_hidden = None
        parts = self.parts * self.config.rollout.updates
        if self.name in METHODS:
            assert self.teacher is not None
            assert teacher_params is not None
            read = functools.partial(
                response_hidden, self.teacher, teacher_params, samples=self.group
            )
            teacher_hidden = microbatch.over_parts(read, rollout, parts, self.group)
        old_logp = None
        if self.config.rollout.updates > 1:
            policy = functools.partial(self._token_logp, params)
            old_logp, _ = microbatch.over_parts(policy, rollout, parts, self.group)
        return Scored(rollout, teacher_hidden, old_logp, advantage)

    def _update(
        self, current: state.TrainState, teacher_params: Params | None, batch: Scored
    ) -> tuple[state.TrainState, dict[str, jax.Array]]:
        mask = batch.rollout.mask
        loss_of_part = functools.partial(
            self._loss, teacher_params=teacher_params, denominator=count(mask, self.agg)
        )
        (loss, stats), grads = microbatch.value_and_grad(
            loss_of_part, current.params, batch, self.parts, self.group
        )
        new, more = state.apply_gradients(
            current, grads, loss, self.optimizer, self.config.train.nonfinite == "skip"
        )
        metrics = summarise(loss, stats, mask) | more
        updates_done = current.step * self.config.rollout.updates
        metrics["learning_rate"] = jnp.asarray(self.rate(updates_done))
        metrics["response_length"] = mask.sum(1).mean()
        metrics["truncated_share"] = 1.0 - batch.rollout.stopped.mean()
        return new, metrics

    def _loss(
        self,
        params: Params,
        batch: Scored,
        *,
        teacher_params: Params | None,
        denominator: jax.Array,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The loss, or a microbatch's term of it, and statistics per token [B, N]."""
        rollout, temperature = batch.rollout, self.config.rollout.temperature
        whole: dict[str, Any] = {
            "agg": self.agg,
            "denominator": denominator,
            "summary": per_token,
        }
        if self.name in METHODS:
            assert teacher_params is not None
            assert batch.teacher_hidden is not None
            return chunked_vocab.distill(
                self.loss_options,
                self._student_hidden(params, rollout),
                unembedding(params),
                batch.teacher_hidden,
                unembedding(teacher_params),
                rollout.response,
                rollout.mask,
                old_logp=batch.old_logp,
                temperature=temperature,
                teacher_temperature=self.config.teacher_temperature,
                vocab_size=self.vocab_size,
                **whole,
            )
        if self.name == "cross_entropy":
            hidden = self._student_hidden(params, rollout)
            return chunked_vocab.cross_entropy(
                hidden,
                unembedding(params),
                rollout.response,
                rollout.mask,
                vocab_size=self.vocab_size,
                **whole,
            )
        assert batch.advantages is not None
        logp, entropy = self._token_logp(params, rollout)
        loss, stats = policy_gradient.policy_gradient(
            logp,
            batch.advantages,
            rollout.mask,
            old_logp=batch.old_logp,
            clip_low=self.loss_options.clip_low,
            clip_high=self.loss_options.clip_high,
            **whole,
        )
        return loss, stats | {"student_entropy": entropy}

    def _student_hidden(self, params: Params, rollout: Rollout) -> jax.Array:
        return response_hidden(self.student, params, rollout, samples=self.group)

    def _token_logp(self, params: Params, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities [B, N] of the completion by the student, and its entropy [B, N]."""
        return chunked_vocab.token_logp(
            self._student_hidden(params, rollout),
            unembedding(params),
            rollout.response,
            self.config.rollout.temperature,
            vocab_size=self.vocab_size,
        )

    def _evaluate(self, current: state.TrainState, index: int) -> Evaluation:
        # The same randomness at every evaluation: differences come from the params.
        key = setup.step_key(self.config.seed, setup.EVAL_STEP)
        scores, samples = self.evaluator(current.params, key)
        metrics: dict[str, Any] = {f"eval/{name}": value for name, value in scores.items()}
        if self.teacher is None or self.config.rollout.source == "teacher":
            return Evaluation(metrics, samples)
        rows = setup.training_rows(self.text, index, self.config.rollout.prompts, self.config.seed)
        rollout = self.policy(current.params, [prompt for _, prompt in rows], key)
        counts, error = self.diagnose(current.params, self.teacher_params, rollout)
        metrics["eval/sampler_logp_error"] = float(error)
        histogram = {
            "name": "advantage",
            "edges": ADVANTAGE_EDGES.tolist(),
            "counts": np.asarray(counts).tolist(),
        }
        return Evaluation(metrics, samples, [histogram])

    def _diagnose(
        self, params: Params, teacher_params: Params, rollout: Rollout
    ) -> tuple[jax.Array, jax.Array]:
        """Histogram of A = log T(y) - log S(y), and the largest |sampler - trainer| log S(y)."""
        assert self.teacher is not None
        student_logp, _ = self._token_logp(params, rollout)
        teacher_logp, _ = chunked_vocab.token_logp(
            response_hidden(self.teacher, teacher_params, rollout, samples=self.group),
            unembedding(teacher_params),
            rollout.response,
            self.config.teacher_temperature,
            vocab_size=self.vocab_size,
        )
        advantage = jnp.clip(teacher_logp - student_logp, ADVANTAGE_EDGES[0], ADVANTAGE_EDGES[-1])
        counts, _ = jnp.histogram(
            advantage, bins=jnp.asarray(ADVANTAGE_EDGES), weights=rollout.mask.astype(jnp.float32)
        )
        error = jnp.where(rollout.mask, jnp.abs(student_logp - rollout.logprobs), 0.0)
        return counts, error.max()


def _split(scored: Scored, parts: int) -> list[Scored]:
    """The batch in `parts` consecutive minibatches."""
    if parts == 1:
        return [scored]
    size = scored.rollout.tokens.shape[0] // parts
    return [
        jax.tree.map(lambda x, begin=i * size: x[begin : begin + size], scored)
        for i in range(parts)
    ]


def _check_context(config: Distill, decoder: Decoder) -> None:
    """Refuse prompts and completions that would not fit."""
    needed = config.data.max_prompt + config.rollout.max_new_tokens
    if needed > decoder.config.max_position:
        raise config_lib.ConfigError(
            f"rollout.max_new_tokens: prompts of {config.data.max_prompt} and completions of "
            f"{config.rollout.max_new_tokens} tokens exceed the student's context of "
            f"{decoder.config.max_position}"
        )
