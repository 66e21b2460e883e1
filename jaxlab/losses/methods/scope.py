"""SCOPE: correct completions are imitated, wrong ones corrected by the teacher, both weighted."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlab import ranges
from jaxlab.credit import perplexity
from jaxlab.losses.aggregate import Aggregation
from jaxlab.losses.methods.matching import TopKReverse
from jaxlab.losses.methods.opd import log_ratio
from jaxlab.losses.policy_gradient import SUMMARIES, Ratio, Surrogate
from jaxlab.losses.types import Base, Credit, Group, Needs, Stats, Tokens

CORRECT, WRONG = 0, 1


@dataclass(frozen=True)
class Scope(Surrogate, Base):
    """SCOPE (arXiv 2604.10688): routing by verifier, weights by perplexity within a prompt.

    J = E_x [ sum over correct w_i^stu L_MLE(y_i) + sum over wrong w_i^tea L_OPD(y_i) ]     (Eq. 6)
    L_MLE(y) = -sum_t rho_t,  L_OPD(y) = sum_t rho_t (log S(y_t) - log T(y_t))      (Eq. 2 and 3)

    The weights are `credit.perplexity.scope_weights` (Eq. 4 and 5). Defaults are the paper's; the
    released code's reading is `ScopeReleased`.

    Attributes:
        tau: temperature of the weights.
        norm: how weights are normalised; see `perplexity.branch_weights`.
        student_sign: of the student's perplexity in the correct branch; 1 is Eq. 4.
        teacher_sign: of the teacher's perplexity in the wrong branch; -1 is Eq. 5.
        max_perplexity: perplexities beyond count as this; None: no bound.
        correct_branch: "mle" (the paper), "opd", or "none".
        wrong_branch: "opd" (the paper), "match" the divergence of `match`, or "none".
        match: of the wrong branch "match": the released code's top-k variant is "rkl",
            renormalised.
        correct_weight: multiplies the correct branch.
        wrong_weight: multiplies the wrong branch.
        mle_ratio: "importance" is Eq. 2, "none" the plain -log S of the released code.
        ratio: of the wrong branch: "importance" is Eq. 3.
        truncated: a completion that was cut off is "wrong", or dropped ("drop").
        per_branch: average each branch over tokens as the released code does: the correct one over
            its own tokens, the wrong one over all; with `agg="token_mean"`.
        chance: probability that a guess is correct; see `shrink`.
        shrink: pseudo-count by which the correct branch of a prompt with few correct answers beyond
            chance is weakened; 0 is the paper. See `perplexity.shrunk`.
        perplexities: the student's are the "sampler"'s own log-probabilities, or those of a forward
            pass of the "trainer", which costs one; evaluations log how far they differ.
        agg: "seq_mean_token_sum" is the paper's sum over tokens.
    """

    source = "SCOPE (2604.10688) Eq. 1 to 6"
    summaries = SUMMARIES

    tau: float = 1.0
    norm: Literal["sum1", "mean1", "none", "uniform"] = "sum1"
    student_sign: Literal[1, -1] = 1
    teacher_sign: Literal[1, -1] = -1
    max_perplexity: float | None = None
    correct_branch: Literal["mle", "opd", "none"] = "mle"
    wrong_branch: Literal["opd", "match", "none"] = "opd"
    match: TopKReverse = field(default_factory=TopKReverse)
    correct_weight: float = 1.0
    wrong_weight: float = 1.0
    mle_ratio: Literal["importance", "none"] = "importance"
    ratio: Ratio = "importance"
    truncated: Literal["wrong", "drop"] = "wrong"
    per_branch: bool = False
    chance: float = 0.0
    shrink: float = 0.0
    perplexities: Literal["sampler", "trainer"] = "sampler"
    agg: Aggregation = "seq_mean_token_sum"
    name: Literal["scope"] = "scope"

    def __post_init__(self) -> None:
        """Check choices and ranges."""
        super().__post_init__()
        ranges.check(self, "tau", above=0)
        ranges.check(self, "max_perplexity", above=1)
        ranges.check(self, "correct_weight", "wrong_weight", "shrink", least=0)
        ranges.check(self, "chance", least=0, below=1)
        self.check_token_level("the ratio of Eq. 1 is a token's")
        if self.per_branch and self.agg != "token_mean":
            raise ValueError("per_branch averages over tokens: set agg to 'token_mean' with it")

    @property
    def needs(self) -> Needs:
        """The verdict, and the teacher's log-probability of the token, or its top k."""
        more: dict[str, Any] = {"teacher": "token"}
        if self.wrong_branch == "match":
            view = self.match.view
            more = {"teacher": view.teacher, "top_k": view.top_k, "tail": view.tail}
        return Needs(reward=True, own_samples=True, old=self.perplexities == "trainer", **more)

    def contradictions(self) -> list[str]:
        """Where weights go against Eq. 4 or 5."""
        said = "{} is {}, against Eq. {} of SCOPE: {}"
        found = []
        if self.student_sign != 1:
            text = "correct answers that the student was sure of weigh more"
            found.append(said.format("student_sign", self.student_sign, 4, text))
        if self.teacher_sign != -1:
            text = "wrong answers that the teacher cannot follow weigh more"
            found.append(said.format("teacher_sign", self.teacher_sign, 5, text))
        return found

    def credit(self, group: Group) -> Credit:
        """Weights and branches; the completions of a branch that is off weigh nothing."""
        assert group.reward is not None
        assert group.student_mean_logp is not None
        assert group.teacher_mean_logp is not None
        keep = group.length > 0
        if self.truncated == "drop":
            keep = keep & group.stopped
        # A completion without an end has no answer, whatever a verifier found in it.
        correct = (group.reward > 0.0) & group.stopped & keep
        wrong = ~correct & keep
        options: Any = {
            "tau": self.tau,
            "norm": self.norm,
            "max_perplexity": self.max_perplexity,
        }
        student, teacher = group.student_mean_logp, group.teacher_mean_logp
        w_correct = perplexity.branch_weights(student, correct, sign=self.student_sign, **options)
        w_wrong = perplexity.branch_weights(teacher, wrong, sign=self.teacher_sign, **options)
        metrics = {
            "correct_share": jnp.mean(correct.astype(jnp.float32)),
            "correct_weight_perplexity": perplexity.correlation(w_correct, student, correct),
            "wrong_weight_perplexity": perplexity.correlation(w_wrong, teacher, wrong),
            "correct_perplexity": _mean(jnp.exp(-student), correct),
            "wrong_teacher_perplexity": _mean(jnp.exp(jnp.minimum(-teacher, 20.0)), wrong),
        }
        trust = perplexity.shrunk(correct, chance=self.chance, strength=self.shrink)
        on = self.correct_weight * (self.correct_branch != "none")
        off = self.wrong_weight * (self.wrong_branch != "none")
        weight = on * trust * w_correct + off * w_wrong
        if self.per_branch:
            tokens = jnp.sum(jnp.where(keep, group.length, 0))
            ours = jnp.maximum(jnp.sum(jnp.where(correct, group.length, 0)), 1)
            weight = jnp.where(correct, weight * tokens / ours, weight)
        elif self.agg == "token_mean":
            # Eq. 6 per token: the weights say how much a completion counts among its prompt's.
            weight = weight * jnp.sum(keep, axis=1, keepdims=True)
        else:
            # The aggregation is a mean over sequences, Eq. 6 a sum over those of a prompt.
            weight = weight * jnp.sum(keep) / jnp.maximum(keep.shape[0], 1)
        branch = jnp.where(correct, CORRECT, WRONG)
        return Credit(weight=weight, branch=branch, keep=keep, metrics=metrics)

    def loss(self, batch: Tokens) -> tuple[jax.Array, Stats]:
        """The loss of the branch of each token's completion."""
        assert batch.branch is not None
        advantage = log_ratio(batch)
        correct = batch.branch == CORRECT
        opd, stats = self.of(batch, advantage)
        stats["advantage"] = advantage
        wrong_loss = opd
        if self.wrong_branch == "match":
            assert batch.teacher is not None
            wrong_loss, masses = self.match.between(batch.student_logp, batch.teacher)
            stats |= masses
        correct_loss = opd
        if self.correct_branch == "mle":
            correct_loss, _ = self.of(batch, jnp.ones_like(advantage), self.mle_ratio)
        stats["correct_tokens"] = correct.astype(jnp.float32)
        return jnp.where(correct, correct_loss, wrong_loss), stats


@dataclass(frozen=True)
class ScopeReleased(Scope):
    """SCOPE as its released code computes it, which contradicts the paper in four places.

    The student's sign is inverted, weights have mean 1, the correct branch is -log S averaged over
    the tokens of correct answers, the wrong one a clipped policy gradient averaged over all tokens.
    """

    source = "the released code of SCOPE (run scripts at 085fdc2)"

    norm: Literal["sum1", "mean1", "none", "uniform"] = "mean1"
    student_sign: Literal[1, -1] = -1
    mle_ratio: Literal["importance", "none"] = "none"
    ratio: Ratio = "dual_clip"
    per_branch: bool = True
    agg: Aggregation = "token_mean"
    name: Literal["scope_released"] = "scope_released"  # type: ignore[assignment]


def _mean(values: jax.Array, members: jax.Array) -> jax.Array:
    total = jnp.sum(jnp.where(members, values, 0.0))
    return total / jnp.maximum(jnp.sum(members), 1)
