"""Checks of arguments that every operation makes: shapes, static numbers, values on request."""

import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def expect(name: str, x: jax.Array, expected: str, *shapes: Sequence[int]) -> None:
    """Raises a ValueError that names the argument unless its shape is one of `shapes`."""
    if x.shape not in shapes:
        raise ValueError(f"{name} has shape {x.shape}; expected {expected}")


def check_attention(arrays: Mapping[str, jax.Array], segment_ids: jax.Array | None) -> None:
    """Raises a ValueError unless the arrays are those of attention of whole sequences.

    Args:
        arrays: queries [B, T, H, D], keys [B, T, KV, D] and values [B, T, KV, Dv] in this order, by
            the names that messages give them; floating, and H a multiple of KV.
        segment_ids: int [B, T] or None.
    """
    (of_query, query), (of_key, key), (of_value, value) = arrays.items()
    if query.ndim != 4:
        raise ValueError(f"{of_query} has shape {query.shape}; expected [B, T, H, D]")
    batch, length, heads, dim = query.shape
    if key.ndim != 4 or key.shape[:2] != (batch, length) or key.shape[3] != dim:
        raise ValueError(
            f"{of_key} has shape {key.shape}; expected [B, T, KV, D] beside {query.shape}"
        )
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"{of_value} has shape {value.shape}; expected [B, T, KV, Dv] beside {key.shape}"
        )
    if key.shape[2] == 0 or heads % key.shape[2]:
        raise ValueError(
            f"{of_query} has {heads} heads (shape {query.shape}); expected a multiple of the "
            f"{key.shape[2]} heads of {of_key} and {of_value}"
        )
    for name, x in arrays.items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating dtype")
    if segment_ids is None:
        return
    expect("segment_ids", segment_ids, f"[B, T] {batch, length}", (batch, length))
    if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
        raise ValueError(f"segment_ids has dtype {segment_ids.dtype}; expected integers")


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
