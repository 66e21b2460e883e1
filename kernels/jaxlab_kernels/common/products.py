"""Matrix products as all operations of this package accumulate them."""

import jax
import jax.numpy as jnp


def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum with float32 sums, or float64 where a factor is."""
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.einsum(equation, a, b, preferred_element_type=dtype)
