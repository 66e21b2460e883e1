"""HeavySkill's second stage by reinforcement on GSM8K rows, from a HuggingFace directory.

Settings that are reported for the paper (2605.02396, appendix B): K = 16 texts of each question,
written once; questions with a pass rate of at most 0.625; GSPO; T = 1, top_p = 0.95, top_k = 10 for
thinkers and T = 0.7 for deliberations; HM@4. Not reported, and ours: 8 completions of each of 32
prompts, 4 updates per batch, learning rate 1e-6, and a quarter of easier questions, without which
an aggregator unlearns what the vote knows (AggLM; `thinkers.easy_share=0` leaves them out). K = 16
is reported to collapse after about 100 steps, for which truncation is blamed: look at
`student_entropy`, `truncated_share` and `cache_cut_share` in metrics.jsonl.

    python -m jaxlab.train --config=configs/heavy_gsm8k.py --workdir=runs/heavy_gsm8k \\
        --config.stages.thinkers.model.path=MODEL --config.stages.gspo.student.path=MODEL \\
        --config.stages.thinkers.data.train=train.jsonl \\
        --config.stages.thinkers.data.test=test.jsonl \\
        --config.stages.gspo.data.train=train.jsonl --config.stages.gspo.data.test=test.jsonl

MODEL is a HuggingFace directory with a chat template, or with `data.chat=False` a work directory of
configs/sft_gsm8k.py. The job "thinkers" goes on where it was killed, and its file may be used by
other runs: `--stages=gspo` with `--config.stages.gspo.thinkers.path=FILE`. Not run by us: no GPU.

Variants: "tiny" (a random model, two questions a step and two steps, for tests; give a tokenizer by
`data.tokenizer`).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/heavy_gsm8k.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = ConfigDict({"title": "HeavySkill on GSM8K", "stages": {}})
    config.stages.thinkers = thinkers(tiny)
    config.stages.gspo = rl(tiny)
    return config


def thinkers(tiny: bool) -> ConfigDict:
    """The job that writes K texts for every question."""
    config = base(tiny)
    config.trainer = "think"
    config.model = model(tiny)
    config.data.max_prompt = 400 if tiny else 512
    config.width = 2 if tiny else 16
    config.prompts = 2 if tiny else 32
    config.test_questions = 2 if tiny else 200
    config.max_new_tokens = 8 if tiny else 2048
    config.prompt_multiple = 64
    config.train = common.train(2 if tiny else 233, eval_every=1000, log_every=1)
    return config


def rl(tiny: bool) -> ConfigDict:
    """GSPO over the cached texts."""
    config = base(tiny)
    config.trainer = "distill"
    config.student = model(tiny)
    # Rules and marks of the prompt have some 500 tokens of a common vocabulary.
    config.data.max_prompt = 3072 if tiny else 24_576
    config.thinkers = ConfigDict(
        {
            "path": "@thinkers",
            "width": 2 if tiny else 16,
            "cache_tokens": 80_000,
            "max_pass_rate": 0.625,
            "easy_share": 0.25,
        }
    )
    config.teacher = None
    config.loss = {"name": "gspo"}
    config.rollout = ConfigDict(
        {
            "prompts": 2 if tiny else 32,
            "samples": 2 if tiny else 8,
            "max_new_tokens": 8 if tiny else 2048,
            "temperature": 1.0,
            "prompt_multiple": 512,
            "updates": 1 if tiny else 4,
        }
    )
    steps = 2 if tiny else 200
    config.train = common.train(
        steps,
        eval_every=max(steps // 8, 1),
        checkpoint_every=max(steps // 8, 1),
        microbatch=None if tiny else 8,
    )
    config.optim = common.optim(1e-6)
    config.eval = ConfigDict(
        {
            "prompts": 2 if tiny else 200,
            "samples": 2 if tiny else 4,
            "max_new_tokens": 8 if tiny else 2048,
            "temperature": 1.0 if tiny else 0.7,
            "top_k": None if tiny else 10,
            "top_p": None if tiny else 0.95,
            "batch": 2 if tiny else 16,
            "prompt_multiple": 512,
        }
    )
    if not tiny:
        config.mesh.rules = common.SHARDED
        config.mesh.decode_rules = common.DECODING
        config.student.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
    return config


def model(tiny: bool) -> ConfigDict:
    """What the command line names; for tests a random decoder that holds the rules of a prompt."""
    if not tiny:
        return common.model()
    config = common.tiny_model()
    config.sizes.max_position = 4096
    return config


def base(tiny: bool) -> ConfigDict:
    """What the stages share."""
    config = ConfigDict({"seed": 0})
    config.data = common.gsm8k(512)
    config.data.chat = not tiny
    config.data.tokenizer = placeholder(str)
    config.mesh = common.mesh()
    return config
