"""Time and memory of attention's XLA forms on this device, by length, in alternating turns.

    python benchmarks/attention.py [--lengths=t128,t256,t512] [--repeats=5]

Prints, for each case of `jaxlab_kernels.attention.cases.BENCHMARKS` and each form, the median
milliseconds of the output and of the output with all gradients, and the temporaries of the latter.
The whole form is left out where its scores would take more than 2 GiB. `api.SHORT` and
`chunked.BLOCK` come from this table.
"""

import argparse
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernels"))

import jax
import jax.numpy as jnp
import numpy as np
from jaxlab_kernels.attention import cases
from jaxlab_kernels.attention.chunked import chunked
from jaxlab_kernels.attention.whole import whole

BLOCKS = (64, 128, 256, 512)
MOST_SCORES = 2 << 30


def forms(case: cases.Case) -> dict[str, Callable[..., jax.Array]]:
    """The forms to time, by name."""
    found: dict[str, Callable[..., jax.Array]] = {
        f"chunked, {block}": functools.partial(chunked, block=block)
        for block in BLOCKS
        if block <= case.length
    }
    if case.batch * case.heads * case.length**2 * 4 <= MOST_SCORES:
        found["whole"] = whole
    return found


def programs(form: Callable[..., jax.Array], arrays: dict[str, jax.Array]) -> tuple[Any, Any]:
    """Compiled (output, output with gradients of all arguments)."""

    def output(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return form(query, key, value, None, scale=query.shape[-1] ** -0.5)

    def total(*given: jax.Array) -> jax.Array:
        return jnp.sum(output(*given) ** 2)

    gradient = jax.value_and_grad(total, argnums=(0, 1, 2))
    return tuple(jax.jit(f).lower(*arrays.values()).compile() for f in (output, gradient))


def milliseconds(program: Any, arrays: dict[str, jax.Array]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(program(*arrays.values()))
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default=",".join(cases.BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    print(f"{'case':8} {'form':14} {'ms':>9} {'with gradients':>15} {'temporaries, MiB':>17}")
    for name in args.lengths.split(","):
        if name not in cases.BENCHMARKS:
            parser.error(f"--lengths={name!r} is not one of {', '.join(cases.BENCHMARKS)}")
        case = cases.BENCHMARKS[name]
        made = cases.make(case, dtype=np.float32)
        arrays = {key: jnp.asarray(made[key]) for key in ("query", "key", "value")}
        compiled = {form: programs(call, arrays) for form, call in forms(case).items()}
        times: dict[str, list[list[float]]] = {form: [[], []] for form in compiled}
        for turn in range(args.repeats + 1):
            for form, pair in compiled.items():
                for i, program in enumerate(pair):
                    spent = milliseconds(program, arrays)
                    if turn:  # the first one warms up
                        times[form][i].append(spent)
        for form, (out, both) in times.items():
            memory = compiled[form][1].memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"{name:8} {form:14} {statistics.median(out):9.2f} {statistics.median(both):15.2f} "
                f"{memory:17.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
