"""A shop: products and their search index, shared by any number of episodes."""

import collections
from collections.abc import Sequence

from jaxlab.envs.webshop.products import Product, ShopError
from jaxlab.envs.webshop.search import Index

# Results of a search, and those of them on a page.
MOST, PAGE = 50, 10


class Shop:
    """Products that can be searched.

    Attributes:
        products: in their order, which decides between equally good results.
        by_asin: the same by number.
    """

    def __init__(self, products: Sequence[Product]) -> None:
        """Index the products.

        Raises:
            ShopError: there are none, or two have the same number.
            ModuleNotFoundError: rank_bm25 is not installed.
        """
        if not products:
            raise ShopError("a shop needs at least one product")
        self.products = tuple(products)
        self.by_asin = {product.asin: product for product in products}
        count = collections.Counter(product.asin for product in products)
        twice = [asin for asin, n in count.items() if n > 1]
        if twice:
            raise ShopError(f"two products have the number {twice[0]}")
        self._index = Index([product.searched for product in products])

    def search(self, query: str) -> tuple[Product, ...]:
        """At most 50 products that have a word of the query, the best first."""
        return tuple(map(self.products.__getitem__, self._index.search(query, MOST)))
