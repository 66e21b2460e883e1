"""FLOPs of a traced function, from its matrix products; loops count as often as they run."""

import math
from collections.abc import Iterator
from typing import Any


def matmul_flops(jaxpr: Any, trips: int = 1) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, of all devices together.

    Args:
        jaxpr: of `jit(f).trace(...).jaxpr`.
        trips: of loops whose length is data.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return math.fsum(_equation(one, trips) for one in inner.eqns)


def _equation(one: Any, trips: int) -> float:
    name, params = one.primitive.name, one.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = one.invars[0].aval.shape
        return 2.0 * one.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = one.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * one.outvars[0].aval.size * kernel.size / features
    if name in ("ragged_dot", "ragged_dot_general"):
        rows, width = one.invars[0].aval.shape
        return 2.0 * rows * width * one.outvars[0].aval.shape[-1]
    if name == "cond":
        return max(matmul_flops(branch, trips) for branch in params["branches"])
    if name == "pallas_call" and params.get("cost_estimate") is not None:
        return float(params["cost_estimate"].flops)
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "while":
        times = trips
    elif name == "shard_map":
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    elif name == "pallas_call":
        times = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return times * math.fsum(matmul_flops(inner, trips) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns") or hasattr(getattr(one, "jaxpr", None), "eqns"):
                yield one
