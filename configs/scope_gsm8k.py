"""SCOPE on GSM8K between two checkpoints on disk, with the settings of the paper's mathematics run:
256 prompts of 8 answers a step, temperature 0.6, one update per batch, learning rate 5e-5 constant,
weight decay 0.01, tau = 1, answers of 12,288 tokens (arXiv 2604.10688, tables 3 and 4), and the 100
steps of its plots.

    python -m jaxlab.train --config=configs/scope_gsm8k.py --workdir=runs/scope_gsm8k \\
        --config.student.path=STUDENT --config.teacher.path=TEACHER \\
        --config.data.train=train.jsonl --config.data.test=test.jsonl

STUDENT and TEACHER are HuggingFace directories of one tokenizer, or work directories of earlier
runs. The paper's pairs are DeepSeek-R1-Distill-Qwen-1.5B <- SkyWork-OR1-7B, and Qwen3-1.7B-Base <-
Qwen3-8B, whose context of 32,768 needs --config.eval.max_new_tokens=28672. The rows are {question,
answer}, answers ending in "#### 72"; the paper's prompts are DeepMath's, in the chat template
(--config.data.chat=True). The teacher's distribution is that of temperature 1, as the released
code's server gives it; --config.teacher_temperature=0.6 compares like with like. What the paper's
evaluation has and this one has not is a repetition penalty of 1.08 for Qwen3-1.7B.

`python -m jaxlab.export --workdir=runs/scope_gsm8k --out=DIR` writes the student for transformers.

Variants: "small" (small checkpoints on a CPU: 16 prompts of 4 short answers, learning rate 1e-4),
"tiny" (random models of one layer and two steps, for tests; give a tokenizer with
--config.data.tokenizer).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/scope_gsm8k.py has the variants small and tiny, not {variant!r}")
    loss = {"name": "scope", "tau": 1.0}
    config = common.gsm8k_distillation(variant == "tiny", variant != "", loss)
    config.rollout.temperature = 0.6
    if variant == "":
        config.data.max_prompt = 4096
        config.rollout.update({"prompts": 256, "samples": 8, "max_new_tokens": 12288})
        config.train.update({"steps": 100, "eval_every": 20, "checkpoint_every": 8})
        config.optim.learning_rate = 5e-5
        config.eval.update({"samples": 32, "max_new_tokens": 32768, "batch": 16})
    return config
