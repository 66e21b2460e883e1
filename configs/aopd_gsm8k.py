"""AOPD on GSM8K between two checkpoints on disk, as the paper trains Qwen3 (papers' settings: K =
32, tau = 0, learning rate 1e-5 constant, gradient clipping 1, temperature 1).

    python -m jaxlab.train --config=configs/aopd_gsm8k.py --workdir=runs/aopd_gsm8k \\
        --config.student.path=STUDENT --config.teacher.path=TEACHER \\
        --config.data.train=train.jsonl --config.data.test=test.jsonl

STUDENT and TEACHER are HuggingFace directories (llama, qwen2 or qwen3, one tokenizer) or work
directories of earlier runs, for example of configs/sft_gsm8k.py. The rows are {question, answer}.

Variants: "tiny" (random models of one layer and two steps, for tests; give a tokenizer with
--config.data.tokenizer), "small" (random or small checkpoints on a CPU: short completions,
learning rate 1e-4).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/aopd_gsm8k.py has the variants small and tiny, not {variant!r}")
    loss = {
        "name": "aopd",
        "tau": 0.0,
        "guide": {"top_k": 32, "divide_by_k": True, "divergence": "fkl"},
        "agg": "seq_mean_token_mean",
    }
    return common.gsm8k_distillation(variant == "tiny", variant != "", loss)
