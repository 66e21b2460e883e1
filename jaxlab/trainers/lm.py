"""Next-token training from scratch: on token tasks, where few targets count, and on text."""

import dataclasses
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.config import ConfigError
from jaxlab.data.index import example_ids
from jaxlab.data.tasks.tokens import TokenSource
from jaxlab.evals.tokens import TokenEval, TokenEvaluator, label
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import count, per_token, summarise
from jaxlab.models.decoder import Decoder, DecoderConfig, Params, unembedding
from jaxlab.runtime.mesh import host_batch_slice, make_mesh, put_global
from jaxlab.trainers import microbatch, models, optim, state
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Mesh, Model, Train
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
    title: str | None = None
    trainer: Literal["lm"] = "lm"

    def __post_init__(self) -> None:
        """Refuse microbatches that do not divide the batch, and settings the task does not know."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        self.train.parts(self.batch_size)
        for i, setting in enumerate(self.eval.settings):
            self.data.settings(setting, f"eval.settings[{i}]")


def program(config: Lm, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    mesh = make_mesh(config.mesh.shape)
    data = Opened(config.data, workdir, models.tokenizer_at(config.model))
    training = data.training()
    sources = {"": data.source({})} | {label(s): data.source(s) for s in config.eval.settings}
    every = [*training.sources, *sources.values()]
    vocab_size = max(source.vocab_size for source in every)
    source = models.find(config.model, "model", vocab_size=vocab_size, seed=config.seed)
    _check_lengths(every, source.config)
    models.describe(workdir, source, data.tokenizer)
    decoder = Decoder(source.config)
    host_batch_slice(config.batch_size, mesh)
    optimizer = optim.make(config.optim, config.train.steps)
    abstract = state.abstract(source.abstract_params(), optimizer, mesh, config.mesh.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    evaluator = TokenEvaluator(decoder, sources, config.eval, mesh)
    rate = optim.schedule(config.optim, config.train.steps)
    parts = config.train.parts(config.batch_size)

    def update(current: state.TrainState, batch: Any):  # a TokenBatch of device arrays
        denominator = count(batch.mask, "token_mean")

        def loss_of_part(params: Params, part: Any):
            hidden: Any = decoder.apply(
                {"params": params}, part.tokens, None, part.segment_ids, method="hidden"
            )
            return chunked_vocab.cross_entropy(
                hidden,
                unembedding(params),
                part.targets,
                part.mask,
                z_loss=config.z_loss,
                denominator=denominator,
                summary=per_token,
            )

        (loss, stats), grads = microbatch.value_and_grad(loss_of_part, current.params, batch, parts)
        new, more = state.apply_gradients(
            current, grads, loss, optimizer, config.train.nonfinite == "skip"
        )
        metrics = summarise(loss, stats, batch.mask) | more
        metrics["learning_rate"] = jnp.asarray(rate(current.step))
        return new._replace(step=current.step + 1), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    update = jax.jit(update, donate_argnums=0, out_shardings=(shardings, everywhere))

    def init() -> state.TrainState:
        params = source.load(mesh, config.mesh.rules)
        return jax.jit(lambda p: state.create(p, optimizer), out_shardings=shardings)(params)

    def step(current: state.TrainState, index: int) -> StepOutput:
        rows = training.at(index, config.seed)
        ids = example_ids(index, config.batch_size, rows.num_examples("train"), config.seed)
        batch = rows.batch(ids[host_batch_slice(len(ids), mesh)], "train")
        new, metrics = update(current, put_global(batch, mesh))
        return StepOutput(new, metrics, lambda: {"tokens": config.batch_size * rows.length})

    def evaluate(current: state.TrainState, index: int) -> Evaluation:
        scores = evaluator(current.params)
        return Evaluation({f"eval/{name}": value for name, value in scores.items()})

    return Program(abstract, init, step, evaluate, ("loss", "accuracy"))


def _check_lengths(sources: list[TokenSource], config: DecoderConfig) -> None:
    """Refuse rows beyond the model's context."""
    longest = max(source.length for source in sources)
    if longest > config.max_position:
        raise ConfigError(
            f"model.sizes.max_position: rows of up to {longest} tokens exceed the model's context "
            f"of {config.max_position}"
        )
