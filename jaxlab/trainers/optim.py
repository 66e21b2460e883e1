"""Optimisers and schedules: optax, chosen by config, with masks by parameter path."""

import dataclasses
import re
from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import optax

from jaxlab import ranges


@dataclasses.dataclass(frozen=True)
class Optim:
    """An optimiser, its schedule and what it leaves alone.

    Attributes:
        name: "adamw" (Loshchilov & Hutter 2019) or "muon" (Jordan 2024: orthogonalised momentum for
            matrices inside the layers, AdamW for the rest).
        learning_rate: peak.
        schedule: after the warm-up: "constant", "cosine" or "linear" down to `final_fraction`.
        warmup_steps: linear from zero; at most as many as the run has.
        final_fraction: of the peak, at the last step; from 0 to 1.
        weight_decay: decoupled, times the learning rate.
        no_decay: patterns of parameter paths without weight decay; biases include the dt_bias of
            gated-delta layers.
        b1, b2, eps: AdamW's.
        clip_norm: largest global norm of the gradient; None means no clipping.
        muon_matrices: patterns of the parameter paths that Muon orthogonalises.
    """

    learning_rate: float
    name: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.0
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = (r"bias$", r"scale$", r"A_log$")
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    muon_matrices: tuple[str, ...] = (r"(mixer|mlp)/.*kernel$",)

    def __post_init__(self) -> None:
        """Check that every number is in its range and every pattern a regular expression."""
        ranges.check(self, "learning_rate", "eps", "clip_norm", above=0)
        ranges.check(self, "weight_decay", least=0)
        ranges.check(self, "warmup_steps", least=0, below=ranges.COUNTS)
        ranges.check(self, "b1", "b2", least=0, below=1)
        ranges.check(self, "final_fraction", least=0, most=1)
        ranges.check_patterns("no_decay", self.no_decay)
        ranges.check_patterns("muon_matrices", self.muon_matrices)

    def check_warmup(self, total_steps: int) -> None:
        """Check that the warm-up ends within a run of `total_steps` optimiser steps.

        Raises:
            ValueError: it does not.
        """
        if self.warmup_steps > total_steps:
            raise ValueError(
                f"optim.warmup_steps must be at most the {total_steps} optimiser steps of the run, "
                f"not {self.warmup_steps}: shorten it, or raise train.steps"
            )


def schedule(config: Optim, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the optimiser's step count."""
    after = max(total_steps - config.warmup_steps, 1)
    peak = config.learning_rate
    tails = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, after, config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, after),
    }
    if not config.warmup_steps:
        return tails[config.schedule]
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, tails[config.schedule]], [config.warmup_steps])


def make(config: Optim, total_steps: int) -> optax.GradientTransformation:
    """The optimiser for a run of `total_steps` optimiser steps."""
    rate = schedule(config, total_steps)
    decayed = _by_path(config.no_decay, matched=False, otherwise=True)
    adamw = optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed,
    )
    core = adamw
    if config.name == "muon":
        # Muon's own AdamW for the rest knows no mask for the decay.
        muon = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            weight_decay_mask=decayed,
            muon_weight_dimension_numbers=_last_two_axes,
        )
        labels = _by_path(config.muon_matrices, matched="muon", otherwise="adamw")
        core = optax.partition({"muon": muon, "adamw": adamw}, labels)
    if config.clip_norm is None:
        return core
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), core)


def path_string(path: tuple[Any, ...]) -> str:
    """'layer_0/mixer/query/kernel' for a path from jax.tree_util."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(
    patterns: tuple[str, ...], matched: Hashable, otherwise: Hashable
) -> Callable[[Any], Any]:
    """Function from params to a tree: `matched` where a pattern is found in the path."""

    def tree(params: Any) -> Any:
        def one(path: tuple[Any, ...], _: Any) -> Hashable:
            found = any(re.search(pattern, path_string(path)) for pattern in patterns)
            return matched if found else otherwise

        return jax.tree_util.tree_map_with_path(one, params)

    return tree


def _last_two_axes(params: Any) -> Any:
    """The matrix axes [in, out] of each parameter; axes before them number stacked layers."""
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1), params
    )
