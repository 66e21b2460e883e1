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
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "small", "tiny"):
        raise ValueError(f"configs/aopd_gsm8k.py has the variants small and tiny, not {variant!r}")
    tiny, small = variant == "tiny", variant != ""
    steps = 2 if tiny else 300
    config = ConfigDict({"trainer": "distill", "seed": 0})
    config.student = common.tiny_model() if tiny else common.model()
    config.teacher = common.tiny_model() if tiny else common.model()
    config.data = common.gsm8k(max_prompt=400 if small else 512)
    config.loss = {
        "name": "aopd",
        "tau": 0.0,
        "guide": {"top_k": 32, "divide_by_k": True, "divergence": "fkl"},
        "agg": "seq_mean_token_mean",
    }
    config.rollout = ConfigDict(
        {
            "prompts": 2 if tiny else 16 if small else 64,
            "samples": 2 if tiny else 4,
            "max_new_tokens": 8 if tiny else 192 if small else 1024,
            "temperature": 1.0,
            "prompt_multiple": 64,
            "source": "student",
            "updates": 1,
        }
    )
    config.teacher_temperature = 1.0
    config.train = common.train(
        steps,
        eval_every=max(steps // 6, 1),
        checkpoint_every=max(steps // 6, 1),
        microbatch=2 if tiny else 8 if small else 32,
    )
    config.optim = common.optim(1e-4 if small else 1e-5)
    config.eval = common.evaluation(tiny, small)
    config.mesh = common.mesh()
    if not small:
        config.mesh.rules = common.SHARDED
        config.mesh.decode_rules = common.DECODING
        config.student.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
        config.teacher.sizes = {"dtype": "bfloat16", "param_dtype": "bfloat16", "scan_layers": True}
    config.title = placeholder(str)
    return config
