"""What the arguments must look like; with JAXLAB_DEBUG=1 also what they must hold."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxlab_kernels.common.checks import check_bounds, debugging, expect
from jaxlab_kernels.delta_rule.rule import FORMS, Rule


def check(
    rule: Rule,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None,
    initial_state: jax.Array | None,
    segment_ids: jax.Array | None = None,
    lead: str = "BT",
    names: Sequence[str] = ("erase", "write", "initial_state"),
) -> None:
    """Raises a ValueError that names the argument, its shape and what was expected.

    Args:
        rule: see `Rule`.
        q: [*lead, H, Dk].
        k: [*lead, H, Dk].
        v: [*lead, HV, Dv].
        log_decay: [*lead, HV] or [*lead, HV, Dk].
        erase: [*lead, HV] or [*lead, HV, Dk].
        write: [*lead, HV] or [*lead, HV, Dv] or None.
        initial_state: [B, HV, Dk, Dv], with segment_ids also [B, N, HV, Dk, Dv], or None.
        segment_ids: [B, T] or None.
        lead: the leading axes, "BT" or "B".
        names: what the caller calls erase, write and initial_state.
    """
    if rule.form not in FORMS:
        raise ValueError(f"form={rule.form!r} is not one of {', '.join(FORMS)}")
    axes = ", ".join(lead)
    erase_name, write_name, state_name = names
    rank = len(lead) + 2
    if q.ndim != rank:
        raise ValueError(f"q has shape {q.shape}; expected [{axes}, H, Dk]")
    if q.shape[-1] == 0:
        raise ValueError(f"q has shape {q.shape}; expected Dk > 0")
    expect("k", k, f"[{axes}, H, Dk] of q", q.shape)
    if v.ndim != rank or v.shape[:-2] != q.shape[:-2]:
        raise ValueError(f"v has shape {v.shape}; expected [{axes}, HV, Dv] beside q {q.shape}")
    front, (heads, key_dim), (value_heads, value_dim) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
    if heads == 0 or value_heads % heads:
        raise ValueError(
            f"v has {value_heads} heads (shape {v.shape}); expected a multiple of the "
            f"{heads} heads of q and k"
        )
    scalar, by_key, by_value = (
        (*front, value_heads, *last) for last in ((), (key_dim,), (value_dim,))
    )
    expected = f"[{axes}, HV] {scalar} or [{axes}, HV, Dk] {by_key}"
    expect("log_decay", log_decay, expected, scalar, by_key)
    expect(erase_name, erase, expected, scalar, by_key)
    if write is not None:
        if rule.form == "left":
            raise ValueError(
                f"{write_name} has shape {write.shape}; form='left' has one gate, expected None"
            )
        expected = f"[{axes}, HV] {scalar} or [{axes}, HV, Dv] {by_value}"
        expect(write_name, write, expected, scalar, by_value)
    elif rule.form != "left" and erase.ndim == rank and key_dim != value_dim:
        raise ValueError(
            f"{erase_name} has shape {erase.shape} and v {v.shape}: with {write_name}=None the "
            f"gate serves keys and values, so Dk = Dv was expected; give a write gate"
        )
    if initial_state is not None:
        shape = (front[0], value_heads, key_dim, value_dim)
        expected = f"[B, HV, Dk, Dv] {shape}"
        by_segment = (front[0], *initial_state.shape[1:2], value_heads, key_dim, value_dim)
        if segment_ids is None:
            expect(state_name, initial_state, expected, shape)
        else:
            expected += " or [B, N, HV, Dk, Dv], a state per segment"
            expect(state_name, initial_state, expected, shape, by_segment)
            if initial_state.ndim == 5 and initial_state.shape[1] == 0:
                raise ValueError(f"{state_name} has shape {initial_state.shape}; expected N > 0")
    if segment_ids is not None:
        expect("segment_ids", segment_ids, f"[B, T] {front}", front)
        if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
            raise ValueError(f"segment_ids has dtype {segment_ids.dtype}; expected integers")
    floats = {"q": q, "k": k, "v": v, "log_decay": log_decay, erase_name: erase, write_name: write}
    for name, x in {**floats, state_name: initial_state}.items():
        if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {x.dtype}; expected a floating dtype")


def check_values(
    rule: Rule,
    padding: jax.Array | None,
    *,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None,
    initial_state: jax.Array | None,
    names: Sequence[str] = ("erase", "write", "initial_state"),
) -> None:
    """With JAXLAB_DEBUG=1: a ValueError that names the first index that holds a bad value.

    Bad are NaN anywhere, log_decay > 0, and gates outside [0, 2] (logits may be anything).
    Concrete arrays are checked at once; traced ones by `jax.debug.callback` when the program
    runs, where the ValueError arrives inside JAX's own runtime error. Positions in padding
    (bool [B, T]) do not count. For names see `check`.
    """
    if not debugging():
        return
    erase_name, write_name, state_name = names
    highest = float("inf") if rule.logits else 2.0
    lowest = -highest if rule.logits else 0.0
    bounds = {"log_decay": (-float("inf"), 0.0), erase_name: (lowest, highest)}
    bounds[write_name] = bounds[erase_name]
    arrays = {"q": q, "k": k, "v": v, "log_decay": log_decay, erase_name: erase, write_name: write,
              state_name: initial_state}  # fmt: skip
    for name, x in arrays.items():
        if x is not None:
            within = bounds.get(name, (-float("inf"), float("inf")))
            check_bounds(name, x, *within, skip=None if name == state_name else padding)
