"""The chunk forms of transformers in PyTorch, for `benchmarks/kernels.py`: GDN and KDA on a CPU.

They are what a user of Qwen3-Next and Kimi Linear runs where flash-linear-attention is absent;
where it is installed transformers calls its Triton kernels instead, which need a GPU. Imports
nothing of jaxlab; one thread.
"""

import importlib

import numpy as np
import torch
import transformers
import turns
from programs import Program, Programs

FUNCTIONS = {
    "gdn": ("qwen3_next.modeling_qwen3_next", "torch_chunk_gated_delta_rule"),
    "kda": ("kimi_linear.modeling_kimi_linear", "chunk_kimi_delta_attention"),
}


def main() -> None:
    """Serve programs."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # else: that flash-linear-attention is absent
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    turns.serve(Programs(build), versions)


def build(which: str, member: str, arguments: str) -> Program:
    """A program of one member.

    Args:
        which: "forward" (out and state) or "both" (gradients of the weighted sum of them).
        member: "gdn" or "kda".
        arguments: .npz of the float32 arguments of `gated_delta`, out_weight and state_weight.
    """
    module, name = FUNCTIONS[member]
    function = getattr(importlib.import_module(f"transformers.models.{module}"), name)
    with np.load(arguments) as file:
        given = {key: torch.from_numpy(file[key]) for key in file.files}
    weights = [given.pop("out_weight"), given.pop("state_weight")]

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        return function(
            given["q"], given["k"], given["v"], g=given["log_decay"], beta=given["erase"],
            initial_state=given["initial_state"], output_final_state=True,
        )  # fmt: skip

    def without_gradients() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return dict(zip(("out", "state"), forward(), strict=True))

    if which == "forward":
        return Program(without_gradients)
    for x in given.values():
        x.requires_grad_()

    def gradients() -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(forward(), list(given.values()), weights)
        return dict(zip(given, found, strict=True))

    return Program(gradients)


if __name__ == "__main__":
    main()
