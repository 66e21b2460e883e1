"""What trainers learn from: completions, and what was thought of them."""

from typing import NamedTuple

import jax

from jaxlab.rollouts.policy import Rollout


class Experience(NamedTuple):
    """B rows of tokens, the completions of one prompt side by side.

    Attributes:
        rollout: tokens and their mask, which is False on what the student did not write.
        reward: float32 [B], by a verifier or an environment; None where nothing learns from it.
    """

    rollout: Rollout
    reward: jax.Array | None = None
