"""Steps of packed documents whose budgets even out the load of the ranks (SparseBalance).

A step's documents are planned on the host (`jaxlab.balance.planning`), a microbatch is one packed
row per rank, and every rank adds up the gradients of its rows by itself: ranks meet once a step,
where the sums of all are added. Rows have one of a few widths, each of them one program; budgets
are data. Losses are sums over the targets divided by the number of targets of the whole step, so
that neither the packing nor the number of microbatches changes loss or gradients.

R: ranks, the devices along the mesh's axis "data"; W: width of a row; K: budgets of the tuner.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.balance.budget import Memory
from jaxlab.balance.planning import Plan, Planner
from jaxlab.balance.settings import Balance
from jaxlab.data.packing import Line, line
from jaxlab.data.tasks.tokens import Row
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import per_token
from jaxlab.models.decoder import Decoder, DecoderConfig, Params, abstract_params, unembedding
from jaxlab.runtime import settings
from jaxlab.runtime.checkpoint import CheckpointError
from jaxlab.runtime.mesh import host_batch_slice, put_global
from jaxlab.runtime.settings import Rules
from jaxlab.trainers import latencies, optim, state
from jaxlab.trainers.loop import Evaluation, HostState, Program, StepOutput
from jaxlab.trainers.optim import Optim
from jaxlab.trainers.settings import Train

Drawn = tuple[Sequence[Row], Mapping[str, int]]

logger = logging.getLogger(__name__)


def check_parts(train: Train, batch_size: int, balance: Balance | None) -> None:
    """Checks how a trainer's batches are divided.

    Raises:
        ValueError: `train.microbatch` does not divide the batch, or stands beside `balance`.
    """
    if balance is None:
        train.parts(batch_size)
    elif train.microbatch is not None:
        raise ValueError(
            "train.microbatch: it counts rows of one length; with balance the microbatches of a "
            "step are balance.microbatches, of at most balance.widths[-1] tokens"
        )


class Recipe(NamedTuple):
    """What decides about the compiled steps: runs that differ in seed or data share them."""

    decoder: DecoderConfig
    optim: Optim
    steps: int
    skip_nonfinite: bool
    vocab_size: int
    z_loss: float = 0.0


class Balanced:
    """The steps of one run.

    Attributes:
        compiled: the state's shapes, and its programs.
        host_state: for `Program.host_state`: what tuning remembers.
    """

    def __init__(self, settings: Balance, recipe: Recipe, mesh: Mesh, rules: Rules):
        """Check that model, mesh and settings go together; nothing is compiled yet.

        Raises:
            ConfigError: they do not, or the latency table is of another device or model.
        """
        ranks = latencies.check(settings, recipe.decoder, mesh)
        latency = latencies.of(settings, recipe.decoder)
        self._mesh, self._ranks = mesh, ranks
        self._buckets = settings.tuner.buckets
        self.compiled = _compiled(recipe, self._buckets, mesh, rules)
        names = _exchange(np.frombuffer(latency.id.encode().ljust(64), np.uint8))
        table = "+".join(dict.fromkeys(bytes(name).decode().strip() for name in names))
        self._memory = Memory(settings.tuner, table, settings.decay)
        fixed = None if settings.control is None else latencies.fixed_budget(settings.control)
        if fixed is not None:
            logger.info("every microbatch has the fixed budget %.2f", fixed)
        owners = [device.process_index for device in mesh.devices.reshape(-1)]
        self._planner = Planner(
            settings, latency, self._memory, ranks=ranks, fixed=fixed, owners=owners,
            exchange=_exchange,
        )  # fmt: skip
        self._last: _Measured | None = None
        self.host_state = HostState(self._dump, self._load)

    def step(self, current: state.TrainState, index: int, rows: Sequence[Row]) -> StepOutput:
        """One optimisation step on these documents, the same in every process.

        Args:
            current: consumed.
            index: number of the step.
            rows: the documents of all ranks. Without any, loss and gradient are 0.
        """
        # Budgets follow from the coverage of the step before, which has to be waited for.
        self._settle()
        plan = self._planner.plan([len(row.tokens) for row in rows], index)
        targets = sum(int(np.sum(row.mask)) for row in rows)
        sums = self.compiled.zeros()
        measured = []
        for number, width in enumerate(plan.widths):
            if not width:
                continue
            part = put_global(self._part(rows, plan, number, width), self._mesh)
            sums, *found = self.compiled.add(current.params, sums, part, np.int32(targets))
            measured.append((number, found))
        new, metrics = self.compiled.finish(current, sums, np.int32(targets))
        last = self._last = _Measured(plan, measured, self._planner, self._ranks, self._buckets)

        def host_metrics() -> dict[str, float]:
            found = {"balance/programs": float(len(self.compiled.widths))}
            return found | last.settled() | {"tokens": targets, "documents": len(rows)}

        return StepOutput(new, metrics, host_metrics)

    def _part(self, rows: Sequence[Row], plan: Plan, number: int, width: int) -> "Part":
        """The microbatches of this number of the ranks that this process has."""
        mine = range(self._ranks)[host_batch_slice(self._ranks, self._mesh)]
        lines = [line([rows[i] for i in plan.bins[rank][number]], width) for rank in mine]
        budgets = plan.budgets[np.asarray(mine), number].astype(np.int32)
        return Part(Line(*map(np.stack, zip(*lines, strict=True))), budgets)

    def _settle(self) -> None:
        if self._last is not None:
            self._last.settled()

    def _dump(self) -> Any:
        self._settle()
        return self._memory.to_json()

    def _load(self, data: Any) -> None:
        try:
            self._memory.restore(data)
        except ValueError as error:
            raise CheckpointError(f"{error}; or train in a new work directory") from error


class Config(Protocol):
    """What balanced steps read of a trainer's settings (`lm.Lm`, `sft.Sft`)."""

    @property
    def balance(self) -> Balance | None: ...  # noqa: D102
    @property
    def optim(self) -> Optim: ...  # noqa: D102
    @property
    def train(self) -> Train: ...  # noqa: D102
    @property
    def mesh(self) -> settings.Mesh: ...  # noqa: D102


def of(
    config: Config, decoder: DecoderConfig, vocab_size: int, mesh: Mesh, z_loss: float = 0.0
) -> Balanced:
    """The steps of a run whose settings have `balance`."""
    assert config.balance is not None
    recipe = Recipe(
        decoder,
        config.optim,
        config.train.steps,
        config.train.nonfinite == "skip",
        vocab_size,
        z_loss,
    )
    return Balanced(config.balance, recipe, mesh, config.mesh.rules)


def program(
    run: Balanced,
    load: Callable[[], Params],
    draw: Callable[[int], Drawn],
    evaluate: Callable[[state.TrainState, int], Evaluation],
) -> Program:
    """A balanced run for the loop.

    Args:
        run: its steps.
        load: gives the params to begin with.
        draw: number of a step -> its documents, in every process the same, and metrics of how many
            were cut or left out; `tokens` among them replaces the number of targets.
        evaluate: see `Program`.
    """

    def step(current: state.TrainState, index: int) -> StepOutput:
        rows, counts = draw(index)
        output = run.step(current, index, rows)
        found = output.host_metrics
        return output._replace(host_metrics=lambda: {**found(), **counts})

    return Program(
        run.compiled.abstract,
        lambda: run.compiled.create(load()),
        step,
        evaluate,
        ("loss", "accuracy", "balance/straggler"),
        run.host_state,
    )


class Part(NamedTuple):
    """One microbatch of every rank: packed rows [R, W], and blocks per query, int32 [R]."""

    line: Line
    budgets: Any


class _Measured:
    """What a step measured, read from the devices when it is first asked for."""

    def __init__(
        self,
        plan: Plan,
        parts: Sequence[tuple[int, Sequence[jax.Array]]],
        planner: Planner,
        ranks: int,
        buckets: Sequence[int],
    ):
        self._plan, self._parts, self._planner = plan, parts, planner
        self._shape = (ranks, len(plan.widths), len(buckets))
        self._metrics: dict[str, float] | None = None

    def settled(self) -> dict[str, float]:
        """Has the planner take up the step, once; its metrics."""
        if self._metrics is None:
            coverage, blocks = np.ones(self._shape), np.zeros(self._shape[0])
            for number, arrays in self._parts:
                shares, pairs = (_fetch(array) for array in arrays)
                coverage[:, number] = shares
                blocks += pairs
            taken = self._planner.observe(self._plan, coverage)
            self._metrics = {}
            if self._parts:
                self._metrics = self._planner.metrics(self._plan, coverage, blocks)
                self._metrics["balance/observed"] = float(taken)
            self._parts = ()
        return self._metrics


class Compiled(NamedTuple):
    """The programs of a run.

    Attributes:
        abstract: the state's shapes.
        create: params -> state.
        zeros: () -> sums.
        add: (params, sums, part, targets of the step) -> sums, coverage [R, K], blocks [R].
        finish: (state, sums, targets of the step) -> state, metrics.
        widths: of the rows that `add` was traced for, one entry each time.
    """

    abstract: state.TrainState
    create: Callable[[Params], state.TrainState]
    zeros: Callable[[], Any]
    add: Callable[..., Any]
    finish: Callable[..., tuple[state.TrainState, dict[str, jax.Array]]]
    widths: list[int]


# One: a study's seeds follow each other, and a program of another model is not worth its memory.
@functools.lru_cache(maxsize=1)
def _compiled(recipe: Recipe, buckets: tuple[int, ...], mesh: Mesh, rules: Rules) -> Compiled:
    decoder = Decoder(latencies.reporting(recipe.decoder, buckets))
    optimizer = optim.make(recipe.optim, recipe.steps)
    rate = optim.schedule(recipe.optim, recipe.steps)
    params = abstract_params(recipe.decoder)
    abstract = state.abstract(params, optimizer, mesh, rules)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    ranks, widths = mesh.shape["data"], list[int]()
    by_rank, whole = PartitionSpec("data"), PartitionSpec()

    def loss(params: Params, part: Part, targets: jax.Array) -> Any:
        row: Any = part.line  # of device arrays
        hidden, reported = decoder.apply(
            {"params": params}, row.tokens, row.positions, row.segment_ids, part.budgets,
            method="hidden", mutable=["aux"],
        )  # fmt: skip
        value, stats = chunked_vocab.cross_entropy(
            hidden,
            unembedding(params),
            row.targets,
            row.mask,
            z_loss=recipe.z_loss,
            denominator=targets,
            vocab_size=recipe.vocab_size,
            summary=per_token,
        )
        summed = {name: jnp.sum(jnp.where(row.mask, x, 0.0)) for name, x in stats.items()}
        return value, (summed, *_reported(reported["aux"]))

    def add_own(params: Params, sums: Any, part: Part, targets: jax.Array) -> Any:
        """The rows of one rank; nothing waits for another."""
        widths.append(part.line.tokens.shape[1])
        (value, (stats, coverage, blocks)), grads = jax.value_and_grad(loss, has_aux=True)(
            params, part, targets
        )
        return jax.tree.map(jnp.add, sums, _stacked((grads, value, stats))), coverage, blocks

    def zeros() -> Any:
        stats = dict.fromkeys(("nll", "accuracy", "student_entropy"), jnp.zeros(()))
        one = jax.tree.map(_zero, (params, jnp.zeros(()), stats))
        return jax.tree.map(lambda x: jnp.zeros((ranks, *x.shape), x.dtype), one)

    def finish(current: state.TrainState, sums: Any, targets: jax.Array) -> Any:
        grads, value, stats = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
        grads = jax.tree.map(lambda total, like: total.astype(like.dtype), grads, current.params)
        new, more = state.apply_gradients(current, grads, value, optimizer, recipe.skip_nonfinite)
        metrics = {name: total / jnp.maximum(targets, 1) for name, total in stats.items()}
        metrics |= {"loss": value, "learning_rate": jnp.asarray(rate(current.step))} | more
        return new._replace(step=current.step + 1), metrics

    # Pallas and Triton calls do not declare over which axes their results vary.
    local = jax.shard_map(
        add_own, mesh=mesh, in_specs=(whole, by_rank, by_rank, whole), out_specs=by_rank,
        check_vma=False,
    )  # fmt: skip
    rows = NamedSharding(mesh, by_rank)
    everywhere = NamedSharding(mesh, whole)
    return Compiled(
        abstract,
        jax.jit(lambda params: state.create(params, optimizer), out_shardings=shardings),
        jax.jit(zeros, out_shardings=rows),
        jax.jit(local, donate_argnums=1),
        jax.jit(finish, donate_argnums=0, out_shardings=(shardings, everywhere)),
        widths,
    )


def _zero(like: Any) -> Any:
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, jnp.float32))


def _stacked(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)


def _reported(aux: Any) -> tuple[jax.Array, jax.Array]:
    """Coverage [1, K], mean over layers and key heads, and blocks [1], sum over layers."""
    leaves = jax.tree_util.tree_flatten_with_path(aux)[0]

    def of(name: str) -> list[jax.Array]:
        return [leaf for path, leaf in leaves if f"'{name}'" in jax.tree_util.keystr(path)]

    # [KV, K] per layer, with a leading axis over layers that are scanned; a rank has one row.
    curves = [leaf.reshape(-1, leaf.shape[-1]) for leaf in of("coverage")]
    coverage = jnp.mean(jnp.concatenate(curves), axis=0)
    return coverage[None], sum((jnp.sum(leaf) for leaf in of("blocks")), jnp.zeros(()))[None]


def _exchange(values: np.ndarray) -> np.ndarray:
    """The arrays of all processes on a leading axis, in every process the same to the bit."""
    if jax.process_count() == 1:
        return values[None]
    # As bytes: JAX would make float32 of float64.
    raw = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    return np.frombuffer(gathered.tobytes(), values.dtype).reshape(-1, *values.shape)


def _fetch(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
