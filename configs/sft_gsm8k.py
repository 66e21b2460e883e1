"""Supervised fine-tuning on the worked solutions of GSM8K: teaches a base model the format.

    python -m jaxlab.train --config=configs/sft_gsm8k.py --workdir=runs/sft_gsm8k \\
        --config.model.path=MODEL --config.data.train=train.jsonl --config.data.test=test.jsonl

Variants: "tiny" (a random model of one layer and two steps, for tests), "small" (for a CPU).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/sft_gsm8k.py has the variants small and tiny, not {variant!r}")
    tiny, small = variant == "tiny", variant != ""
    steps = 2 if tiny else 400 if small else 1000
    config = ConfigDict({"trainer": "sft", "seed": 0})
    config.model = common.tiny_model() if tiny else common.model()
    config.data = common.gsm8k(max_prompt=400 if small else 512)
    config.batch_size = 2 if tiny else 16 if small else 64
    config.max_length = 512 if small else 1024
    config.train = common.train(
        steps,
        eval_every=max(steps // 2, 1),
        checkpoint_every=max(steps // 2, 1),
        microbatch=1 if tiny else 4 if small else 16,
    )
    config.optim = common.optim(
        1e-3 if small else 1e-5, schedule="cosine", warmup_steps=steps // 20
    )
    config.eval = common.evaluation(tiny, small)
    config.mesh = common.mesh()
    if not small:
        config.mesh.rules = common.SHARDED
        config.mesh.decode_rules = common.DECODING
        config.model.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
    config.title = placeholder(str)
    return config
