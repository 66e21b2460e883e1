"""What trainers learn from: completions, and what was thought of them."""

from typing import NamedTuple

import jax

from jaxlab.rollouts.policy import Rollout


class Experience(NamedTuple):
    """B rows of tokens, the completions of one prompt side by side.

    Rows of episodes are their turns: each was written in one phase, and brings its advantage along,
    since episodes and not rows are compared.

    Attributes:
        rollout: tokens and their mask, which is False on what the student did not write.
        reward: float32 [B], by a verifier or an environment; None where nothing learns from it.
        phase: int32 [B], of an episode; None outside of episodes.
        valid: bool [B], False for rows that do not count; None: all do.
        advantage: float32 [B], known beforehand; None: the method's `credit` makes it.
        weight: float32 [B], multiplies the row's loss; None: what `credit` says.
        stored: bool [B], True for rows of an earlier policy, whose own log-probabilities are
            the old ones of the ratio; None: none is.
    """

    rollout: Rollout
    reward: jax.Array | None = None
    phase: jax.Array | None = None
    valid: jax.Array | None = None
    advantage: jax.Array | None = None
    weight: jax.Array | None = None
    stored: jax.Array | None = None
