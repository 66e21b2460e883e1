"""Which Triton kernels run on which shapes, for any framework that can launch them.

Nothing here knows whose arrays it handles: `Launch` allocates and runs, in JAX (`gpu.py`) or in
PyTorch (`torch_launch.py`).
"""

import dataclasses
from typing import Any, NamedTuple

from jaxlab_kernels.common.triton import Launch
from jaxlab_kernels.delta_rule.rule import Rule
from jaxlab_kernels.dispatch import Refusal

DIMS = (16, 32, 64, 128, 256)


class Operands(NamedTuple):
    """What the kernels compute from; one dtype of float32, bfloat16, float16 for the first four.

    Attributes:
        q: [B, T, H, K], times the output's scale.
        a: [B, T, H, K].
        b: [B, T, H, K].
        z: [B, T, H, V].
        g: [B, T, H, K] or [B, T, H], float32.
        state: [B, H, K, V], float32.
    """

    q: Any
    a: Any
    b: Any
    z: Any
    g: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of one call, and how its kernels are compiled.

    Attributes:
        batch: B.
        length: T > 0.
        heads: H.
        key_dim: K, one of `DIMS`.
        value_dim: V, one of `DIMS`.
        dtype: of q, a, b, z and of what passes between kernels.
        head_decay: g has no channels.
        chunk: tokens per chunk, 16, 32 or 64.
        value_block: channels of the state that one program carries over the chunks.
        fused_outputs: the pass over chunks writes the outputs; else a second kernel does so for
            all chunks at once, which shortens the serial part.
        precision: of products of float32: "tf32x3", "tf32" or "ieee", which also multiplies
            16-bit numbers as float32. With 16 bits only the inverse is a product of float32.
    """

    batch: int
    length: int
    heads: int
    key_dim: int
    value_dim: int
    dtype: str
    head_decay: bool
    chunk: int
    value_block: int
    fused_outputs: bool
    precision: str

    @property
    def sequences(self) -> int:
        """Sequences times heads."""
        return self.batch * self.heads

    @property
    def chunks(self) -> int:
        """Chunks per sequence."""
        return -(-self.length // self.chunk)

    @property
    def levels(self) -> int:
        """log2 of the chunk."""
        return self.chunk.bit_length() - 1

    def by_chunk(self, *last: int) -> tuple[int, ...]:
        """[B H, N, *last]."""
        return (self.sequences, self.chunks, *last)


def plan_of(
    operands: Operands,
    *,
    chunk: int | None = None,
    processors: int,
    precision: str | None = None,
) -> Plan:
    """The plan for these shapes.

    Args:
        operands: arrays or anything with shape and dtype.
        chunk: tokens per chunk; None: 64, and 32 for heads of 256 and for float32, whose products
            take three times the registers.
        processors: of the chip; with fewer heads the state's channels are split into more blocks.
        precision: see `Plan`; None: "tf32x3" for float32, "tf32" for 16 bits.

    Raises:
        Refusal: the kernels do not take the call; the message says what they take.
    """
    batch, length, heads, key_dim = operands.q.shape
    value_dim = operands.z.shape[-1]
    dtype = _name(operands.q.dtype)
    if key_dim not in DIMS or value_dim not in DIMS:
        raise Refusal(
            f"head sizes {key_dim} and {value_dim}; the kernels take {', '.join(map(str, DIMS))}"
        )
    if dtype not in ("float32", "bfloat16", "float16"):
        raise Refusal(f"{dtype}; the kernels take float32, bfloat16 and float16")
    if chunk not in (None, 16, 32, 64):
        raise Refusal(f"chunks of {chunk} tokens; the kernels take 16, 32 and 64")
    wide = key_dim > 128 or value_dim > 128
    most = 16 if key_dim > 64 and dtype == "float32" else 32 if wide else 64
    value_block = min(most, value_dim)
    while value_block > 16 and batch * heads * (value_dim // value_block) < processors:
        value_block //= 2
    return Plan(
        batch, length, heads, key_dim, value_dim, dtype,
        head_decay=len(operands.g.shape) == 3,
        chunk=chunk or (32 if wide or dtype == "float32" else 64),
        value_block=value_block,
        fused_outputs=batch * heads * (value_dim // value_block) >= processors,
        precision=precision or ("tf32x3" if dtype == "float32" else "tf32"),
    )  # fmt: skip


class Chunks(NamedTuple):
    """What `triton_forward.pair_products` and `solve` write, but for L."""

    outer: Any
    x: Any
    w: Any
    u: Any
    rows: Any
    columns: Any
    total: Any


def forward(launch: Launch, plan: Plan, operands: Operands) -> tuple[Any, Any]:
    """out [B, T, H, V] in the operands' dtype and the last state [B, H, K, V], float32."""
    from jaxlab_kernels.delta_rule import triton_forward

    chunks = _prepare(launch, plan, operands)
    out = ((plan.batch, plan.length, plan.heads, plan.value_dim), plan.dtype)
    if plan.fused_outputs:
        arguments = (chunks.w, chunks.u, chunks.rows, chunks.columns, chunks.outer, chunks.total,
                     operands.state, plan.length, plan.heads)  # fmt: skip
        read, last = _scan(launch, plan, triton_forward.scan_outputs, arguments, [out])
        return read, last
    edits, states, last = _states(launch, plan, chunks, operands)
    block = min(plan.value_dim, 64)
    arrays = (chunks.rows, chunks.outer, edits, states)
    (read,) = launch(
        triton_forward.outputs, plan.sequences * plan.chunks * (plan.value_dim // block),
        (*arrays, plan.length, plan.heads), [out],
        K=plan.key_dim, V=plan.value_dim, BT=plan.chunk, BV=block,
        PRECISION=plan.precision, num_warps=4, num_stages=2,
    )  # fmt: skip
    return read, last


def backward(launch: Launch, plan: Plan, operands: Operands, d_out: Any, d_last: Any) -> Operands:
    """Gradients of the operands.

    Chunks and states are computed again: between forward and backward only the operands live.

    Returns:
        Gradients shaped and typed as the operands, but for g of one decay per head: there it is
        [B, T, H, N], to be summed over the last axis.
    """
    from jaxlab_kernels.delta_rule import triton_backward

    chunks = _prepare(launch, plan, operands)
    edits, states, _ = _states(launch, plan, chunks, operands)
    sizes = (plan.length, plan.heads)
    arguments = (chunks.w, chunks.rows, chunks.columns, chunks.outer, chunks.total, d_out, d_last)
    by_value = (plan.by_chunk(plan.chunk, plan.value_dim), plan.dtype)
    by_state = (plan.by_chunk(plan.key_dim, plan.value_dim), plan.dtype)
    d_edits, d_states, d_state = _scan(
        launch, plan, triton_backward.scan_gradients, (*arguments, *sizes), [by_value, by_state]
    )
    value_block = min(plan.value_dim, 64 if plan.dtype != "float32" else 32)
    front = (plan.batch, plan.length, plan.heads)
    pairs = (plan.by_chunk(plan.chunk, plan.chunk), plan.dtype)
    d_z, d_inner, d_outer = launch(
        triton_backward.pair_gradients, plan.sequences * plan.chunks,
        (chunks.x, edits, d_edits, d_out, *sizes),
        [((*front, plan.value_dim), plan.dtype), pairs, pairs],
        V=plan.value_dim, BT=plan.chunk, BV=value_block, PRECISION=plan.precision,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    key_block = 16  # of 16 channels, all that the levels need fits into registers
    blocks = plan.key_dim // key_block
    by_key = ((*front, plan.key_dim), plan.dtype)
    by_decay = ((*front, blocks if plan.head_decay else plan.key_dim), "float32")
    d_q, d_a, d_b, d_g = launch(
        triton_backward.operand_gradients, plan.sequences * plan.chunks * blocks,
        (*operands[:3], operands.g, d_out, d_z, edits, states, d_states, d_inner, d_outer,
         chunks.total, *sizes),
        [by_key, by_key, by_key, by_decay],
        K=plan.key_dim, V=plan.value_dim, BT=plan.chunk, BK=key_block, BV=value_block,
        LEVELS=plan.levels, HEAD_DECAY=plan.head_decay, PRECISION=plan.precision,
        num_warps=8, num_stages=1,
    )  # fmt: skip
    return Operands(d_q, d_a, d_b, d_z, d_g, d_state)


def _prepare(launch: Launch, plan: Plan, operands: Operands) -> Chunks:
    from jaxlab_kernels.delta_rule import triton_forward

    q, a, b, z, g, _ = operands
    K, V, C = plan.key_dim, plan.value_dim, plan.chunk
    pairs = plan.by_chunk(C, C)
    programs = plan.sequences * plan.chunks
    meta: dict[str, Any] = {
        "K": K, "BT": C, "LEVELS": plan.levels, "HEAD_DECAY": plan.head_decay,
        "PRECISION": plan.precision,
    }  # fmt: skip
    inner, outer = launch(
        triton_forward.pair_products, programs, (q, a, b, g, plan.length, plan.heads),
        [(pairs, "float32"), (pairs, plan.dtype)],
        BK=min(K, 64), num_warps=4, num_stages=1, **meta,
    )  # fmt: skip
    shapes = [(C, C), (C, K), (C, V), (C, K), (C, K)]
    outputs = [(plan.by_chunk(*shape), plan.dtype) for shape in shapes]
    outputs.append((plan.by_chunk(K), "float32"))
    return Chunks(outer, *launch(
        triton_forward.solve, programs, (inner, q, a, b, z, g, plan.length, plan.heads), outputs,
        V=V, BK=min(K, 32), BV=min(V, 64), num_warps=4, num_stages=1, **meta,
    ))  # fmt: skip


def _states(launch: Launch, plan: Plan, chunks: Chunks, operands: Operands) -> list[Any]:
    from jaxlab_kernels.delta_rule import triton_forward

    arguments = (chunks.w, chunks.u, chunks.columns, chunks.total, operands.state,
                 plan.length, plan.heads)  # fmt: skip
    outputs = [(plan.by_chunk(plan.chunk, plan.value_dim), plan.dtype),
               (plan.by_chunk(plan.key_dim, plan.value_dim), plan.dtype)]  # fmt: skip
    return _scan(launch, plan, triton_forward.scan_states, arguments, outputs)


def _scan(launch: Launch, plan: Plan, kernel: Any, arguments, outputs) -> list[Any]:
    """A kernel over the chunks of a sequence; its last output is a state."""
    state = ((plan.batch, plan.heads, plan.key_dim, plan.value_dim), "float32")
    return launch(
        kernel, plan.sequences * (plan.value_dim // plan.value_block), arguments,
        [*outputs, state], K=plan.key_dim, V=plan.value_dim, BT=plan.chunk,
        BV=plan.value_block, PRECISION=plan.precision,
        num_warps=8 if plan.dtype == "float32" else 4, num_stages=2,
    )  # fmt: skip


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def step(
    launch: Launch,
    rule: Rule,
    scale: float,
    q: Any,
    k: Any,
    v: Any,
    log_decay: Any,
    erase: Any,
    write: Any,
    state: Any,
) -> tuple[Any, Any]:
    """One token in one launch; arguments as in `step.gated_delta_step`, the state float32.

    Returns:
        out [B, HV, Dv] in the dtype of v, and the new state.
    """
    from jaxlab_kernels.delta_rule import triton_step

    batch, heads, value_dim = v.shape
    key_dim = k.shape[-1]
    block = min(32, _power_of_two(value_dim))
    one_gate = write is None
    write = erase if one_gate else write
    out, state = launch(
        triton_step.step, batch * heads * -(-value_dim // block),
        (q, k, v, log_decay, erase, write, state),
        [(v.shape, _name(v.dtype)), (state.shape, "float32")],
        K=key_dim, V=value_dim, BK=_power_of_two(key_dim), BV=block, GROUPS=heads // k.shape[1],
        FORM=rule.form, LOGITS=rule.logits, GATE_SCALE=rule.gate_scale,
        NORM_EPS=rule.norm_eps or 0.0, DECAY_PER_HEAD=len(log_decay.shape) == 2,
        ERASE_PER_HEAD=len(erase.shape) == 2, WRITE_PER_HEAD=len(write.shape) == 2,
        ONE_GATE=one_gate, SCALE=scale, num_warps=4, num_stages=1,
    )  # fmt: skip
    return out, state


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
