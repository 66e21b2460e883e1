"""The Triton kernels on PyTorch tensors: for machines without jax-triton, and for the interpreter.

PyTorch is imported inside functions only.
"""

from collections.abc import Sequence
from typing import Any

from jaxlab_kernels.common.triton import Spec
from jaxlab_kernels.delta_rule import launches
from jaxlab_kernels.delta_rule.launches import Operands, Plan


def launch(
    kernel: Any, grid: int, arguments: Sequence[Any], outputs: Sequence[Spec], **meta: Any
) -> list[Any]:
    """See `common.triton.Launch`; on the device of the first argument."""
    import torch

    device = arguments[0].device
    results = [torch.empty(s, dtype=getattr(torch, name), device=device) for s, name in outputs]
    arrays = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in arguments]
    kernel[(grid,)](*arrays, *results, **meta)
    return results


def forward(plan: Plan, operands: Operands) -> tuple[Any, Any]:
    """`launches.forward` on tensors."""
    return launches.forward(launch, plan, operands)


def backward(plan: Plan, operands: Operands, d_out: Any, d_last: Any) -> Operands:
    """`launches.backward` on tensors, each gradient shaped as its operand."""
    gradients = launches.backward(launch, plan, operands, d_out, d_last)
    return gradients._replace(g=gradients.g.sum(-1)) if plan.head_decay else gradients
