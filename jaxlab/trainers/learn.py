"""Two jitted functions that learn from a batch of experience: `score` it, then `update` on it.

`score` has teacher, reference and the student as it was read the batch, once; `update` takes the
optimiser's steps on it. This module knows decoders, methods and arrays, no config or tokenizer.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import count, masked_mean, per_token, summarise
from jaxlab.losses.types import Credit, Group, Method, Needs, Teacher, Tokens, spread
from jaxlab.models.decoder import Decoder, Params, unembedding
from jaxlab.rollouts.experience import Experience
from jaxlab.rollouts.policy import Rollout, hidden_and_balance, response_hidden
from jaxlab.runtime.sharding import ambient
from jaxlab.trainers import microbatch, routing, state, teachers
from jaxlab.trainers.state import TrainState

Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class Learning:
    """How a batch of experience is learnt from.

    Attributes:
        samples: completions per prompt, side by side.
        steps: of the run; `Tokens.progress` is counted in them.
        vocab_size: words; tables may be padded beyond.
        temperature: divides the student's logits: the one that its tokens were sampled with.
        teacher_temperature: divides the logits of teacher and reference.
        updates: optimiser steps per batch, each on every `updates`-th group of rows; the ratio
            refers to the policy before the first.
        parts: microbatches of an update.
        statistics: measure the divergences of student and teacher over the whole vocabulary at
            each update, which costs time.
        skip_nonfinite: leave the state as it was where loss or gradient is not finite.
        balance_loss: weight of the routers' balance loss of a student with experts.
    """

    samples: int
    steps: int
    vocab_size: int
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    updates: int = 1
    parts: int = 1
    statistics: bool = False
    skip_nonfinite: bool = False
    balance_loss: float = 0.0

    def group(self, rows: int) -> int:
        """Completions of one prompt that a microbatch of a batch of `rows` has side by side."""
        return math.gcd(rows // self.updates // self.parts, self.samples)


class Scored(NamedTuple):
    """A batch and all that its updates need beside the student's params.

    Attributes:
        rollout: B rows.
        mask: bool [B, N], the tokens that count.
        batch: arrays [B, N, ...] of what is known of each token.
        weight: float32 [B] of each completion, or None.
        teacher_hidden: [B, N, d_t] where the whole distribution of the teacher is compared.
    """

    rollout: Rollout
    mask: jax.Array
    batch: Tokens
    weight: jax.Array | None
    teacher_hidden: jax.Array | None


class Learner:
    """The jitted `score` and `update` of a student and a method."""

    def __init__(
        self,
        student: Decoder,
        method: Method,
        optimizer: optax.GradientTransformation,
        rate: Callable[[jax.Array], Any],
        mesh: Mesh,
        shardings: TrainState,
        options: Learning,
        *,
        teacher: Decoder | None = None,
        reference: Decoder | None = None,
    ):
        """Build the two functions; nothing is compiled before their first call.

        Args:
            student: what is trained.
            method: what it learns.
            optimizer: of the params.
            rate: the learning rate after so many updates.
            mesh: of the devices.
            shardings: of the state.
            options: sizes and temperatures.
            teacher: where the method needs one.
            reference: where the method needs one.
        """
        self.student, self.method, self.options = student, method, options
        self._teacher, self._reference = teacher, reference
        self._optimizer, self._rate = optimizer, rate
        everywhere = NamedSharding(mesh, PartitionSpec())
        self.score = jax.jit(ambient(mesh)(self._score))
        self.meter = jax.jit(ambient(mesh)(self._meter), static_argnums=3)
        self.update = jax.jit(
            ambient(mesh)(self._update),
            donate_argnums=0,
            out_shardings=(shardings, everywhere),
        )

    def _score(
        self,
        params: Params,
        teacher_params: Params | None,
        reference_params: Params | None,
        experience: Experience,
        step: jax.Array,
        said: Teacher | None = None,
    ) -> tuple[Scored, Metrics]:
        """Returns what stays fixed during the updates on a batch, and metrics of the credit.

        said: the teacher's view, where it is known beforehand; None: the teacher reads the batch.
        """
        options, needs, rollout = self.options, self.method.needs, experience.rollout
        rows = rollout.tokens.shape[0]
        group, parts = self.options.group(rows), options.parts * options.updates

        def read(function: Callable[[Rollout], Any]) -> Any:
            return microbatch.over_parts(function, rollout, parts, group)

        view, hidden = said, None
        if (needs.teacher is not None and said is None) or options.statistics:
            assert self._teacher is not None
            assert teacher_params is not None
            if needs.teacher in ("token", "topk") and said is None:
                view = read(self._reader(self._teacher, teacher_params, needs, group))
            if needs.teacher == "full" or options.statistics:
                hidden = read(
                    functools.partial(response_hidden, self._teacher, teacher_params, samples=group)
                )
        reference = None
        if needs.reference:
            assert self._reference is not None
            assert reference_params is not None
            token = Needs(teacher="token")
            reference = read(self._reader(self._reference, reference_params, token, group)).token
        old = None
        if needs.old or options.updates > 1 or experience.stored is not None:
            old, _ = read(lambda part: self._token_logp(params, part, group))
        if experience.stored is not None:
            assert old is not None
            old = jnp.where(experience.stored[:, None], rollout.logprobs, old)
        of_tokens = None if view is None else view.token
        if needs.teacher == "full" and needs.reward:
            # A method that weighs completions asks what the teacher thinks of them.
            assert self._teacher is not None
            assert teacher_params is not None
            token = Needs(teacher="token")
            of_tokens = read(self._reader(self._teacher, teacher_params, token, group)).token
        if experience.advantage is None:
            credit = self.method.credit(grouped(experience, options.samples, needs, old, of_tokens))
        else:
            credit = Credit(advantage=experience.advantage)
        mask = rollout.mask
        if experience.valid is not None:
            mask = mask & experience.valid[:, None]
        if credit.keep is not None:
            mask = mask & credit.keep.reshape(-1)[:, None]

        def of_rows(x: jax.Array | None) -> jax.Array | None:
            return None if x is None else jax.lax.stop_gradient(x.reshape(-1))

        progress = jnp.asarray(step, jnp.float32) / options.steps
        batch = Tokens(
            tokens=rollout.response,
            old_logp=old,
            teacher=view,
            reference_logp=reference,
            advantage=spread(of_rows(credit.advantage), mask),
            branch=spread(of_rows(credit.branch), mask),
            progress=jnp.broadcast_to(progress, mask.shape),
            choices=rollout.choices,
        )
        weight = credit.weight if experience.weight is None else experience.weight
        scored = Scored(rollout, mask, batch, of_rows(weight), hidden)
        return scored, dict(credit.metrics) | _lengths(rollout, experience.valid)

    def _reader(
        self, decoder: Decoder, params: Params, needs: Needs, group: int
    ) -> Callable[[Rollout], Teacher]:
        return functools.partial(
            teachers.view,
            decoder,
            params,
            needs=needs,
            temperature=self.options.teacher_temperature,
            vocab_size=self.options.vocab_size,
            samples=group,
        )

    def _update(
        self, current: TrainState, teacher_params: Params | None, scored: Scored
    ) -> tuple[TrainState, Metrics]:
        """Takes all updates on a batch; metrics are their means, of minima and maxima those."""
        updates = self.options.updates
        group = self.options.group(scored.mask.shape[0])
        step = functools.partial(self._one_update, teacher_params, group)
        if updates == 1:
            new, metrics = step(current, (jnp.zeros((), jnp.int32), scored))
        else:
            batches = microbatch.split(scored, updates, group)
            new, stacked = jax.lax.scan(step, current, (jnp.arange(updates), batches))
            metrics = {name: _over_updates(name)(values) for name, values in stacked.items()}
        return new._replace(step=new.step + 1), metrics

    def _one_update(
        self,
        teacher_params: Params | None,
        group: int,
        current: TrainState,
        minibatch: tuple[jax.Array, Scored],
    ) -> tuple[TrainState, Metrics]:
        index, scored = minibatch
        loss_of_part = functools.partial(
            self._loss,
            teacher_params=teacher_params,
            group=group,
            denominator=count(scored.mask, self.method.agg),
        )
        (loss, stats), grads = microbatch.value_and_grad(
            loss_of_part, current.params, scored, self.options.parts, group
        )
        new, more = state.apply_gradients(
            current, grads, loss, self._optimizer, self.options.skip_nonfinite
        )
        metrics = summarise(loss, stats, scored.mask, self.method.summaries) | more
        updates_done = current.step * self.options.updates + index
        metrics["learning_rate"] = jnp.asarray(self._rate(updates_done))
        return new, metrics

    def _loss(
        self,
        params: Params,
        scored: Scored,
        *,
        teacher_params: Params | None,
        group: int,
        denominator: jax.Array,
        balanced: bool = True,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The loss, or a microbatch's term of it, and statistics per token [B, N]."""
        options = self.options
        teacher = None
        if scored.teacher_hidden is not None:
            assert teacher_params is not None
            teacher = (scored.teacher_hidden, unembedding(teacher_params))
        hidden, found = hidden_and_balance(self.student, params, scored.rollout, samples=group)
        loss, stats = chunked_vocab.loss(
            self.method,
            hidden,
            unembedding(params),
            scored.batch,
            scored.mask,
            teacher=teacher,
            weight=scored.weight,
            temperature=options.temperature if self.method.needs.tempered else 1.0,
            teacher_temperature=options.teacher_temperature,
            denominator=denominator,
            statistics=options.statistics and teacher is not None,
            vocab_size=options.vocab_size,
            summary=per_token,
        )
        weight = options.balance_loss if balanced else 0.0
        return routing.added(loss, stats, found, weight, options.parts)

    def _token_logp(
        self, params: Params, rollout: Rollout, group: int
    ) -> tuple[jax.Array, jax.Array]:
        """Log-probabilities [B, N] of the completion by the student, and its entropy [B, N]."""
        return chunked_vocab.token_logp(
            response_hidden(self.student, params, rollout, samples=group),
            unembedding(params),
            rollout.response,
            self.options.temperature if self.method.needs.tempered else 1.0,
            vocab_size=self.options.vocab_size,
            choices=rollout.choices,
        )

    def _meter(
        self,
        params: Params,
        teacher_params: Params | None,
        scored: Scored,
        kinds: int,
        kind: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Norms of the gradients that the rows of each kind alone would give.

        The KL to a reference and the balance of experts are left out: what is measured is the
        signal of the credit.

        Args:
            params: of the student.
            teacher_params: where the method needs a teacher.
            scored: a batch.
            kinds: how many there are.
            kind: int32 [B], of each row.

        Returns:
            Norms float32 [kinds]; and how far the sampler's log-probabilities are from those of
            the trainer's forward pass, the mean distance over tokens (stored rows have none).
        """
        method, group = self.method, self.options.group(scored.mask.shape[0])
        if hasattr(method, "kl_weight"):
            scored = scored._replace(batch=scored.batch._replace(reference_logp=None))
        loss = functools.partial(
            self._loss,
            teacher_params=teacher_params,
            group=group,
            denominator=count(scored.mask, method.agg),
            balanced=False,
        )

        def norm(k: jax.Array) -> jax.Array:
            own = scored._replace(mask=scored.mask & (kind == k)[:, None])
            _, grads = microbatch.value_and_grad(loss, params, own, self.options.parts, group)
            return optax.tree.norm(grads)

        norms = jax.lax.map(norm, jnp.arange(kinds))
        logp = scored.batch.old_logp
        if logp is None:
            logp, _ = microbatch.over_parts(
                lambda part: self._token_logp(params, part, group),
                scored.rollout,
                self.options.parts,
                group,
            )
        return norms, masked_mean(jnp.abs(logp - scored.rollout.logprobs), scored.mask)


def _lengths(rollout: Rollout, valid: jax.Array | None) -> Metrics:
    """Mean length and share of cut completions, of the rows that count."""
    lengths = rollout.mask.sum(1)
    if valid is None:
        return {
            "response_length": lengths.mean(),
            "truncated_share": 1.0 - rollout.stopped.mean(),
        }
    return {
        "response_length": masked_mean(lengths.astype(jnp.float32), valid),
        "truncated_share": masked_mean(1.0 - rollout.stopped.astype(jnp.float32), valid),
    }


def grouped(
    experience: Experience,
    samples: int,
    needs: Needs,
    old_logp: jax.Array | None = None,
    teacher_logp: jax.Array | None = None,
) -> Group:
    """The completions by prompt, [B / samples, samples], for a method's `credit`.

    Args:
        experience: B rows.
        samples: completions per prompt.
        needs: of the method.
        old_logp: float [B, N] by the trainer's forward pass of the policy that sampled; None: the
            sampler's own.
        teacher_logp: float [B, N] of the tokens, or None.
    """
    rollout, mask = experience.rollout, experience.rollout.mask
    length = jnp.sum(mask, axis=1)

    def mean(logp: jax.Array | None) -> jax.Array | None:
        if logp is None:
            return None
        total = jnp.sum(jnp.where(mask, logp, 0.0), axis=1)
        return (total / jnp.maximum(length, 1)).reshape(-1, samples)

    assert experience.reward is not None or not needs.reward, "the method needs a reward"
    reward = experience.reward
    return Group(
        length=length.reshape(-1, samples),
        stopped=rollout.stopped.reshape(-1, samples),
        reward=None if reward is None else reward.astype(jnp.float32).reshape(-1, samples),
        student_mean_logp=mean(rollout.logprobs if old_logp is None else old_logp),
        teacher_mean_logp=mean(teacher_logp),
    )


def _over_updates(name: str) -> Callable[[jax.Array], jax.Array]:
    if name.endswith("_max"):
        return jnp.max
    if name.endswith("_min"):
        return jnp.min
    return jnp.mean
