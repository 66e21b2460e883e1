"""The chunk form forwards as one Pallas kernel for TPUs; backwards it is `chunked`'s XLA.

The grid is heads by chunks. The chunks of a head come in order, and the state between them never
leaves VMEM: its output block is the same for all of them. It is kept transposed, [Dv, Dk], for the
decay then runs along lanes.

XLA makes q, a, b and z of the arguments (`rule.operands`, elementwise) in float32; all products
in the kernel have float32's accuracy.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlab_kernels.delta_rule.chunked import Plan, backward, span_table, whole_chunks
from jaxlab_kernels.delta_rule.rule import Inputs, Rule, log_decays, operands

CHUNK = 64
# A sublane tile of bfloat16 is 16 rows; above 128 rows the matrix unit has nothing to gain.
CHUNKS = (16, 32, 64, 128)
MAX_DIM = 256


def pallas(
    rule: Rule,
    inputs: Inputs,
    *,
    scale: float,
    chunk_size: int | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gated delta rule by a TPU kernel; see `reference.recurrence`.

    Args:
        rule: gives a, b and z.
        inputs: see `Inputs`; Dk and Dv multiples of 8 up to 256, not float64. Head sizes below a
            multiple of 128 take the memory and time of that multiple, as TPU tiles have it.
        scale: factor of the output.
        chunk_size: 16, 32, 64 or 128; None: 64.
        interpret: run the kernel on any platform, by Pallas' interpreter.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].

    Raises:
        NotImplementedError: the kernel does not take the call.
    """
    if inputs.initial_state.dtype == jnp.float64:
        raise NotImplementedError("float64; the kernel computes in float32")
    key_dim, value_dim = inputs.initial_state.shape[2:]
    if max(key_dim, value_dim) > MAX_DIM or key_dim % 8 or value_dim % 8:
        raise NotImplementedError(
            f"head sizes {key_dim} and {value_dim}; the kernel takes multiples of 8 up to {MAX_DIM}"
        )
    size = CHUNK if chunk_size is None else chunk_size
    if size not in CHUNKS:
        raise NotImplementedError(f"chunk_size={size}; the kernel takes {CHUNKS}")
    mesh = jax.sharding.get_abstract_mesh()
    if any(mesh.shape[name] > 1 for name in {*mesh.auto_axes, *mesh.explicit_axes}):
        raise NotImplementedError(
            f"XLA cannot divide a kernel over the mesh {dict(mesh.shape)}; call in jax.shard_map"
        )
    length = inputs.v.shape[1]
    if 0 in inputs.v.shape:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    arrays = whole_chunks(inputs, size)
    out, state = _scan_chunks((Plan(rule, scale, size), interpret), arrays, inputs.initial_state)
    return out[:, :length], state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(call, arrays, state):
    return _forward(call, arrays, state, keep_states=False)[0]


def _save(call, arrays, state):
    result, states = _forward(call, arrays, state, keep_states=True)
    return result, (arrays, states)


def _backward(call, saved, cotangents):
    return backward(call[0], saved, cotangents)


_scan_chunks.defvjp(_save, _backward)


def _forward(call, arrays, state, keep_states):
    """(out, last state), and the state before every chunk [N, B, HV, Dk, Dv] or None."""
    plan, interpret = call
    q, k, v, log_decay, erase, write = arrays
    (B, T, HV, value_dim), key_dim, size = v.shape, k.shape[-1], plan.size
    chunks = T // size
    q, a, b, z = operands(plan.rule, jnp.float32, q, k, v, erase, write)
    # A column per head would fill whole lanes as well.
    g = jnp.broadcast_to(log_decays(jnp.float32, log_decay, v), b.shape)
    head_major = [
        jnp.swapaxes(x, 1, 2).reshape(B * HV, T, -1) for x in (q * plan.scale, a, b, z, g)
    ]
    table = jnp.asarray(span_table(size).reshape(-1, size), jnp.float32)
    transposed = jnp.swapaxes(state, 2, 3).reshape(B * HV, value_dim, key_dim)

    def tokens(dim):
        return pl.BlockSpec((None, size, dim), lambda head, chunk: (head, chunk, 0))

    one_state = pl.BlockSpec((None, value_dim, key_dim), lambda head, chunk: (head, 0, 0))
    each_state = pl.BlockSpec(
        (None, None, value_dim, key_dim), lambda head, chunk: (head, chunk, 0, 0)
    )
    types = [jax.typeof(x).manual_axis_type for x in (*head_major, transposed)]
    varying = jax.sharding.ManualAxisType(varying=frozenset().union(*(x.varying for x in types)))
    result = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=varying)
    out_shape = [result((B * HV, T, value_dim), v.dtype), result(transposed.shape, jnp.float32)]
    out_specs = [tokens(value_dim), one_state]
    if keep_states:
        out_shape.append(result((B * HV, chunks, value_dim, key_dim), jnp.float32))
        out_specs.append(each_state)
    out, last, *states = pl.pallas_call(
        _kernel,
        grid=(B * HV, chunks),
        in_specs=[
            pl.BlockSpec(table.shape, lambda head, chunk: (0, 0)),
            *[tokens(x.shape[-1]) for x in head_major],
            one_state,
        ],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="gated_delta",
    )(table, *head_major, transposed)
    out = jnp.swapaxes(out.reshape(B, HV, T, value_dim), 1, 2)
    last = jnp.swapaxes(last.reshape(B, HV, value_dim, key_dim), 2, 3)
    if not keep_states:
        return (out, last), None
    by_chunk = jnp.moveaxis(states[0].reshape(B, HV, chunks, value_dim, key_dim), 2, 0)
    return (out, last), jnp.swapaxes(by_chunk, 3, 4)


def _kernel(table, q, a, b, z, g, initial, out, state, *states):
    """One chunk of one head: the equations of `chunked`, with the state transposed.

    Args:
        table: [(log2(C) + 2) C, C], `chunked.span_table`.
        q: [C, Dk], times scale.
        a: [C, Dk].
        b: [C, Dk].
        z: [C, Dv].
        g: [C, Dk], log decays.
        initial: [Dv, Dk].
        out: [C, Dv], written.
        state: [Dv, Dk], carried from chunk to chunk.
        *states: nothing, or [Dv, Dk], written: the state before the chunk.
    """

    @pl.when(pl.program_id(1) == 0)
    def _():
        state[...] = initial[...]

    for before in states:
        before[...] = state[...]
    size = q.shape[0]
    *levels, prefix, suffix = jnp.split(jnp.exp(_dot(table[...], g[...])), table.shape[0] // size)
    inverse, outer = _products(jnp.concatenate([a[...], q[...]]), b[...], levels)
    decayed = jnp.concatenate([a[...] * prefix, q[...] * prefix])
    read, of_state = jnp.split(_dot(decayed, state[...], (1, 1)), 2)
    u = _dot(inverse, z[...] - read)
    out[...] = (of_state + _dot(outer, u)).astype(out.dtype)
    state[...] = state[...] * prefix[-1:] + _dot(u, b[...] * suffix, (0, 0))


def _products(a_and_q: jax.Array, b: jax.Array, levels: list[jax.Array]):
    """(I + L)^-1 and P of `chunked`, [C, C].

    The pairs of a level are those of all rows and columns under a mask: a whole product fills the
    matrix unit, where products of small blocks would leave it idle. Blocks of the inverse double
    with them: with X the inverse of the blocks of h tokens and L the pairs of two neighbours,
    X - X L X is the inverse of the blocks of 2h, as L X L = 0.
    """
    size = b.shape[0]
    i = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
    j = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
    own = jnp.sum(a_and_q[size:] * b, axis=1, keepdims=True)
    outer = jnp.where(i == j, own, 0.0)
    inverse = jnp.where(i == j, 1.0, 0.0)
    for level, weight in enumerate(levels):
        pairs = _dot(a_and_q * jnp.concatenate([weight, weight]), b * weight, (1, 1))
        half = 1 << level
        is_pair = ((i ^ j) >> level == 1) & (i & half != 0)
        inner, corner = (jnp.where(is_pair, x, 0.0) for x in jnp.split(pairs, 2))
        outer += corner
        inverse -= _dot(inverse, _dot(inner, inverse)) if level else inner
    return inverse, outer


def _dot(x: jax.Array, y: jax.Array, axes: tuple[int, int] = (1, 0)) -> jax.Array:
    """Product over one axis of x and one of y, as exact as float32."""
    return jax.lax.dot_general(
        x, y, (((axes[0],), (axes[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip
