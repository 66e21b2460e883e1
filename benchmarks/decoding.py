"""Sampled decoding of a small student: jaxlab beside transformers' generate.

    python benchmarks/decoding.py [--vocab 512 32768] [--repeats 7] [--json results.json]

Both sides hold the same weights (Qwen3 architecture, float32), read the same prompts and sample at
temperature 1 without stop tokens. First both decode greedily; if a single token differs nothing is
timed. Each side is a process of its own with all cores, and they take turns (`peers/turns.py`).
jaxlab's time includes log-probabilities, which transformers' does not. jaxlab decodes once as the
doors do, rows split over a CPU device per core, and once on one device. Where torch or
transformers is missing, jaxlab is timed alone and the report says so.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import pathlib
import random
import sys
import tempfile
from typing import Any

from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
PEER_PACKAGES = ("torch", "transformers")
OURS, ONE_DEVICE, PEER = "jaxlab", "jaxlab, one device", "transformers"


def main() -> int:
    """Run the benchmark; exit code 1 means that parity failed."""
    flags = parse_flags()
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    missing = [name for name in PEER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"transformers' generate is skipped: {' and '.join(missing)} not installed")
    results = []
    for vocab in flags.vocab:
        results.append(compare(vocab, flags, with_peer=not missing))
        print(describe(results[-1]), flush=True)
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
    parser.add_argument("--vocab", type=int, nargs="+", default=[512, 32_768])
    parser.add_argument("--repeats", type=int, default=7, help="undisturbed turns of each side")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prompt-length", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="completions per prompt")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results")
    return parser.parse_args()


def compare(vocab: int, flags: argparse.Namespace, with_peer: bool) -> dict[str, Any]:
    """Parity, then times of all sides at one vocabulary size."""
    rng = random.Random(0)
    prompts = [
        [rng.randrange(vocab) for _ in range(flags.prompt_length)] for _ in range(flags.prompts)
    ]
    work = {"model": student(vocab), "prompts": prompts, "new_tokens": flags.new_tokens}
    ours = [sys.executable, str(PEERS / "jaxlab_decoding.py"), json.dumps(work)]
    theirs = [sys.executable, str(PEERS / "transformers_decoding.py"), json.dumps(work)]
    result: dict[str, Any] = {"vocab": vocab, "parity": None, "versions": {}, "sides": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def start(name: str, command: list[str]) -> turns.Contender:
            contender = stack.enter_context(turns.Contender(name, command))
            result["versions"] |= contender.versions
            return contender

        sides = [start(OURS, [*ours, f"--save={folder}"])]
        if with_peer:
            sides.append(start(PEER, [*theirs, f"--load={folder}"]))
            greedy = [
                side.ask(samples=1, temperature=0.0, tokens=True).reply["tokens"] for side in sides
            ]
            result["parity"] = greedy[0] == greedy[1]
            if not result["parity"]:
                result["greedy_tokens_equal"] = share_equal(*greedy)
                return result
        sides.insert(1, start(ONE_DEVICE, [*ours, "--decode-devices=1"]))
        request = {"samples": flags.samples, "temperature": 1.0, "tokens": False}
        calls = {side.name: functools.partial(side.ask, **request) for side in sides}
        found = turns.alternate(calls, flags.repeats)
    tokens = flags.prompts * flags.samples * flags.new_tokens
    for name, each in found.items():
        short = turns.summary(each)
        result["sides"][name] = {
            "tokens_per_second": tokens / short.seconds if short.seconds else None,
            "note": str(short),
            "ratio": turns.ratio(found[PEER], each) if with_peer else None,
            "turns": [dataclasses.asdict(turn) for turn in each],
        }
    return result


def student(vocab: int) -> dict[str, int]:
    """Hidden size 128, four layers, four heads: a student of the distillation experiments."""
    return {
        "vocab_size": vocab,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_layers": 4,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 32,
    }


def share_equal(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Of tokens at the same place of the same row."""
    pairs = [
        one == other
        for row, peers_row in zip(ours, theirs, strict=True)
        for one, other in zip(row, peers_row, strict=True)
    ]
    return sum(pairs) / len(pairs)


def describe(result: dict[str, Any]) -> str:
    """A line for each side."""
    head = f"vocabulary {result['vocab']:>6}: "
    if result["parity"] is False:
        return head + (
            f"not timed: only {result['greedy_tokens_equal']:.2%} of the greedy tokens equal "
            "transformers'"
        )
    lines = []
    for name, side in result["sides"].items():
        speed, times = side["tokens_per_second"], side["ratio"]
        line = f"{head}{name:<20}" + (f"{speed:>8,.0f} tokens/s" if speed else "no figure")
        if times and name != PEER:
            line += f", {times:.2f}x transformers"
        lines.append(f"{line}; {side['note']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
