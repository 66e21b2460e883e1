"""Tables of the household tasks: success by family and split, with Wilson's intervals."""

import functools

from jaxlab.evals import played

tables = functools.partial(played.tables, groups=("family", "split"))
