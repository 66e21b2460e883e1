"""Scripted shoppers: chance, two that any model should beat, and one that knows the answer."""

import random
import re
from collections.abc import Callable

from jaxlab.envs.protocol import Step
from jaxlab.envs.webshop.play import SEARCH, WebShop
from jaxlab.envs.webshop.reward import Goal
from jaxlab.envs.webshop.search import words
from jaxlab.envs.webshop.shop import PAGE

# What plays an episode that was begun, to its end or until it does not go on.
Shopper = Callable[[WebShop, Step], Step]
_LIMIT = re.compile(r",? and price lower than ([\d.]+) dollars$")


def chance(seed: int) -> Shopper:
    """Actions at random of those that do something; searches are for words of the instruction."""

    def play(env: WebShop, seen: Step) -> Step:
        rng = random.Random(f"{seed} {env.goal.id}")
        told = words(env.goal.instruction)
        while not seen.done:
            action = rng.choice(seen.admissible)
            if action == SEARCH:
                action = f"search[{' '.join(rng.sample(told, min(3, len(told))))}]"
            seen = env.step(action)
        return seen

    return play


def first_result(env: WebShop, seen: Step) -> Step:
    """Search for the instruction, take the first result, and buy it as it is."""
    seen = env.step(f"search[{env.goal.instruction}]")
    if not seen.done:
        seen = _click_first(env, seen)
    return seen if seen.done else env.step("click[buy now]")


def attribute_matcher(env: WebShop, seen: Step) -> Step:
    """Search without the price, and buy what shares most words with the instruction.

    Of the first page it takes the result within the limit whose title has most words of the
    instruction, and clicks the options whose words are all in it.
    """
    told = env.goal.instruction
    limit = _LIMIT.search(told)
    most = float(limit[1]) if limit else float("inf")
    asked = set(words(_LIMIT.sub("", told)))
    seen = env.step(f"search[{_LIMIT.sub('', told)}]")
    listed = seen.text.split(" [SEP] ")
    best: tuple[float, str] | None = None
    for action in seen.admissible:
        asin = action[6:-1].upper()
        if asin in listed:
            at = listed.index(asin)
            price = re.search(r"[\d.]+", listed[at + 2])
            cheap = price is None or float(price[0]) <= most
            worth = len(asked & set(words(listed[at + 1]))) + 100.0 * cheap
            if best is None or worth > best[0]:
                best = worth, action
    if best is None or seen.done:
        return seen
    seen = env.step(best[1])
    for action in seen.admissible:
        text = action[6:-1]
        if not seen.done and set(words(text)) and set(words(text)) <= asked:
            seen = env.step(action)
    return seen if seen.done else env.step("click[buy now]")


def oracle(env: WebShop, seen: Step) -> Step:
    """Knows the product: searches by its title, chooses the goal's options and buys."""
    for action in plan(env, env.goal):
        if not seen.done:
            seen = env.step(action)
    return seen


def plan(env: WebShop, goal: Goal) -> tuple[str, ...]:
    """Actions that buy the goal's product; none where a search by its title does not find it."""
    product = env.shop.by_asin.get(goal.asin)
    found = env.shop.search(goal.title)
    if product is None or product not in found:
        return ()
    page = found.index(product) // PAGE
    values = {value for one in product.options.values() for value in one}
    chosen = [f"click[{value}]" for value in goal.options if value in values]
    turns = ["click[next >]"] * page
    opened = [f"search[{goal.title}]", *turns, f"click[{goal.asin.lower()}]"]
    return (*opened, *chosen, "click[buy now]")


def _click_first(env: WebShop, seen: Step) -> Step:
    listed = seen.text.split(" [SEP] ")
    for action in seen.admissible:
        if action[6:-1].upper() in listed:
            return env.step(action)
    return seen
