"""What an evaluation measures on a batch of the student's own completions."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import masked_mean, per_token
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.types import Tokens
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.rollouts.policy import Rollout, response_hidden
from jaxlab.trainers.learn import Learning

# A student samples tokens that its teacher gives e^-20; beyond, the bins at the ends count.
ADVANTAGE_EDGES = np.linspace(-20.0, 5.0, 101)


def measure(
    student: Decoder,
    teacher: Decoder | None,
    options: Learning,
    params: Params,
    teacher_params: Params | None,
    rollout: Rollout,
) -> tuple[dict[str, jax.Array], jax.Array | None]:
    """Scalars, and the histogram of A = log T(y) - log S(y) at `ADVANTAGE_EDGES` with a teacher.

    - sampler_logp_error: the largest |sampler - trainer| log S(y) of a token;
    - with a teacher: kl_forward KL(T||S), kl_reverse KL(S||T) and teacher_entropy, means over the
      tokens, of the whole vocabulary.
    """
    group = options.group(rollout.tokens.shape[0])
    hidden = response_hidden(student, params, rollout, samples=group)
    # At the temperature of the sampler, whatever the method's loss is at.
    logp, _ = chunked_vocab.token_logp(
        hidden,
        unembedding(params),
        rollout.response,
        options.temperature,
        vocab_size=options.vocab_size,
    )
    error = jnp.where(rollout.mask, jnp.abs(logp - rollout.logprobs), 0.0).max()
    found = {"sampler_logp_error": error}
    if teacher is None:
        return found, None
    assert teacher_params is not None
    _, stats = chunked_vocab.loss(
        Opd(),
        hidden,
        unembedding(params),
        Tokens(tokens=rollout.response),
        rollout.mask,
        teacher=(
            response_hidden(teacher, teacher_params, rollout, samples=group),
            unembedding(teacher_params),
        ),
        temperature=options.temperature,
        teacher_temperature=options.teacher_temperature,
        statistics=True,
        vocab_size=options.vocab_size,
        summary=per_token,
    )
    for name in chunked_vocab.DIVERGENCES:
        found[name] = masked_mean(stats[name], rollout.mask)
    advantage = jnp.clip(stats["advantage"], ADVANTAGE_EDGES[0], ADVANTAGE_EDGES[-1])
    counts, _ = jnp.histogram(
        advantage, bins=jnp.asarray(ADVANTAGE_EDGES), weights=rollout.mask.astype(jnp.float32)
    )
    return found, counts
