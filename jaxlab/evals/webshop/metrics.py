"""Tables of WebShop: success and mean reward, by category, with Wilson's intervals."""

import functools

from jaxlab.evals import played

tables = functools.partial(played.tables, groups=("category",), rewards=True)
