"""A frozen model that reads what the student wrote."""

from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jaxlab.interop import models
from jaxlab.interop.models import Model
from jaxlab.losses import chunked_vocab
from jaxlab.losses.types import Needs, Teacher
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.rollouts.policy import Rollout, response_hidden
from jaxlab.runtime.settings import Rules


class Frozen(NamedTuple):
    """A model that is not trained: a decoder and its params, laid out on a mesh."""

    decoder: Decoder
    params: Params


def load(
    spec: Model | None, where: str, mesh: Mesh, rules: Rules, *, vocab_size: int, seed: int
) -> Frozen | None:
    """The model of a config's section `where`; None where there is none."""
    if spec is None:
        return None
    source = models.find(spec, where, vocab_size=vocab_size, seed=seed)
    return Frozen(Decoder(source.config), source.load(mesh, rules))


def view(
    decoder: Decoder,
    params: Params,
    rollout: Rollout,
    needs: Needs,
    *,
    temperature: float,
    vocab_size: int,
    samples: int,
) -> Teacher:
    """What the model says of each completion token, [B, N, ...]; see `chunked_vocab.teacher_view`.

    samples: so many consecutive rows have one prompt, which is read once for all of them.
    """
    hidden = jax.lax.stop_gradient(response_hidden(decoder, params, rollout, samples=samples))
    return chunked_vocab.teacher_view(
        needs,
        hidden,
        unembedding(params),
        rollout.response,
        temperature=temperature,
        vocab_size=vocab_size,
        choices=rollout.choices,
    )
