"""FLOPs of a traced function, from its matrix products; loops count as often as they run."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

# Integers that are known while nothing runs, by variable. Within scans a scalar is one array for
# all their steps: the innermost scan's are its first axis.
_Known = dict[Any, np.ndarray]

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "convert_element_type": np.asarray,
}


def matmul_flops(jaxpr: Any, trips: int = 1) -> float:
    """FLOPs of the matrix products and convolutions of a jaxpr, of all devices together.

    A `fori_loop` counts exactly where its bounds follow from constants and from the numbers of the
    steps of scans around it, as those of causal attention by tiles do.

    Args:
        jaxpr: of `jit(f).trace(...).jaxpr`.
        trips: of loops whose length is data; those within them count once.
    """
    return count(jaxpr, trips)[0]


def count(jaxpr: Any, trips: int = 1) -> tuple[float, bool]:
    """As `matmul_flops`; and whether there are products in loops whose length was taken as 1."""
    walk = _Count(trips)
    return float(walk.of(jaxpr, ())[0]), walk.guessed


class _Count:
    """The walk over a jaxpr."""

    def __init__(self, trips: int):
        self._trips, self._depth, self.guessed = trips, 0, False

    def of(self, jaxpr: Any, inputs: Sequence[np.ndarray | None]) -> tuple[Any, list[Any]]:
        """FLOPs, a number or one for each step of the scans around; and what is known of results.

        inputs: what is known of the arguments.
        """
        inner, constants = getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())
        known: _Known = {}
        if len(inputs) == len(inner.invars):
            given = {var: _share(one, var) for var, one in zip(inner.invars, inputs, strict=True)}
            known = {var: value for var, value in given.items() if value is not None}
        for var, value in zip(inner.constvars, constants, strict=False):
            if _is_integer(var) and isinstance(value, np.ndarray | jax.Array | int):
                known[var] = np.asarray(value)
        total: Any = 0.0
        for one in inner.eqns:
            found, results = self._equation(one, [_value(var, known) for var in one.invars])
            total = total + found
            for var, value in zip(one.outvars, results, strict=False):
                if value is not None and _is_integer(var):
                    # A row of equal shares of devices is their shares one after the other.
                    known[var] = value if _is_scalar(var) else np.resize(value, var.aval.shape)
        return total, [_value(var, known) for var in inner.outvars]

    def _equation(self, one: Any, inputs: list[Any]) -> tuple[Any, Sequence[Any]]:
        name, params = one.primitive.name, one.params
        if name in _ARITHMETIC and _is_scalar(one.outvars[0]):
            every = all(value is not None for value in inputs)
            return 0.0, [_ARITHMETIC[name](*inputs)] if every else []
        if name == "iota" and len(params["shape"]) == 1:
            return 0.0, [np.arange(params["shape"][0])]
        if name == "scan":
            return self._scan(params, inputs)
        if name == "while":
            return self._while(params, inputs), []
        if name == "cond":
            branches = [self.of(branch, inputs[1:])[0] for branch in params["branches"]]
            return np.max(np.broadcast_arrays(*branches), axis=0), []
        flops = _product(one)
        if flops is not None:
            return flops, []
        times = 1
        if name == "shard_map":
            times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
        elif name == "pallas_call":
            times = math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
        called = [self.of(inner, inputs) for inner in _inner(params)]
        results = called[0][1] if len(called) == 1 else []
        return times * sum((flops for flops, _ in called), 0.0), results

    def _scan(self, params: dict[str, Any], inputs: list[Any]) -> tuple[Any, list[Any]]:
        body, length = params["jaxpr"].jaxpr, params["length"]
        first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
        steps = np.arange(length)[::-1] if params["reverse"] else np.arange(length)
        given: list[Any] = list(inputs)
        for place in range(first, last):
            grows = inputs[place] is not None and _grows(body, place, place - first)
            given[place] = inputs[place] + self._over(np.arange(length)) if grows else None
        for place in range(last, len(inputs)):
            known = inputs[place] is not None and _is_scalar(body.invars[place])
            given[place] = self._over(inputs[place][steps]) if known else None
        self._depth += 1
        flops, found = self.of(params["jaxpr"], given)
        self._depth -= 1
        results: list[Any] = [None] * len(found)
        for place in range(params["num_carry"], len(found)):
            # What depends on the steps of other scans too is not kept.
            value = found[place] if _is_scalar(body.outvars[place]) else None
            alone = value is not None and value.shape == self._over(np.arange(length)).shape
            if value is not None and (alone or value.size == 1):
                results[place] = np.broadcast_to(value.ravel(), (length,))[steps]
        if np.ndim(flops) <= self._depth:
            return length * flops, results
        return np.broadcast_to(flops, (length, *np.shape(flops)[1:])).sum(axis=0), results

    def _over(self, steps: np.ndarray) -> np.ndarray:
        """A scalar's values in the steps of one more scan."""
        return steps.reshape(-1, *[1] * self._depth)

    def _while(self, params: dict[str, Any], inputs: list[Any]) -> Any:
        skipped, consts = params["cond_nconsts"], params["body_nconsts"]
        carried = inputs[skipped + consts :]
        given = inputs[skipped : skipped + consts] + [None] * len(carried)
        times = _times(params, carried)
        if times is not None:
            return times * self.of(params["body_jaxpr"], given)[0]
        trips, self._trips = self._trips, 1
        flops = trips * self.of(params["body_jaxpr"], given)[0]
        self._trips = trips
        if trips == 1 and np.any(flops):
            self.guessed = True
        return flops


def _times(params: dict[str, Any], carried: list[Any]) -> Any:
    """How often a `fori_loop` runs; None: its bounds are not known, or it is another loop."""
    test, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
    if [one.primitive.name for one in test.eqns] != ["lt"] or params["cond_nconsts"]:
        return None
    compared = test.eqns[0].invars
    if not all(any(var is other for other in test.invars) for var in compared):
        return None
    number, bound = (test.invars.index(var) for var in compared)
    first, last, consts = carried[number], carried[bound], params["body_nconsts"]
    stays = body.outvars[bound] is body.invars[consts + bound]
    if first is None or last is None or not stays or not _grows(body, consts + number, number):
        return None
    return np.maximum(last - first, 0)


def _grows(body: Any, place: int, result: int) -> bool:
    """Whether a loop's body adds 1 to this argument, and nothing else."""
    before, after = body.invars[place], body.outvars[result]
    for one in body.eqns:
        if any(after is var for var in one.outvars):
            by = [var for var in one.invars if var is not before]
            literal = len(by) == 1 and isinstance(by[0], core.Literal) and by[0].val == 1
            return one.primitive.name == "add" and literal and _is_scalar(after)
    return False


def _product(one: Any) -> float | None:
    """FLOPs of an operation that is one product; None: it is none."""
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
    if name == "pallas_call" and params.get("cost_estimate") is not None:
        return float(params["cost_estimate"].flops)
    return None


def _value(var: Any, known: _Known) -> np.ndarray | None:
    if isinstance(var, core.Literal):
        return np.asarray(var.val) if _is_integer(var) else None
    return known.get(var)


def _is_integer(var: Any) -> bool:
    """Whether it is an integer, or a row of them."""
    if len(getattr(var.aval, "shape", (0, 0))) > 1:
        return False
    return bool(jax.dtypes.issubdtype(var.aval.dtype, np.integer))


def _share(value: np.ndarray | None, var: Any) -> np.ndarray | None:
    """The value as that of this argument: of a row over devices a share, where all are equal."""
    if value is None or not _is_integer(var):
        return None
    if _is_scalar(var):
        return value
    size = var.aval.size
    if value.ndim != 1 or not size or len(value) % size:
        return None
    shares = value.reshape(-1, size)
    return None if np.any(shares != shares[0]) else shares[0]


def _is_scalar(var: Any) -> bool:
    return getattr(var.aval, "shape", None) == () and _is_integer(var)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns") or hasattr(getattr(one, "jaxpr", None), "eqns"):
                yield one
