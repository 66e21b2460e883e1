"""Triton device functions: decays between the tokens of a chunk, by levels that double.

Of two tokens j < i let l be the highest bit in which their numbers within the chunk differ. They
lie in neighbouring blocks of 2^l tokens, j in the left one and i in the right one. The decay
between them is exp(sum of g from the right block's start up to i) times exp(sum of g after j up to
the left block's end): a weight of row i and a weight of column j. Every exponent is a sum over
tokens between the two, so that none is positive, large ones do not cancel, and no later token
takes part. A token is a row at the levels whose bit it has set, and a column at the others.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl


@triton.jit
def is_row(LEVEL: tl.constexpr, BT: tl.constexpr):
    """Bool [BT, 1]: the token lies in the right one of two neighbouring blocks."""
    return (((tl.arange(0, BT) >> LEVEL) & 1) == 1)[:, None]


@triton.jit
def level_pairs(LEVEL: tl.constexpr, BT: tl.constexpr):
    """Bool [BT, BT]: i > j, and LEVEL is the highest bit in which they differ."""
    i = tl.arange(0, BT)[:, None]
    j = tl.arange(0, BT)[None, :]
    return ((i ^ j) >> LEVEL == 1) & (i > j)


@triton.jit
def block_sums(x, SIZE: tl.constexpr):
    """[BT, D]: every row becomes the sum over its block of SIZE rows."""
    BT: tl.constexpr = x.shape[0]
    D: tl.constexpr = x.shape[1]
    blocks = tl.reshape(x, (BT // SIZE, SIZE, D))
    sums = tl.sum(blocks, axis=1, keep_dims=True)
    return tl.reshape(tl.broadcast_to(sums, (BT // SIZE, SIZE, D)), (BT, D))


@triton.jit
def sibling_sums(x, LEVEL: tl.constexpr):
    """[BT, D]: every row becomes the sum over the neighbour of its block of 2^LEVEL rows."""
    row = is_row(LEVEL, x.shape[0])
    of_left = block_sums(tl.where(row, 0.0, x), 2 << LEVEL)
    of_right = block_sums(tl.where(row, x, 0.0), 2 << LEVEL)
    return tl.where(row, of_left, of_right)


@triton.jit
def exponents(prefix, suffix, LEVEL: tl.constexpr):
    """[BT, D]: the exponent of each token at a level, given sums within blocks of 2^LEVEL."""
    return tl.where(is_row(LEVEL, prefix.shape[0]), prefix, suffix)


@triton.jit
def widened(prefix, suffix, g, LEVEL: tl.constexpr):
    """Sums up to and with a token, and after it, within blocks twice as long.

    Args:
        prefix: [BT, D], from the start of its block of 2^LEVEL tokens up to and with the token.
        suffix: [BT, D], after the token up to the block's end.
        g: [BT, D].
        LEVEL: log2 of the blocks' length.
    """
    row = is_row(LEVEL, g.shape[0])
    other = sibling_sums(g, LEVEL)
    return prefix + tl.where(row, other, 0.0), suffix + tl.where(row, 0.0, other)


@triton.jit
def prefix_sums(x, SIZE: tl.constexpr):
    """[BT, D]: sums from the start of a row's block of SIZE rows up to and with the row."""
    if SIZE > 1:
        blocks = tl.reshape(x, (x.shape[0] // SIZE, SIZE, x.shape[1]))
        x = tl.reshape(tl.cumsum(blocks, axis=1), x.shape)
    return x


@triton.jit
def suffix_sums(x, SIZE: tl.constexpr):
    """[BT, D]: sums from the row on up to the end of its block of SIZE rows."""
    if SIZE > 1:
        blocks = tl.reshape(x, (x.shape[0] // SIZE, SIZE, x.shape[1]))
        x = tl.reshape(tl.cumsum(blocks, axis=1, reverse=True), x.shape)
    return x


@triton.jit
def product(x, y, PRECISION: tl.constexpr):
    """x y with float32 sums; "ieee" also multiplies 16-bit numbers as float32."""
    if PRECISION == "ieee":
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, y, input_precision=PRECISION)
