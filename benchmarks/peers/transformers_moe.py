"""The other side of `benchmarks/moe.py`: transformers' DeepseekV3MoE. Imports nothing of jaxlab."""

import json
import os
import pathlib
import sys
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
import turns
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE


def main() -> None:
    """Load weights and tokens at the first request, and run the layer at each."""
    work = json.loads(sys.argv[1])
    config = transformers.DeepseekV3Config(
        hidden_size=work["dim"],
        moe_intermediate_size=work["width"],
        n_routed_experts=work["experts"],
        num_experts_per_tok=work["top_k"],
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
    )
    layer = DeepseekV3MoE(config)
    data: dict[str, torch.Tensor] = {}

    def load() -> None:
        with np.load(pathlib.Path(work["folder"]) / "layer.npz") as file:
            data.update({name: torch.from_numpy(file[name].copy()) for name in file.files})
        with torch.no_grad():
            gate, up = (data[f"experts/{name}/kernel"].mT for name in ("gate", "up"))
            layer.experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
            layer.experts.down_proj.copy_(data["experts/down/kernel"].mT)
            layer.gate.weight.copy_(data["router/kernel"].T)
            layer.gate.e_score_correction_bias.copy_(data["router/correction_bias"])
            for name in ("gate", "up", "down"):
                linear = getattr(layer.shared_experts, f"{name}_proj")
                linear.weight.copy_(data[f"shared/{name}/kernel"].T)

    def run(gradient: bool) -> torch.Tensor:
        if not gradient:
            with torch.inference_mode():
                return layer(data["x"][None])[0]
        layer.zero_grad()
        x = data["x"].requires_grad_()
        layer(x[None])[0].sum().backward()
        return x

    def answer(what: str, gradient: bool, calls: int = 1) -> dict[str, Any]:
        if what == "save":
            load()
            return {"difference": float((run(False) - data["y"]).abs().max())}
        for _ in range(calls):
            run(gradient)
        return {}

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    turns.serve(answer, versions | {"torch threads": str(torch.get_num_threads())})


if __name__ == "__main__":
    main()
