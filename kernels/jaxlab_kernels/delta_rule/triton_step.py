"""Triton kernel of one decoding step: the state is read once and written once.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl


@triton.jit
def gate_of(x, LOGITS: tl.constexpr, SCALE: tl.constexpr):
    """The gate of a logit, or of itself."""
    if LOGITS:
        x = SCALE * tl.sigmoid(x)
    return x


@triton.jit
def root_of(x, LOGITS: tl.constexpr, SCALE: tl.constexpr):
    """The square root of the gate, exact where its logit is far below 0."""
    if LOGITS:
        log_sigmoid = tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))
        x = SCALE * tl.exp(log_sigmoid)
    return tl.sqrt(x)


@triton.jit
def load_gate(pointer, head, channel, D, PER_HEAD: tl.constexpr):
    """A gate of a head at channels; 0-dimensional with one gate per head."""
    if PER_HEAD:
        x = tl.load(pointer + head)
    else:
        x = tl.load(pointer + head * D + channel, mask=channel < D, other=0.0)
    return x.to(tl.float32)


@triton.jit
def step(
    q, k, v, log_decay, erase, write, state,
    out, new_state,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, GROUPS: tl.constexpr,
    FORM: tl.constexpr, LOGITS: tl.constexpr, GATE_SCALE: tl.constexpr, NORM_EPS: tl.constexpr,
    DECAY_PER_HEAD: tl.constexpr, ERASE_PER_HEAD: tl.constexpr, WRITE_PER_HEAD: tl.constexpr,
    ONE_GATE: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """One token of every sequence; a program per (sequence and value head, BV channels).

    q, k [B, H, K], v and out [B, H GROUPS, V], log_decay, erase and write [B, H GROUPS] or with
    channels, states [B, H GROUPS, K, V] float32. Without a write gate (ONE_GATE) `write` is erase.
    NORM_EPS 0: q and k are taken as they are.
    """
    program = tl.program_id(0)
    head = (program // tl.cdiv(V, BV)).to(tl.int64)
    row = tl.arange(0, BK)
    column = program % tl.cdiv(V, BV) * BV + tl.arange(0, BV)
    q_t = tl.load(q + head // GROUPS * K + row, mask=row < K, other=0.0).to(tl.float32)
    k_t = tl.load(k + head // GROUPS * K + row, mask=row < K, other=0.0).to(tl.float32)
    v_t = tl.load(v + head * V + column, mask=column < V, other=0.0).to(tl.float32)
    if NORM_EPS > 0:
        q_t *= tl.rsqrt(tl.sum(q_t * q_t, axis=0) + NORM_EPS)
        k_t *= tl.rsqrt(tl.sum(k_t * k_t, axis=0) + NORM_EPS)
    g_t = load_gate(log_decay, head, row, K, DECAY_PER_HEAD)
    e_t = load_gate(erase, head, row, K, ERASE_PER_HEAD)
    w_t = load_gate(write, head, column, V, WRITE_PER_HEAD)
    if FORM == "gdn2":
        a_t = gate_of(e_t, LOGITS, GATE_SCALE) * k_t
        b_t = k_t
        z_t = gate_of(w_t, LOGITS, GATE_SCALE) * v_t
    elif FORM == "left" or (ERASE_PER_HEAD and ONE_GATE):
        a_t = k_t
        b_t = gate_of(e_t, LOGITS, GATE_SCALE) * k_t
        z_t = v_t
    else:
        a_t = root_of(e_t, LOGITS, GATE_SCALE) * k_t
        b_t = a_t
        z_t = root_of(w_t, LOGITS, GATE_SCALE) * v_t

    place = head * (K * V) + row[:, None] * V + column[None, :]
    inside = (row < K)[:, None] & (column < V)[None, :]
    s = tl.load(state + place, mask=inside, other=0.0)
    if DECAY_PER_HEAD:
        s *= tl.exp(g_t)
    else:
        s *= tl.exp(g_t)[:, None]
    u_t = z_t - tl.sum(a_t[:, None] * s, axis=0)
    s += b_t[:, None] * u_t[None, :]
    tl.store(new_state + place, s, mask=inside)
    read = SCALE * tl.sum(q_t[:, None] * s, axis=0)
    tl.store(out + head * V + column, read.to(out.dtype.element_ty), mask=column < V)
