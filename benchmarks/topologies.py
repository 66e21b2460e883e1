"""What the papers' runs would take of chips that are not here: a table of compiled programs.

    python benchmarks/topologies.py --out=benchmarks/results/DATE-topologies.md [--runs=DIR]
        [--only=aopd,scope] [--seconds=600]

Each run is a door with --compile_only in a process of its own, which may take so many seconds; what
it found stays in the directory of --runs, so that the same command goes on where one was stopped.
No number is measured on a chip: the table's head says what is exact and what is not.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
QWEN = ("--config.student.preset=qwen3-8b", "--config.teacher.preset=qwen3-32b")
SMALL = ("--config.student.preset=qwen2.5-1.5b", "--config.teacher.preset=qwen2.5-7b")
SPLIT = "--config.mesh.shape={'data': -1, 'model': 4}"


class Run(NamedTuple):
    """A published run: what it is, and the door's flags."""

    title: str
    door: str
    flags: tuple[str, ...]


RUNS = {
    "aopd": Run(
        "AOPD, Qwen3-8B <- Qwen3-32B",
        "train",
        ("--config=configs/aopd_gsm8k.py", *QWEN, SPLIT, "--topology=v5p:64"),
    ),
    "scope": Run(
        "SCOPE, 1.5B <- 7B (Qwen2.5)",
        "train",
        ("--config=configs/scope_gsm8k.py", *SMALL, "--topology=h100:8"),
    ),
    "fg2_340m": Run(
        "FG2-GDN, 340M",
        "train",
        ("--config=configs/pretrain_text.py:340m", "--config.train.microbatch=16",
         "--topology=v5p:16"),
    ),
    "fg2_1.3b": Run(
        "FG2-GDN, 1.3B",
        "train",
        ("--config=configs/pretrain_text.py:340m", "--config.model.preset=fg2-gdn-1.3b",
         "--config.train.microbatch=16", "--topology=v5p:16"),
    ),
    "balance": Run(
        "SparseBalance, Qwen2.5-3B, rows of 73,728",
        "train",
        ("--config=configs/sparse_balance_longalign.py", "--config.model.preset=qwen2.5-3b",
         "--config.model.sizes={'dtype': 'bfloat16', 'remat': True, 'scan_layers': True, "
         "'max_position': 73728}", "--topology=h100:4"),
    ),
    "skill1": Run(
        "Skill1, Qwen2.5-7B",
        "train",
        ("--config=configs/skill1_alfworld.py", "--config.model.preset=qwen2.5-7b",
         "--topology=h100:8"),
    ),
    "async_tls": Run(
        "AsyncTLS, Qwen3-8B at 96k, two levels",
        "evaluate",
        ("--config=benchmarks/long_decoding.py", "--topology=h100:1"),
    ),
    "dense": Run(
        "Qwen3-8B at 96k, dense attention",
        "evaluate",
        ("--config=benchmarks/long_decoding.py:dense", "--topology=h100:1"),
    ),
}  # fmt: skip

HEAD = """# The papers' runs on chips that are not here

    python benchmarks/topologies.py --out={out}

Nothing was run: seconds are rooflines, not measurements. The devices are fake CPU devices with a
chip's published numbers (`jaxlab/runtime/chips.py`), since XLA's compiler for TPUs had not finished
the 340M step after seven minutes on a core that others used too. Rows with "?" were traced and not
compiled (`--trace`): their memory is a bound from below, without activations, their memory seconds
are those of reading arguments once (in sampling: params and half of the cache for every token),
and their messages are not known.

- Exact: bytes of parameters, optimiser, batch and cache; FLOPs of the matrix products, in equal
  shares, but where a note below the table says that they are too few.
- XLA:CPU's, not an accelerator's: temporaries (attention and delta rule are XLA's loops here and
  kernels there; products of bfloat16 are float32 here), and the messages (reduce-scatter is an
  all-reduce here). They are bounds from above, at times by far.
- A roofline is the longest of FLOPs at the chip's peak, bytes of the matrix products at its
  bandwidth, and bytes sent at its network's. A real step takes two to three times the first at the
  usual 30 to 50 % of the peak.
- Sampling is to the last token of the longest completion; all rows are as long as they may be.
- The configs are the repository's; where a paper's batch is not known, so is theirs.

Memory is GiB of each chip; "others" are teacher, reference, copies for decoding and the batch.

"""
COLUMNS = (
    "run", "chips", "program", "params", "optimiser", "others", "temporaries", "total of",
    "PFLOPs, all chips", "compute s", "memory s", "network s",
)  # fmt: skip


def main() -> None:
    """Compile what has not been, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--runs", type=pathlib.Path)
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trace", action="store_true", help="Only trace them.")
    options = parser.parse_args()
    runs = options.runs or pathlib.Path(tempfile.mkdtemp())
    for name in options.only.split(","):
        folder = runs / f"{name}_traced" if options.trace else runs / name
        compile_one(RUNS[name], folder, options.seconds, trace=options.trace)
    lines = [line for name, run in RUNS.items() for line in rows(run, best(runs, name))]
    commands = [
        f"    python -m jaxlab.{run.door} --compile_only {' '.join(map(quoted, run.flags))}"
        for run in RUNS.values()
    ]
    problems = [line for name in RUNS for line in told(name, best(runs, name))]
    head = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    parts = [*head, *lines, "", *problems, "", "The commands:", "", *commands]
    out = f"{options.out} --trace" if options.trace else options.out
    options.out.write_text(HEAD.format(out=out) + "\n".join(parts) + "\n")


def best(runs: pathlib.Path, name: str) -> pathlib.Path:
    """Where a run was compiled, or else was traced."""
    compiled = (runs / name / "ahead.json").exists()
    return runs / (name if compiled else f"{name}_traced")


def compile_one(run: Run, folder: pathlib.Path, seconds: float, *, trace: bool) -> None:
    """Run the door, unless it has been."""
    if (folder / "ahead.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", f"jaxlab.{run.door}", "--compile_only", *run.flags]
    command += ["--trace_only"] * trace
    with (folder / "log").open("w") as log:
        try:
            subprocess.run(
                [*command, f"--workdir={folder}"], cwd=ROOT, timeout=seconds, stdout=log,
                stderr=log, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            (folder / "slow").write_text(f"not compiled within {seconds:.0f} s on one core\n")


def rows(run: Run, folder: pathlib.Path) -> list[str]:
    """Lines of the table."""
    chips = next(flag for flag in run.flags if flag.startswith("--topology=")).partition("=")[2]
    if not (folder / "ahead.json").exists():
        slow = folder / "slow"
        why = slow.read_text().strip() if slow.exists() else "not compiled"
        return [f"| {run.title} | {chips} | {why} |" + " |" * (len(COLUMNS) - 3)]
    found = json.loads((folder / "ahead.json").read_text())
    lines = []
    for one in (one for programs in found["programs"].values() for one in programs):
        memory = dict(one["memory"])
        cache = memory.pop("cache", 0)
        params, optimiser, temporaries = (
            memory.pop(kind, 0) for kind in ("params", "optimiser", "temporaries")
        )
        mesh = " x ".join(f"{name} {size}" for name, size in one["mesh"].items())
        devices = 1
        for size in one["mesh"].values():
            devices *= size
        held = f"{gib(temporaries)}" + (f" (cache {gib(cache)})" if cache else "")
        traced = "network" not in one["seconds"]
        if traced:
            held = f"cache {gib(cache)}" if cache else "?"
        fits = "" if one["fits"] else "**too large:** "
        seconds = " | ".join(
            f"{one['seconds'][kind]:.3g}" if kind in one["seconds"] else "?"
            for kind in ("compute", "memory", "network")
        )
        cells = [
            run.title, f"{chips} ({mesh})", one["name"], gib(params), gib(optimiser),
            gib(sum(memory.values())), held,
            f"{fits}{'at least ' * traced}{gib(one['total'])} of {gib(one['capacity'])}",
            f"{one['flops'] * devices / 1e15:.3g}", seconds,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def told(name: str, folder: pathlib.Path) -> list[str]:
    """What the door said of programs that do not fit, and notes but the usual one."""
    if not (folder / "ahead.json").exists():
        return []
    found = json.loads((folder / "ahead.json").read_text())
    notes = [
        note
        for programs in found["programs"].values()
        for one in programs
        for note in one["notes"]
        if "XLA:CPU" not in note and not note.startswith("traced")
    ]
    return [f"- {name}: {line}" for line in dict.fromkeys([*notes, *found["problems"]])]


def gib(count: float) -> str:
    """GiB of a chip."""
    return f"{count / 2**30:.2f}"


def quoted(flag: str) -> str:
    """A word of the shell."""
    return f'"{flag}"' if " " in flag else flag


if __name__ == "__main__":
    main()
