"""On-policy training of a student: by a teacher's distributions, or by reward.

One step: the student answers prompts, the teacher reads the answers, the student is updated on
its own tokens. `loss.name` chooses what it learns from them.
"""

import functools
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import config as config_lib
from jaxlab.data import settings
from jaxlab.evals.loop import Evaluator
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.models import flops
from jaxlab.models.decoder import Decoder, DecoderConfig, Params
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Policy, Rollout, cropped, to_host
from jaxlab.rollouts.text import text_task
from jaxlab.runtime.mesh import host_batch_slice, make_mesh, put_global
from jaxlab.runtime.settings import Rules
from jaxlab.runtime.sharding import ambient
from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer
from jaxlab.trainers import diagnosis, optim, routing, setup, state, teachers
from jaxlab.trainers.distill_settings import Distill, Rollouts, Source
from jaxlab.trainers.fixed import Fixed
from jaxlab.trainers.learn import Learner, Learning
from jaxlab.trainers.loop import Evaluation, Program, StepOutput

logger = logging.getLogger(__name__)


def tokenizer_of(config: Distill) -> Tokenizer:
    """The tokenizer of a run: the config's, else the student's, the teacher's or the task's.

    Raises:
        ConfigError: there is none, or the teacher has other words.
    """
    of_student = models.tokenizer_at(config.student, "student")
    of_teacher = models.tokenizer_at(config.teacher_model, "teacher")
    of_file = None
    if config.teacher is not None and config.teacher.logprobs is not None:
        of_file = load_tokenizer(pathlib.Path(config.teacher.logprobs).expanduser())
    tokenizer = settings.tokenizer(config.data, of_student, of_teacher, of_file)
    # The file's words are compared by digest.
    setup.check_same_words(tokenizer, "teacher", of_teacher)
    return tokenizer


def program(config: Distill, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    return _Run(config, workdir).program()


def author(rollout: Rollouts, seed: int, step: int) -> Source:
    """Who answers the prompts of a step: a function of its arguments, the same on every host."""
    if rollout.student_share is None:
        return rollout.source
    drawn = np.random.default_rng((seed, step)).random()
    return "student" if drawn < rollout.student_share else rollout.source


class _Run:
    """The compiled pieces of one run."""

    def __init__(self, config: Distill, workdir: pathlib.Path):
        self.config, self.method = config, config.loss
        self.mesh = make_mesh(config.mesh.shape)
        file = teachers.open_file(config.teacher, seed=config.seed)
        tokenizer = tokenizer_of(config)
        # Tables may be padded beyond the tokenizer's words, each model's differently: sampling,
        # log-probabilities and losses are over the words.
        size = tokenizer.vocab_size
        self.source = models.find(config.student, "student", vocab_size=size, seed=config.seed)
        models.describe(workdir, self.source, tokenizer)
        self.student = Decoder(self.source.config)
        routing.check(config.train.balance_loss, self.source.config)
        self.text = text_task(config.data, tokenizer, thinkers=config.thinkers)
        self.teacher = self._frozen(config.teacher_model, "teacher", size)
        self.reference = self._frozen(config.reference, "reference", size)
        if self.method.needs.reference and self.reference is None:
            start = self.source.load(self.mesh, config.mesh.rules)
            self.reference = teachers.Frozen(self.student, start)
        for line in self.method.contradictions():
            logger.warning("loss: %s", line)
        check_context(config, self.source.config, "student")
        if self.teacher is not None:
            check_context(config, self.teacher.decoder.config, "teacher")
        if config.rollout.source == "data":
            # A task without completions is an error of the config, not of the first step.
            self.text.target(self.text.prompt(0, "train")[0])
        self.fixed = None
        if file is not None:
            self.fixed = Fixed(
                *(file, self.text, tokenizer, self.method.needs, config.rollout, self.mesh),
                temperature=config.teacher_temperature,
            )
        host_batch_slice(config.rollout.prompts, self.mesh)
        teacher, reference = (
            frozen and frozen.decoder.config for frozen in (self.teacher, self.reference)
        )
        compiled = steps_of(config, self.source.config, teacher, reference, size, self.mesh)
        self.abstract, self.create, self.learner, self.diagnose = compiled
        self.policy = self._policy(tokenizer, self.student)
        if config.rollout.source == "teacher" and self.fixed is None:
            assert self.teacher is not None
            self.teacher_policy = self._policy(tokenizer, self.teacher.decoder)
        self.evaluator = Evaluator(
            self.student, self.text, config.eval, self.mesh, config.mesh.decode_rules
        )

    def program(self) -> Program:
        show = ("loss", "reward", "kl_sampled")
        return Program(self.abstract, self._init, self._step, self._evaluate, show)

    def _frozen(self, spec: Model | None, where: str, size: int) -> teachers.Frozen | None:
        config = self.config
        return teachers.load(
            spec, where, self.mesh, config.mesh.rules, vocab_size=size, seed=config.seed
        )

    def _policy(self, tokenizer: Tokenizer, author: Decoder) -> Policy:
        drawn = self.config.rollout.sampling(tokenizer)
        return Policy(author, drawn, self.mesh, tokenizer.pad_id, self.config.mesh.decode_rules)

    def _init(self) -> state.TrainState:
        params = self.source.load(self.mesh, self.config.mesh.rules)
        return self.create(params)

    @property
    def _teacher_params(self) -> Params | None:
        return self.teacher and self.teacher.params

    def _step(self, current: state.TrainState, index: int) -> StepOutput:
        config = self.config
        rows = setup.training_rows(self.text, index, config.rollout.prompts, config.seed)
        rollout = self._answers(current.params, rows, index)
        rollout = cropped(rollout, config.rollout.response_multiple)
        examples = [example for example, _ in rows for _ in range(config.rollout.samples)]

        def grade() -> np.ndarray:
            response, mask, stopped = to_host(rollout)
            texts = self.text.texts(response, mask)
            grades = self.text.grade(examples, texts, stopped)
            return np.array([grade.reward for grade in grades], np.float32)

        # Only some methods wait for the reward; the others grade while the device works.
        rewards = grade() if self.method.needs.reward else None
        experience = Experience(rollout, self._on_devices(rewards))
        reference = self.reference and self.reference.params
        said = None
        if self.fixed is not None and self._author(index) != "student":
            said = self.fixed.view(rows, rollout.response.shape[1])
        scored, of_credit = self.learner.score(
            current.params, self._teacher_params, reference, experience, index, said
        )
        current, metrics = self.learner.update(current, self._teacher_params, scored)

        def host_metrics() -> dict[str, float]:
            mask = np.asarray(to_host(rollout)[1])
            graded = grade() if rewards is None else rewards
            measured = self.text.measures(examples)
            done = self._model_flops(rollout, self._author(index))
            counts = {"tokens": int(mask.sum()), "model_flops": done}
            return {"reward": float(graded.mean()), **counts, **measured}

        return StepOutput(current, metrics | of_credit, host_metrics)

    def _answers(self, params: Params, rows: setup.Rows, index: int) -> Rollout:
        """The completions of one step, by the author whose turn it is."""
        prompts, key = [prompt for _, prompt in rows], setup.step_key(self.config.seed, index)
        match self._author(index):
            case "student":
                return self.policy(params, prompts, key)
            case "teacher":
                if self.fixed is not None:
                    return self.policy.given(prompts, self.fixed.texts(rows))
                assert self.teacher is not None
                return self.teacher_policy(self.teacher.params, prompts, key)
            case "data":
                return self.policy.given(prompts, [self.text.target(row) for row, _ in rows])

    def _author(self, index: int) -> Source:
        return author(self.config.rollout, self.config.seed, index)

    def _model_flops(self, rollout: Rollout, source: Source) -> float:
        """Of sampling, of what the loss reads and of the student's update; padding counts."""
        rows, width = rollout.tokens.shape
        student = flops.forward(self.student.config, self.abstract.params, width)
        teacher, reference = (
            0.0 if model is None else flops.forward(model.decoder.config, model.params, width)
            for model in (self.teacher, self.reference)
        )
        if self.fixed is not None and source != "student":
            # A file tells what was sampled and read once.
            source, teacher = "data", self.config.statistics * teacher
        sampled = {"student": student, "teacher": teacher, "data": 0.0}[source]
        is_read = self.method.needs.teacher is not None or self.config.statistics
        return rows * width * (sampled + is_read * teacher + reference + 3 * student)

    def _on_devices(self, rewards: np.ndarray | None) -> jax.Array | None:
        if rewards is None:
            return None
        return put_global(rewards[host_batch_slice(len(rewards), self.mesh)], self.mesh)

    def _evaluate(self, current: state.TrainState, index: int) -> Evaluation:
        # The same randomness at every evaluation: differences come from the params.
        key = setup.step_key(self.config.seed, setup.EVAL_STEP)
        scores, samples = self.evaluator(current.params, key)
        metrics: dict[str, Any] = {f"eval/{name}": value for name, value in scores.items()}
        rows = setup.training_rows(self.text, index, self.config.rollout.prompts, self.config.seed)
        rollout = self.policy(current.params, [prompt for _, prompt in rows], key)
        found, counts = self.diagnose(current.params, self._teacher_params, rollout)
        metrics |= {f"eval/{name}": float(value) for name, value in found.items()}
        if counts is None:
            return Evaluation(metrics, samples)
        histogram = {
            "name": "advantage",
            "edges": diagnosis.ADVANTAGE_EDGES.tolist(),
            "counts": np.asarray(counts).tolist(),
        }
        return Evaluation(metrics, samples, [histogram])


def steps_of(
    config: Distill,
    student: DecoderConfig,
    teacher: DecoderConfig | None,
    reference: DecoderConfig | None,
    vocab_size: int,
    mesh: jax.sharding.Mesh,
) -> "Compiled":
    """The functions of a run of these decoders, jitted and not yet compiled."""
    rollout = config.rollout
    learning = Learning(
        samples=rollout.samples,
        steps=config.train.steps,
        vocab_size=vocab_size,
        temperature=rollout.temperature,
        teacher_temperature=config.teacher_temperature,
        updates=rollout.updates,
        parts=config.train.parts(rollout.prompts * rollout.samples // rollout.updates),
        statistics=config.statistics and teacher is not None,
        skip_nonfinite=config.train.nonfinite == "skip",
        balance_loss=config.train.balance_loss,
    )
    recipe = _Recipe(student, teacher, reference, config.loss, config.optim, learning)
    return _compiled(recipe, mesh, config.mesh.rules)


class _Recipe(NamedTuple):
    """What decides about the compiled functions: runs that differ in seed or data share them."""

    student: DecoderConfig
    teacher: DecoderConfig | None
    reference: DecoderConfig | None
    method: Any
    optim: optim.Optim
    learning: Learning


class Compiled(NamedTuple):
    """The state's shapes, params -> state, and the learner with the diagnosis of its batches."""

    abstract: state.TrainState
    create: Callable[[Params], state.TrainState]
    learner: Learner
    diagnose: Callable[..., tuple[dict[str, jax.Array], jax.Array | None]]


# As many as a study has methods: the next seed finds its method's programs compiled.
@functools.lru_cache(maxsize=16)
def _compiled(recipe: _Recipe, mesh: jax.sharding.Mesh, rules: Rules) -> Compiled:
    updates = recipe.learning.steps * recipe.learning.updates
    optimizer = optim.make(recipe.optim, updates)
    abstract = state.abstract(models.abstract_params(recipe.student), optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    student, teacher, reference = (
        None if config is None else Decoder(config)
        for config in (recipe.student, recipe.teacher, recipe.reference)
    )
    assert student is not None
    learner = Learner(
        student,
        recipe.method,
        optimizer,
        optim.schedule(recipe.optim, updates),
        mesh,
        shardings,
        recipe.learning,
        teacher=teacher,
        reference=reference,
    )
    return Compiled(
        abstract,
        jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings),
        learner,
        _diagnose(student, teacher, recipe.learning, mesh),
    )


@functools.lru_cache(maxsize=4)
def _diagnose(
    student: Decoder, teacher: Decoder | None, learning: Learning, mesh: jax.sharding.Mesh
) -> Callable[..., tuple[dict[str, jax.Array], jax.Array | None]]:
    """`diagnosis.measure`, which is the same for every method."""
    measure = functools.partial(diagnosis.measure, student, teacher, learning)
    return jax.jit(ambient(mesh)(measure), out_shardings=NamedSharding(mesh, PartitionSpec()))


def check_context(config: Distill, model: DecoderConfig, who: str) -> None:
    """Refuse prompts and completions that would not fit into the context of student or teacher.

    Raises:
        ConfigError: they would not.
    """
    needed = config.data.max_prompt + config.rollout.max_new_tokens
    if needed > model.max_position:
        raise config_lib.ConfigError(
            f"rollout.max_new_tokens: prompts of {config.data.max_prompt} and completions of "
            f"{config.rollout.max_new_tokens} tokens exceed the {who}'s context of "
            f"{model.max_position}"
        )
