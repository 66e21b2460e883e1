"""The smallest Triton kernel: compiling it tells whether launches work at all.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl


@triton.jit
def copy(source, target):
    """One number."""
    tl.store(target, tl.load(source))
