"""Time and memory of a distillation loss with its gradient: dense [N, V], chunked, and TRL's.

    python benchmarks/loss.py --vocab=151936 --tokens=2048 --hidden=128 --method=aopd,gkd
    python benchmarks/loss.py --method=full_reverse_kl --trl-python=/path/to/bin/python

Each form has a process of its own, so that its peak resident memory is its own, and they take
turns (`peers/turns.py`). Before anything is timed, our two are compared at a small size. TRL's
chunked loss, which is compared where --trl-python names its environment, computes the reverse KL
and the student's entropy; ours logs both divergences, both entropies and the tails of the advantage
besides.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys

from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
OURS = str(PEERS / "jaxlab_loss.py")
METHODS = ("aopd", "gkd", "opd", "full_reverse_kl")


def rows_of(method: str, args: argparse.Namespace) -> dict[str, list[turns.Turn]]:
    """Turns of each form of one method."""
    sizes = [f"--{name}={getattr(args, name)}" for name in ("vocab", "tokens", "hidden")]
    commands = {
        form: [sys.executable, OURS, f"--method={method}", f"--form={form}", *sizes]
        for form in ("chunked", "dense")
    }
    if method == "full_reverse_kl" and args.trl_python:
        commands["TRL"] = [args.trl_python, str(PEERS / "trl_loss.py"), *sizes]
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(turns.Contender(form, command))
            for form, command in commands.items()
        ]
        return turns.alternate({each.name: each.ask for each in contenders}, args.repeats)


def main() -> None:
    """Prints one row per method and form, and the ratios to the chunked form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--method", default="full_reverse_kl,aopd,gkd", help=", ".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trl-python", help="interpreter of an environment with trl 1.16")
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="also write turns here")
    args = parser.parse_args()
    for method in args.method.split(","):
        if method not in METHODS:
            parser.error(f"--method={method!r} is not one of {', '.join(METHODS)}")
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    print(
        f"{'method':<16}{'form':<9}{'s/step':>9}{'peak MiB':>11}{'added MiB':>11}{'loss':>10}"
        "   this : chunked, time and added memory"
    )
    written = {}
    for method in args.method.split(","):
        # It raises unless the two forms agree.
        subprocess.run([sys.executable, OURS, f"--method={method}", "--check"], check=True)
        found = rows_of(method, args)
        print_rows(method, found)
        written[method] = {
            form: [dataclasses.asdict(turn) for turn in each] for form, each in found.items()
        }
    if args.json:
        args.json.write_text(json.dumps(written, indent=1) + "\n")


def print_rows(method: str, found: dict[str, list[turns.Turn]]) -> None:
    """One line per form."""
    ours = found["chunked"]
    for form, each in found.items():
        short, reply = turns.summary(each), each[-1].reply
        line = f"{method:<16}{form:<9}"
        if short.seconds is None:
            print(f"{line}{short}", flush=True)
            continue
        line += f"{short.seconds:>9.2f}{short.peak_mib:>11.0f}{reply['added_mib']:>11.0f}"
        line += f"{reply['loss']:>10.4f}"
        if (times := turns.ratio(each, ours)) is not None:
            line += f"{times:>9.2f}{reply['added_mib'] / ours[-1].reply['added_mib']:>9.2f}"
        print(f"{line}{short.note}", flush=True)


if __name__ == "__main__":
    main()
