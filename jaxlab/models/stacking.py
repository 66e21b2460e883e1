"""Layers apart or stacked on a leading axis: of which patterns, and the same parameters as both."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxlab.models.decoder import DecoderConfig, Params, Stack
from jaxlab.nn.layers import Layer


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


def shortest_period(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Returns the shortest tuple that, repeated a whole number of times, gives `layers`."""
    periods = (n for n in range(1, len(layers) + 1) if len(layers) % n == 0)
    return next(layers[:n] for n in periods if layers[:n] * (len(layers) // n) == layers)


def stacks_of(layers: tuple[Layer, ...]) -> tuple[Stack, ...]:
    """Stacks of these layers, as few as repetitions allow: dense layers first, then a pattern."""
    period = shortest_period(layers)
    if len(period) < len(layers) or len(layers) == 1:
        return ((len(layers) // len(period), period),)
    run = next(n for n, layer in enumerate(layers) if layer != layers[0])
    return ((run, layers[:1]), *stacks_of(layers[run:]))
