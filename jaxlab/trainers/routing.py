"""The routers' balance loss and figures in a training step, for models with experts."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxlab.config import ConfigError
from jaxlab.models.decoder import DecoderConfig
from jaxlab.nn.routing import Balance


def check(weight: float, config: DecoderConfig) -> None:
    """Check that a model whose routers are to be balanced has some.

    Raises:
        ConfigError: it has none.
    """
    if weight and not config.routed:
        raise ConfigError(
            f"train.balance_loss: {weight} balances experts, and the model has none: set it to 0"
        )


def added(
    loss: jax.Array,
    stats: Mapping[str, jax.Array],
    found: Balance | None,
    weight: float,
    parts: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss with the balance loss, and the routers' figures among the statistics per token.

    Args:
        loss: a microbatch's term of the batch's.
        stats: name -> [B, N].
        found: of this microbatch; None where the model has no experts: nothing is added.
        weight: of the balance loss.
        parts: microbatches of the batch, over which the balance loss is averaged.
    """
    if found is None:
        return loss, dict(stats)
    shape = jax.tree.leaves(dict(stats))[0].shape
    figures = {
        "router_balance": found.loss,
        "router_load_max": found.load_max,
        "router_unused": found.unused,
    }
    figures = {
        name: jnp.broadcast_to(jax.lax.stop_gradient(value), shape)
        for name, value in figures.items()
    }
    return loss + weight / parts * found.loss, {**stats, **figures}


def behind_padding(counts: jax.Array) -> jax.Array:
    """Segment ids, int32 [B, T]: 1 up to each row's last token that counts, 0 behind it.

    Args:
        counts: bool [B, T], of right-padded rows.
    """
    last = jnp.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return (last > 0).astype(jnp.int32)
