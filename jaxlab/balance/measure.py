"""Timing one sparse layer on this device, for `LatencyTable.profile`."""

import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Runs the layer once, forwards and backwards, and returns when it is done.
Work = Callable[[], Any]


def profile(
    table: Any,
    model: Any,
    *,
    lengths: Sequence[int],
    budgets: Sequence[int],
    repeats: int,
    progress: Callable[[str], None] | None,
    clock: Callable[[], float] | None = None,
) -> Any:
    """See `LatencyTable.profile`; `table` is the class."""
    clock = clock or time.perf_counter
    for name, values in (("lengths", lengths), ("budgets", budgets)):
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise ValueError(f"{name} are {list(values)}: expected different counts from 1")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: expected at least 1")
    lengths, budgets = sorted(lengths), sorted(budgets)
    config = _config(model)
    layers = len(_sparse(config)) if hasattr(config, "layers") else 1
    make = _of_decoder(config) if hasattr(config, "layers") else model
    seconds = []
    for length in lengths:
        works = [make(length, budget) for budget in budgets]
        for work in works:
            work()
        # Budgets take turns, so that a machine that slows down does so for all of them.
        turns = [[_seconds(work, clock) for work in works] for _ in range(repeats)]
        seconds.append(tuple(np.min(turns, axis=0).tolist()))
        if progress is not None:
            cells = ", ".join(f"{1e3 * x:.2f}" for x in seconds[-1])
            progress(f"{length} tokens: {cells} ms at budgets {', '.join(map(str, budgets))}")
    return table(
        tuple(lengths), tuple(budgets), tuple(seconds), device=device(), layers=layers,
        model=describe(config) if hasattr(config, "layers") else _name(model),
    )  # fmt: skip


def errors(
    table: Any,
    model: Any,
    points: Sequence[tuple[int, int]],
    repeats: int = 3,
    clock: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """How far a table's predictions are from what is measured now.

    Args:
        table: a `LatencyTable` of this model and device.
        model: see `LatencyTable.profile`.
        points: (length, budget), best between the table's own.
        repeats: timed calls of each, after one that compiles; the shortest counts.
        clock: see `LatencyTable.profile`.

    Returns:
        For each point length, budget, measured and predicted seconds, and the relative error.
    """
    clock = clock or time.perf_counter
    config = _config(model)
    make = _of_decoder(config) if hasattr(config, "layers") else model
    rows = []
    for length, budget in sorted(points):
        work = make(length, budget)
        work()
        seconds = min(_seconds(work, clock) for _ in range(repeats))
        predicted = table.predict(length, budget)
        rows.append({"length": length, "budget": budget, "measured": seconds,
                     "predicted": predicted, "error": predicted / seconds - 1})  # fmt: skip
    return rows


def _config(model: Any) -> Any:
    """Returns the config of a decoder or of sizes, and anything else as it is."""
    config = getattr(model, "config", model)
    return config.decoder() if hasattr(config, "decoder") else config


def device() -> str:
    """This process's device as tables name it, such as "NVIDIA H200"."""
    return jax.devices()[0].device_kind


def describe(config: Any) -> str:
    """A decoder's sparse layer in words, as tables name it: what its time depends on."""
    layer = _sparse(config)[0]
    mixer, mlp = layer.mixer, layer.mlp
    wide = 0 if mlp is None else getattr(mlp, "intermediate_size", type(mlp).__name__)
    return (
        f"hidden {config.hidden_size}, {mixer.num_heads}/{mixer.num_kv_heads} heads of "
        f"{mixer.head_dim}, block {mixer.block_size}, mlp {wide}, {config.dtype}"
    )


def _sparse(config: Any) -> list[Any]:
    found = [layer for layer in config.layers if layer.mixer.name == "block_sparse"]
    if not found:
        names = sorted({layer.mixer.name for layer in config.layers})
        raise ValueError(
            f"the model has no block_sparse layer (its mixers: {', '.join(names)}): set "
            "model.mixer.name=block_sparse"
        )
    return found


def _of_decoder(config: Any) -> Callable[[int, int], Work]:
    """(length, budget) -> one layer's gradient step on random numbers, compiled once per length."""
    layer = _sparse(config)[0]
    shared = {
        "model_dim": config.hidden_size,
        "dtype": config.dtype,
        "param_dtype": config.param_dtype,
        "parent": None,
    }
    mixer = layer.mixer.module(norm_eps=config.norm_eps, **shared)
    mlp = None if layer.mlp is None else layer.mlp.module(**shared)

    def context(length: int, budget: Any) -> Any:
        # The fields of jaxlab.nn.context.Context, which may not be imported from here.
        positions = jnp.arange(length)[None]
        return types.SimpleNamespace(
            positions=positions, segment_ids=None, slot=None, start=None, budget=budget
        )

    def layer_of(params: Any, x: jax.Array, budget: Any) -> jax.Array:
        x = x + mixer.apply({"params": params[0]}, x, context(x.shape[1], budget))
        return x if mlp is None else x + mlp.apply({"params": params[1]}, x)

    @jax.jit
    def step(params: Any, x: jax.Array, budget: Any) -> Any:
        return jax.grad(lambda p, x: jnp.sum(layer_of(p, x, budget) ** 2), (0, 1))(params, x)

    made: dict[int, Any] = {}

    def make(length: int, budget: int) -> Work:
        if length not in made:
            x = jax.random.normal(jax.random.key(0), (1, length, config.hidden_size), config.dtype)
            short = x[:, :1]
            params = [mixer.init(jax.random.key(1), short, context(1, None))["params"]]
            if mlp is not None:
                params.append(mlp.init(jax.random.key(2), short)["params"])
            made.clear()
            made[length] = (params, x)
        params, x = made[length]
        return lambda: jax.block_until_ready(step(params, x, jnp.int32(budget)))

    return make


def _seconds(work: Work, clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)
