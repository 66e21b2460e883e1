"""The chunk forms of transformers in PyTorch, for `benchmarks/kernels.py`: GDN and KDA on a CPU.

They are what a user of Qwen3-Next and Kimi Linear runs where flash-linear-attention is absent;
where it is installed transformers calls its Triton kernels instead, which need a GPU. Run in the
process of the benchmark, so that both see the same machine.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FUNCTIONS = {
    "gdn": ("qwen3_next.modeling_qwen3_next", "torch_chunk_gated_delta_rule"),
    "kda": ("kimi_linear.modeling_kimi_linear", "chunk_kimi_delta_attention"),
}


def missing() -> str | None:
    """Why they cannot run here, or None."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (the torch extra)"
    if importlib.util.find_spec("fla") is not None:
        return "flash-linear-attention is installed: transformers would call its GPU kernels"
    return None


def versions() -> str:
    """Of PyTorch and transformers."""
    import torch
    import transformers

    return f"torch {torch.__version__}, transformers {transformers.__version__}"


def program(
    member: str, arguments: Mapping[str, np.ndarray], weights: tuple[np.ndarray, np.ndarray] | None
) -> Callable[[], Any]:
    """A call without arguments on one thread: (out, state), or the gradients.

    Args:
        member: "gdn" or "kda".
        arguments: float32 arguments of `gated_delta` for that member.
        weights: of out and state; with them the call returns the gradients of the weighted sum,
            by name, else out and state.
    """
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # else: that flash-linear-attention is absent
    module, name = FUNCTIONS[member]
    function = getattr(importlib.import_module(f"transformers.models.{module}"), name)
    given = {key: torch.from_numpy(np.array(x)) for key, x in arguments.items()}

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        return function(
            given["q"], given["k"], given["v"], g=given["log_decay"], beta=given["erase"],
            initial_state=given["initial_state"], output_final_state=True,
        )  # fmt: skip

    def without_gradients() -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(x.numpy() for x in forward())

    if weights is None:
        return without_gradients
    of_result = [torch.from_numpy(np.array(w)) for w in weights]
    for x in given.values():
        x.requires_grad_()

    def gradients() -> dict[str, np.ndarray]:
        found = torch.autograd.grad(forward(), list(given.values()), of_result)
        return {key: x.numpy() for key, x in zip(given, found, strict=True)}

    return gradients
