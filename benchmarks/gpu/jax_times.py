"""The operation as JAX calls it, on the same arguments: through jax-triton, and by XLA alone.

Times are wall times of calls that follow one another without waiting, divided by their number.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxlab_kernels import gated_delta, gated_delta_step
from jaxlab_kernels.dispatch import Refusal

from benchmarks.gpu.checks import reason
from benchmarks.gpu.operands import Given, distance
from benchmarks.gpu.times import GRADIENTS, PARITY, Form, Timer, both

IMPLEMENTATIONS = ("triton", "chunked")
STEPS = ("triton", "xla")


def platform() -> str:
    """Where JAX runs; the reason where it cannot start."""
    try:
        return jax.default_backend()
    except RuntimeError as error:
        return reason(error)


def to_jax(x: torch.Tensor) -> jax.Array:
    """The same numbers; bfloat16 goes by float32, which holds it."""
    return jnp.asarray(x.detach().float().cpu().numpy()).astype(str(x.dtype).split(".")[1])


def to_torch(x: jax.Array) -> torch.Tensor:
    """In float32, on the CPU."""
    return torch.from_numpy(np.array(x.astype(jnp.float32)))


def passes(implementation: str, given: Given, d_out: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Pass -> call: the output, or the output and the gradients of all six arguments."""
    arrays, state, cotangent = map(to_jax, given[:6]), to_jax(given.state), to_jax(d_out)
    arrays = tuple(arrays)

    def forward(*arrays: jax.Array) -> jax.Array:
        return gated_delta(*arrays, scale=1.0, initial_state=state,
                           implementation=implementation)[0]  # fmt: skip

    @jax.jit
    def with_gradients(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(forward, *arrays)
        return (out, *pull(cotangent))

    return {"forward": functools.partial(jax.jit(forward), *arrays),
            "both": functools.partial(with_gradients, *arrays)}  # fmt: skip


def wall_ms(call: Callable[[], Any], repeats: int = 5, calls: int = 5) -> float:
    """Median over repeats."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)][-1])
        times.append((time.perf_counter() - begin) / calls)
    return 1e3 * statistics.median(times)


def time_jax(
    implementation: str, given: Given, expected: Form, timer: Timer = wall_ms
) -> list[dict[str, Any]]:
    """Rows of both passes, compared with `expected` before they are timed.

    A row has ok, True, False or None (cannot run here), beside ms or a reason.
    """
    name = f"ours (jax, {implementation})"
    rows: list[dict[str, Any]] = [{"what": name, "pass": which} for which in ("forward", "both")]
    try:
        torch.manual_seed(1)
        d_out = torch.randn_like(given.v)
        calls = passes(implementation, given, d_out)
        pairs = zip(map(to_torch, calls["both"]()), both(expected, given, d_out), strict=True)
        far = {
            n: distance(x, y.cpu()) for n, (x, y) in zip(("out", *GRADIENTS), pairs, strict=True)
        }
        worst = max(far, key=far.__getitem__)
        if not far[worst] <= PARITY:
            why = f"differs on the same arguments: worst {worst} {far[worst]:.1e}; not timed"
            return [{**row, "ok": False, "reason": why} for row in rows]
        parity = {"ok": True, "parity": far[worst], "parity_worst": worst}
        return [{**row, **parity, "ms": timer(calls[row["pass"]])} for row in rows]
    except Refusal as error:  # not possible here, which is no fault of the kernels
        return [{**row, "ok": None, "reason": f"not run: {error}"} for row in rows]
    except Exception as error:  # memory, a compiler, a driver: the other rows go on
        return [{**row, "ok": False, "reason": reason(error)} for row in rows]


def _step(implementation: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    def call(state: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        return gated_delta_step(*arrays, state=state, scale=1.0, implementation=implementation)

    return jax.jit(call, donate_argnums=0)


def check_step(
    implementation: str, x: tuple[torch.Tensor, ...], expected: Callable[..., Any]
) -> dict[str, float]:
    """Distances of one decoding step, output and state, from that of `expected` on tensors."""
    *arrays, state = map(to_jax, x)
    pairs = zip(_step(implementation)(state, *arrays), expected(x), strict=True)
    return {n: distance(to_torch(y), z.cpu())
            for n, (y, z) in zip(("out", "state"), pairs, strict=True)}  # fmt: skip


def step_ms(implementation: str, x: tuple[torch.Tensor, ...]) -> float:
    """Of steps that follow one another, each with the state that the last one left."""
    *arrays, state = map(to_jax, x)
    call = _step(implementation)

    def next_step() -> jax.Array:
        nonlocal state
        out, state = call(state, *arrays)
        return out

    return wall_ms(next_step, calls=20)
