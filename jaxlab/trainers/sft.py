"""Supervised fine-tuning: cross entropy of reference completions."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import ranges
from jaxlab.balance.settings import Balance
from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.batch import bucket, prompt_completion, prompt_completion_batch
from jaxlab.data.settings import Data
from jaxlab.data.tasks.tokens import NO_TARGET, Row
from jaxlab.evals.loop import Eval, Evaluator
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import count, per_token, summarise
from jaxlab.models import flops
from jaxlab.models.decoder import Decoder, DecoderConfig, Params, unembedding
from jaxlab.nn.routing import balance
from jaxlab.rollouts.cached import Thinkers
from jaxlab.rollouts.text import TextTask, text_task
from jaxlab.runtime.mesh import host_batch_slice, make_mesh, put_global
from jaxlab.runtime.settings import Mesh, Rules
from jaxlab.runtime.sharding import ambient
from jaxlab.trainers import balanced, microbatch, optim, routing, setup, state
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train

# Batches are padded to a multiple of this many tokens, so that few widths are compiled.
LENGTH_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class Sft:
    """A supervised run.

    Attributes:
        model: what is trained.
        data: prompts and reference completions.
        train: length and logging.
        optim: optimiser.
        thinkers: cached texts that the prompts hold; None: none.
        eval: sampled evaluation.
        mesh: devices.
        seed: of parameters, data order and sampling.
        batch_size: examples per step.
        max_length: most tokens of prompt and completion; longer completions are cut. A prompt that
            leaves no room for one is too long, as one beyond data.max_prompt is.
        balance: packs the examples of a step over the ranks by their lengths, with tuned budgets of
            block-sparse attention. None: a row for each example, as long as the longest.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Model
    data: Data
    train: Train
    optim: optim.Optim
    thinkers: Thinkers | None = None
    eval: Eval = dataclasses.field(default_factory=Eval)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    batch_size: int = 128
    max_length: int = 512
    balance: Balance | None = None
    title: str | None = None
    trainer: Literal["sft"] = "sft"

    def __post_init__(self) -> None:
        """Check ranges, and that batch, prompts and warm-up fit."""
        ranges.check_counts(self, "batch_size", "max_length")
        ranges.check_seed(self)
        balanced.check_parts(self.train, self.batch_size, self.balance)
        if self.balance is not None and self.balance.widths[-1] < self.max_length - 1:
            # The last token is a target alone.
            raise ValueError(
                f"balance.widths: a microbatch of {self.balance.widths[-1]} tokens is too short "
                f"for examples of max_length = {self.max_length}"
            )
        self.optim.check_warmup(self.train.steps)
        if self.data.max_prompt > self.max_length:
            raise ValueError(
                f"max_length: {self.max_length} tokens leave no room for a completion behind a "
                f"prompt of data.max_prompt = {self.data.max_prompt}"
            )


def program(config: Sft, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    mesh = make_mesh(config.mesh.shape)
    # The vocabulary of a model from scratch is its tokenizer's, so the tokenizer comes first.
    known = models.tokenizer_at(config.model, "model")
    tokenizer = settings.tokenizer(config.data, known)
    source = models.find(config.model, "model", vocab_size=tokenizer.vocab_size, seed=config.seed)
    models.describe(workdir, source, tokenizer)
    text = text_task(config.data, tokenizer, config.max_length, config.thinkers)
    decoder = Decoder(source.config)
    routing.check(config.train.balance_loss, source.config)
    _check_lengths(config, decoder)
    evaluator = Evaluator(decoder, text, config.eval, mesh, config.mesh.decode_rules)

    def evaluate(current: state.TrainState, index: int) -> Evaluation:
        # The same randomness at every evaluation: differences come from the params.
        scores, samples = evaluator(current.params, setup.step_key(config.seed, setup.EVAL_STEP))
        return Evaluation({f"eval/{name}": value for name, value in scores.items()}, samples)

    if config.balance is not None:
        return balanced.program(
            balanced.of(config, source.config, tokenizer.vocab_size, mesh),
            lambda: source.load(mesh, config.mesh.rules),
            functools.partial(_documents, config, text),
            evaluate,
        )
    host_batch_slice(config.batch_size, mesh)
    compiled = step_of(config, source.config, tokenizer.vocab_size, mesh)

    def init() -> state.TrainState:
        return compiled.create(source.load(mesh, config.mesh.rules))

    def step(current: state.TrainState, index: int) -> StepOutput:
        rows = setup.training_rows(text, index, config.batch_size, config.seed)
        prompts = [prompt for _, prompt in rows]
        targets = [text.target(example) for example, _ in rows]
        longest = max(len(p) + len(t) for p, t in zip(prompts, targets, strict=True))
        width = min(bucket(longest, LENGTH_BUCKET), config.max_length)
        tokens, mask = prompt_completion_batch(prompts, targets, width, tokenizer.pad_id)
        mine = host_batch_slice(len(tokens), mesh)
        trained = int(np.sum(mask))
        new, metrics = compiled.update(current, *put_global((tokens[mine], mask[mine]), mesh))
        each = 3 * flops.forward(source.config, compiled.abstract.params, width)
        done = {"tokens": trained, "model_flops": each * tokens.size}
        return StepOutput(new, metrics, lambda: done)

    return Program(compiled.abstract, init, step, evaluate)


def step_of(
    config: Sft, decoder: DecoderConfig, vocab_size: int, mesh: jax.sharding.Mesh
) -> "Compiled":
    """The step of a run of this decoder, jitted and not yet compiled."""
    recipe = _Recipe(
        decoder,
        config.optim,
        config.train.steps,
        config.train.nonfinite == "skip",
        config.train.parts(config.batch_size),
        vocab_size,
        config.train.balance_loss,
    )
    return _compiled(recipe, mesh, config.mesh.rules)


class _Recipe(NamedTuple):
    """What decides about the compiled step: runs that differ in seed or data share it."""

    decoder: DecoderConfig
    optim: optim.Optim
    steps: int
    skip_nonfinite: bool
    parts: int
    vocab_size: int
    balance_loss: float


class Compiled(NamedTuple):
    """The state's shapes, params -> state, and (state, tokens, mask) -> (state, metrics)."""

    abstract: state.TrainState
    create: Callable[[Params], state.TrainState]
    update: Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]


# One: a run that goes on, or the next seed, follows at once; see `lm._compiled`.
@functools.lru_cache(maxsize=1)
def _compiled(recipe: _Recipe, mesh: jax.sharding.Mesh, rules: Rules) -> Compiled:
    decoder = Decoder(recipe.decoder)
    optimizer = optim.make(recipe.optim, recipe.steps)
    rate = optim.schedule(recipe.optim, recipe.steps)
    abstract = state.abstract(models.abstract_params(recipe.decoder), optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def update(current: state.TrainState, tokens: jax.Array, mask: jax.Array):
        targets, counts = tokens[:, 1:], mask[:, 1:]
        denominator = count(counts, "token_mean")

        def loss_of_part(params: Params, part: tuple[jax.Array, jax.Array, jax.Array]):
            inputs, targets, counts = part
            # Routers alone see what stands behind the end of a row.
            segments = routing.behind_padding(counts) if recipe.decoder.routed else None
            hidden: Any
            hidden, sown = decoder.apply(
                {"params": params}, inputs, None, segments, method="hidden", mutable=["aux"]
            )
            loss, stats = chunked_vocab.cross_entropy(
                hidden,
                unembedding(params),
                targets,
                counts,
                denominator=denominator,
                vocab_size=recipe.vocab_size,
                summary=per_token,
            )
            found = balance([sown.get("aux", {})])
            return routing.added(loss, stats, found, recipe.balance_loss, recipe.parts)

        (loss, stats), grads = microbatch.value_and_grad(
            loss_of_part, current.params, (tokens[:, :-1], targets, counts), recipe.parts
        )
        new, more = state.apply_gradients(current, grads, loss, optimizer, recipe.skip_nonfinite)
        metrics = summarise(loss, stats, counts) | more
        metrics["learning_rate"] = jnp.asarray(rate(current.step))
        return new._replace(step=current.step + 1), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    return Compiled(
        abstract,
        jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings),
        jax.jit(ambient(mesh)(update), donate_argnums=0, out_shardings=(shardings, everywhere)),
    )


def _documents(config: Sft, text: TextTask, index: int) -> balanced.Drawn:
    """The examples of a step, each of its own length, and how many of them were cut."""
    rows, cut = [], 0
    for number, (example, prompt) in enumerate(
        setup.training_rows(text, index, config.batch_size, config.seed)
    ):
        target = text.target(example)
        width = min(len(prompt) + len(target), config.max_length)
        cut += len(prompt) + len(target) > width
        tokens, mask = prompt_completion(prompt, target, width, text.tokenizer.pad_id, row=number)
        targets = np.where(mask[1:], tokens[1:], NO_TARGET)
        rows.append(Row(tokens[:-1], targets, mask[1:]))
    return rows, {"cut": cut}


def _check_lengths(config: Sft, decoder: Decoder) -> None:
    """Check that rows fit into the model's context."""
    if config.max_length > decoder.config.max_position:
        raise ConfigError(
            f"max_length: {config.max_length} exceeds the model's context of "
            f"{decoder.config.max_position}"
        )
