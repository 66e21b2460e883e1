"""The Triton kernels on PyTorch tensors: for machines without jax-triton, and for the interpreter.

PyTorch is imported inside functions only.
"""

from collections.abc import Sequence
from typing import Any

from jaxlab_kernels.delta_rule import launches
from jaxlab_kernels.delta_rule.launches import Operands, Spec


def launch(
    kernel: Any, grid: int, arguments: Sequence[Any], outputs: Sequence[Spec], **meta: Any
) -> list[Any]:
    """See `launches.Launch`; on the device of the first argument."""
    import torch

    device = arguments[0].device
    results = [torch.empty(s, dtype=getattr(torch, name), device=device) for s, name in outputs]
    arrays = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in arguments]
    kernel[(grid,)](*arrays, *results, **meta)
    return results


def forward(operands: Operands, **options: Any) -> tuple[Any, Any]:
    """`launches.forward` on tensors; options of `launches.plan_of`."""
    return launches.forward(launch, launches.plan_of(operands, **options), operands)


def backward(operands: Operands, d_out: Any, d_last: Any, **options: Any) -> Operands:
    """`launches.backward` on tensors, each gradient shaped as its operand."""
    plan = launches.plan_of(operands, **options)
    gradients = launches.backward(launch, plan, operands, d_out, d_last)
    return gradients._replace(g=gradients.g.sum(-1)) if plan.head_decay else gradients
