"""Decoding at 96k tokens as AsyncTLS times it: Qwen3-8B, for benchmarks/topologies.py alone.

    python -m jaxlab.evaluate --config=benchmarks/long_decoding.py --compile_only --topology=h100:1

After the prompt 64 tokens are decoded by two-level attention over 1,024 tokens. Variants: ""
(two-level), "dense" (attention to everything; the prompt is read in chunks).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "dense"):
        raise ValueError(f"benchmarks/long_decoding.py has the variants dense, not {variant!r}")
    config = ConfigDict({"seed": 0})
    config.model = {"preset": "qwen3-8b"}
    config.model.sizes = {
        "dtype": "bfloat16", "param_dtype": "bfloat16", "scan_layers": True, "max_position": 131_072
    }  # fmt: skip
    config.data = common.gsm8k(max_prompt=98_304 - 64)
    config.eval = {"prompts": 1, "samples": 1, "batch": 1, "max_new_tokens": 64, "temperature": 0.6}
    config.eval.prompt_multiple = 64
    config.eval.attention = {"name": "dense"}
    if variant:
        config.eval.prefill_chunk = 4096
    else:
        config.eval.attention = {"name": "two_level", "k_tokens": 1024}
    config.mesh = common.mesh()
    return config
