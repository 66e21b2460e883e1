"""Time of block-sparse attention on this device beside dense attention, by budget.

    python benchmarks/block_sparse.py [--length=16384] [--budgets=4,8,16,32] [--repeats=3]

Prints the milliseconds of output and all gradients, forms in alternating turns, the shortest turn
of each, by the wall and, on a CPU, of processor time, which other programs disturb less: dense
attention that skips the causal half (`jaxlab_kernels.attention`, "chunked", at this length and at
half of it, which tells whether its time is proportional to its pairs), block-sparse attention at
each budget, and its router alone. Then what is to hold: the speed over dense attention at budget 8,
the time per counted block over budgets, the router's share.
"""

import argparse
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jaxlab_kernels.attention.chunked import chunked  # noqa: E402
from jaxlab_kernels.block_sparse import block_sparse, cases, routing  # noqa: E402

Call = Callable[[], Any]


def operands(length: int, heads: int, dtype: str) -> list[jax.Array]:
    """Random q, k and v of the case."""
    made = cases.make(cases.speed(length, heads), dtype=np.float32)
    return [jnp.asarray(made[name], dtype) for name in "qkv"]


def gradient(form: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Compiles the output with gradients of q, k and v, all given as arguments."""

    def total(q: jax.Array, k: jax.Array, v: jax.Array, *rest: Any) -> jax.Array:
        return jnp.sum(form(q, k, v, *rest).astype(jnp.float32) ** 2)

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))


def calls(args: argparse.Namespace) -> tuple[dict[str, Call], dict[str, float]]:
    """What is timed, by name; and the blocks that each sparse call counts."""
    scale = 64**-0.5
    given = operands(args.length, args.heads, args.dtype)
    half = operands(args.length // 2, args.heads, args.dtype)
    dense = gradient(lambda q, k, v: chunked(q, k, v, None, scale=scale, block=args.dense_block))

    def sparse_form(q: jax.Array, k: jax.Array, v: jax.Array, budget: jax.Array) -> jax.Array:
        return block_sparse(
            q, k, v, budget, block_size=args.block, implementation=args.implementation
        )[0]

    sparse = gradient(sparse_form)

    @jax.jit
    def router(q: jax.Array, k: jax.Array, budget: jax.Array) -> Any:
        batch, length, heads, _ = q.shape
        blocks = routing.find_blocks(None, batch, length, args.block)
        rows, keys = q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)
        budget = jnp.broadcast_to(budget, (batch, heads))
        return routing.route(
            rows, keys, blocks, budget, size=args.block, scale=scale, coverage_at=()
        )

    found: dict[str, Call] = {
        "dense": functools.partial(dense, *given),
        "dense, half": functools.partial(dense, *half),
    }
    counts = {}
    for budget in args.budgets:
        name = f"budget {budget}"
        found[name] = functools.partial(sparse, *given, jnp.int32(budget))
        counts[name] = float(jnp.sum(router(*given[:2], jnp.int32(budget))[2]))
    found["router at 8"] = functools.partial(router, *given[:2], jnp.int32(8))
    return found, counts


def shortest(found: dict[str, Call], repeats: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each call's shortest turn by wall and processor, after one that compiles."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for turn in range(repeats + 1):
        for name, call in found.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if turn:
                end = time.perf_counter(), time.process_time()
                times[name].append((1e3 * (end[0] - start[0]), 1e3 * (end[1] - start[1])))
    return {name: tuple(map(min, zip(*each, strict=True))) for name, each in times.items()}


def main() -> None:
    """Print the table and what is to hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--dense_block", type=int, default=128, help="of dense attention's chunks")
    parser.add_argument("--budgets", default="4,8,16,32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--implementation", help="of block_sparse; default: the platform's")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    args.budgets = [int(word) for word in args.budgets.split(",")]
    found, counts = calls(args)
    both = shortest(found, args.repeats)
    on_cpu = jax.default_backend() == "cpu"
    times = {name: each[on_cpu] for name, each in both.items()}
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}; T {args.length}, {args.heads} heads of 64, "
          f"block {args.block}, {args.dtype}")  # fmt: skip
    print(f"{'form':<14}{'wall ms':>10}{'CPU ms':>10}{'blocks':>12}{'us / block':>12}")
    for name, spent in both.items():
        blocks = counts.get(name)
        rate = 1e3 * times[name] / blocks * args.block if blocks else 0
        per = f"{blocks:>12.0f}{rate:>12.2f}" if blocks else ""
        print(f"{name:<14}{spent[0]:>10.1f}{spent[1]:>10.1f}{per}")
    pairs = (args.length + 1) / (args.length // 2 + 1) * 2
    ratio = times["dense"] / times["dense, half"]
    print(f"dense: twice the length takes {ratio:.2f}x, its pairs are {pairs:.2f}x "
          f"(within 1.2: {max(ratio / pairs, pairs / ratio):.2f})")  # fmt: skip
    if "budget 8" in times:
        print(f"dense / budget 8: {times['dense'] / times['budget 8']:.2f} (at least 2.5)")
        share = times["router at 8"] / times["budget 8"]
        print(f"router / budget 8: {share:.1%} (at most 10 %)")
    rates = [times[name] / counts[name] for name in counts]
    print(f"time per counted block, largest over smallest: {max(rates) / min(rates):.2f} "
          "(at most 1.2)")  # fmt: skip


if __name__ == "__main__":
    main()
