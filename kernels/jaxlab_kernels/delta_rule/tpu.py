"""The chunk form on TPUs: one Pallas kernel forwards, one backwards.

The grid is heads by chunks. The chunks of a head come in order, and the state between them never
leaves VMEM: its output block is the same for all of them. States are kept transposed, [Dv, Dk],
for the decay then runs along lanes.

XLA makes q, a, b and z of the arguments (`rule.operands`, elementwise) in float32 and
differentiates that; the kernels see nothing else. For the backward pass are saved the arguments
and the state before every chunk.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxlab_kernels import dispatch
from jaxlab_kernels.delta_rule import tpu_kernels
from jaxlab_kernels.delta_rule.chunked import span_table, whole_chunks
from jaxlab_kernels.delta_rule.rule import Inputs, Rule, log_decays, operands
from jaxlab_kernels.dispatch import Refusal

CHUNK = 64
# A tile of bfloat16 has 16 rows; above 128 rows the matrix unit has nothing to gain.
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
    """Gated delta rule by TPU kernels; see `reference.recurrence`.

    Args:
        rule: gives a, b and z.
        inputs: see `Inputs`; Dk and Dv multiples of 8 up to 256, not float64. Head sizes below a
            multiple of 128 take the memory and time of that multiple, as TPU tiles have it.
        scale: factor of the output.
        chunk_size: 16, 32, 64 or 128; None: 64.
        interpret: run the kernels on any platform, by Pallas' interpreter.

    Returns:
        out [B, T, HV, Dv] in the dtype of v, and the last state [B, HV, Dk, Dv].

    Raises:
        Refusal: the kernels do not take the call.
    """
    if inputs.initial_state.dtype == jnp.float64:
        raise Refusal("float64; the kernels compute in float32")
    key_dim, value_dim = inputs.initial_state.shape[2:]
    if max(key_dim, value_dim) > MAX_DIM or key_dim % 8 or value_dim % 8:
        raise Refusal(
            f"head sizes {key_dim} and {value_dim}; the kernels take multiples of 8 up to {MAX_DIM}"
        )
    size = CHUNK if chunk_size is None else chunk_size
    if size not in CHUNKS:
        raise Refusal(f"chunk_size={size}; the kernels take {CHUNKS}")
    dispatch.refuse_divided_mesh()
    length = inputs.v.shape[1]
    if 0 in inputs.v.shape:
        return jnp.zeros_like(inputs.v), inputs.initial_state
    call = _Call(rule, scale, size, interpret)
    out, state = _scan_chunks(call, whole_chunks(tuple(inputs)[:-1], size), inputs.initial_state)
    return out[:, :length], state


class _Call(NamedTuple):
    rule: Rule
    scale: float
    size: int
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan_chunks(call, arrays, state):
    return _forward(call, arrays, state, keep_states=False)[0]


def _save(call, arrays, state):
    result, states = _forward(call, arrays, state, keep_states=True)
    return result, (arrays, state, states)


def _forward(call, arrays, state, keep_states):
    """(out, last state), and the state before every chunk [B HV, N, Dv, Dk] or None."""
    v = arrays[2]
    tokens, initial = _head_major(call, arrays, state)
    heads, length, value_dim = tokens[3].shape
    results = [("tokens", (heads, length, value_dim), v.dtype), ("head", initial.shape)]
    if keep_states:
        results.append(("chunks", (heads, length // call.size, *initial.shape[1:])))
    out, last, *states = _launch(
        tpu_kernels.forward, call, [*(("tokens", x) for x in tokens), ("head", initial)], results
    )
    out, last = _batched(out, v.shape[0]), jnp.swapaxes(last, 1, 2).reshape(state.shape)
    return (jnp.swapaxes(out, 1, 2), last), states[0] if keep_states else None


def _backward(call, saved, cotangents):
    arrays, state, states = saved
    d_out, d_last = cotangents
    (tokens, _), pull = jax.vjp(functools.partial(_head_major, call), arrays, state)
    d_last = jnp.swapaxes(d_last, 2, 3).reshape(-1, *states.shape[2:])
    inputs = [*(("tokens", x) for x in tokens), ("chunks", states),
              ("tokens", _by_head(d_out)), ("head", d_last)]  # fmt: skip
    results = [*(("tokens", x.shape) for x in tokens), ("head", d_last.shape)]
    *d_tokens, d_initial = _launch(tpu_kernels.backward, call, inputs, results, reverse=True)
    return pull((d_tokens, d_initial))


_scan_chunks.defvjp(_save, _backward)


def _head_major(call, arrays, state):
    """[q * scale, a, b, z, g], each [B HV, T, D], and the state [B HV, Dv, Dk]; float32."""
    q, k, v, log_decay, erase, write = arrays
    q, a, b, z = operands(call.rule, jnp.float32, q, k, v, erase, write)
    # One column per head would fill whole lanes as well.
    g = jnp.broadcast_to(log_decays(jnp.float32, log_decay, v), b.shape)
    tokens = [_by_head(x) for x in (q * call.scale, a, b, z, g)]
    return tokens, jnp.swapaxes(state, 2, 3).reshape(-1, v.shape[-1], k.shape[-1])


def _by_head(x: jax.Array) -> jax.Array:
    """[B, T, HV, D] -> [B HV, T, D]."""
    x = jnp.swapaxes(x, 1, 2)
    return x.reshape(-1, *x.shape[2:])


def _batched(x: jax.Array, batch: int) -> jax.Array:
    """[B HV, ...] -> [B, HV, ...]."""
    return x.reshape(batch, -1, *x.shape[1:])


def _launch(
    kernel: Callable,
    call: _Call,
    inputs: Sequence[tuple[str, jax.Array]],
    results: Sequence[tuple],
    reverse: bool = False,
) -> Sequence[jax.Array]:
    """Runs a kernel over heads and their chunks.

    Args:
        kernel: of refs to `span_table` as [.. C, C], a block of every input, one of every result.
        call: see `pallas`.
        inputs: (what a block is, array): "tokens", a chunk's [C, D] of [B HV, T, D]; "head", a
            head's of [B HV, Dv, Dk]; "chunks", a chunk's [Dv, Dk] of [B HV, N, Dv, Dk].
        results: the same with a shape and a dtype, float32 if there is none.
        reverse: the last chunk of a head comes first.
    """
    heads, length, _ = inputs[0][1].shape
    chunks = length // call.size

    def block(what: str, shape: tuple[int, ...]) -> pl.BlockSpec:
        def at(chunk):
            return chunks - 1 - chunk if reverse else chunk

        if what == "tokens":
            return pl.BlockSpec((None, call.size, shape[-1]), lambda h, n: (h, at(n), 0))
        if what == "head":
            return pl.BlockSpec((None, *shape[1:]), lambda h, n: (h, 0, 0))
        return pl.BlockSpec((None, None, *shape[2:]), lambda h, n: (h, at(n), 0, 0))

    table = jnp.asarray(span_table(call.size).reshape(-1, call.size), jnp.float32)
    # Inside shard_map a result has to say over which axes of the mesh it varies.
    types = [jax.typeof(x).manual_axis_type for _, x in inputs]
    varying = jax.sharding.ManualAxisType(varying=frozenset().union(*(x.varying for x in types)))
    return pl.pallas_call(
        kernel,
        grid=(heads, chunks),
        in_specs=[
            pl.BlockSpec(table.shape, lambda h, n: (0, 0)),
            *[block(what, x.shape) for what, x in inputs],
        ],
        out_specs=[block(what, shape) for what, shape, *_ in results],
        out_shape=[
            jax.ShapeDtypeStruct(shape, *(dtype or [jnp.float32]), manual_axis_type=varying)
            for _, shape, *dtype in results
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=call.interpret,
        name=f"gated_delta_{kernel.__name__}",
    )(table, *[x for _, x in inputs])
