"""Time and memory of the gated delta rule on one thread, beside the scan and PyTorch.

    python benchmarks/kernels.py                   # the table, and which goals hold
    python benchmarks/kernels.py --what=sizes      # forward against the scan at many sizes
    python benchmarks/kernels.py --what=linear     # T from 1k to 64k, drawn to --plot

Forms: "ours" is what `gated_delta` chooses, "scan" the recurrence and its autodiff, "torch" the
chunk form of transformers (the torch extra; "not installed" otherwise), which has GDN and KDA.
Nothing is timed before outputs and gradients agree at a small size. PyTorch has a process of its
own; all forms and members of one size take turns (`peers/turns.py`), pinned to one core; a time is
the smallest processor time of the undisturbed turns. B = 1, H = 4, float32; "both" is forward and
backward for random cotangents.
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
PASSES = ("forward", "both")
MEMBERS = ("gdn", "kda", "fg2", "fg2_plus")
OF_TORCH = ("gdn", "kda")
ONE_THREAD = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

# Form -> the process that runs it.
Workers = Mapping[str, turns.Contender]


class Row(NamedTuple):
    """One measurement: milliseconds; MB of temporaries, and of inputs and outputs, if known."""

    which: str
    dim: int
    length: int
    member: str
    form: str
    milliseconds: float
    temporary: float | None = None
    kept: float | None = None


def start(stack: contextlib.ExitStack) -> Workers:
    """Start the processes on one core; torch's only where it can run."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    def process(name: str, file: str) -> turns.Contender:
        command = [sys.executable, str(PEERS / file)]
        return stack.enter_context(turns.Contender(name, command, ONE_THREAD))

    jax = process("jax", "jaxlab_delta.py")
    workers = {"ours": jax, "scan": jax, "chunked": jax}
    if torch_is_missing() is None:
        workers["torch"] = process("torch", "transformers_delta.py")
    return workers


def torch_is_missing() -> str | None:
    """Why PyTorch's forms cannot run here, or None."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (the torch extra)"
    if importlib.util.find_spec("fla") is not None:
        return "flash-linear-attention is installed: transformers would call its GPU kernels"
    return None


def forms_of(member: str, workers: Workers) -> tuple[str, ...]:
    """What can run this member here."""
    return (
        ("ours", "scan", "torch") if "torch" in workers and member in OF_TORCH else ("ours", "scan")
    )


def make(
    workers: Workers,
    form: str,
    which: str,
    member: str,
    size: tuple[int, int] | None,
    folder: pathlib.Path,
) -> Mapping[str, float | None]:
    """Build the program "FORM MEMBER" of this pass; returns its memory.

    Ours is built before PyTorch's, which reads the arguments that ours has written to `folder`.
    """
    request = {"do": "make", "name": f"{form} {member}", "which": which, "member": member}
    request["arguments"] = str(folder / f"{which}_{member}.npz")
    if form != "torch":
        request |= {"form": form, "size": size}
    return workers[form].ask(**request).reply


def check_parity(member: str, workers: Workers, folder: pathlib.Path) -> None:
    """Raises an AssertionError unless all forms agree, gradients included, at a small size."""
    for which in PASSES:
        found = {}
        for form in ("scan", "chunked", *forms_of(member, workers)):
            make(workers, form, which, member, None, folder)
            path = folder / "result.npz"
            workers[form].ask(do="save", name=f"{form} {member}", path=str(path))
            with np.load(path) as file:
                found[form] = {name: file[name] for name in file.files}
        for form, arrays in found.items():
            for name, expected in found["scan"].items():
                np.testing.assert_allclose(
                    arrays[name], expected, rtol=1e-4, atol=1e-5, err_msg=f"{form} {which} {name}"
                )


def rows_of_size(
    which: str,
    dim: int,
    length: int,
    wanted: Iterable[tuple[str, str]],
    workers: Workers,
    args: argparse.Namespace,
) -> list[Row]:
    """Measures the (member, form) of one pass and size; prints a line for each."""
    calls, memory = {}, {}
    head = f"{which:<9}{dim:>4}{length:>7}"
    with tempfile.TemporaryDirectory() as folder:
        for member, form in wanted:
            if form == "torch" and member == "kda" and length * dim > args.torch_kda_limit:
                print(f"{head}  {member:<10}{form:<6}   not run: needs GBs")
                continue
            known = make(workers, form, which, member, (dim, length), pathlib.Path(folder))
            if (known["temporary"] or 0) > args.memory_limit:
                needed = f"{known['temporary'] / 1e3:.1f} GB"
                print(f"{head}  {member:<10}{form:<6}   not run: needs {needed}")
                continue
            memory[member, form] = known
            calls[member, form] = functools.partial(
                workers[form].ask, do="time", name=f"{form} {member}"
            )
        found = turns.alternate(calls, args.repeats, pause=0.0)
    for worker in set(workers.values()):
        worker.ask(do="drop")
    rows = []
    for (member, form), each in found.items():
        line = f"{head}  {member:<10}{form:<6}"
        good = turns.undisturbed(each)
        if not good:
            print(f"{line}   {turns.summary(each)}", flush=True)
            continue
        milliseconds = min(turn.reply["milliseconds"] for turn in good)
        temporary, kept = memory[member, form]["temporary"], memory[member, form]["kept"]
        rows.append(Row(which, dim, length, member, form, milliseconds, temporary, kept))
        line += f"{milliseconds:>10.2f}"
        if temporary is not None and kept is not None:
            line += f"{temporary:>10.1f}{temporary / kept:>10.2f}"
        print(line, flush=True)
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
            if row and row.kept and length == 8192:
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
    with contextlib.ExitStack() as stack:
        rows = measure(names, sizes, start(stack), args)
    if args.what == "linear":
        draw(rows, args.plot)
        print(f"drawn to {args.plot}")
    else:
        print_goals(rows)
    print(f"load {os.getloadavg()[0]:.1f}")


def measure(
    names: list[str], sizes: list[tuple[int, int]], workers: Workers, args: argparse.Namespace
) -> list[Row]:
    """Parity, then the rows of all passes and sizes."""
    with tempfile.TemporaryDirectory() as folder:
        for member in names:
            check_parity(member, workers, pathlib.Path(folder))
    versions = {name: text for each in workers.values() for name, text in each.versions.items()}
    print(f"parity holds; {versions}; {torch_is_missing() or 'PyTorch beside it'}")
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    print(f"{'pass':<9}{'D':>4}{'T':>7}  {'member':<10}{'form':<6}{'ms':>10}{'temp MB':>10}"
          f"{'temp/io':>10}")  # fmt: skip
    rows = []
    for which in ("forward",) if args.what == "sizes" else args.passes.split(","):
        for dim, length in sizes:
            forms = {"sizes": ("ours", "scan"), "linear": ("ours",)}.get(args.what)
            wanted = [
                (member, form) for member in names for form in forms or forms_of(member, workers)
            ]
            rows += rows_of_size(which, dim, length, wanted, workers, args)
    return rows


if __name__ == "__main__":
    main()
