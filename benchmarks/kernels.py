"""Time and memory of the gated delta rule on one thread, beside the scan and PyTorch.

    python benchmarks/kernels.py                   # the table, and which goals hold
    python benchmarks/kernels.py --what=sizes      # forward against the scan at many sizes
    python benchmarks/kernels.py --what=linear     # T from 1k to 64k, drawn to --plot

Forms: "ours" is what `gated_delta` chooses, "scan" the recurrence and its autodiff, "torch" the
chunk form of transformers (the torch extra; "not installed" otherwise), which has GDN and KDA.
Nothing is timed before outputs and gradients agree at a small size. All forms and members of one
size take turns in one process, pinned to one core; a time is the smallest processor time of the
repeats. B = 1, H = 4, float32; "both" is forward and backward for random cotangents.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import math
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


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
from peers import transformers_delta as torch_form  # noqa: E402

PASSES = ("forward", "both")
MEMBERS = ("gdn", "kda", "fg2", "fg2_plus")


class Row(NamedTuple):
    """One measurement: milliseconds; MB of temporaries, and of inputs and outputs, if known."""

    which: str
    dim: int
    length: int
    member: str
    form: str
    milliseconds: float
    temporary: float = math.nan
    kept: float = math.nan


class Program(NamedTuple):
    """A call without arguments, and its memory as in `Row`."""

    call: Callable[[], Any]
    temporary: float = math.nan
    kept: float = math.nan


def case_of(member: str, dim: int, length: int) -> cases.Case:
    """B = 1, H = 4."""
    sizes = {"batch": 1, "length": length, "heads": 4, "value_heads": 4}
    return dataclasses.replace(cases.MEMBERS[member], **sizes, key_dim=dim, value_dim=dim)


def arguments_of(case: cases.Case) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Float32 arguments of a symmetric case, and cotangents of out and state."""
    arguments = cases.make(case, dtype=np.float32)
    arguments.pop("form")
    rng = np.random.default_rng(1)
    shapes = [arguments[name].shape for name in ("v", "initial_state")]
    return arguments, tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def program(form: str, which: str, member: str, case: cases.Case) -> Program:
    """Compiled: (out, state), or the gradients by name."""
    arguments, weights = arguments_of(case)
    if form == "torch":
        return Program(torch_form.program(member, arguments, weights if which == "both" else None))
    implementation = {"ours": None, "scan": "reference"}.get(form, form)

    def forward(arguments):
        return gated_delta(**arguments, implementation=implementation)

    def gradients(arguments, weights):
        return jax.vjp(forward, arguments)[1](weights)[0]

    arrays = jax.tree.map(jnp.asarray, (arguments, weights))
    given = arrays if which == "both" else arrays[:1]
    compiled = jax.jit(gradients if which == "both" else forward).lower(*given).compile()
    memory = compiled.memory_analysis()
    return Program(
        lambda: jax.block_until_ready(compiled(*given)),
        memory.temp_size_in_bytes / 1e6,
        (memory.argument_size_in_bytes + memory.output_size_in_bytes) / 1e6,
    )


def forms_of(member: str) -> tuple[str, ...]:
    """What can run this member here."""
    has_peer = member in torch_form.FUNCTIONS and torch_form.missing() is None
    return ("ours", "scan", "torch") if has_peer else ("ours", "scan")


def check_parity(member: str) -> None:
    """Raises an AssertionError unless all forms agree, gradients included, at a small size."""
    for which in PASSES:
        case = cases.MEMBERS[member]
        expected = program("scan", which, member, case).call()
        for form in ("chunked", *forms_of(member)):
            result = program(form, which, member, case).call()
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
                result, type(result)(expected),
            )  # fmt: skip


def measure(programs: dict[Any, Program], repeats: int) -> dict[Any, float]:
    """Smallest processor time in milliseconds of each, without its first call.

    They take turns, each twice in a row; the second run counts, whose memory is back in the caches.
    Short ones run as often as fills 5 ms, and the mean of that counts.
    """
    best = dict.fromkeys(programs, math.inf)
    inner = {}
    for name, each in programs.items():
        each.call()
        start = time.process_time()
        each.call()
        inner[name] = max(1, math.ceil(0.005 / max(time.process_time() - start, 1e-5)))
    for _ in range(repeats):
        for name, each in programs.items():
            each.call()
            start = time.process_time()
            for _ in range(inner[name]):
                each.call()
            spent = 1e3 * (time.process_time() - start) / inner[name]
            best[name] = min(best[name], spent)
    return best


def rows_of_size(
    which: str, dim: int, length: int, wanted: Iterable[tuple[str, str]], args: argparse.Namespace
) -> list[Row]:
    """Measures the (member, form) of one pass and size; prints a line for each."""
    programs = {}
    for member, form in wanted:
        if form == "torch" and member == "kda" and length * dim > args.torch_kda_limit:
            print(f"{which:<9}{dim:>4}{length:>7}  {member:<10}{form:<6}   not run: needs GBs")
            continue
        each = program(form, which, member, case_of(member, dim, length))
        if each.temporary > args.memory_limit:
            print(f"{which:<9}{dim:>4}{length:>7}  {member:<10}{form:<6}   "
                  f"not run: needs {each.temporary / 1e3:.1f} GB")  # fmt: skip
            continue
        programs[member, form] = each
    times = measure(programs, args.repeats)
    rows = []
    for (member, form), milliseconds in times.items():
        each = programs[member, form]
        rows.append(Row(which, dim, length, member, form, milliseconds, *each[1:]))
        memory = "" if math.isnan(each.kept) else (
            f"{each.temporary:>10.1f}{each.temporary / each.kept:>10.2f}"
        )  # fmt: skip
        print(f"{which:<9}{dim:>4}{length:>7}  {member:<10}{form:<6}{milliseconds:>10.2f}{memory}",
              flush=True)  # fmt: skip
    return rows


def goals(rows: list[Row]) -> list[tuple[str, str, float, bool]]:
    """(goal, size, measured ratio, holds) of all that was measured."""
    table = {row[:5]: row for row in rows}
    found = []

    def compare(name, which, size, above, below, bound, at_least):
        slow, fast = (table.get((which, *size, *x)) for x in (above, below))
        if slow and fast:
            ratio = slow.milliseconds / fast.milliseconds
            holds = ratio >= bound if at_least else ratio <= bound
            found.append((name, f"{which}, D={size[0]}, T={size[1]}", ratio, holds))

    for size in sorted({row[1:3] for row in rows}):
        dim, length = size
        for member in MEMBERS:
            scan, ours = (member, "scan"), (member, "ours")
            compare(f"scan / ours {member} >= 1", "forward", size, scan, ours, 1, True)
            bound = 6 if dim == 64 else 9
            compare(f"scan / ours {member} >= {bound}", "both", size, scan, ours, bound, True)
        kda, gdn, plus = ("kda", "ours"), ("gdn", "ours"), ("fg2_plus", "ours")
        peer, kimi = ("gdn", "torch"), ("kda", "torch")
        compare("torch kda / ours kda >= 12", "both", size, kimi, kda, 12, True)
        least = 2 if length >= 8192 else 1
        for which in PASSES:
            compare(f"torch gdn / ours gdn >= {least}", which, size, peer, gdn, least, True)
            compare("ours kda / torch gdn <= 1.6", which, size, kda, peer, 1.6, False)
        compare("fg2_plus / kda <= 1.10", "forward", size, plus, kda, 1.10, False)
        compare("fg2_plus / kda <= 1.15", "both", size, plus, kda, 1.15, False)
        for member in MEMBERS:
            row = table.get(("both", *size, member, "ours"))
            if row and length == 8192:
                ratio = row.temporary / row.kept
                found.append((f"temporaries / inputs and outputs {member} <= 2",
                              f"both, D={dim}, T={length}", ratio, ratio <= 2))  # fmt: skip
    return found


def print_goals(rows: list[Row]) -> None:
    """One line per goal and size."""
    print(f"\n{'goal':<50}{'at':<28}{'measured':>9}  holds")
    for name, size, ratio, holds in goals(rows):
        print(f"{name:<50}{size:<28}{ratio:>9.2f}  {'yes' if holds else 'NO'}")


def draw(rows: list[Row], path: pathlib.Path) -> None:
    """Time over T, both axes logarithmic, with a straight line through the first point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.8))
    axes = figure.subplots()
    for which, style in zip(PASSES, ("--", "-"), strict=True):
        for color, member in enumerate(dict.fromkeys(row.member for row in rows)):
            points = sorted((r.length, r.milliseconds) for r in rows
                            if (r.which, r.member) == (which, member))  # fmt: skip
            label = f"{member}, {'forward' if which == 'forward' else 'forward + backward'}"
            axes.plot(*zip(*points, strict=True), style, color=f"C{color}", marker=".", label=label)
            if member == "kda":
                (first, time_), *_ = points
                lengths = [length for length, _ in points]
                axes.plot(lengths, [time_ * x / first for x in lengths], color="gray", lw=0.8,
                          ls=":", label="linear" if which == "both" else None)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="T (tokens)", ylabel="processor time (ms)",
             title=f"Gated delta rule, D = {rows[0].dim}, H = 4, float32, one core")  # fmt: skip
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parity, then one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("goals", "sizes", "linear"), default="goals")
    parser.add_argument("--members", help=f"{','.join(MEMBERS)}; default: by --what")
    parser.add_argument("--dims", help="head sizes; default: by --what")
    parser.add_argument("--lengths", help="tokens; default: by --what")
    parser.add_argument("--passes", default="forward,both", help="forward, both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory_limit", type=float, default=5000, help="MB of temporaries")
    parser.add_argument("--torch_kda_limit", type=int, default=8192 * 64,
                        help="largest T D of torch's KDA, which keeps arrays T D 64 H")  # fmt: skip
    parser.add_argument("--plot", type=pathlib.Path, default="gated_delta_time.png")
    args = parser.parse_args()
    members, dims, lengths = {
        "goals": ("gdn,kda,fg2_plus", "64,128", "2048,8192"),
        "sizes": ("gdn,fg2_plus", "32,64,128,256", "1,17,64,512,2048"),
        "linear": ("gdn,kda,fg2_plus", "64", "1024,2048,4096,8192,16384,32768,65536"),
    }[args.what]
    names = (args.members or members).split(",")
    sizes = [(int(dim), int(length)) for dim in (args.dims or dims).split(",")
             for length in (args.lengths or lengths).split(",")]  # fmt: skip
    for which in args.passes.split(","):
        if which not in PASSES:
            parser.error(f"--passes={which!r} is not one of {', '.join(PASSES)}")
    if unknown := set(names) - set(MEMBERS):
        parser.error(f"--members={', '.join(unknown)}: expected {', '.join(MEMBERS)}")
    for member in names:
        check_parity(member)
    missing = torch_form.missing()
    print(f"parity holds; jax {jax.__version__}, {missing or torch_form.versions()}; "
          f"{platform.machine()}, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"{'pass':<9}{'D':>4}{'T':>7}  {'member':<10}{'form':<6}{'ms':>10}{'temp MB':>10}"
          f"{'temp/io':>10}")  # fmt: skip
    rows = []
    for which in ("forward",) if args.what == "sizes" else args.passes.split(","):
        for dim, length in sizes:
            forms = {"sizes": ("ours", "scan"), "linear": ("ours",)}.get(args.what)
            wanted = [(member, form) for member in names for form in forms or forms_of(member)]
            rows += rows_of_size(which, dim, length, wanted, args)
    if args.what == "linear":
        draw(rows, args.plot)
        print(f"drawn to {args.plot}")
    else:
        print_goals(rows)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
