"""The gated delta rule on NVIDIA GPUs: Triton kernels, called through jax-triton.

XLA makes q, a, b, z and g of the arguments (`rule.operands`, one fused elementwise pass) and
differentiates that; the kernels see nothing else. jax-triton and Triton are imported when the
implementation is called: neither is needed to import this package.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab_kernels import dispatch
from jaxlab_kernels.common.triton import Launch, gpu_launch
from jaxlab_kernels.common.vmap import folding
from jaxlab_kernels.delta_rule import launches
from jaxlab_kernels.delta_rule.launches import Operands
from jaxlab_kernels.delta_rule.rule import Inputs, Rule, log_decays, operands
from jaxlab_kernels.delta_rule.triton_versions import check_triton
from jaxlab_kernels.dispatch import Refusal

H200_PROCESSORS = 132


def triton(
    rule: Rule,
    inputs: Inputs,
    *,
    scale: float,
    chunk_size: int | None = None,
    launch: Launch | None = None,
    processors: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule by Triton kernels; see `reference.recurrence`.

    16-bit values are multiplied as 16-bit numbers with float32 sums, and the state is carried in
    float32; float32 is multiplied as three TF32 products, which keeps float32's accuracy.

    Args:
        rule: gives a, b and z.
        inputs: see `Inputs`; Dk and Dv up to 256, not float64.
        scale: factor of the output.
        chunk_size: 16, 32 or 64; None: 64, and 32 for float32 and for heads above 128.
        launch: runs a kernel; None: `common.triton.jax_launch` on the GPU at hand.
        processors: of the GPU, see `launches.plan_of`; None: the GPU at hand's, or an H200's.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].

    Raises:
        Refusal: the kernels do not take the call, or cannot run here.
    """
    if inputs.initial_state.dtype == jnp.float64:
        raise Refusal("float64; the kernels take float32, bfloat16 and float16")
    key_dim, value_dim = inputs.initial_state.shape[2:]
    if max(key_dim, value_dim) > launches.DIMS[-1]:
        raise Refusal(
            f"head sizes {key_dim} and {value_dim}; the kernels take up to {launches.DIMS[-1]}"
        )
    dispatch.refuse_divided_mesh()
    if launch is None:
        launch = gpu_launch(check_triton)
        processors = processors or getattr(jax.devices()[0], "core_count", None)
    options = {"chunk": chunk_size, "processors": processors or H200_PROCESSORS}
    if 0 in inputs.v.shape:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    out, state = _core(_Call(launch, options), prologue(rule, inputs, scale))
    return out[..., :value_dim].astype(inputs.v.dtype), state[:, :, :key_dim, :value_dim]


def triton_step(
    rule: Rule,
    *arrays: jax.Array | None,
    scale: float,
    plain: Callable[..., tuple[jax.Array, jax.Array]],
    launch: Launch | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One decoding step in one launch.

    Args:
        rule: see `Rule`.
        *arrays: q, k, v, log_decay, erase, write, state of `step.gated_delta_step`.
        scale: factor of the output.
        plain: the same step in XLA, whose gradient is taken.
        launch: see `triton`.

    Returns:
        out [B, HV, Dv] in the dtype of v, and the new state, float32.

    Raises:
        Refusal: the kernel does not take the call, or cannot run here.
    """
    if any(x is not None and x.dtype == jnp.float64 for x in arrays):
        raise Refusal("float64; the kernel takes float32, bfloat16 and float16")
    dispatch.refuse_divided_mesh()
    launch = gpu_launch(check_triton) if launch is None else launch
    calls = (
        folding(functools.partial(launches.step, launch, rule, scale)),
        functools.partial(plain, rule, scale=scale),
    )
    return _step(calls, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _step(calls, arrays):
    return calls[0](*arrays)


def _step_fwd(calls, arrays):
    return calls[0](*arrays), arrays


def _step_bwd(calls, arrays, cotangents):
    _, pull = jax.vjp(lambda arrays: calls[1](*arrays), arrays)
    return pull(cotangents)


_step.defvjp(_step_fwd, _step_bwd)


def prologue(rule: Rule, inputs: Inputs, scale: float) -> Operands:
    """What the kernels take: head sizes padded with zeros to the next of `launches.DIMS`."""
    narrow = inputs.v.dtype in (jnp.bfloat16, jnp.float16)
    q, a, b, z = operands(
        rule, jnp.float32, inputs.q, inputs.k, inputs.v, inputs.erase, inputs.write
    )
    g = inputs.log_decay
    per_head = g.ndim == 3
    g = log_decays(jnp.float32, g, inputs.v)
    g = g[..., 0] if per_head else _padded(g)
    q, a, b, z = (
        _padded(x).astype(inputs.v.dtype if narrow else jnp.float32) for x in (q * scale, a, b, z)
    )
    return Operands(q, a, b, z, g, _padded(jnp.swapaxes(_padded(inputs.initial_state), 2, 3)
                                           ).swapaxes(2, 3))  # fmt: skip


class _Call:
    """Forward and backward on JAX arrays, with batches of `jax.vmap` folded into B."""

    def __init__(self, launch: Launch, options: dict[str, Any]):
        self.forward = folding(functools.partial(self._forward, launch, options))
        self.backward = folding(functools.partial(self._backward, launch, options))

    @staticmethod
    def _forward(launch, options, *arrays):
        given = Operands(*arrays)
        return launches.forward(launch, launches.plan_of(given, **options), given)

    @staticmethod
    def _backward(launch, options, *arrays):
        *given, d_out, d_last = arrays
        plan = launches.plan_of(Operands(*given), **options)
        gradients = launches.backward(launch, plan, Operands(*given), d_out, d_last)
        if plan.head_decay:
            gradients = gradients._replace(g=jnp.sum(gradients.g, axis=-1))
        return tuple(gradients)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _core(call, given):
    return call.forward(*given)


def _core_fwd(call, given):
    return call.forward(*given), given


def _core_bwd(call, given, cotangents):
    return (Operands(*call.backward(*given, *cotangents)),)


_core.defvjp(_core_fwd, _core_bwd)


def _padded(x: jax.Array) -> jax.Array:
    """The last axis filled up with zeros to the next of `launches.DIMS`."""
    size = next(n for n in launches.DIMS if n >= x.shape[-1])
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])
