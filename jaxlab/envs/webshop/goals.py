"""Goals: made from products, or as the crowd wrote them for WebShop."""

import collections
import json
import pathlib
import random
import re
from collections.abc import Sequence

from jaxlab.envs.webshop.products import Product, ShopError
from jaxlab.envs.webshop.reward import Goal
from jaxlab.envs.webshop.words import OPENINGS

# A limit is one of these, in dollars; of a product that costs more there is none.
_LIMITS = tuple(10.0 * i for i in range(1, 100))
NO_LIMIT = 1_000_000.0
_ARTICLE = re.compile(r"^([a-z' ,]{2,40}?) (?:an?|some|the)\b")


def price_limit(price: float, rng: random.Random) -> float:
    """A limit above a price: the greater of two of the next four tens of dollars, as WebShop's."""
    above = [limit for limit in _LIMITS if limit > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def with_limit(instruction: str, limit: float) -> str:
    """An instruction that names its limit in WebShop's words."""
    if limit == NO_LIMIT:
        return instruction
    return f"{instruction}, and price lower than {limit:.2f} dollars"


def made(product: Product, seed: int = 0, openings: Sequence[str] = OPENINGS) -> Goal:
    """A goal that a product meets: a pure function of its arguments.

    One to three of its attributes, and of each option a value, are asked for.

    Raises:
        ShopError: the product has no attributes.
    """
    if not product.attributes:
        raise ShopError(f"product {product.asin}: has no attributes to make a goal of")
    rng = random.Random(f"webshop goal {seed} {product.asin}")
    most = min(3, len(product.attributes))
    attributes = tuple(rng.sample(product.attributes, rng.randint(1, most)))
    options = {name: rng.choice(values) for name, values in product.options.items() if values}
    limit = price_limit(product.price, rng)
    wanted = f"{', '.join(attributes)} {product.query}"
    plural = wanted.endswith("s") and not wanted.endswith("ss")
    article = "" if plural else "an " if wanted[0] in "aeiou" else "a "
    told = f"{rng.choice(tuple(openings))} {article}{wanted}"
    if options:
        told += " with " + ", and ".join(f"{name}: {value}" for name, value in options.items())
    return Goal(
        instruction=with_limit(told, limit),
        asin=product.asin,
        query=product.query,
        product_category=product.product_category,
        title=product.title,
        attributes=attributes,
        options=tuple(options.values()),
        price_limit=limit,
        id=f"{product.asin}-{seed}",
    )


def sentences(path: str | pathlib.Path) -> list[str]:
    """WebShop's human_goals.json: a list of instructions.

    Raises:
        ShopError: naming file and row.
    """
    path = pathlib.Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShopError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ShopError(f"{path}: is no JSON ({error}); is it cut short?") from None
    if not isinstance(rows, list) or not rows:
        raise ShopError(f"{path}: is no list of instructions")
    for i, row in enumerate(rows):
        if not isinstance(row, str) or not row.strip():
            raise ShopError(f"{path}: row {i} is {row!r}, no instruction")
    return rows


def openings(path: str | pathlib.Path, least: int = 5) -> tuple[str, ...]:
    """How people begin, of a file of instructions: what stands before the first article.

    Returns:
        Each opening that `least` instructions share, as often as they do, the most frequent first,
        so that drawing one of them draws as people would.

    Raises:
        ShopError: naming file and row; or no opening is shared by so many.
    """
    found = collections.Counter(
        match[1] for text in sentences(path) if (match := _ARTICLE.match(text.strip().lower()))
    )
    shared = [opening for opening, n in found.most_common() if n >= least for _ in range(n)]
    if not shared:
        raise ShopError(f"{path}: no {least} instructions begin alike")
    return tuple(shared)
