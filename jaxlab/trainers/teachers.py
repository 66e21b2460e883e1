"""A frozen model that reads what the student wrote, or a file of what it said of fixed texts."""

import dataclasses
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from jaxlab.interop import fingerprint, models
from jaxlab.interop.models import EXECUTION_FIELDS, Model
from jaxlab.losses import chunked_vocab
from jaxlab.losses.types import Needs, Teacher
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.rollouts.policy import Rollout, response_hidden
from jaxlab.runtime.settings import Rules
from jaxlab.trainers.teacher_file import TeacherFile

WHOLE_VOCABULARY = (
    "teacher.logprobs: the loss compares the whole vocabulary, of which a file has the likeliest "
    'words: set loss.support to "teacher_topk", and loss.top_k'
)


@dataclasses.dataclass(frozen=True)
class TeacherModel(Model):
    """A teacher: a model, a file of what one said, or both.

    Attributes:
        logprobs: a directory that `python -m jaxlab.teacher_logprobs` wrote, which is read in the
            place of the model wherever completions are fixed. With a path beside it, which must
            be that model's, the model reads the student's own completions and those of
            evaluations.
    """

    logprobs: str | None = None

    @property
    def model(self) -> Model | None:
        """The model; None where the file speaks for it."""
        described = self.preset is not None or set(self.sizes) - set(EXECUTION_FIELDS)
        if self.logprobs is not None and self.path is None and not described:
            return None
        return self


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


def open_file(spec: TeacherModel | None, *, seed: int) -> TeacherFile | None:
    """The file of a config's teacher, found to be whole and of its model; None without one.

    Raises:
        TeacherFileError: it is of no use, or of another model than the one beside it.
    """
    if spec is None or spec.logprobs is None:
        return None
    file = TeacherFile(spec.logprobs)
    if spec.model is not None:
        size = file.about.vocab_size
        source = models.find(spec, "teacher", vocab_size=size, seed=seed)
        file.check_model(fingerprint.fingerprint(spec, source, seed), spec.path or "from scratch")
    return file


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
