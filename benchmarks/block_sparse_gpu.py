"""Block-sparse attention on the accelerator at hand: agreement, then length x budget beside dense.

    make gpu-check ONLY=block_sparse
    python benchmarks/block_sparse_gpu.py [--seconds=90] [--lengths=4096,16384,65536] [--json=FILE]

First every implementation that runs here is held to masks in float64 on the CPU, gradients
included. Then the milliseconds of output and gradients in bfloat16, 16 query and 2 key heads of
128, block 256: dense attention as `jaxlab_kernels.attention` chooses it for the platform, and each
budget. Longer rows are left out, with a line, once the time is spent. Exit code 1: something
differs, or there is no accelerator.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jaxlab_kernels import attention  # noqa: E402
from jaxlab_kernels.block_sparse import block_sparse  # noqa: E402

from benchmarks import gpu_check  # noqa: E402
from benchmarks.gpu import parts  # noqa: E402

HEADS, KV_HEADS, DIM, BLOCK = 16, 2, 128, 256


def gradient(form: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Compiles the gradients of q, k and v."""

    def total(q: jax.Array, k: jax.Array, v: jax.Array, *rest: Any) -> jax.Array:
        return jnp.sum(form(q, k, v, *rest).astype(jnp.float32) ** 2)

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


def milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    """Median of five calls, after one that compiles."""
    jax.block_until_ready(call(*arguments))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def agree(device: Any, host: Any) -> bool:
    """Prints and judges a line for each implementation."""
    good = True
    for name in ("xla", "triton"):
        row = gpu_check.compare(lambda name=name: parts.block_sparse_part(name), device, host)
        print(gpu_check.told(f"block sparse, {name}", row), flush=True)
        good = good and row["ok"] is not False
    return good


def profile(lengths: list[int], budgets: list[int], end: float) -> list[dict[str, Any]]:
    """Rows of the table, printed as they come."""
    dense = gradient(attention)
    sparse = gradient(lambda q, k, v, budget: block_sparse(q, k, v, budget, block_size=BLOCK)[0])
    rows = []
    print(f"{'T':>8}{'dense ms':>10}" + "".join(f"{f'k={k}':>10}" for k in budgets))
    for length in lengths:
        if time.monotonic() > end:
            print(f"{length:>8}  not run: the time is spent")
            continue
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = [
            jax.random.normal(key, (1, length, heads, DIM), jnp.bfloat16)
            for key, heads in zip(keys, (HEADS, KV_HEADS, KV_HEADS), strict=True)
        ]
        row = {"length": length, "dense": milliseconds(dense, *arrays)}
        row |= {f"k={k}": milliseconds(sparse, *arrays, jnp.int32(k)) for k in budgets}
        print(f"{length:>8}" + "".join(f"{x:>10.2f}" for x in list(row.values())[1:]), flush=True)
        rows.append(row)
    return rows


def main() -> int:
    """Agreement, then the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--lengths", default="4096,8192,16384,32768,65536")
    parser.add_argument("--budgets", default="8,16,32,64")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    try:
        device, host = gpu_check.devices()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"jax {jax.__version__}, {device.device_kind}")
    good = agree(device, host)
    lengths, budgets = (
        [int(x) for x in words.split(",")] for words in (args.lengths, args.budgets)
    )
    rows = profile(lengths, budgets, end)
    if args.json is not None:
        args.json.write_text(json.dumps({"device": device.device_kind, "rows": rows}) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
