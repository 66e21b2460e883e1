"""Next-token training from scratch: on token tasks, where few targets count, and on text."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import ranges
from jaxlab.balance.settings import Balance
from jaxlab.config import ConfigError
from jaxlab.data.index import example_ids
from jaxlab.data.tasks.tokens import TokenSource
from jaxlab.evals.tokens import TokenEval, TokenEvaluator, label
from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import count, per_token, summarise
from jaxlab.models import flops
from jaxlab.models.decoder import Decoder, DecoderConfig, Params, unembedding
from jaxlab.nn.routing import balance
from jaxlab.runtime.mesh import host_batch_slice, make_mesh, put_global
from jaxlab.runtime.settings import Mesh, Rules
from jaxlab.runtime.sharding import ambient
from jaxlab.trainers import balanced, microbatch, optim, routing, state
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train
from jaxlab.trainers.token_data import Opened, TokenData


@dataclasses.dataclass(frozen=True)
class Lm:
    """A next-token run.

    Attributes:
        model: what is trained.
        data: rows of tokens.
        train: length and logging.
        optim: optimiser.
        eval: held-out rows.
        mesh: devices.
        seed: of parameters and data order.
        batch_size: rows per step.
        z_loss: weight of log(Z)^2 (PaLM, section 5).
        balance: trains on documents of any length, packed over the ranks, with tuned budgets of
            block-sparse attention; batch_size then counts documents. None: rows of one length.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Model
    data: TokenData
    train: Train
    optim: optim.Optim
    eval: TokenEval = dataclasses.field(default_factory=TokenEval)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    batch_size: int = 64
    z_loss: float = 0.0
    balance: Balance | None = None
    title: str | None = None
    trainer: Literal["lm"] = "lm"

    def __post_init__(self) -> None:
        """Check ranges, that batch and warm-up fit, and that the task knows the settings."""
        ranges.check_counts(self, "batch_size")
        ranges.check(self, "z_loss", least=0)
        ranges.check_seed(self)
        balanced.check_parts(self.train, self.batch_size, self.balance)
        self.optim.check_warmup(self.train.steps)
        if self.eval.attentions:
            self.train.check_whole("eval.attentions are compared")
        for i, setting in enumerate(self.eval.settings):
            self.data.settings(setting, f"eval.settings[{i}]")


def program(config: Lm, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    mesh = make_mesh(config.mesh.shape)
    data = Opened(config.data, workdir, models.tokenizer_at(config.model, "model"))
    training = data.training()
    sources = {"": data.source({})} | {label(s): data.source(s) for s in config.eval.settings}
    every = [*training.sources, *sources.values()]
    vocab_size = max(source.vocab_size for source in every)
    source = models.find(config.model, "model", vocab_size=vocab_size, seed=config.seed)
    _check_lengths(every, source.config)
    routing.check(config.train.balance_loss, source.config)
    models.describe(workdir, source, data.tokenizer)
    evaluator = TokenEvaluator(Decoder(source.config), sources, config.eval, mesh, vocab_size)

    def evaluate(current: state.TrainState, index: int) -> Evaluation:
        scores = evaluator(current.params)
        if index >= config.train.steps:
            scores |= evaluator.compare(current.params)
        return Evaluation({f"eval/{name}": value for name, value in scores.items()})

    if config.balance is not None:
        documents = data.documents(config.balance.widths[-1], config.balance.long_documents)

        def draw(index: int) -> balanced.Drawn:
            ids = example_ids(index, config.batch_size, documents.count, config.seed)
            rows = [documents.at(int(i), config.seed) for i in ids]
            # What is read, as without `balance`, where targets may be few.
            tokens = sum(len(row.tokens) for row in rows)
            return rows, {"left_out": documents.left_out, "tokens": tokens}

        return balanced.program(
            balanced.of(config, source.config, vocab_size, mesh, z_loss=config.z_loss),
            lambda: source.load(mesh, config.mesh.rules),
            draw,
            evaluate,
        )
    host_batch_slice(config.batch_size, mesh)
    compiled = step_of(config, source.config, vocab_size, mesh)

    def init() -> state.TrainState:
        return compiled.create(source.load(mesh, config.mesh.rules))

    def step(current: state.TrainState, index: int) -> StepOutput:
        rows = training.at(index, config.seed)
        ids = example_ids(index, config.batch_size, rows.num_examples("train"), config.seed)
        batch = rows.batch(ids[host_batch_slice(len(ids), mesh)], "train")
        new, metrics = compiled.update(current, put_global(batch, mesh))
        tokens = config.batch_size * rows.length
        each = 3 * flops.forward(source.config, compiled.abstract.params, rows.length)
        return StepOutput(new, metrics, lambda: {"tokens": tokens, "model_flops": each * tokens})

    return Program(compiled.abstract, init, step, evaluate, ("loss", "accuracy"))


def step_of(
    config: Lm, decoder: DecoderConfig, vocab_size: int, mesh: jax.sharding.Mesh
) -> "Compiled":
    """The step of a run of this decoder, jitted and not yet compiled."""
    recipe = _Recipe(
        decoder,
        config.optim,
        config.train.steps,
        config.train.nonfinite == "skip",
        config.train.parts(config.batch_size),
        config.z_loss,
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
    z_loss: float
    vocab_size: int
    balance_loss: float


class Compiled(NamedTuple):
    """The state's shapes, params -> state, and (state, batch) -> (state, metrics)."""

    abstract: state.TrainState
    create: Callable[[Params], state.TrainState]
    update: Callable[[state.TrainState, Any], tuple[state.TrainState, dict[str, jax.Array]]]


# One: a study's seeds follow each other, and a program of another model is not worth its memory.
@functools.lru_cache(maxsize=1)
def _compiled(recipe: _Recipe, mesh: jax.sharding.Mesh, rules: Rules) -> Compiled:
    decoder = Decoder(recipe.decoder)
    optimizer = optim.make(recipe.optim, recipe.steps)
    rate = optim.schedule(recipe.optim, recipe.steps)
    abstract = state.abstract(models.abstract_params(recipe.decoder), optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def update(current: state.TrainState, batch: Any):  # a TokenBatch of device arrays
        denominator = count(batch.mask, "token_mean")

        def loss_of_part(params: Params, part: Any):
            hidden: Any
            hidden, sown = decoder.apply(
                {"params": params}, part.tokens, None, part.segment_ids, method="hidden",
                mutable=["aux"],
            )  # fmt: skip
            loss, stats = chunked_vocab.cross_entropy(
                hidden,
                unembedding(params),
                part.targets,
                part.mask,
                z_loss=recipe.z_loss,
                denominator=denominator,
                vocab_size=recipe.vocab_size,
                summary=per_token,
            )
            found = balance([sown.get("aux", {})])
            return routing.added(loss, stats, found, recipe.balance_loss, recipe.parts)

        (loss, stats), grads = microbatch.value_and_grad(
            loss_of_part, current.params, batch, recipe.parts
        )
        new, more = state.apply_gradients(current, grads, loss, optimizer, recipe.skip_nonfinite)
        metrics = summarise(loss, stats, batch.mask) | more
        metrics["learning_rate"] = jnp.asarray(rate(current.step))
        return new._replace(step=current.step + 1), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    return Compiled(
        abstract,
        jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings),
        jax.jit(ambient(mesh)(update), donate_argnums=0, out_shardings=(shardings, everywhere)),
    )


def _check_lengths(sources: list[TokenSource], config: DecoderConfig) -> None:
    """Refuse rows beyond the model's context."""
    longest = max(source.length for source in sources)
    if longest > config.max_position:
        raise ConfigError(
            f"model.sizes.max_position: rows of up to {longest} tokens exceed the model's context "
            f"of {config.max_position}"
        )
