"""Household games stepped side by side: ALFWorld's own engine and ours.

    python benchmarks/household_parity.py --games=1000 --out=parity.json

Every game is first played at random, with commands that are not admissible now and then, and then
by the planner to its end. After each command text, reward, end and admissible commands of both are
compared; the first difference of a game is printed and ends it. One in ten games is as large as
ALFWorld's, the others are small. Needs the extra `agents`.
"""

import argparse
import collections
import importlib.metadata
import json
import pathlib
import platform
import random
import sys
import time

from jaxlab.envs import household
from jaxlab.envs.household import generate, planner
from jaxlab.envs.household.setting import Sizes

SMALL = Sizes(receptacles=12, things=10, copies=2)
NONSENSE = ("", "go to nowhere 1", "Look", "take everything", "open fridge 1 ", "x" * 5000)
COMPARED = ("text", "reward", "done", "admissible")


def differences(ours, real):
    """What differs between two steps, as text."""
    return [
        f"{name}: ours {getattr(ours, name)!r}, real {getattr(real, name)!r}"
        for name in COMPARED
        if getattr(ours, name) != getattr(real, name)
    ]


def side_by_side(game, steps, rng):
    """Play one game on both engines -> (steps compared, differences, whether it was won)."""
    fast = household.load(game, "fast", None)
    real = household.load(game, "textworld", None)
    ours, theirs = fast.reset(), real.reset()
    found = differences(ours, theirs)
    count = 0
    for turn in range(steps + 100):
        if found or ours.done:
            break
        if turn < steps:
            near = [c for c in ours.admissible if not c.startswith("go to")]
            commands = NONSENSE if rng.random() < 0.1 else near if rng.random() < 0.6 else None
            command = rng.choice(commands or ours.admissible)
        else:
            command = planner.plan(fast.state)[0]
        ours, theirs = fast.step(command), real.step(command)
        found = [f"{game.id}, {command!r}: {one}" for one in differences(ours, theirs)]
        count += 1
    return count, found, ours.reward == 1.0


def main():
    """Compare and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="index of the first game")
    parser.add_argument("--large", type=int, default=10, help="of N groups of six one is large")
    parser.add_argument("--steps", type=int, default=12, help="random commands before the plan")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    counts = collections.Counter()
    began, busy = time.time(), time.process_time()
    for index in range(options.first, options.first + options.games):
        sizes = Sizes() if index // 6 % options.large == 0 else SMALL
        game = generate.game("train", index, generate.inventory("alfworld"), sizes)
        steps, found, won = side_by_side(game, options.steps, random.Random(index))
        counts.update({"games": 1, game.family: 1, "steps": steps, "won": won})
        counts["large"] += sizes != SMALL
        counts["games that differ"] += bool(found)
        print(*found, sep="\n", end="\n" * bool(found), flush=True)
        if index % 50 == 49:
            print(f"{index + 1} games, {time.time() - began:.0f} s", flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("alfworld", "textworld", "fast-downward-textworld")
        }
        | {"python": platform.python_version()},
        "compared": COMPARED,
        "seconds": round(time.time() - began),
        "cpu_seconds": round(time.process_time() - busy),
        **counts,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if counts["games that differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
