"""Steps a second of 64 household games on one core, and what chance and the oracle win.

    python benchmarks/household_speed.py [--rooms=alfworld] [--steps=64000]

The games are those of training at ALFWorld's own size; every step makes the text and the list of
admissible commands. Time is the process's own, which other programs on the machine hardly change,
without drawing the random commands. The panel is then played once at random and once by the oracle.
"""

import argparse
import collections
import random
import time

from jaxlab.envs import household
from jaxlab.envs.household import generate
from jaxlab.envs.household.files import FAMILIES
from jaxlab.envs.protocol import Batch


def speed(rooms, steps, environments=64):
    """Steps a second at random; episodes that end begin anew, which is in the time."""
    among = generate.inventory(rooms)
    games = [generate.game("train", i, among) for i in range(environments)]
    batch = Batch([household.load(game) for game in games])
    rng, seen, busy, count = random.Random(0), batch.reset(), 0.0, 0
    while count < steps:
        commands = [rng.choice(step.admissible) for step in seen]
        began = time.process_time()
        seen = batch.step(commands)
        if not batch.live:
            seen = batch.reset()
        elif len(batch.live) < environments:
            # Few are won by chance: their environments begin again alone.
            for i in set(range(environments)) - set(batch.live):
                seen[i] = batch.restart(i)
        busy += time.process_time() - began
        count += environments
    return count / busy


def won(rooms, choose):
    """Games of the panel that are won, by family; `choose(game, turn, admissible)` plays."""
    counts = collections.Counter()
    for index, game in enumerate(generate.panel(rooms)):
        env, turn = household.load(game), 0
        step, rng = env.reset(), random.Random(index)
        while not step.done:
            step = env.step(choose(game, turn, step.admissible, rng))
            turn += 1
        counts[game.family] += step.reward == 1
    return counts


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", choices=("alfworld", "made_up"), default="made_up")
    parser.add_argument("--steps", type=int, default=64_000)
    options = parser.parse_args()
    print(f"{speed(options.rooms, options.steps):,.0f} steps a second")
    players = {
        "random": lambda game, turn, admissible, rng: rng.choice(admissible),
        "oracle": lambda game, turn, admissible, rng: game.walkthrough[turn],
    }
    for name, choose in players.items():
        counts = won(options.rooms, choose)
        each = ", ".join(f"{family} {counts[family]}" for family in FAMILIES)
        print(f"{name}: {sum(counts.values())} of {generate.PANEL} won ({each})")


if __name__ == "__main__":
    main()
