"""Probes of frozen features: heads that differ in learning rate and weight decay, in one run.

The heads are one program: their parameters have a leading axis, over which the network is mapped
(`over_heads`), and a batch of features is read once for all of them.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import ranges
from jaxlab.config import by
from jaxlab.data.index import example_ids
from jaxlab.evals import features
from jaxlab.evals.features import FeatureData, Opened, Side
from jaxlab.nn.probe import Attentive, Linear, ResidualMlp, Ridge
from jaxlab.runtime.drawing import drawn
from jaxlab.runtime.mesh import barrier, host_batch_slice, is_main, make_mesh, put_global
from jaxlab.runtime.settings import Mesh, Rules
from jaxlab.runtime.sharding import ambient
from jaxlab.trainers import encoders, ridge, state
from jaxlab.trainers.heads import Heads, adamw_of_heads, over_heads
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.settings import Train


@dataclasses.dataclass(frozen=True)
class Probe:
    """A run of probes on one encoder's features.

    Attributes:
        model: the network.
        data: features, and what they are to tell.
        train: length and logging.
        optim: the heads; ridge regression, in closed form, has one of each penalty instead.
        mesh: devices.
        seed: of parameters and of the order of rows.
        batch_size: rows per step.
        label_smoothing: of classes.
        sampler: "balanced" draws classes alike, with replacement; "shuffle" takes every row once
            per epoch. Chunks are always shuffled.
        eval_batch: rows per step of an evaluation.
        plots: whether confusion.png and latents.png are drawn.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Annotated[Attentive | ResidualMlp | Linear | Ridge, by("name")]
    data: FeatureData
    train: Train
    optim: Heads = dataclasses.field(default_factory=Heads)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    batch_size: int = 256
    label_smoothing: float = 0.1
    sampler: Literal["balanced", "shuffle"] = "balanced"
    eval_batch: int = 256
    plots: bool = True
    title: str | None = None
    trainer: Literal["probe"] = "probe"

    def __post_init__(self) -> None:
        """Check ranges."""
        ranges.check_counts(self, "batch_size", "eval_batch")
        ranges.check_seed(self)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        self.train.check_whole("what probes predict is written")


def program(config: Probe, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    mesh = make_mesh(config.mesh.shape)
    # Process 0 writes the files that the others then find.
    if not is_main():
        barrier("features")
    frozen = None if config.data.encoder is None else encoders.load(config.data.encoder)
    data = Opened(config.data, workdir, frozen)
    if is_main():
        barrier("features")
    rows = host_batch_slice(config.batch_size, mesh)
    host_batch_slice(config.eval_batch, mesh)
    labels = bool(data.classes)
    if isinstance(config.model, Ridge):
        compiled = _closed_form(config, config.model, data, mesh)
    else:
        recipe = _Recipe(
            config.model,
            data.outputs,
            data.inputs(data.train, np.arange(1)).shape[1:],
            config.optim,
            config.train.steps,
            config.label_smoothing if labels else None,
        )
        compiled = _compiled(recipe, mesh, config.mesh.rules)
    cumulative = None
    weights = data.weights()
    if weights is not None and config.sampler == "balanced":
        cumulative = np.cumsum(weights)

    def chosen(index: int) -> np.ndarray:
        if cumulative is None:
            return example_ids(index, config.batch_size, len(data.train), config.seed)
        rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, index], np.uint64)))
        draws = rng.random(config.batch_size) * cumulative[-1]
        return np.searchsorted(cumulative, draws, side="right").clip(max=len(data.train) - 1)

    def step(current: state.TrainState, index: int) -> StepOutput:
        ids = np.asarray(chosen(index))[rows]
        batch = (data.inputs(data.train, ids), data.train.targets[ids].reshape(len(ids), -1))
        new, metrics = compiled.update(current, put_global(batch, mesh))
        return StepOutput(new, metrics, lambda: {"rows": config.batch_size})

    def predicted(params: Any, side: Side) -> np.ndarray:
        """Of every head: ids [H, N], or outputs [H, N, outputs]."""
        parts = []
        for begin in range(0, len(side), config.eval_batch):
            ids = np.arange(begin, begin + config.eval_batch).clip(max=len(side) - 1)
            inputs = put_global(data.inputs(side, ids[host_batch_slice(len(ids), mesh)]), mesh)
            outputs = np.asarray(compiled.predict(params, inputs))
            parts.append(outputs[:, : len(side) - begin])
        return np.concatenate(parts, 1)

    def evaluate(current: state.TrainState, index: int) -> Evaluation:
        found: dict[str, Any] = {}
        outputs = predicted(current.params, data.val)
        single = _by_head(outputs, data.val)
        best = int(np.argmax(single) if labels else np.argmin(single))
        name = "micro" if labels else "mse"
        found |= {f"eval/{name}_head_{i}": float(value) for i, value in enumerate(single)}
        found["eval/best_head"] = best
        # The released code reports the head that is best on the rows that it is scored on.
        scalars, written = data.score(data.val, outputs[best])
        found |= {f"eval/{key}": value for key, value in scalars.items() if np.isfinite(value)}
        if data.inner is not None:
            inner = _by_head(predicted(current.params, data.inner), data.inner)
            head = int(np.argmax(inner) if labels else np.argmin(inner))
            found["eval/inner_head"], found[f"eval/{name}_inner"] = head, float(single[head])
        if index == config.train.steps and is_main():
            scores = {key.removeprefix("eval/"): value for key, value in found.items()}
            data.write(workdir, written, scores, outputs[best] if config.plots else None)
        return Evaluation(found)

    def init() -> state.TrainState:
        return compiled.create(jax.random.key(config.seed))

    return Program(compiled.abstract, init, step, evaluate, ("loss",))


def summary(
    workdir: pathlib.Path, runs: Mapping[str, pathlib.Path], title: str
) -> list[pathlib.Path]:
    """Write the tables of those runs that are of probes, side by side; returns the files."""
    return features.summary(workdir, runs, title)


class _Recipe(NamedTuple):
    """What decides about the compiled functions: runs that differ in seed or data share them.

    Attributes:
        model: the network.
        outputs: of the network.
        shape: of a row of features.
        heads: the optimiser.
        steps: of the run.
        smoothing: of classes; None: the outputs are actions.
    """

    model: Attentive | ResidualMlp | Linear
    outputs: int
    shape: tuple[int, ...]
    heads: Heads
    steps: int
    smoothing: float | None


class _Compiled(NamedTuple):
    """Shapes, key -> state, (state, batch) -> (state, metrics), and (params, inputs) -> outputs."""

    abstract: state.TrainState
    create: Callable[[jax.Array], state.TrainState]
    update: Callable[[state.TrainState, Any], tuple[state.TrainState, dict[str, jax.Array]]]
    predict: Callable[[Any, jax.Array], jax.Array]


# A study's probes of classes and of actions: the next encoder's, or seed's, are of the same sizes.
@functools.lru_cache(maxsize=4)
def _compiled(recipe: _Recipe, mesh: jax.sharding.Mesh, rules: Rules) -> _Compiled:
    module, smoothing = recipe.model.module(recipe.outputs), recipe.smoothing
    heads = len(recipe.heads.learning_rates)
    platform = mesh.devices.flat[0].platform
    optimizer = adamw_of_heads(recipe.heads, recipe.steps)

    def init(key: jax.Array) -> Any:
        example = jnp.zeros((1, *recipe.shape), jnp.float32)
        return jax.vmap(lambda key: module.init(key, example)["params"])(
            jax.random.split(key, heads)
        )

    abstract = state.abstract(jax.eval_shape(init, jax.random.key(0)), optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    draw = drawn(init, mesh, shardings.params)
    begin = jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings)

    def update(current: state.TrainState, batch: Any):
        inputs, targets = batch

        def loss_of(params):
            outputs: Any = module.apply({"params": params}, inputs)
            return head_loss(outputs, targets, smoothing)

        losses, grads = over_heads(jax.value_and_grad(loss_of), platform)(current.params)
        norms = jax.vmap(optax.tree.norm)(grads)
        # A head that diverges stays where it is, and the others go on, as in the released code.
        finite = jnp.isfinite(losses) & jnp.isfinite(norms)
        new, _ = state.apply_gradients(current, grads, jnp.sum(losses), optimizer, False)

        def keep(after, before):
            if after.ndim == 0:
                return after
            return jnp.where(finite.reshape(-1, *[1] * (after.ndim - 1)), after, before)

        params, moments = jax.tree.map(
            keep, (new.params, new.opt_state), (current.params, current.opt_state)
        )
        count = jnp.sum(finite)
        metrics = {
            # NaN, which ends the run, only where no head is left.
            "loss": jnp.sum(jnp.where(finite, losses, 0.0)) / count,
            "grad_norm": jnp.sqrt(jnp.sum(jnp.where(finite, norms, 0.0) ** 2)),
            "heads_left": count,
        }
        metrics |= {f"loss_head_{i}": losses[i] for i in range(heads)}
        return state.TrainState(current.step + 1, params, moments), metrics

    def predict(params, inputs):
        outputs = over_heads(lambda p: module.apply({"params": p}, inputs), platform)(params)
        return outputs if smoothing is None else jnp.argmax(outputs, -1)

    everywhere = NamedSharding(mesh, PartitionSpec())
    return _Compiled(
        abstract,
        lambda key: begin(draw(key)),
        jax.jit(ambient(mesh)(update), donate_argnums=0, out_shardings=(shardings, everywhere)),
        jax.jit(ambient(mesh)(predict), out_shardings=everywhere),
    )


def _closed_form(config: Probe, model: Ridge, data: Opened, mesh: jax.sharding.Mesh) -> _Compiled:
    """Ridge regression in numpy: solved before the first step, and the steps change nothing."""
    heads, outputs = len(model.penalties), data.outputs
    width = int(np.prod(data.inputs(data.train, np.arange(1)).shape[1:]))
    optimizer = optax.set_to_zero()
    shapes = {"kernel": (heads, width, outputs), "bias": (heads, outputs)}
    like = {"out": {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}}
    abstract = state.abstract(like, optimizer, mesh, config.mesh.rules)

    def create(key: jax.Array) -> state.TrainState:
        del key
        targets = data.train.targets
        if data.classes:
            targets = np.eye(outputs, dtype=np.float32)[targets]
        kernels, biases = ridge.solve(
            lambda ids: data.inputs(data.train, ids),
            targets.reshape(len(targets), -1),
            model.penalties,
        )
        made = state.create({"out": {"kernel": kernels, "bias": biases}}, optimizer)
        return jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), made, abstract)

    def update(current: state.TrainState, batch: Any):
        del batch
        return current._replace(step=current.step + 1), {"loss": 0.0, "grad_norm": 0.0}

    def predict(params: Any, inputs: jax.Array) -> Any:
        x = np.asarray(inputs).reshape(len(inputs), -1)
        found = np.einsum("nd,hdo->hno", x, np.asarray(params["out"]["kernel"]), optimize=True)
        found = found + np.asarray(params["out"]["bias"])[:, None]
        return found.argmax(-1) if data.classes else found

    return _Compiled(abstract, create, update, predict)


def head_loss(outputs: jax.Array, targets: jax.Array, smoothing: float | None) -> jax.Array:
    """Mean over rows of smoothed cross entropy of ids [B, 1], or with None Huber's of [B, outputs].

    Huber's threshold is 1, in z-scores.
    """
    if smoothing is None:
        return jnp.mean(optax.huber_loss(outputs, targets, delta=1.0))
    wanted = optax.smooth_labels(jax.nn.one_hot(targets[:, 0], outputs.shape[-1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(outputs, wanted))


def _by_head(outputs: np.ndarray, side: Side) -> np.ndarray:
    """Micro accuracy of ids [H, N], or mean squared error of outputs [H, N, ...]: float[H]."""
    if outputs.ndim == 2:
        return (outputs == side.targets).mean(1)
    squares = (outputs - side.targets.reshape(1, len(side), -1)) ** 2
    # A head that has diverged is the worst, not the best.
    return np.nan_to_num(squares.mean((1, 2)), nan=np.inf)
