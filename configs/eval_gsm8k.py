"""GSM8K test rows: avg@n and pass@n of a HuggingFace directory or of a run.

    python -m jaxlab.evaluate --config=configs/eval_gsm8k.py --workdir=runs/eval \\
        --config.model.path=MODEL --config.data.train=train.jsonl --config.data.test=test.jsonl

Variants: "tiny" (a random model, for tests), "small" (64 prompts, for a CPU).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/eval_gsm8k.py has the variants small and tiny, not {variant!r}")
    tiny, small = variant == "tiny", variant != ""
    config = ConfigDict({"seed": 0})
    config.model = common.tiny_model() if tiny else common.model()
    config.data = common.gsm8k(max_prompt=400 if small else 512)
    config.eval = common.evaluation(tiny, small)
    config.mesh = common.mesh()
    return config
