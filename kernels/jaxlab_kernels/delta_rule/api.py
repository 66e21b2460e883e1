"""The gated delta rule and its named members.

B batch, T time, H heads of queries and keys, HV heads of values (a multiple of H: value head i
goes with key head i // (HV / H)), Dk and Dv their sizes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.common.checks import static_scale
from jaxlab_kernels.delta_rule.checks import check, check_values
from jaxlab_kernels.delta_rule.chunked import chunked
from jaxlab_kernels.delta_rule.gpu import triton
from jaxlab_kernels.delta_rule.reference import recurrence
from jaxlab_kernels.delta_rule.rule import Inputs, Rule, compute_dtype, empty_state
from jaxlab_kernels.delta_rule.segment_states import extract, insert, layout
from jaxlab_kernels.delta_rule.segments import unpack
from jaxlab_kernels.delta_rule.sequence_parallel import across_shards, id_before
from jaxlab_kernels.delta_rule.tpu import pallas

IMPLEMENTATIONS: dict[str, Callable] = {
    "chunked": chunked,
    "pallas": pallas,
    "recurrent": functools.partial(chunked, forward_by_tokens=True),
    "reference": recurrence,
    "triton": triton,
}

# A CPU runs the recurrence forwards faster than chunks below so many numbers in a head's state, and
# with few tokens: up to the first number of them if they fill whole chunks of 16, else up to the
# second, for padding copies the inputs. `benchmarks/kernels.py --what=sizes` measures both.
SMALL_STATE, LARGE_STATE = 64 * 64, 128 * 128
SHORT, SHORT_FOR_LARGE_STATES = (64, 512), (32, 40)
# Backwards too, where both are small: a state per token is little memory then, and the recurrence's
# own derivative is compiled in a quarter of the time that chunks take.
FEW = 32


def preferences(key_dim: int, value_dim: int, length: int) -> dict[str, tuple[str, ...]]:
    """Platform -> implementations to try, best first, for calls of this size."""
    state = key_dim * value_dim
    short = SHORT if state < LARGE_STATE else SHORT_FOR_LARGE_STATES
    by_tokens = state < SMALL_STATE or length <= short[length % 16 != 0]
    derived = "reference" if state < SMALL_STATE and length <= FEW else "recurrent"
    return {
        "cpu": (derived,) if by_tokens else ("chunked",),
        "gpu": ("triton", "chunked"),
        "tpu": ("pallas", "chunked"),
    }


def gated_delta(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase: jax.Array,
    write: jax.Array | None = None,
    *,
    form: str = "symmetric",
    scale: float | None = None,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule over whole sequences, with gradients of every floating argument.

    For every token the state S decays, is edited, and is read:

        S' = diag(exp(log_decay)) S
        S  = S' + b (z - a^T S')^T
        out = scale S^T q

    with, for the form "symmetric", a = b = sqrt(erase) k and z = sqrt(write) v; for "left",
    a = k, b = erase k, z = v; for "gdn2", a = erase k, b = k, z = write v. The shapes of the
    gates make the member of the family: see `delta_net`, `gdn`, `kda`, `fg2`, `fg2_plus`.
    Keys should have norm 1 (`gated_delta_from_logits` can see to it): then the symmetric edit
    never expands the state, for gates up to 2. Derivatives are reverse mode (grad, vjp).

    On several devices rows and heads can be computed apart: call it inside `jax.shard_map`. XLA
    divides the recurrence and the chunks by itself, but no kernel of Triton or Pallas; these are
    refused on an ambient mesh (`jax.set_mesh`), and without one XLA would copy all to every device.

    Args:
        q: [B, T, H, Dk].
        k: [B, T, H, Dk].
        v: [B, T, HV, Dv].
        log_decay: [B, T, HV] or [B, T, HV, Dk], natural log, <= 0.
        erase: [B, T, HV] or [B, T, HV, Dk], in [0, 2]. A gate per channel that is exactly 0 under
            a root has no finite derivative; its gradient is 0.
        write: [B, T, HV] or [B, T, HV, Dv]; None: erase serves as both.
        form: "symmetric", "left" (write must be None) or "gdn2".
        scale: factor of the output; None: Dk ** -0.5.
        initial_state: [B, HV, Dk, Dv], what the first segment of each row begins with, the others
            with an empty state; None: 0. With segment_ids also [B, N, HV, Dk, Dv], what each of up
            to N segments of a row begins with, in their order; the outputs of further ones are
            NaN. It costs 2 N Dk more tokens per row (`segment_states`).
        segment_ids: int [B, T]. A token whose id differs from that of the nearest earlier token
            begins anew with an empty state. Id 0 is padding, wherever it stands: it leaves the
            state alone, its output is 0, and what its arguments hold does not matter, not even NaN.
        chunk_size: tokens per chunk, a power of two; None: the implementation's choice.
        implementation: "chunked"; "recurrent" (the recurrence; chunks where gradients are taken);
            "reference" (the plain recurrence and its autodiff); "triton" (NVIDIA GPUs, with
            jax-triton); "pallas" (TPU); None: the fastest for platform and size.
        axis_name: inside `jax.shard_map`, the mesh axis along which the sequence is cut into equal
            shards, first tokens first; T is then a shard's. The state, given and returned, is the
            whole sequence's, the same on every shard, and segments go on across borders. Costs a
            pass with Dk more columns of values (`sequence_parallel`). None: T is all there is.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the state after the last token of each row,
        [B, HV, Dk, Dv], or after each segment, [B, N, HV, Dk, Dv], where the initial states are
        so; an absent segment's is its initial one. The computation and the state are float32, or
        float64 where an argument is float64.

    Raises:
        ValueError: an argument's shape, dtype or value of a choice is wrong. With JAXLAB_DEBUG=1
            in the environment also for NaN, log_decay > 0 and gates outside [0, 2]; inside jit this
            arrives as JAX's runtime error, with the same text.
        Refusal: no implementation takes the call.

    Source: Yang et al., Gated Delta Networks, arXiv 2412.06464; Kimi Linear, arXiv 2510.26692;
    FG2-GDN, Eqs 8-14; Gated DeltaNet-2, arXiv 2605.22791.
    """
    return _run(Rule(form=form), q, k, v, log_decay, erase, write, scale, initial_state,
                segment_ids, chunk_size, implementation, axis_name)  # fmt: skip


def gated_delta_from_logits(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_decay: jax.Array,
    erase_logits: jax.Array,
    write_logits: jax.Array | None = None,
    *,
    gate_scale: float = 1.0,
    norm_eps: float | None = 1e-6,
    form: str = "symmetric",
    scale: float | None = None,
    initial_state: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`gated_delta` with gates gate_scale * sigmoid(logits) and normalised queries and keys.

    The root of a gate is exp(log_sigmoid(logit) / 2): its gradient is bounded and exact however
    far the sigmoid saturates, where the root of a given gate divides by sqrt(gate).

    Args:
        q: [B, T, H, Dk].
        k: [B, T, H, Dk].
        v: [B, T, HV, Dv].
        log_decay: [B, T, HV] or [B, T, HV, Dk], natural log, <= 0.
        erase_logits: [B, T, HV] or [B, T, HV, Dk].
        write_logits: [B, T, HV] or [B, T, HV, Dv]; None: erase_logits serves as both.
        gate_scale: 1, or 2 to allow edits that flip a direction (negative eigenvalues).
        norm_eps: q and k are divided by sqrt(|x|^2 + norm_eps); None: they are used as given.
        form: see `gated_delta`.
        scale: see `gated_delta`.
        initial_state: see `gated_delta`.
        segment_ids: see `gated_delta`.
        chunk_size: see `gated_delta`.
        implementation: see `gated_delta`.
        axis_name: see `gated_delta`.

    Returns:
        See `gated_delta`.

    Raises:
        ValueError: see `gated_delta`.
        Refusal: see `gated_delta`.
    """
    if not 0.0 < gate_scale <= 2.0:
        raise ValueError(f"gate_scale={gate_scale} is outside (0, 2]")
    if norm_eps is not None and norm_eps <= 0:
        raise ValueError(f"norm_eps={norm_eps} is not positive, as padding (all 0) needs")
    rule = Rule(form=form, logits=True, gate_scale=gate_scale, norm_eps=norm_eps)
    return _run(rule, q, k, v, log_decay, erase_logits, write_logits, scale, initial_state,
                segment_ids, chunk_size, implementation, axis_name)  # fmt: skip


def delta_net(q: jax.Array, k: jax.Array, v: jax.Array, beta: jax.Array, **options):
    """DeltaNet (arXiv 2406.06484): beta [B, T, HV], no decay. Options of `gated_delta`.

    These and the other named calls take neither `form` nor a gate that is not among their own.
    """
    _check_gates("delta_net", k, v, options, beta=(beta, None))
    return gated_delta(q, k, v, jnp.zeros_like(beta), beta, **options)


def gdn(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array, beta: jax.Array,
        **options):  # fmt: skip
    """Gated DeltaNet (arXiv 2412.06464): log_decay and beta [B, T, HV]."""
    _check_gates("gdn", k, v, options, log_decay=(log_decay, None), beta=(beta, None))
    return gated_delta(q, k, v, log_decay, beta, **options)


def kda(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array, beta: jax.Array,
        **options):  # fmt: skip
    """Kimi Delta Attention (arXiv 2510.26692): log_decay [B, T, HV, Dk], beta [B, T, HV]."""
    _check_gates("kda", k, v, options, log_decay=(log_decay, k), beta=(beta, None))
    return gated_delta(q, k, v, log_decay, beta, **options)


def fg2(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array, beta: jax.Array,
        **options):  # fmt: skip
    """FG2-GDN: log_decay and beta [B, T, HV, Dk]; beta gates keys and values, so Dk = Dv."""
    _check_gates("fg2", k, v, options, log_decay=(log_decay, k), beta=(beta, k))
    return gated_delta(q, k, v, log_decay, beta, **options)


def fg2_plus(q: jax.Array, k: jax.Array, v: jax.Array, log_decay: jax.Array, erase: jax.Array,
             write: jax.Array, **options):  # fmt: skip
    """FG2-GDN+: log_decay and erase [B, T, HV, Dk], write [B, T, HV, Dv]."""
    _check_gates("fg2_plus", k, v, options, log_decay=(log_decay, k), erase=(erase, k),
                 write=(write, v))  # fmt: skip
    return gated_delta(q, k, v, log_decay, erase, write, **options)


def _check_gates(
    name: str,
    k: jax.Array,
    v: jax.Array,
    options: Mapping[str, Any],
    **gates: tuple[jax.Array, jax.Array | None],
) -> None:
    """Raises ValueError for a gate that does not have the channels of k or v, or one per head."""
    for option in ("form", "erase", "write"):
        if option in options:
            raise TypeError(f"{name}() takes no {option}; gated_delta does")
    if k.ndim != 4 or v.ndim != 4:
        return  # which `check` names
    for gate, (x, like) in gates.items():
        channels = "" if like is None else ", Dk" if like is k else ", Dv"
        expected = (*v.shape[:3], *(() if like is None else like.shape[3:]))
        if x.shape != expected:
            raise ValueError(
                f"{name}: {gate} has shape {x.shape}; expected [B, T, HV{channels}] {expected}"
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name}: {gate} has dtype {x.dtype}; expected a floating dtype")


def _run(rule, q, k, v, log_decay, erase, write, scale, initial_state, segment_ids, chunk_size,
         implementation, axis_name):  # fmt: skip
    gates = ("erase_logits", "write_logits") if rule.logits else ("erase", "write")
    names = (*gates, "initial_state")
    check(rule, q, k, v, log_decay, erase, write, initial_state, segment_ids, names=names)
    if chunk_size is not None and (
        not isinstance(chunk_size, int) or chunk_size < 1 or chunk_size & (chunk_size - 1)
    ):
        raise ValueError(f"chunk_size={chunk_size} is not a power of two")
    scale = static_scale(scale, k.shape[-1])
    check_values(
        rule, None if segment_ids is None else segment_ids == 0, q=q, k=k, v=v,
        log_decay=log_decay, erase=erase, write=write, initial_state=initial_state, names=names,
    )  # fmt: skip
    dtype = compute_dtype(q, k, v, log_decay, erase, write, initial_state)
    per_segment = initial_state is not None and initial_state.ndim == 5
    if per_segment and axis_name is not None:
        raise ValueError(
            f"initial_state has shape {initial_state.shape}: a state per segment; with axis_name "
            f"[B, HV, Dk, Dv] was expected"
        )
    if segment_ids is not None:
        before = None if axis_name is None else id_before(segment_ids, axis_name)
        q, k, v, log_decay, erase, write = unpack(
            segment_ids, dtype, q, k, v, log_decay, erase, write, before, resets=not per_segment
        )
    if initial_state is None:
        initial_state = empty_state(v, k.shape[-1], dtype)
    inputs = Inputs(q, k, v, log_decay, erase, write, initial_state.astype(dtype))

    def local(inputs, scale=scale):
        key_dim, value_dim = inputs.initial_state.shape[-2:]
        order = preferences(key_dim, value_dim, inputs.v.shape[1])
        return dispatch.call("gated_delta", IMPLEMENTATIONS, order, implementation,
                             rule, inputs, scale=scale, chunk_size=chunk_size)  # fmt: skip

    if per_segment:
        where = layout(segment_ids, initial_state.shape[1], k.shape[-1])
        # States are read as outputs are, but as they are.
        out, states = extract(local(insert(rule, inputs, where), scale=1.0)[0], where)
        return (scale * out).astype(v.dtype), states
    if axis_name is None:
        return local(inputs)
    return across_shards(local, rule, inputs, axis_name)
