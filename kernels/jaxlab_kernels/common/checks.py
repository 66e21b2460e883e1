"""Checks of arguments that every operation makes: shapes, static numbers, values on request."""

import os
from collections.abc import Sequence

import jax
import numpy as np


def expect(name: str, x: jax.Array, expected: str, *shapes: Sequence[int]) -> None:
    """Raises a ValueError that names the argument unless its shape is one of `shapes`."""
    if x.shape not in shapes:
        raise ValueError(f"{name} has shape {x.shape}; expected {expected}")


def static_scale(scale: float | None, key_dim: int) -> float:
    """Returns the factor of scores or outputs as a number; None is key_dim ** -0.5.

    Raises:
        ValueError: it is traced: kernels are built for its value.
    """
    if scale is None:
        return key_dim**-0.5
    if isinstance(scale, jax.core.Tracer):
        raise ValueError("scale is traced; expected a number (scale q or the output instead)")
    return float(scale)


def debugging() -> bool:
    """Whether JAXLAB_DEBUG=1 in the environment asks for checks of values."""
    return os.environ.get("JAXLAB_DEBUG", "0") not in ("", "0")


def check_bounds(
    name: str, x: jax.Array, low: float, high: float, skip: jax.Array | None = None
) -> None:
    """Raises a ValueError that names the first index of x that is NaN or outside [low, high].

    Concrete arrays are checked at once; traced ones by `jax.debug.callback` when the program runs,
    where the ValueError arrives inside JAX's own runtime error.

    Args:
        name: what messages call x.
        x: any shape.
        low: the smallest good value.
        high: the largest good value.
        skip: bool, the leading axes of x; True where nothing is checked.
    """
    if isinstance(x, jax.core.Tracer) or isinstance(skip, jax.core.Tracer):
        jax.debug.callback(_raise_at_bad, x, skip, name=name, low=low, high=high)
    else:
        _raise_at_bad(x, skip, name=name, low=low, high=high)


def _raise_at_bad(x, skip, *, name: str, low: float, high: float) -> None:
    x = np.asarray(x, np.float64)
    bad = ~((x >= low) & (x <= high))
    if skip is not None:
        bad &= ~np.asarray(skip).reshape(skip.shape + (1,) * (x.ndim - skip.ndim))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}{list(index)} is {x[index]}; expected {low} <= {name} <= {high}")
