"""Heads of a probe: copies of a network that differ in learning rate and weight decay, as one.

Their parameters have a leading axis, over which the network is mapped.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclasses.dataclass(frozen=True)
class Heads:
    """AdamW of each head.

    Attributes:
        learning_rates: one of each head.
        weight_decays: likewise; all parameters decay, as in the released code.
        schedule: "cosine" to 0 over the run, or "constant"; both after the warm-up.
        warmup: share of the steps over which rates rise linearly from 0.
    """

    learning_rates: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8, 0.01)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Check that there is a rate and a decay of each head, in range."""
        if not self.learning_rates or len(self.learning_rates) != len(self.weight_decays):
            raise ValueError(
                f"learning_rates and weight_decays: one of each head, not {self.learning_rates} "
                f"and {self.weight_decays}"
            )
        if min(self.learning_rates) <= 0 or min(self.weight_decays) < 0:
            raise ValueError("learning_rates must be above 0, weight_decays not below")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: a share of the steps in [0, 1), not {self.warmup}")


def over_heads(function: Callable[[Any], Any], platform: str) -> Callable[[Any], Any]:
    """The function of one head's parameters as a function of all heads'.

    On accelerators it is vmapped. On CPUs the heads follow each other within the program, since
    XLA's batched products are slower there.
    """
    if platform == "cpu":
        return lambda params: jax.lax.map(function, params)
    return jax.vmap(function)


def adamw_of_heads(heads: Heads, steps: int) -> optax.GradientTransformation:
    """AdamW over parameters whose leading axis is the heads', with rates of their own.

    Adam's moments are elementwise, so that one state serves all heads.
    """
    rates, decays = np.array(heads.learning_rates), np.array(heads.weight_decays)
    warm = int(heads.warmup * steps)
    after = (
        optax.cosine_decay_schedule(1.0, max(steps - warm, 1))
        if heads.schedule == "cosine"
        else optax.constant_schedule(1.0)
    )
    rise = optax.linear_schedule(0.0, 1.0, warm) if warm else after
    factor = optax.join_schedules([rise, after], [warm]) if warm else after
    adam = optax.scale_by_adam()

    def init(params):
        return adam.init(params), jnp.zeros((), jnp.int32)

    def update(grads, opt_state, params=None):
        moments, count = opt_state
        directions, moments = adam.update(grads, moments)

        def scaled(direction, param):
            shape = (-1, *[1] * (param.ndim - 1))
            rate = jnp.asarray(rates, param.dtype).reshape(shape) * factor(count)
            return -rate * (direction + jnp.asarray(decays, param.dtype).reshape(shape) * param)

        return jax.tree.map(scaled, directions, params), (moments, count + 1)

    return optax.GradientTransformation(init, update)
