"""The Triton kernels: a tile of queries against its block, forwards and backwards.

A program may find that there is nothing for it to do: grids have room for any choice of blocks.
"""

import triton
import triton.language as tl


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b in float32; as float32 products where precision is "ieee"."""
    if PRECISION == "ieee":
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def forward(
    query, key, value, block, ends, scale, N,
    out, log_sum,
    D: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs and log-sum-exps of a tile; a program per tile."""
    tile = tl.program_id(0).to(tl.int64)
    if tile < tl.load(ends + N - 1):
        rows = tile * R + tl.arange(0, R)
        d, v, c = tl.arange(0, D), tl.arange(0, V), tl.arange(0, BC)
        first = tl.load(block + tile).to(tl.int64) * C
        q = tl.load(query + rows[:, None] * D + d[None, :])
        factor = tl.load(scale)
        highest = tl.full((R,), -float("inf"), tl.float32)
        total = tl.zeros((R,), tl.float32)
        average = tl.zeros((R, V), tl.float32)
        for start in range(0, C, BC):
            token = first + start + c
            k = tl.load(key + token[:, None] * D + d[None, :])
            scores = product(q, tl.trans(k), PRECISION) * factor
            new = tl.maximum(highest, tl.max(scores, axis=1))
            weights = tl.exp(scores - new[:, None])
            shrink = tl.exp(highest - new)
            total = total * shrink + tl.sum(weights, axis=1)
            x = tl.load(value + token[:, None] * V + v[None, :])
            average = average * shrink[:, None] + product(
                weights.to(value.dtype.element_ty), x, PRECISION
            )
            highest = new
        tl.store(out + rows[:, None] * V + v[None, :], average / total[:, None])
        tl.store(log_sum + rows, highest + tl.log(total))


@triton.jit
def query_gradients(
    query, d_out, log_sum, inner, key, value, block, ends, scale, N,
    d_query,
    D: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile's queries; a program per tile."""
    tile = tl.program_id(0).to(tl.int64)
    if tile < tl.load(ends + N - 1):
        rows = tile * R + tl.arange(0, R)
        d, v, c = tl.arange(0, D), tl.arange(0, V), tl.arange(0, BC)
        first = tl.load(block + tile).to(tl.int64) * C
        q = tl.load(query + rows[:, None] * D + d[None, :])
        d_y = tl.load(d_out + rows[:, None] * V + v[None, :])
        top, mean, factor = tl.load(log_sum + rows), tl.load(inner + rows), tl.load(scale)
        gradient = tl.zeros((R, D), tl.float32)
        for start in range(0, C, BC):
            token = first + start + c
            k = tl.load(key + token[:, None] * D + d[None, :])
            x = tl.load(value + token[:, None] * V + v[None, :])
            weights = tl.exp(product(q, tl.trans(k), PRECISION) * factor - top[:, None])
            d_weights = product(d_y, tl.trans(x), PRECISION)
            d_scores = weights * (d_weights - mean[:, None]) * factor
            gradient += product(d_scores.to(query.dtype.element_ty), k, PRECISION)
        tl.store(d_query + rows[:, None] * D + d[None, :], gradient)


@triton.jit
def block_gradients(
    query, d_out, log_sum, inner, key, value, ends, scale,
    d_key, d_value,
    D: tl.constexpr, V: tl.constexpr, C: tl.constexpr, R: tl.constexpr, BC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of BC keys and values, over the tiles of their block; a program per BC tokens."""
    program = tl.program_id(0).to(tl.int64)
    number = program // (C // BC)
    token = program * BC + tl.arange(0, BC)
    d, v, r = tl.arange(0, D), tl.arange(0, V), tl.arange(0, R)
    k = tl.load(key + token[:, None] * D + d[None, :])
    x = tl.load(value + token[:, None] * V + v[None, :])
    factor = tl.load(scale)
    of_key = tl.zeros((BC, D), tl.float32)
    of_value = tl.zeros((BC, V), tl.float32)
    # Of 64 bits, as the tiles that are counted with them become.
    last = tl.load(ends + number).to(tl.int64)
    begin = tl.load(ends + number - 1, mask=number > 0, other=0).to(tl.int64)
    for tile in range(begin, last):
        rows = tile * R + r
        q = tl.load(query + rows[:, None] * D + d[None, :])
        d_y = tl.load(d_out + rows[:, None] * V + v[None, :])
        top, mean = tl.load(log_sum + rows), tl.load(inner + rows)
        # [BC, R]
        weights = tl.exp(product(k, tl.trans(q), PRECISION) * factor - top[None, :])
        d_weights = product(x, tl.trans(d_y), PRECISION)
        d_scores = weights * (d_weights - mean[None, :]) * factor
        of_key += product(d_scores.to(query.dtype.element_ty), q, PRECISION)
        of_value += product(weights.to(d_out.dtype.element_ty), d_y, PRECISION)
    tl.store(d_key + token[:, None] * D + d[None, :], of_key)
    tl.store(d_value + token[:, None] * V + v[None, :], of_value)
