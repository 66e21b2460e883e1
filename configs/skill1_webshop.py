"""Skill1 on WebShop as the paper trains it: Qwen2.5-7B-Instruct, 32 goals x 16 episodes a step.

Paper (2605.06130, appendix C): learning rate 1e-6, KL 0.01 (k3), lambdas 0.3, K = 5, alpha 0.05,
15 steps a goal, prompts of 16,384 and replies of 2,048 tokens, 100 to 150 steps on eight H800. Not
run here at that size, nor on WebShop's own products.

    python -m jaxlab.train --config=configs/skill1_webshop.py --workdir=runs/skill1_webshop \\
        --config.model.path=MODEL --config.data.path=FILES \\
        --config.skills.encoder.path=all-MiniLM-L6-v2

MODEL is a HuggingFace directory. FILES is a folder with WebShop's own files, whose first 500 goals
are the panel and those behind its development set are trained on; without it the shop is made up,
and the 200 goals of configs/eval_webshop.py are the panel. Without an encoder descriptions are
compared by hashed words. Credit is binary: a purchase that is worth less than 1 is none. The
released launcher has 16 goals, 8 episodes and a penalty of 0.5 for what cannot be read:
rollout.tasks=16, rollout.samples=8, credit.invalid_penalty=0.5; its lambdas are 1.

Variants: "tiny" (a random model of one layer in Qwen2's form, 300 products and two steps, for
tests; give a tokenizer with --config.tokenizer).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/skill1_webshop.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = common.skill1(tiny, tasks=32)
    config.data = ConfigDict({"name": "webshop", "path": placeholder(str)})
    config.data.products = placeholder(int)
    config.data.update({"max_steps": 2 if tiny else 15, "panel": 2 if tiny else 500})
    if tiny:
        config.data.products = 300
    return config
