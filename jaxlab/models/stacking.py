"""The same parameters with layers apart or stacked on a leading axis."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxlab.models.decoder import DecoderConfig, Params


def members(config: DecoderConfig) -> Iterator[tuple[int, int, list[int]]]:
    """Yields (stack, layer of its period, numbers of its repetitions among all layers)."""
    first = 0
    for stack, (times, layers) in enumerate(config.stacks):
        for i in range(len(layers)):
            yield stack, i, list(range(first + i, first + times * len(layers), len(layers)))
        first += times * len(layers)


def unscan(config: DecoderConfig, params: Params) -> tuple[DecoderConfig, Params]:
    """Returns the same model with its layers apart; the arguments where they already are."""
    if not config.scan_layers:
        return config, params
    rest = {name: value for name, value in params.items() if not name.startswith("stack_")}
    for stack, i, numbers in members(config):
        stacked = params[f"stack_{stack}"][f"layer_{i}"]
        for n, number in enumerate(numbers):
            rest[f"layer_{number}"] = jax.tree.map(lambda x, n=n: x[n], stacked)
    return dataclasses.replace(config, scan_layers=False), rest


def rescan(config: DecoderConfig, params: Params) -> tuple[DecoderConfig, Params]:
    """Returns the same model with its layers stacked; the arguments where they already are."""
    if config.scan_layers:
        return config, params
    rest = {name: value for name, value in params.items() if not name.startswith("layer_")}
    for stack, i, numbers in members(config):
        rest.setdefault(f"stack_{stack}", {})[f"layer_{i}"] = jax.tree.map(
            lambda *layers: jnp.stack(layers), *(params[f"layer_{number}"] for number in numbers)
        )
    return dataclasses.replace(config, scan_layers=True), rest
