"""Sequence-level advantages from the rewards of a group of samples per prompt.

Rewards are float [P, G]: P prompts, G samples each. The advantages have the same shape, are
float32, and are constants to be multiplied with a policy gradient.
"""

import chex
import jax
import jax.numpy as jnp


def group_normalised(rewards: jax.Array, *, eps: float = 1e-6, ddof: int = 0) -> jax.Array:
    """GRPO (Shao et al. 2024, section 4.1.2): (R - mean) / (std + eps) over each group.

    A group whose rewards are all equal gets exactly 0: rounding in the mean would otherwise be
    divided by eps.

    Args:
        rewards: [P, G].
        eps: added to the standard deviation.
        ddof: 0 for the population's standard deviation, 1 for the sample's.

    Raises:
        ValueError: G <= ddof.
    """
    chex.assert_rank(rewards, 2)
    if rewards.shape[1] <= ddof:
        raise ValueError(f"ddof={ddof} needs a group of more than {ddof}, got {rewards.shape[1]}")
    std = jnp.std(rewards.astype(jnp.float32), axis=1, keepdims=True, ddof=ddof)
    return group_centred(rewards) / (std + eps)


def group_centred(rewards: jax.Array) -> jax.Array:
    """Dr. GRPO (Liu et al. 2025): R - mean over each group, not divided by its deviation."""
    chex.assert_rank(rewards, 2)
    rewards = rewards.astype(jnp.float32)
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    return jnp.where(jnp.ptp(rewards, axis=1, keepdims=True) == 0.0, 0.0, centred)


def leave_one_out(rewards: jax.Array) -> jax.Array:
    """RLOO (Ahmadian et al. 2024): R_i minus the mean of the other samples of its group.

    Raises:
        ValueError: the group has one sample only.
    """
    chex.assert_rank(rewards, 2)
    group = rewards.shape[1]
    if group < 2:
        raise ValueError("leave_one_out needs at least 2 samples per prompt, got 1")
    return group_centred(rewards) * (group / (group - 1))
