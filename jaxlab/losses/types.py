"""What passes between a trainer and a method: needs, tokens, teacher views, groups and credit.

A method is a frozen dataclass of options with `needs`, `credit` and `loss`; see `Method`. Its loss
is per token and knows neither masks nor averages: the aggregation is `losses.aggregate`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax

from jaxlab import ranges

Stats = dict[str, jax.Array]

# "token": the log-probability of the sampled token; "topk": also those of the k likeliest words;
# "full": also those of the whole vocabulary.
TeacherKind = Literal["token", "topk", "full"]
KINDS: tuple[TeacherKind, ...] = ("token", "topk", "full")


@dataclass(frozen=True)
class Needs:
    """What a method must be given beside the student's tokens.

    Attributes:
        teacher: how much of the teacher's distribution; None: no teacher.
        top_k: likeliest words of the teacher, where `teacher` is "topk" (or more).
        tail: whether the mass of the teacher's other words is wanted with the top k.
        entropy: whether the teacher's entropy is wanted.
        reward: the verifier's verdict.
        old: log-probabilities by the student before the first update, from a forward pass of the
            trainer; with several updates per batch they are always there.
        reference: log-probabilities of a frozen reference model.
        sequence: the loss is of whole completions: it is called with arrays [B, T].
        own_samples: the loss is a policy gradient, which only the student's own tokens estimate.
        group: fewest completions per prompt that `credit` can compare.
        tempered: the student's distribution is divided by the sampler's temperature; False: it is
            the one of temperature 1.
    """

    teacher: TeacherKind | None = None
    top_k: int = 0
    tail: bool = False
    entropy: bool = False
    reward: bool = False
    old: bool = False
    reference: bool = False
    sequence: bool = False
    own_samples: bool = False
    group: int = 1
    tempered: bool = True


class Teacher(NamedTuple):
    """A teacher's view of N tokens, all float32 and constants; what nobody asked for is None.

    Attributes:
        token: [N], log-probability of the sampled token.
        words: int32 [N, K], the K likeliest words, the likeliest first.
        top: [N, K], their log-probabilities under the whole vocabulary.
        tail: [N], log of the mass of all other words.
        entropy: [N], nats.
        logp: [N, V], the whole distribution.
    """

    token: jax.Array | None = None
    words: jax.Array | None = None
    top: jax.Array | None = None
    tail: jax.Array | None = None
    entropy: jax.Array | None = None
    logp: jax.Array | None = None


class Tokens(NamedTuple):
    """N sampled tokens and what is known of each; [B, T] for a method of whole completions.

    Attributes:
        tokens: int32 [N].
        logp: float32 [N], by the student; the one differentiable array beside `student_logp`.
        old_logp: float32 [N], by the student before the first update on the batch; a constant.
        student_logp: float32 [N, V], or None where the teacher's view is of the token alone.
        teacher: None without one.
        reference_logp: float32 [N] by the reference model, or None.
        advantage: float32 [N], the completion's; None where `credit` gives none.
        branch: int32 [N], the completion's; None where `credit` gives none.
        progress: float32 [N], the share of the run's steps that is done; None outside of a run.
        mask: bool [B, T]; None for a method of single tokens.
        choices: int32 [N, A], the words among which each token was drawn, repeats included; -1 in
            the first place: among all. None: all were drawn among all.
    """

    tokens: jax.Array
    logp: jax.Array | None = None
    old_logp: jax.Array | None = None
    student_logp: jax.Array | None = None
    teacher: Teacher | None = None
    reference_logp: jax.Array | None = None
    advantage: jax.Array | None = None
    branch: jax.Array | None = None
    progress: jax.Array | None = None
    mask: jax.Array | None = None
    choices: jax.Array | None = None


class Group(NamedTuple):
    """Completions of P prompts, G of each: what `credit` decides on. All arrays [P, G].

    Attributes:
        length: int32, tokens that count.
        stopped: bool, False where the completion was cut off by its length.
        reward: float32, or None where the method needs none.
        student_mean_logp: float32, mean log-probability of a completion's tokens by the student
            that sampled them.
        teacher_mean_logp: the same by the teacher; None without one.
    """

    length: jax.Array
    stopped: jax.Array
    reward: jax.Array | None = None
    student_mean_logp: jax.Array | None = None
    teacher_mean_logp: jax.Array | None = None


class Credit(NamedTuple):
    """How much each completion counts, and for what; constants to the gradient.

    Attributes:
        weight: float32 [P, G] >= 0, multiplies the loss of the completion's tokens; None: 1.
        advantage: float32 [P, G]; None where the method needs none.
        branch: int32 [P, G], which of the method's losses the completion gets.
        keep: bool [P, G]; what is not kept is as if it had not been sampled. None: all are kept.
        metrics: scalars.
    """

    weight: jax.Array | None = None
    advantage: jax.Array | None = None
    branch: jax.Array | None = None
    keep: jax.Array | None = None
    metrics: Mapping[str, jax.Array] = {}


class Method(Protocol):
    """A distillation or reinforcement method: hashable options, and two pure functions."""

    @property
    def needs(self) -> Needs:
        """What `credit` and `loss` are to be given."""

    @property
    def agg(self) -> str:
        """The aggregation over tokens; see `aggregate.token_weights`."""

    @property
    def summaries(self) -> Mapping[str, tuple[str, ...]]:
        """Statistic -> how it is summarised, see `aggregate.SUMMARIES`; those not named: mean."""

    def credit(self, group: Group) -> Credit:
        """Weights, advantages and branches of completions."""

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The loss of each token, and statistics of the same shape."""


class Options:
    """Frozen dataclasses whose Literals are checked, also where no config is built."""

    def __post_init__(self) -> None:
        """Check the choices."""
        ranges.check_choices(self)


class Base(Options):
    """What most methods have in common: no credit, every statistic summarised by its mean."""

    # Paper and equation, for lists of methods.
    source = ""
    summaries: Mapping[str, tuple[str, ...]] = {}

    def credit(self, group: Group) -> Credit:
        """No weights, advantages or branches."""
        del group
        return Credit()

    def contradictions(self) -> list[str]:
        """Lines that say where the options differ in kind from the method's paper."""
        return []


def at_least(kind: TeacherKind | None, other: TeacherKind) -> bool:
    """Whether a view of `kind` has what one of kind `other` has."""
    return kind is not None and KINDS.index(kind) >= KINDS.index(other)


def spread(per_sequence: Any, like: jax.Array) -> Any:
    """[B] -> [B, T] of `like`; None stays None."""
    if per_sequence is None:
        return None
    return jax.numpy.broadcast_to(per_sequence[:, None], like.shape)
