"""The smallest Triton kernel: whether a launch compiles at all is asked with it.

This module imports Triton: only functions that launch kernels import it.
"""

import triton
import triton.language as tl


@triton.jit
def copy(source, target):
    """One number."""
    tl.store(target, tl.load(source))
