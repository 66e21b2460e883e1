"""Time and memory of the gated delta rule: the reference against chunks, on one thread.

    python benchmarks/kernels.py --members=kda,fg2_plus --dims=64,128 --lengths=2048,8192

Nothing is timed before outputs and gradients agree at a small size. Everything of one size runs
in turns in one process, pinned to one core; a time is the smallest processor time of the repeats.
Printed besides: chunks against the reference, and every member against KDA.
"""

import argparse
import contextlib
import ctypes
import os
import pathlib
import sys
import time


def pin_to_one_thread() -> None:
    """Before jax is imported: one core, one thread."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def keep_freed_memory() -> None:
    """As in a long run: else the first touch of every output is timed, several ms per 10 MB."""
    never_map, never_trim = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        for parameter, value in (never_map, never_trim):
            ctypes.CDLL(None).mallopt(parameter, value)


pin_to_one_thread()
keep_freed_memory()
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernels"))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jaxlab_kernels import gated_delta  # noqa: E402
from jaxlab_kernels.delta_rule import cases  # noqa: E402

PASSES = ("forward", "both")


def arguments_of(case: cases.Case) -> dict[str, jax.Array]:
    """Float32 arguments of a symmetric case."""
    arguments = cases.make(case, dtype=np.float32)
    arguments.pop("form")
    return jax.tree.map(jnp.asarray, arguments)


def program(implementation: str | None, which: str, chunk_size: int | None):
    """Jitted: arguments -> (out, state), or the gradients of the sum of both."""

    def forward(arguments):
        return gated_delta(**arguments, chunk_size=chunk_size, implementation=implementation)

    def total(arguments):
        out, state = forward(arguments)
        return jnp.sum(out) + jnp.sum(state)

    return jax.jit(forward if which == "forward" else jax.grad(total))


def check_parity(member: str, chunk_size: int | None) -> None:
    """Raises an AssertionError unless both agree, gradients included, at a small size."""
    arguments = arguments_of(cases.MEMBERS[member])
    for which in PASSES:
        results = [
            program(name, which, chunk_size)(arguments) for name in ("reference", "chunked", None)
        ]
        for result in results[1:]:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                results[0], result,
            )  # fmt: skip


def measure(programs: dict, repeats: int) -> dict[str, float]:
    """Smallest processor time in milliseconds of each (compiled, arguments).

    They take turns, each twice in a row; the second run counts, whose memory is back in the caches.
    """
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(repeats):
        for name, (compiled, arguments) in programs.items():
            jax.block_until_ready(compiled(arguments))
            start = time.process_time()
            jax.block_until_ready(compiled(arguments))
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def megabytes(compiled) -> tuple[float, float]:
    """Temporary memory, and that of inputs and outputs."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return memory.temp_size_in_bytes / 1e6, kept / 1e6


def run_size(args: argparse.Namespace, which: str, dim: int, length: int) -> None:
    """Prints the rows of one size and pass."""
    compiled = {}
    for member in args.members:
        case = cases.BENCHMARKS[f"{member}_d{dim}_t{length}"]
        arguments = arguments_of(case)
        for name in ("reference", "default"):
            if name == "reference" and which == "both" and length > args.reference_limit:
                continue
            of_name = None if name == "default" else name
            lowered = program(of_name, which, args.chunk_size).lower(arguments)
            compiled[member, name] = lowered.compile(), arguments
    times = measure(compiled, args.repeats)
    for (member, name), milliseconds in times.items():
        temporary, kept = megabytes(compiled[member, name][0])
        row = f"{which:<9}{dim:>4}{length:>6}  {member:<10}{name:<10}{milliseconds:>10.2f}"
        row += f"{temporary:>10.1f}{temporary / kept:>10.2f}"
        reference, kda = times.get((member, "reference")), times.get(("kda", "default"))
        if name == "default":
            row += f"{reference / milliseconds:>10.2f}" if reference else f"{'-':>10}"
            row += f"{milliseconds / kda:>10.2f}" if kda else f"{'-':>10}"
        print(row, flush=True)


def main() -> None:
    """Parity, then one table."""
    known = sorted({name.rsplit("_d", 1)[0] for name in cases.BENCHMARKS})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", default="kda,fg2_plus", help=", ".join(known))
    parser.add_argument("--dims", default="64,128", help="head sizes: 64, 128")
    parser.add_argument("--lengths", default="2048,8192", help="tokens: 2048, 8192")
    parser.add_argument("--passes", default="forward,both", help="forward, both (with gradients)")
    parser.add_argument("--chunk_size", type=int, help="default: the implementation's choice")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--reference_limit", type=int, default=2048,
        help="longest T whose gradient the reference takes: it keeps T states (8 GB at 8192, 128)",
    )  # fmt: skip
    args = parser.parse_args()
    args.members = args.members.split(",")
    sizes = [(int(dim), int(length))
             for dim in args.dims.split(",") for length in args.lengths.split(",")]  # fmt: skip
    for member in args.members:
        for dim, length in sizes:
            if f"{member}_d{dim}_t{length}" not in cases.BENCHMARKS:
                parser.error(f"there is no case {member} with head size {dim} and {length} tokens")
    for which in args.passes.split(","):
        if which not in PASSES:
            parser.error(f"--passes={which!r} is not one of {', '.join(PASSES)}")
    for member in args.members:
        check_parity(member, args.chunk_size)
    print("parity holds; B = 1, H = 4, float32, one thread; 'both' is forward and backward")
    print(f"{'pass':<9}{'D':>4}{'T':>6}  {'member':<10}{'form':<10}{'ms':>10}{'temp MB':>10}"
          f"{'temp/io':>10}{'speed-up':>10}{'vs kda':>10}")  # fmt: skip
    for which in args.passes.split(","):
        for dim, length in sizes:
            run_size(args, which, dim, length)


if __name__ == "__main__":
    main()
