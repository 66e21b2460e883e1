"""Encoders of image pairs and clips, trained without actions: latent action models and two poles.

What is trained is then an `encoder.path` of LARY's probes.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab import config as config_lib
from jaxlab import ranges
from jaxlab.config import by
from jaxlab.data.index import example_ids
from jaxlab.evals.feature_data import FrameData, Frames
from jaxlab.evals.feature_store import EncoderOptions
from jaxlab.interop.image_processor import Processor
from jaxlab.models import latent_action
from jaxlab.models.image_pairs import Autoencoder, Invariant
from jaxlab.models.latent_action import LatentAction
from jaxlab.runtime.drawing import drawn
from jaxlab.runtime.mesh import barrier, host_batch_slice, is_main, make_mesh, put_global
from jaxlab.runtime.settings import Mesh
from jaxlab.runtime.sharding import ambient
from jaxlab.trainers import encoders, optim, state
from jaxlab.trainers.loop import Evaluation, Program, StepOutput
from jaxlab.trainers.optim import Optim
from jaxlab.trainers.settings import Train


@dataclasses.dataclass(frozen=True)
class Representation:
    """A run of one encoder.

    Attributes:
        model: what is trained.
        data: rows, whose frames are seen; their actions are not.
        train: length and logging.
        optim: the optimiser.
        encoder: frozen; its features are seen instead of pixels, and latent action models predict
            them. None: pixels.
        size: side of the square that pixels are resized to.
        mesh: devices.
        seed: of parameters, noise and the order of rows.
        batch_size: rows per step.
        title: heading of the report.
        trainer: names this trainer in a config.
    """

    model: Annotated[LatentAction | Autoencoder | Invariant, by("name")]
    data: FrameData
    train: Train
    optim: Optim
    encoder: EncoderOptions | None = None
    size: int = 224
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    seed: int = 0
    batch_size: int = 128
    title: str | None = None
    trainer: Literal["representation"] = "representation"

    def __post_init__(self) -> None:
        """Check ranges, and that the model suits what it sees."""
        ranges.check_counts(self, "size", "batch_size")
        ranges.check_seed(self)
        self.optim.check_warmup(self.train.steps)
        if self.encoder is not None and not isinstance(self.model, LatentAction):
            raise ValueError(f"encoder: {self.model.name} sees pixels, so that there can be none")


def program(config: Representation, workdir: pathlib.Path) -> Program:
    """The run that `config` describes, ready for `jaxlab.trainers.loop.run`."""
    mesh = make_mesh(config.mesh.shape)
    if config.encoder is None:
        prepare = encoders.prepare(Processor().square(config.size))
        frozen = encoders.pixels(prepare, config.size)
    else:
        frozen = encoders.load(config.encoder)
    if not is_main():
        barrier("features")
    data = Frames(config.data, workdir, frozen)
    if is_main():
        _describe(config, workdir)
        barrier("features")
    rows = host_batch_slice(config.batch_size, mesh)
    module = config.model.module()
    optimizer = optim.make(config.optim, config.train.steps)
    example = jnp.zeros((1, *data.train.shape[1:]), jnp.float32)

    def init(key: jax.Array) -> Any:
        return module.init(key, example)["params"]

    key = jax.random.key(config.seed)
    abstract = state.abstract(jax.eval_shape(init, key), optimizer, mesh, config.mesh.rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    everywhere = NamedSharding(mesh, PartitionSpec())
    every = config.model.restart_every if isinstance(config.model, LatentAction) else None

    def update(current: state.TrainState, batch: jax.Array):
        key = jax.random.fold_in(jax.random.key(config.seed + 1), current.step)

        def loss_of(params):
            return module.apply({"params": params}, batch, key)

        (loss, found), grads = jax.value_and_grad(loss_of, has_aux=True)(current.params)
        skip = config.train.nonfinite == "skip"
        new, metrics = state.apply_gradients(current, grads, loss, optimizer, skip)
        params = new.params
        if every is not None:
            counts, changes = found.pop("counts"), found.pop("changes")
            found |= latent_action.usage(counts)
            if every:
                restarted = latent_action.restarted(params, counts, changes, key)
                # A batch that is no number must not become codes.
                due = (current.step % every == 0) & jnp.isfinite(loss)
                params = jax.tree.map(lambda a, b: jnp.where(due, a, b), restarted, params)
        new = state.TrainState(current.step + 1, params, new.opt_state)
        return new, {"loss": loss, **found, **metrics}

    def measure(params, batch):
        _, found = module.apply({"params": params}, batch, None)
        return {name: x for name, x in found.items() if name != "changes"}

    step_of = jax.jit(
        ambient(mesh)(update), donate_argnums=0, out_shardings=(shardings, everywhere)
    )
    measured = jax.jit(ambient(mesh)(measure), out_shardings=everywhere)

    def step(current: state.TrainState, index: int) -> StepOutput:
        ids = example_ids(index, config.batch_size, len(data.train), config.seed)
        batch = np.asarray(data.train[np.asarray(ids)[rows]], np.float32)
        new, metrics = step_of(current, put_global(batch, mesh))
        return StepOutput(new, metrics, lambda: {"rows": config.batch_size})

    def evaluate(current: state.TrainState, index: int) -> Evaluation:
        del index
        found: list[dict[str, Any]] = []
        # Whole batches alone, but for data that has none.
        size = config.batch_size
        for begin in range(0, max(len(data.val) - size + 1, 1), size):
            ids = np.arange(begin, begin + size) % len(data.val)
            batch = np.asarray(data.val[ids[rows]], np.float32)
            found.append(jax.device_get(measured(current.params, put_global(batch, mesh))))
        return Evaluation({f"eval/{name}": value for name, value in _scores(found).items()})

    draw = drawn(init, mesh, shardings.params)
    begin = jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings)
    return Program(abstract, lambda: begin(draw(key)), step, evaluate, ("loss",))


def _scores(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the batches; of a quantiser, the use of its codes over all of them."""
    counts = [one.pop("counts") for one in found if "counts" in one]
    scores = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    if counts:
        used = latent_action.usage(np.sum(counts, 0))
        scores |= {name: float(value) for name, value in used.items()}
        scores["explained"] = 1 - scores["frame_mse"] / max(scores["copy_mse"], 1e-12)
    return scores


def _describe(config: Representation, workdir: pathlib.Path) -> None:
    """What the checkpoints are of, for `encoders.load`."""
    about = encoders.Trained(config.model, config.size, config.encoder)
    config_lib.save_json(about, workdir / encoders.DESCRIPTION)
