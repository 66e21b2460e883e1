"""What a purchase is worth: WebShop's reward (Yao et al. 2022, arXiv 2207.01206, eq 1), by terms.

r = r_type (attributes met + options met + [price within the limit]) / (attributes + options + 1)

One part differs from the released program, which has a tagger of parts of speech pick the nouns of
two titles: here a title's words are all of its runs of letters and digits.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from jaxlab.envs.webshop.products import Product
from jaxlab.envs.webshop.search import words

MISSING = "WebShop's reward needs rapidfuzz: pip install 'jaxlab[webshop]'"
# Two phrases are one above this similarity, of 100.
_SAME = 85


@dataclasses.dataclass(frozen=True)
class Goal:
    """What is to be bought.

    Attributes:
        instruction: in words, with the price limit.
        asin: the product that it was made from.
        query, product_category, title: of that product.
        attributes: that are asked for.
        options: values that are asked for.
        price_limit: in dollars.
        id: names it in results.
    """

    instruction: str
    asin: str
    query: str
    product_category: str
    title: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    price_limit: float
    id: str = ""

    @property
    def task(self) -> str:
        """The instruction: what other environments call their task."""
        return self.instruction

    @property
    def family(self) -> str:
        """The broadest level of the category, by which results are grouped."""
        return self.product_category.split("›")[0].strip()


@dataclasses.dataclass(frozen=True)
class Score:
    """The reward of a purchase and its terms.

    Attributes:
        reward: from 0 to 1.
        type: r_type, one of 0, 0.1, 0.5 and 1.
        query, category: whether query, and two levels of the category, are the goal's.
        title: share of the goal's title that is in the product's; 0.2 where it has no words.
        attributes, options: how many of the goal's are met.
        price: whether the price is within the limit.
    """

    reward: float
    type: float
    query: bool
    category: bool
    title: float
    attributes: int
    options: int
    price: bool


def score(product: Product, options: Iterable[str], goal: Goal) -> Score:
    """The reward of buying a product with options, and what it is made of.

    Args:
        product: what is bought.
        options: the values that were chosen.
        goal: what was to be bought.

    Raises:
        ModuleNotFoundError: rapidfuzz is not installed.
    """
    query = product.query == goal.query
    levels = [{level.strip() for level in p.product_category.split("›")} for p in (product, goal)]
    category = len(levels[0] & levels[1]) >= 2
    title = _title(product.title, goal.title)
    kind = 1.0 if query or category or title > 0.2 else 0.5
    # Other titles outweigh equal queries and categories.
    if title < 0.1:
        kind = 0.1
    if title == 0.0:
        kind = 0.0
    attributes = sum(_attribute(wanted, product) for wanted in goal.attributes)
    chosen = tuple(options)
    met = sum(any(same(value, wanted) for value in chosen) for wanted in goal.options)
    price = product.price <= goal.price_limit
    terms = len(goal.attributes) + len(goal.options) + 1
    reward = kind * (attributes + met + price) / terms
    return Score(reward, kind, query, category, title, attributes, met, price)


def _title(bought: str, wanted: str) -> float:
    asked = words(wanted)
    return len(set(words(bought)) & set(asked)) / len(asked) if asked else 0.2


def _attribute(wanted: str, product: Product) -> bool:
    if any(same(attribute, wanted) for attribute in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


@functools.lru_cache(maxsize=1 << 16)
def same(one: str, other: str) -> bool:
    """Whether token_set_ratio, as thefuzz rounds and cleans it, exceeds 85 of 100."""
    try:
        from rapidfuzz import fuzz, utils
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{MISSING} ({error})") from None
    cleaned = (utils.default_process(_ascii(text)) for text in (one, other))
    return round(fuzz.token_set_ratio(*cleaned)) > _SAME


def _ascii(text: str) -> str:
    # thefuzz drops these and no characters beyond.
    return "".join(c for c in text if not 128 <= ord(c) < 256)


def options_of(values: Mapping[str, str] | Iterable[str]) -> tuple[str, ...]:
    """The values of a goal's options, which files give by name or as a list."""
    return tuple(values.values() if isinstance(values, Mapping) else values)
