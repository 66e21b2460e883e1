"""One token at a time, for decoding; and the same with the last tokens open to being taken back.

Speculative decoding writes tokens that may turn out wrong. A copy of the state per token costs
Dk Dv numbers; the edit of a token is decay, b and u, which are 2 Dk + Dv. So the state stays
behind by R tokens, whose edits wait in a ring; taking n of them back forgets the last n edits.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.common.checks import static_scale
from jaxlab_kernels.delta_rule.checks import check, check_values
from jaxlab_kernels.delta_rule.gpu import triton_step
from jaxlab_kernels.delta_rule.rule import Rule, compute_dtype, log_decays, operands


class Ring(NamedTuple):
    """A state and the edits after it, oldest first; an edit of zeros does nothing.

    Attributes:
        state: [B, HV, Dk, Dv], after all tokens but those of the ring.
        log_decay: [B, R, HV, Dk].
        b: [B, R, HV, Dk], the direction written along.
        u: [B, R, HV, Dv], what was written.
    """

    state: jax.Array
    log_decay: jax.Array
    b: jax.Array
    u: jax.Array


def gated_delta_step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None = None,
    *,
    state: jax.Array,
    rule: Rule = Rule(),  # noqa: B008 - frozen
    scale: float | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One token of `gated_delta` (of `gated_delta_from_logits`, with a rule that has logits).

    Args:
        q: [B, H, Dk].
        k: [B, H, Dk].
        v: [B, HV, Dv].
        log_decay: [B, HV] or [B, HV, Dk], <= 0.
        erase: [B, HV] or [B, HV, Dk].
        write: [B, HV] or [B, HV, Dv] or None.
        state: [B, HV, Dk, Dv].
        rule: the form, and what is done to gates and keys.
        scale: factor of the output; None: Dk ** -0.5.
        implementation: "xla"; "triton" (NVIDIA GPUs, with jax-triton: one launch); None: the
            fastest for the platform.

    Returns:
        out [B, HV, Dv] in the dtype of v, and the state after the token, float32 (float64 where an
        argument is).

    Raises:
        ValueError: an argument has the wrong shape or dtype; with JAXLAB_DEBUG=1 also values, as
            in `gated_delta`.
        Refusal: the named implementation does not take the call.
    """
    _check("state", rule, q, k, v, log_decay, erase, write, state)
    scale = static_scale(scale, k.shape[-1])
    state = state.astype(compute_dtype(q, k, v, log_decay, erase, write, state))
    return dispatch.call("gated_delta_step", STEPS, PREFERENCES, implementation,
                         rule, q, k, v, log_decay, erase, write, state, scale=scale)  # fmt: skip


def _plain_step(rule, q, k, v, log_decay, erase, write, state, *, scale):
    q, a, b, z, log_decay, state = _prepared(rule, q, k, v, log_decay, erase, write, state, scale)
    state = jnp.exp(log_decay)[..., None] * state
    u = z - _read(a, state)
    state = state + b[..., None] * u[..., None, :]
    return _read(q, state).astype(v.dtype), state


STEPS: dict[str, Callable] = {
    "xla": _plain_step,
    "triton": functools.partial(triton_step, plain=_plain_step),
}
PREFERENCES = {"cpu": ("xla",), "gpu": ("triton", "xla"), "tpu": ("xla",)}


def ring(state: jax.Array, capacity: int) -> Ring:
    """An empty ring after a state [B, HV, Dk, Dv], for `capacity` tokens."""
    if capacity < 1:
        raise ValueError(f"capacity={capacity} is not positive")
    state = state.astype(compute_dtype(state))
    by_key = jnp.repeat(jnp.zeros_like(state[..., 0])[:, None], capacity, axis=1)
    by_value = jnp.repeat(jnp.zeros_like(state[..., 0, :])[:, None], capacity, axis=1)
    return Ring(state, by_key, by_key, by_value)


def ring_step(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None = None,
    *,
    ring: Ring,
    rule: Rule = Rule(),  # noqa: B008 - frozen
    scale: float | None = None,
) -> tuple[jax.Array, Ring]:
    """`gated_delta_step` whose last tokens `rollback` can take back.

    The oldest edit of the ring goes into the state and the token's takes its place at the end.

    Args:
        q: [B, H, Dk].
        k: [B, H, Dk].
        v: [B, HV, Dv].
        log_decay: [B, HV] or [B, HV, Dk], <= 0.
        erase: [B, HV] or [B, HV, Dk].
        write: [B, HV] or [B, HV, Dv] or None.
        ring: from `ring`, `ring_step` or `rollback`.
        rule: see `gated_delta_step`.
        scale: see `gated_delta_step`.

    Returns:
        out [B, HV, Dv] in the dtype of v, and the ring after the token.

    Raises:
        ValueError: an argument has the wrong shape or dtype.
    """
    _check("ring.state", rule, q, k, v, log_decay, erase, write, ring.state)
    scale = static_scale(scale, k.shape[-1])
    q, a, b, z, log_decay, state = _prepared(
        rule, q, k, v, log_decay, erase, write, ring.state, scale
    )
    state = _edited(state, ring.log_decay[:, 0], ring.b[:, 0], ring.u[:, 0])
    log_decay = jnp.broadcast_to(log_decay, b.shape)

    def pushed(waiting, new):
        return jnp.concatenate([waiting[:, 1:], new.astype(waiting.dtype)[:, None]], axis=1)

    waiting = Ring(state, pushed(ring.log_decay, log_decay), pushed(ring.b, b), ring.u)
    # Everything that was written before the token: the state, and what still waits in the ring.
    total, between = _decays(waiting.log_decay)
    earlier = between[:, :-1] * waiting.b[:, :-1]
    u = z - _read(a * total, state) - _read_ring(a, earlier, ring.u[:, 1:])
    waiting = waiting._replace(u=pushed(ring.u, u))
    out = _read(q * total, state) + _read_ring(q, between * waiting.b, waiting.u)
    return out.astype(v.dtype), waiting


def rollback(ring: Ring, count: jax.Array) -> Ring:
    """The ring without its last tokens.

    Args:
        ring: as returned by `ring_step`.
        count: int [B] or one number, how many tokens of each row to take back, at most those
            that the ring holds; below 0 none. It holds one more after every step, up to its
            capacity, and `count` fewer after this; taking back more than it holds takes back those
            it holds.

    Returns:
        The ring as it was before those tokens.
    """
    count = jnp.broadcast_to(jnp.maximum(count, 0), ring.b.shape[:1])
    source = jnp.arange(ring.b.shape[1])[None] - count[:, None]

    def shifted(x):
        index = jnp.maximum(source, 0)[..., None, None]
        return jnp.where((source >= 0)[..., None, None], jnp.take_along_axis(x, index, axis=1), 0)

    return Ring(ring.state, shifted(ring.log_decay), shifted(ring.b), shifted(ring.u))


def settle(ring: Ring) -> jax.Array:
    """The state [B, HV, Dk, Dv] after every token of the ring."""
    state = ring.state
    for t in range(ring.b.shape[1]):
        state = _edited(state, ring.log_decay[:, t], ring.b[:, t], ring.u[:, t])
    return state


def _check(state_name, rule, q, k, v, log_decay, erase, write, state):
    names = ("erase", "write", state_name)
    check(rule, q, k, v, log_decay, erase, write, state, lead="B", names=names)
    check_values(rule, None, q=q, k=k, v=v, log_decay=log_decay, erase=erase, write=write,
                 initial_state=state, names=names)  # fmt: skip


def _prepared(rule, q, k, v, log_decay, erase, write, state, scale):
    dtype = compute_dtype(q, k, v, log_decay, erase, write, state)
    q, a, b, z = operands(rule, dtype, q, k, v, erase, write)
    return q * scale, a, b, z, log_decays(dtype, log_decay, v), state.astype(dtype)


def _read(x: jax.Array, state: jax.Array) -> jax.Array:
    return jnp.einsum("bhk,bhkv->bhv", x, state, precision="highest")


def _read_ring(x: jax.Array, b: jax.Array, u: jax.Array) -> jax.Array:
    scores = jnp.einsum("bhk,brhk->brh", x, b, precision="highest")
    return jnp.einsum("brh,brhv->bhv", scores, u, precision="highest")


def _edited(state: jax.Array, log_decay: jax.Array, b: jax.Array, u: jax.Array) -> jax.Array:
    return jnp.exp(log_decay)[..., None] * state + b[..., None] * u[..., None, :]


def _decays(log_decay: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, R, HV, Dk] -> decay over all R tokens [B, HV, Dk], and over those after each token."""
    after = [jnp.zeros_like(log_decay[:, 0])]
    for t in range(log_decay.shape[1] - 1, 0, -1):
        after.append(after[-1] + log_decay[:, t])
    return jnp.exp(after[-1] + log_decay[:, 0]), jnp.exp(jnp.stack(after[::-1], axis=1))
