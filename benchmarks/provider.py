"""Tokens per second of 64 concurrent requests to the in-process provider, beside one big call.

    python benchmarks/provider.py [--requests=512] [--tokens=128] [--hidden=128]

Both decode the same prompts greedily with the same random decoder, few of whose completions end
before their limit: the share is what gathering, the event loop and detokenising leave. The provider
has batches of 32, so that one is decoded while the other's replies are worked on; "one call"
decodes all rows at once. Each has a process of its own, and they take turns (`peers/turns.py`).
Compared are wall time, which says whether the decoder ever waits, and the process's own time, which
says what inspect_ai costs and which other programs on the machine hardly change.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys

from peers import turns

WORKER = pathlib.Path(__file__).resolve().parent / "peers" / "jaxlab_provider.py"
CONCURRENT = 64
ONE_CALL = "one call"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="of each completion")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=CONCURRENT // 2, help="of the provider")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    contestants = {
        "provider": ("provider", options.batch),
        f"calls of {options.batch}": ("generate", options.batch),
        ONE_CALL: ("generate", options.requests),
    }
    sizes = [f"--{name}={getattr(options, name)}" for name in ("requests", "tokens", "hidden")]
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    with contextlib.ExitStack() as stack:
        calls = {}
        for name, (through, batch) in contestants.items():
            flags = [
                *sizes,
                f"--concurrent={CONCURRENT}",
                f"--through={through}",
                f"--batch={batch}",
            ]
            command = [sys.executable, str(WORKER), *flags]
            calls[name] = stack.enter_context(turns.Contender(name, command)).ask
        found = turns.alternate(calls, options.repeats)
    print(
        f"{options.requests} requests x {options.tokens} tokens, width {options.hidden}, medians "
        "of tokens per second"
    )
    for name, each in found.items():
        print(f"{name:>12}: {describe(each, found[ONE_CALL])}")


def describe(each: list[turns.Turn], whole: list[turns.Turn]) -> str:
    """Rates by wall time and by processor time, and what part of those of one call they are."""
    short = turns.summary(each)
    if short.seconds is None:
        return str(short)
    good = turns.undisturbed(each)
    wall = statistics.median(turn.reply["tokens"] / turn.seconds for turn in good)
    own = statistics.median(turn.reply["tokens"] / turn.cpu_seconds for turn in good)
    line = f"{wall:8,.0f} wall, {own:8,.0f} of processor time"
    # The tokens of all of them are equal but for rare ties of the greedy choice.
    if (share := turns.ratio(whole, each)) is not None:
        line += f"; {share:.0%} of one call, round by round{short.note}"
    return line


if __name__ == "__main__":
    main()
