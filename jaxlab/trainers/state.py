"""What a training run carries from step to step, and nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxlab.runtime import sharding
from jaxlab.runtime.settings import Rules


class TrainState(NamedTuple):
    """Everything that a checkpoint must hold. The randomness of step n is fold_in(seed, n).

    Attributes:
        step: int32 scalar, steps done.
        params: nested dict of float arrays.
        opt_state: the optimiser's state.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState


def abstract(
    params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, rules: Rules
) -> TrainState:
    """Shapes, dtypes and shardings of the state, from (abstract) params; nothing is allocated."""
    state = jax.eval_shape(lambda p: create(p, optimizer), params)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        state,
        sharding.infer(state, rules, mesh),
    )


def create(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def apply_gradients(
    state: TrainState,
    grads: Any,
    loss: jax.Array,
    optimizer: optax.GradientTransformation,
    skip_nonfinite: bool,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step; `step` itself is the caller's to advance.

    Args:
        state: before the step.
        grads: as `state.params`.
        loss: scalar, checked together with the gradient's norm.
        optimizer: made by `jaxlab.trainers.optim.make`.
        skip_nonfinite: keep params and opt_state where the loss or the gradient is not finite.

    Returns:
        The new state, and metrics grad_norm, update_norm and skipped (0 or 1).
    """
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"grad_norm": grad_norm, "update_norm": optax.tree.norm(updates)}
    if skip_nonfinite:
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(loss)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
    return TrainState(state.step, params, opt_state), metrics
