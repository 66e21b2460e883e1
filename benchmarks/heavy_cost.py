"""Prompt tokens and wall time of heavy thinking: shared prompts beside separate ones.

    python benchmarks/heavy_cost.py [--questions=2] [--width=8] [--samples=4] [--tokens=64]

One workflow (`jaxlab.agents.heavy.think`), one random decoder, four ways to generate, each in a
process of its own; they take turns (`peers/turns.py`):

- groups: all texts of a prompt are one group of the batcher, which reads the prompt once;
- requests: each text is a request of its own, and requests share batches;
- plain: `jaxlab.sampling.generate`, one prompt and one text at a time;
- transformers: `generate(num_return_sequences=K)`, which repeats the prompt (extra "torch").

No text ends before its length, so that all ways write equally many tokens.
"""

import argparse
import contextlib
import importlib.util
import pathlib
import statistics
import subprocess
import sys
import tempfile

from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
OURS = PEERS / "heavy_work.py"
# Way of generating -> the program that has it.
WAYS = dict.fromkeys(("groups", "requests", "plain"), OURS)
WAYS |= {"transformers": PEERS / "heavy_transformers.py"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {"questions": 2, "width": 8, "samples": 4, "tokens": 64, "hidden": 128}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    sizes = [f"--{name}={getattr(options, name)}" for name in numbers]
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        subprocess.run([sys.executable, str(OURS), folder, *sizes, "--make"], check=True)
        calls = {}
        for way, program in WAYS.items():
            if way == "transformers" and importlib.util.find_spec("transformers") is None:
                print("transformers is not installed: left out")
                continue
            command = [sys.executable, str(program), folder, *sizes, f"--through={way}"]
            contender = turns.Contender(way, command)
            calls[way] = stack.enter_context(contender).ask
        found = turns.alternate(calls, options.repeats)
    first = found["groups"][-1].reply
    print(
        f"\n{options.questions} questions, K = {options.width}, K1 = {options.samples}, "
        f"{options.tokens} tokens each, width {options.hidden}\n\n"
        "| way | prompt tokens read | times groups | seconds | CPU seconds | times groups |\n"
        "|---|---|---|---|---|---|"
    )
    for way, each in found.items():
        reply, good = each[-1].reply, turns.undisturbed(each) or each
        wall = statistics.median(turn.seconds for turn in good)
        own = statistics.median(turn.cpu_seconds for turn in good)
        share = reply["read"] / first["read"]
        ratio = turns.ratio(each, found["groups"])
        times = "" if ratio is None else f"{ratio:.2f}"
        print(f"| {way} | {reply['read']:,} | {share:.1f} | {wall:.2f} | {own:.2f} | {times} |")


if __name__ == "__main__":
    main()
