"""Masked token cross entropy: SFT, SeqKD and pre-training."""

import chex
import jax
import jax.numpy as jnp

from jaxlab.losses.aggregate import summarise, token_weights, weighted_sum
from jaxlab.losses.divergences import LOGP_FLOOR, at_least_float32


def cross_entropy(
    logits: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    z_loss: float = 0.0,
    agg: str = "token_mean",
    denominator: jax.Array | float | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy of `tokens`, in nats, computed in float32.

    `logits[:, t]` predicts `tokens[:, t]`: the caller has shifted by one, once.

    Args:
        logits: float [B, T, V], logits or log-probabilities.
        tokens: int [B, T].
        mask: bool [B, T], True = counts. What stands elsewhere does not matter.
        z_loss: weight of log(Z)^2, which keeps the normaliser near 1 (PaLM, section 5).
        agg: see `aggregate.token_weights`.
        denominator: see `aggregate.token_weights`.

    Returns:
        The scalar loss and metrics: `loss`, `nll` (without z_loss), `accuracy` (of
        the most probable token), `student_entropy`.
    """
    chex.assert_rank(logits, 3)
    chex.assert_shape([tokens, mask], logits.shape[:2])
    logits = jnp.where(mask[..., None], logits, 0.0)
    loss, stats = token_cross_entropy(logits, jnp.where(mask, tokens, 0), z_loss=z_loss)
    total = weighted_sum(loss, token_weights(mask, agg, denominator))
    return total, summarise(total, stats, mask)


def token_cross_entropy(
    logits: jax.Array, tokens: jax.Array, *, z_loss: float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Per-token cross entropy and its statistics; see `cross_entropy`.

    logits: [..., V]; tokens: [...]. Returns the loss [...] and `nll`, `accuracy`,
    `student_entropy`, each [...].
    """
    logits = jnp.maximum(at_least_float32(logits), LOGP_FLOOR)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    token_logit = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    nll = log_z - token_logit
    loss = nll
    if z_loss:
        loss = loss + z_loss * log_z**2
    logp = logits - log_z[..., None]
    stats = {
        "nll": nll,
        "accuracy": (token_logit >= jnp.max(logits, axis=-1)).astype(nll.dtype),
        "student_entropy": -jnp.sum(jnp.exp(logp) * logp, axis=-1),
    }
    return loss, jax.lax.stop_gradient(stats)
