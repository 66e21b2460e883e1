"""What a shop sells: a product as WebShop's pages and its reward see it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping


class ShopError(ValueError):
    """Products or goals that cannot be used; the message names file, row and field."""


@dataclasses.dataclass(frozen=True)
class Product:
    """A product.

    Attributes:
        asin: its number, at most ten letters and digits in upper case; what a result is clicked by.
        query: what its seller listed it under, in lower case.
        product_category: from the broad to the narrow, "A › B › C".
        title: its name.
        price: in dollars, what is compared with a goal's limit.
        price_tag: the price as pages show it, which may be a range.
        description: one text.
        bullets: features, one text each.
        options: name of an option -> its values, all in lower case.
        attributes: short phrases that hold for it; no page shows them.
        category: the broadest of all, such as "fashion".
        rating: as pages show it.
        reviews: texts.
    """

    asin: str
    query: str
    product_category: str
    title: str
    price: float
    price_tag: str
    description: str = ""
    bullets: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    category: str = ""
    rating: str = "N.A."
    reviews: tuple[str, ...] = ()

    @functools.cached_property
    def searched(self) -> str:
        """What search reads: title, description, first feature and options, in lower case."""
        options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in self.options.items())
        parts = (self.title, self.description, "".join(self.bullets[:1]), options)
        return " ".join(parts).lower()


def digest(products: Iterable[Product]) -> str:
    """sha256 of products in their order, every field."""
    total = hashlib.sha256()
    for product in products:
        total.update(json.dumps(dataclasses.asdict(product), sort_keys=True).encode() + b"\n")
    return total.hexdigest()
