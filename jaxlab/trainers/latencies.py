"""How long a model's sequences take, for balancing: from a table, or from its FLOPs."""

import dataclasses
import json
import math
import pathlib
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlab.balance import measure
from jaxlab.balance.latency import Formula, Latency, LatencyTable, WholeModel
from jaxlab.balance.settings import Balance, Control
from jaxlab.config import ConfigError
from jaxlab.models.decoder import DecoderConfig, abstract_params
from jaxlab.nn.attention import Attention
from jaxlab.nn.sparse import BlockSparse
from jaxlab.runtime.sharding import leaf_path

# FLOP/s that stand for a device where none was measured: only ratios matter.
RATE = 1e12


class Named(Latency, Protocol):
    """A latency with a name of its content."""

    @property
    def id(self) -> str:
        """For checkpoints."""


def check(settings: Balance, config: DecoderConfig, mesh: Mesh) -> int:
    """Returns the number of ranks, after a look at what has to fit.

    Raises:
        ConfigError: the model has experts, no block-sparse layer, or one with another budget than
            the tuner's base; rows are longer than its context; or the mesh splits more than data.
    """
    sparse = _sparse(config)
    if config.routed:
        raise ConfigError(
            "balance: the model has experts, whose load depends on what is packed together: train "
            "it without balance"
        )
    budgets = sorted({mixer.budget for mixer in sparse})
    if budgets != [settings.tuner.base]:
        raise ConfigError(
            f"balance.tuner.base is {settings.tuner.base}, the model's block-sparse layers have "
            f"the budget {', '.join(map(str, budgets))}, with which evaluation runs: give "
            "model.mixer.budget the same"
        )
    if settings.widths[-1] > config.max_position:
        raise ConfigError(
            f"balance.widths: rows of {settings.widths[-1]} tokens exceed the model's context of "
            f"{config.max_position}"
        )
    others = {name: size for name, size in mesh.shape.items() if name != "data" and size > 1}
    if others:
        raise ConfigError(
            f"mesh.shape: balanced runs split data alone, not {', '.join(others)}: give "
            "mesh.shape={'data': -1}"
        )
    return mesh.shape["data"]


def of(settings: Balance, config: DecoderConfig) -> Named:
    """Seconds of the whole model by length and budget.

    Raises:
        ConfigError: the table cannot be read, or is of another device or model.
    """
    if settings.table is None:
        return formula(config)
    try:
        table = LatencyTable.load(
            settings.table, device=measure.device(), model=measure.describe(config)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"balance.table: {error}") from error
    return WholeModel(table)


def formula(config: DecoderConfig) -> Formula:
    """The model's FLOPs, forward and backward, at 1e12 FLOP/s.

    A product of a parameter counts 2 forward and 4 backward, a query-key pair 4 D of each head and
    twice that backward, a pair of a query and a block, for the router, 2 D without a backward pass.
    """
    sparse = _sparse(config)
    every = [layer.mixer for layer in config.layers if isinstance(layer.mixer, Attention)]

    def pair(mixers: list) -> float:
        return 12.0 * sum(mixer.num_heads * mixer.head_dim for mixer in mixers)

    leaves = jax.tree_util.tree_flatten_with_path(abstract_params(config))[0]
    by_path = {"/".join(leaf_path(path)): math.prod(leaf.shape) for path, leaf in leaves}
    # Without the table of a model that has another to unembed: it is looked up.
    looked_up = () if config.tie_embeddings else ("embed/embedding",)
    products = sum(
        size for path, size in by_path.items()
        if path.endswith(("kernel", "embedding")) and path not in looked_up
    )  # fmt: skip
    return Formula(
        token=6.0 * products / RATE,
        pair=pair(sparse) / RATE,
        route=pair(sparse) / 6 / RATE,
        block=sparse[0].block_size,
        dense=pair([mixer for mixer in every if not isinstance(mixer, BlockSparse)]) / RATE,
    )


def reporting(config: DecoderConfig, buckets: tuple[int, ...]) -> DecoderConfig:
    """The same decoder, whose sparse layers report their coverage at these budgets."""

    def changed(layer):
        if not isinstance(layer.mixer, BlockSparse):
            return layer
        mixer = dataclasses.replace(layer.mixer, coverage_at=tuple(buckets))
        return dataclasses.replace(layer, mixer=mixer)

    stacks = tuple((times, tuple(map(changed, layers))) for times, layers in config.stacks)
    return dataclasses.replace(config, stacks=stacks)


def fixed_budget(control: Control) -> float:
    """The budget that a control has.

    Raises:
        ConfigError: the run at its path has no row of metrics with a budget of equal work.
    """
    if control.budget is not None:
        return control.budget
    file = pathlib.Path(control.path or "") / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"balance.control.path: {error}") from error
    found = [row["balance/control_budget"] for row in rows if row.get("balance/control_budget")]
    if not found:
        raise ConfigError(
            f"balance.control.path: {file} has no balance/control_budget: give the work directory "
            "of a balanced run that has trained"
        )
    return float(np.mean(found))


def _sparse(config: DecoderConfig) -> list[BlockSparse]:
    found = [layer.mixer for layer in config.layers if isinstance(layer.mixer, BlockSparse)]
    if not found:
        raise ConfigError(
            "balance: the model has no block-sparse layer whose budget could be tuned: set "
            "model.mixer.name=block_sparse"
        )
    if len({mixer.block_size for mixer in found}) > 1:
        raise ConfigError("balance: the model's sparse layers have blocks of different sizes")
    return found
