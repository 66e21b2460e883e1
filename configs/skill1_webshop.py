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
    steps = 2 if tiny else 150
    config = ConfigDict({"trainer": "agent", "seed": 0})
    config.model = common.tiny_model() if tiny else common.model()
    config.tokenizer = placeholder(str)
    config.data = ConfigDict({"name": "webshop", "path": placeholder(str)})
    config.data.products = placeholder(int)
    config.data.update({"max_steps": 2 if tiny else 15, "panel": 2 if tiny else 500})
    if tiny:
        config.data.products = 300
        config.model.sizes.update({"qk_norm": False, "qkv_bias": True})
    config.loss = {"name": "grpo", "kl_weight": 0.01, "agg": "seq_mean_token_mean"}
    config.skills = {"library": {"top_k": 5, "alpha": 0.05, "capacity": 5000}}
    config.skills.encoder = {"path": placeholder(str)}
    config.credit = {"mode": "paper", "rank_weight": 0.3, "distil_weight": 0.3}
    config.credit.update({"invalid_penalty": 0.1})
    lengths = {"query": 4, "rank": 4, "act": 8, "distil": 8} if tiny else 2048
    phases = ("query", "rank", "act", "distil")
    config.rollout = {
        "tasks": 2 if tiny else 32,
        "samples": 2 if tiny else 16,
        "words": "paper",
        "history": 2,
        "actions": "text",
        "chat": not tiny,
        "new_tokens": lengths if tiny else dict.fromkeys(phases, lengths),
        "max_prompt": 256 if tiny else 16384,
        "prompt_multiple": 256 if tiny else 1024,
        "row_multiple": 4 if tiny else 64,
        "turn_multiple": 16 if tiny else 2048,
        "parts": 1 if tiny else 128,
        "response_multiple": 8 if tiny else 256,
    }
    config.eval = {"meter_every": 1 if tiny else 10, "save_episodes": 2 if tiny else 8}
    config.eval.temperature = None if tiny else 0.4
    config.train = common.train(steps, log_every=1, eval_every=max(steps // 15, 1))
    config.train.checkpoint_every = max(steps // 15, 1)
    config.optim = common.optim(1e-4 if tiny else 1e-6, weight_decay=0.0)
    config.mesh = common.mesh()
    if not tiny:
        config.mesh.rules = common.SHARDED
        config.mesh.decode_rules = common.DECODING
        config.model.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
    config.title = placeholder(str)
    return config
