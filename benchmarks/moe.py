"""Experts beside a dense layer of the same FLOPs, and a layer of experts beside transformers'.

    python benchmarks/moe.py [--experts 8 32 64] [--repeats 7] [--json results.json]

First part: 4,096 pairs of a token and an expert (1,024 tokens, 4 experts each), d = 256, f = 512,
by `jaxlab.nn.experts`, dispatch and combination included, over the time of one dense layer with
4,096 rows; pairs are spread evenly, or a quarter of the tokens' first choice is one expert. Second
part: the whole layer (sigmoid router, experts, a shared one) on the same weights and tokens as
transformers' DeepseekV3MoE; where outputs differ nothing is timed.

Each side is a process of its own and they take turns (`peers/turns.py`). Ratios are medians over
undisturbed rounds of wall time; those of processor time, which another program disturbs less,
stand beside them. Without torch and transformers, jaxlab is timed alone.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
PEER_PACKAGES = ("torch", "transformers")
# Largest difference of outputs whose size is about 1.
TOLERANCE = 1e-4


def main() -> int:
    """Run the benchmark; exit code 1 means that outputs differed."""
    flags = parse_flags()
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    missing = [name for name in PEER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"transformers' layer is skipped: {' and '.join(missing)} not installed")
    results = [compare(count, flags, with_peer=not missing) for count in flags.experts]
    if flags.json:
        report = {"machine": turns.machine(), "results": results}
        flags.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"wrote {flags.json}")
    return int(any(result["parity"] is False for result in results))


def parse_flags() -> argparse.Namespace:
    """Sizes of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--repeats", type=int, default=7, help="undisturbed turns of each side")
    parser.add_argument("--calls", type=int, default=10, help="calls in a turn")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results")
    return parser.parse_args()


def compare(experts: int, flags: argparse.Namespace, with_peer: bool) -> dict[str, Any]:
    """Times at one number of experts, printed line by line."""
    work = {key: getattr(flags, key) for key in ("tokens", "top_k", "dim", "width")}
    result: dict[str, Any] = {"experts": experts, "parity": None, "rows": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        text = json.dumps(work | {"experts": experts, "folder": folder})

        def start(name: str, file: str) -> turns.Contender:
            return stack.enter_context(
                turns.Contender(name, [sys.executable, str(PEERS / file), text])
            )

        ours = start("jaxlab", "jaxlab_moe.py")
        for gradient in (False, True):
            calls = {
                what: functools.partial(ours.ask, what=what, gradient=gradient, calls=flags.calls)
                for what in ("dense", "even", "quarter")
            }
            found = turns.alternate(calls, flags.repeats)
            for what in ("even", "quarter"):
                row = f"{experts} experts, {what}{', gradients' * gradient}"
                result["rows"][row] = report(
                    row, found[what], found["dense"], "a dense layer", flags.calls
                )
        if not with_peer:
            return result
        theirs = start("transformers", "transformers_moe.py")
        # They write what they compute into the folder, whose weights and tokens are ours.
        differences = [side.ask(what="save", gradient=False) for side in (ours, theirs)]
        result["parity"] = differences[1].reply["difference"] < TOLERANCE
        if not result["parity"]:
            print(f"{experts} experts: outputs differ by {differences[1].reply['difference']:.1e}")
            return result
        for gradient in (False, True):
            calls = {
                side.name: functools.partial(
                    side.ask, what="layer", gradient=gradient, calls=flags.calls
                )
                for side in (ours, theirs)
            }
            found = turns.alternate(calls, flags.repeats)
            row = f"{experts} experts, layer{', gradients' * gradient}"
            pair = (found["transformers"], found["jaxlab"])
            result["rows"][row] = report(row, *pair, "jaxlab's", flags.calls)
    return result


def report(
    row: str, one: list[turns.Turn], other: list[turns.Turn], whose: str, calls: int
) -> dict[str, Any]:
    """Print and return a ratio of times."""
    wall = turns.ratio(one, other)
    cpu = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in zip(one, other, strict=True))
    shown = f"{wall:.2f}x" if wall else "no undisturbed round;"
    milliseconds = " and ".join(
        f"{1e3 * statistics.median(turn.cpu_seconds for turn in side) / calls:.1f}"
        for side in (one, other)
    )
    print(
        f"{row:32} {shown} (processor time {cpu:.2f}x, {milliseconds} ms) the time of {whose}",
        flush=True,
    )
    sides = [[dataclasses.asdict(turn) for turn in side] for side in (one, other)]
    return {"wall": wall, "cpu": cpu, "turns": sides}


if __name__ == "__main__":
    sys.exit(main())
