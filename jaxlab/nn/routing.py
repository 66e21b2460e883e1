"""Which experts read a token: scores, choice, weights; and how evenly experts are used.

N tokens, E experts, k of them for each token.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab import ranges


@dataclasses.dataclass(frozen=True)
class Router:
    """How a token's experts are chosen and weighed.

    Attributes:
        num_experts: E.
        top_k: k, experts per token.
        score: of logits: "softmax" over all experts (Qwen3), or "sigmoid" of each (DeepSeek-V3).
        correction: whether a bias per expert, without gradient, is added to the scores for the
            choice alone (Wang et al. 2024, balance without auxiliary loss).
        groups: experts are divided into so many groups, of which `top_groups`, those with the
            largest sums of their two best scores, are chosen from (DeepSeek-V3, node-limited).
        top_groups: see groups.
        normalise: whether the k weights are divided by their sum.
        scale: factor of the weights.
    """

    num_experts: int
    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    correction: bool = False
    groups: int = 1
    top_groups: int = 1
    normalise: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check that experts are enough, and that they come in groups."""
        ranges.check_counts(self, "num_experts", "top_k", "groups", "top_groups")
        ranges.check(self, "scale", above=0)
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is above num_experts {self.num_experts}")
        if self.num_experts % self.groups:
            raise ValueError(
                f"num_experts {self.num_experts} is no multiple of groups {self.groups}"
            )
        size = self.num_experts // self.groups
        if self.groups > 1 and size < 2:
            raise ValueError(f"groups {self.groups} leaves {size} expert in each: at least 2")
        if self.top_groups > self.groups or self.top_groups * size < self.top_k:
            raise ValueError(
                f"top_groups {self.top_groups} of groups {self.groups} has "
                f"{self.top_groups * size} experts to choose top_k {self.top_k} from: expected "
                "at most all groups, and at least as many experts"
            )


class Routed(NamedTuple):
    """Each token's experts.

    Attributes:
        ids: int32 [N, k].
        weights: float32 [N, k].
        share: float32 [N, E], scores over their sum: what a router tends to, for the balance loss.
    """

    ids: jax.Array
    weights: jax.Array
    share: jax.Array


def route(logits: jax.Array, correction: jax.Array | None, router: Router) -> Routed:
    """Choose and weigh experts, in float32; gradients flow through weights and shares.

    Source: DeepSeek-V3 (2024), eqs. 12 to 16, and Qwen3's released code.

    Args:
        logits: [N, E].
        correction: [E], added for the choice alone; None is none.
        router: how.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if router.score == "softmax":
        scores = jax.nn.softmax(logits, axis=-1)
        share = scores
    else:
        scores = jax.nn.sigmoid(logits)
        share = scores / (jnp.sum(scores, axis=-1, keepdims=True) + 1e-20)
    choice = jax.lax.stop_gradient(scores)
    if correction is not None:
        choice = choice + jax.lax.stop_gradient(correction).astype(choice.dtype)
    if router.groups > 1:
        grouped = choice.reshape(len(choice), router.groups, -1)
        best = jnp.sum(jax.lax.top_k(grouped, 2)[0], axis=-1)
        chosen = jax.lax.top_k(best, router.top_groups)[1]
        kept = jnp.any(chosen[..., None] == jnp.arange(router.groups), axis=1)
        choice = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(choice.shape)
    ids = jax.lax.top_k(choice, router.top_k)[1]
    weights = jnp.take_along_axis(scores, ids, axis=-1)
    if router.normalise:
        weights = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-20)
    return Routed(ids, weights * router.scale, share)


class Load(NamedTuple):
    """Sums over tokens, which add up over calls: what a layer sows into "aux" as `load`.

    Attributes:
        tokens: float32 scalar.
        pairs: float32 [E], tokens that each expert was chosen for.
        share: float32 [E], sums of `Routed.share`; the gradient of the balance loss flows here.
    """

    tokens: jax.Array
    pairs: jax.Array
    share: jax.Array


def load(routed: Routed, counts: jax.Array | None = None) -> Load:
    """The load of the tokens where `counts`, bool [N], is True; None is all of them."""
    experts = routed.share.shape[-1]
    chosen = jnp.sum(routed.ids[..., None] == jnp.arange(experts), axis=1, dtype=jnp.float32)
    kept = jnp.ones(len(chosen)) if counts is None else counts.astype(jnp.float32)
    share = jnp.sum(jnp.where(kept[:, None] > 0, routed.share, 0.0), axis=0)
    return Load(jnp.sum(kept), kept @ chosen, share)


class Balance(NamedTuple):
    """How evenly experts are used, over all layers with experts; scalars.

    Attributes:
        loss: mean over layers of E / k sum_e f_e p_e, with f_e the share of tokens that chose
            expert e and p_e its mean share of the scores: 1 where all are alike (Fedus et al. 2021,
            eq. 4, for k experts a token).
        load_max: the busiest expert's load over the mean load, the largest of all layers.
        unused: share of experts that no token chose.
    """

    loss: jax.Array
    load_max: jax.Array
    unused: jax.Array


def balance(sown: Iterable[Mapping[str, Any]]) -> Balance | None:
    """The balance of one pass through a model; None where no layer has experts.

    Args:
        sown: collections "aux" of the calls that make up the pass: a prompt read into a cache, and
            what came after it.
    """
    loads = [_loads(one) for one in sown]
    if not loads or not loads[0]:
        return None
    terms, largest, unused = [], [], []
    for parts in zip(*loads, strict=True):
        total = jax.tree.map(lambda *x: sum(x), *parts)
        tokens = jnp.maximum(total.tokens, 1.0)[..., None]
        mean = jnp.mean(total.pairs, axis=-1, keepdims=True)
        used = jax.lax.stop_gradient(total.pairs / jnp.maximum(mean, 1e-20))
        # E / k f_e is the expert's load over the mean load.
        terms.append(jnp.sum(used * total.share / tokens, axis=-1).ravel())
        largest.append(jnp.max(used))
        unused.append(jnp.mean(total.pairs == 0, axis=-1).ravel())
    return Balance(
        jnp.mean(jnp.concatenate(terms)),
        jnp.max(jnp.stack(largest)),
        jnp.mean(jnp.concatenate(unused)),
    )


def _loads(sown: Mapping[str, Any]) -> list[Load]:
    """The loads of all layers in the order of the tree; stacked ones are one with a front axis."""
    leaves = jax.tree.leaves(sown, is_leaf=lambda x: isinstance(x, Load))
    return [leaf for leaf in leaves if isinstance(leaf, Load)]
