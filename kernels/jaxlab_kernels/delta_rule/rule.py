"""From keys, values and gates to the three vectors of a rank-one edit.

Every rule of the family reads the decayed state along a, compares with z and writes along b:

    u = z - a^T S,    S <- S + b u^T.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

FORMS = ("symmetric", "left", "gdn2")

# Stands for a log decay of minus infinity: its exponential is 0, and sums of it stay finite.
RESET = -1e30


class Inputs(NamedTuple):
    """Arguments of an implementation, checked and without segments.

    Attributes:
        q: [B, T, H, Dk].
        k: [B, T, H, Dk].
        v: [B, T, HV, Dv], HV a multiple of H.
        log_decay: [B, T, HV] or [B, T, HV, Dk], <= 0. `RESET` empties the state before a token.
        erase: [B, T, HV] or [B, T, HV, Dk]; gates, or their logits where the rule says so.
        write: [B, T, HV] or [B, T, HV, Dv], or None: erase serves as both.
        initial_state: [B, HV, Dk, Dv] in the compute dtype.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    log_decay: jax.Array
    erase: jax.Array
    write: jax.Array | None
    initial_state: jax.Array


@dataclasses.dataclass(frozen=True)
class Rule:
    """How gates act, and what is fused with them.

    Attributes:
        form: "symmetric": a = b = sqrt(erase) k, z = sqrt(write) v (FG2-GDN, Eqs 8-14).
            "left": a = k, b = erase k, z = v. "gdn2": a = erase k, b = k, z = write v
            (Gated DeltaNet-2).
        logits: gates are gate_scale * sigmoid(logit).
        gate_scale: 1, or 2 for gates in (0, 2), whose edits may flip a direction.
        norm_eps: q and k are divided by sqrt(|x|^2 + norm_eps) before anything else; None: not.
    """

    form: str = "symmetric"
    logits: bool = False
    gate_scale: float = 1.0
    norm_eps: float | None = None


def compute_dtype(*arrays: jax.Array | None) -> jnp.dtype:
    """Float64 where an array has it, else float32."""
    double = any(x is not None and x.dtype == jnp.float64 for x in arrays)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def operands(
    rule: Rule,
    dtype: jnp.dtype,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    erase: jax.Array,
    write: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(q, a, b, z) of the rule, each on the HV heads of v.

    Args:
        rule: what to compute.
        dtype: of the computation and the result.
        q: [..., H, Dk].
        k: [..., H, Dk].
        v: [..., HV, Dv].
        erase: [..., HV] or [..., HV, Dk].
        write: [..., HV] or [..., HV, Dv] or None.

    Returns:
        q, a, b [..., HV, Dk] and z [..., HV, Dv].
    """
    per_head = erase.ndim == v.ndim - 1
    q, k, v, erase = (x.astype(dtype) for x in (q, k, v, erase))
    erase = erase[..., None] if per_head else erase
    if write is not None:
        write = write.astype(dtype)
        write = write[..., None] if write.ndim == v.ndim - 1 else write
    if rule.norm_eps is not None:
        q, k = (_normalised(x, rule.norm_eps) for x in (q, k))
    groups = v.shape[-2] // k.shape[-2]
    if groups > 1:
        q, k = (jnp.repeat(x, groups, axis=-2) for x in (q, k))

    # One gate per head on both sides needs no root: (sqrt(g) k)(sqrt(g) k)^T = k (g k)^T.
    if rule.form == "left" or (rule.form == "symmetric" and per_head and write is None):
        return q, k, _gate(rule, erase) * k, v
    if rule.form == "gdn2":
        gate = _gate(rule, erase)
        return q, gate * k, k, (gate if write is None else _gate(rule, write)) * v
    root = _root(rule, erase)
    a = root * k
    return q, a, a, (root if write is None else _root(rule, write)) * v


def log_decays(dtype: jnp.dtype, log_decay: jax.Array, v: jax.Array) -> jax.Array:
    """[..., HV, Dk] or [..., HV, 1] in dtype, with `RESET` for anything below it."""
    log_decay = jnp.maximum(log_decay.astype(dtype), RESET)
    return log_decay[..., None] if log_decay.ndim == v.ndim - 1 else log_decay


def empty_state(v: jax.Array, key_dim: int, dtype: jnp.dtype) -> jax.Array:
    """Zeros [B, HV, Dk, Dv] for values [B, T, HV, Dv].

    Made from v, so that as a scan's carry they have v's sharding over batch and heads.
    """
    zeros = jnp.sum(jnp.zeros_like(v[:, :1]), axis=1).astype(dtype)[:, :, None]
    return jnp.broadcast_to(zeros, (*zeros.shape[:2], key_dim, v.shape[-1]))


def _normalised(x: jax.Array, eps: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + eps)


def _gate(rule: Rule, x: jax.Array) -> jax.Array:
    return rule.gate_scale * jax.nn.sigmoid(x) if rule.logits else x


def _root(rule: Rule, x: jax.Array) -> jax.Array:
    """The square root of the gate, with a finite gradient.

    exp(log_sigmoid(x) / 2) has the gradient (1 - sigmoid(x)) / 2 times itself, where
    sqrt(sigmoid(x)) divides 0 by 0 once the sigmoid underflows. A gate that is given and exactly
    0 has no finite derivative; it gets 0.
    """
    if rule.logits:
        return rule.gate_scale**0.5 * jnp.exp(0.5 * jax.nn.log_sigmoid(x))
    return _sqrt(x)


@jax.custom_jvp
def _sqrt(x: jax.Array) -> jax.Array:
    return jnp.sqrt(x)


@_sqrt.defjvp
def _sqrt_jvp(primals, tangents):
    root = _sqrt(*primals)
    is_open = root > 0
    return root, jnp.where(is_open, 0.5 / jnp.where(is_open, root, 1.0), 0.0) * tangents[0]
