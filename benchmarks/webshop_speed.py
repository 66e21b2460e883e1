"""Steps a second of 64 shopping trips on one core, and what scripted shoppers make of the panel.

    python benchmarks/webshop_speed.py [--products=1000] [--products=50000] [--steps=20000]

Trips are played at random: a click of what is there, or, at least once in six, a search for three
to eight words of its own instruction. Time is the process's own, which other programs on the
machine hardly change, without choosing the actions.
"""

import argparse
import random
import time

from jaxlab.envs import webshop
from jaxlab.envs.protocol import Batch
from jaxlab.envs.webshop import generate, goals, shoppers
from jaxlab.envs.webshop.search import words

SEARCHES = 1 / 6


def actions(seen, told, rng):
    """An action of each trip: a search of three to eight words, or a click of what is there."""
    for step, instruction in zip(seen, told, strict=True):
        clicks = step.admissible[1:]
        if clicks and rng.random() > SEARCHES:
            yield rng.choice(clicks)
        else:
            count = min(len(instruction), rng.randint(3, 8))
            yield f"search[{' '.join(rng.sample(instruction, count))}]"


def speed(shop, steps, trips=64):
    """Steps a second, and how many of the steps were searches."""
    rng = random.Random(0)
    wanted = [goals.made(product, seed=1) for product in rng.sample(shop.products, trips)]
    told = [words(goal.instruction) for goal in wanted]
    batch = Batch([webshop.WebShop(shop, goal) for goal in wanted])
    seen, busy, count, searches = batch.reset(), 0.0, 0, 0
    while count < steps:
        chosen = list(actions(seen, told, rng))
        searches += sum(action.startswith("search") for action in chosen)
        began = time.process_time()
        seen = batch.step(chosen)
        for i in set(range(trips)) - set(batch.live):
            seen[i] = batch.restart(i)
        busy += time.process_time() - began
        count += trips
    assert not batch.counts["died"]
    return count / busy, searches / count


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--products", type=int, action="append")
    parser.add_argument("--steps", type=int, default=20_000)
    options = parser.parse_args()
    print("| products | seconds to make and index | steps a second | of them searches |")
    print("|---|---|---|---|")
    for size in options.products or [1000, 50_000]:
        began = time.process_time()
        shop = webshop.Shop(generate.catalogue(size))
        made = time.process_time() - began
        rate, share = speed(shop, options.steps)
        print(f"| {size:,} | {made:.1f} | {rate:,.0f} | {share:.0%} |", flush=True)
    shop = generate.shop()
    players = {
        "random": shoppers.chance(0),
        "first result": shoppers.first_result,
        "attribute matcher": shoppers.attribute_matcher,
        "oracle": shoppers.oracle,
    }
    print("\n| shopper | successes of 200 | mean reward |\n|---|---|---|")
    for name, shopper in players.items():
        rewards = []
        for goal in generate.panel(shop):
            env = webshop.WebShop(shop, goal)
            rewards.append(shopper(env, env.reset()).reward)
        print(f"| {name} | {rewards.count(1.0)} | {sum(rewards) / len(rewards):.3f} |")


if __name__ == "__main__":
    main()
