"""Matching the teacher's distribution at a token: a divergence on the vocabulary, or its top k."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.losses import divergences
from jaxlab.losses.teacher_view import tail
from jaxlab.losses.types import Needs, Options, Stats, Teacher


@dataclass(frozen=True)
class Match(Options):
    """A divergence between teacher and student, and the words that it is summed over.

    Attributes:
        divergence: "fkl" is KL(T||S), "rkl" KL(S||T); "jsd" (Agarwal et al. 2024, Eq. 1) and
            "jeffreys_mix" (the AOPD code, whose jsd_beta is 1 - beta) lie between them.
        beta: of the last two: 0 is KL(T||S), 1 is KL(S||T).
        support: "full" vocabulary, or the teacher's "teacher_topk" words.
        top_k: size of that set; more than V means V.
        renormalise: what to make of the set: probabilities as they are ("none"), both sides
            renormalised on it ("topk"), or the rest as one more word ("tail_bucket"). Without
            renormalisation the sum is no divergence and may be negative: it is not clamped.
        divide_by_k: divide by the size of the set (AOPD Eq. 7).
    """

    divergence: Literal["fkl", "rkl", "jeffreys_mix", "jsd"] = "jsd"
    beta: float = 0.5
    support: Literal["full", "teacher_topk"] = "full"
    top_k: int = 32
    renormalise: Literal["none", "topk", "tail_bucket"] = "none"
    divide_by_k: bool = False

    def __post_init__(self) -> None:
        """Check the choices, `top_k` and `beta`."""
        super().__post_init__()
        ranges.check_counts(self, "top_k")
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta={self.beta} is outside [0, 1]: 0 is KL(T||S), 1 is KL(S||T)")

    @property
    def view(self) -> Needs:
        """The part of the teacher's distribution that is compared."""
        if self.support == "full":
            return Needs(teacher="full")
        return Needs(teacher="topk", top_k=self.top_k, tail=self.renormalise == "tail_bucket")

    def between(self, student_logp: jax.Array | None, teacher: Teacher) -> tuple[jax.Array, Stats]:
        """The divergence [N] of a student [N, V] from a teacher's view, and masses on a top-k set.

        The masses `student_mass` and `teacher_mass` are logged because a divergence on a top-k set
        does not see what lies outside of it.
        """
        assert student_logp is not None
        if self.support == "full":
            assert teacher.logp is not None
            return self._divergence(student_logp, teacher.logp), {}
        assert teacher.words is not None
        assert teacher.top is not None
        words, teacher_top = teacher.words, teacher.top
        student_top = jnp.take_along_axis(student_logp, words, axis=-1)
        stats = {
            "student_mass": jax.lax.stop_gradient(jnp.sum(jnp.exp(student_top), axis=-1)),
            "teacher_mass": jnp.sum(jnp.exp(teacher_top), axis=-1),
        }
        k = words.shape[-1]
        if self.renormalise == "topk":
            student_top, teacher_top = map(jax.nn.log_softmax, (student_top, teacher_top))
        elif self.renormalise == "tail_bucket" and k < student_logp.shape[-1]:
            assert teacher.tail is not None
            rest = tail(student_logp, words)
            student_top = jnp.concatenate([student_top, rest[:, None]], axis=-1)
            teacher_top = jnp.concatenate([teacher_top, teacher.tail[:, None]], axis=-1)
        scale = 1.0 / k if self.divide_by_k else 1.0
        return scale * self._divergence(student_top, teacher_top), stats

    def _divergence(self, student_logp: jax.Array, teacher_logp: jax.Array) -> jax.Array:
        if self.divergence == "fkl":
            return divergences.forward_kl(student_logp, teacher_logp)
        if self.divergence == "rkl":
            return divergences.reverse_kl(student_logp, teacher_logp)
        if self.divergence == "jeffreys_mix":
            return divergences.jeffreys_mix(student_logp, teacher_logp, self.beta)
        return divergences.jsd(student_logp, teacher_logp, self.beta)


@dataclass(frozen=True)
class TopKForward(Match):
    """KL(T||S) on the teacher's top k, both sides renormalised: `Match` with these defaults."""

    divergence: Literal["fkl", "rkl", "jeffreys_mix", "jsd"] = "fkl"
    support: Literal["full", "teacher_topk"] = "teacher_topk"
    renormalise: Literal["none", "topk", "tail_bucket"] = "topk"


@dataclass(frozen=True)
class TopKReverse(TopKForward):
    """KL(S||T) on the teacher's top k, both sides renormalised: `Match` with these defaults."""

    divergence: Literal["fkl", "rkl", "jeffreys_mix", "jsd"] = "rkl"
