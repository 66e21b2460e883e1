"""Which Triton versions compile the gated delta rule wrongly, and for which chips."""

import os
import re

from jaxlab_kernels.dispatch import Refusal


def check_triton(version: str, capability: int, *, unchecked: bool | None = None) -> None:
    """Refuses a compiler that is known to compute wrong gradients without saying so.

    Triton 3.4.0 up to but not 3.7.1 miscompiles the backward pass of gated chunks on Hopper
    (flash-linear-attention issue 640, which refuses them as well).

    Args:
        version: Triton's, such as "3.9.0".
        capability: the chip's, such as 90 for 9.0.
        unchecked: accept every version, for those who check results themselves; None: what
            JAXLAB_TRITON_UNCHECKED=1 in the environment says.

    Raises:
        Refusal: the combination is known to be bad.
    """
    if unchecked is None:
        unchecked = os.environ.get("JAXLAB_TRITON_UNCHECKED") == "1"
    numbers = tuple(int(x) for x in re.findall(r"\d+", version)[:3])
    if not unchecked and capability == 90 and (3, 4, 0) <= numbers < (3, 7, 1):
        raise Refusal(
            f"Triton {version} miscompiles gated chunks on Hopper (compute capability 9.0); "
            f"install triton>=3.7.1, or set JAXLAB_TRITON_UNCHECKED=1 and compare results yourself"
        )
