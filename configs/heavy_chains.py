"""HeavySkill's second stage by reinforcement, in small: deliberation over cached step chains.

Task: "3 b 7 f 0 a 4 # 4" answers "3 b f a ="; two of the six operations are traps on which thinkers
slip to one and the same wrong digit, so that their vote is wrong where a trap is (docs/heavy.md).
Deliberators write the answer alone, so that they cannot work the question out step by step.

Stages: a thinker (supervised on noisy chains), its K = 6 texts for every question ("thinkers"),
then for each kind of deliberator a warm start that imitates the answer of one random thinker
("warm_...": HM is about M) and GRPO on questions with a pass rate of at most 0.625 and a quarter of
easier ones. "chains" reads the texts; "answers_only" and "no_thinkers" are controls, trained alike;
"direct" is the thinker itself under GRPO, which writes its chain and reads nobody.

    python -m jaxlab.train --config=configs/heavy_chains.py --workdir=runs/heavy
    python -m jaxlab.heavy --measure runs/heavy/chains_0 --model runs/heavy/thinker \\
        --workdir runs/heavy/measured                      # the table with controls, paired tests

The demo was run to its end once (benchmarks/results/2026-12-01-heavy-chains.md; 9 CPU minutes):
"chains" went from .234 to .431 and "answers_only" from .411 to .436, both to the thinkers' vote
(.436) and not above it; "no_thinkers" stayed at chance and "direct" solved the task in 75 steps.

Variants: "" (3 seeds of the four, one of GSPO), "width" (K = 2, 4, 8 and 16 with room for all and
K = 16 with the room of 4, one seed: the collapse that the paper reports is looked for), "demo" (one
seed, no GSPO), "tiny" (two steps of each stage and no control, for tests).
"""

from ml_collections import ConfigDict

from configs import common

# Texts that are read of a question.
K = 6
# Operations of a question; a chain has two tokens for each, and four more with its mark.
OPERATIONS = 4
ATTEMPT = 2 * OPERATIONS + 4
VARIANTS = ("", "width", "demo", "tiny")
# What a kind of deliberator reads.
KINDS = {"chains": {}, "answers_only": {"prune": "answer_only"}, "no_thinkers": {"width": 0}}
GRPO = {"name": "grpo"}


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/heavy_chains.py has the variants width, demo and tiny, not {variant!r}"
        )
    tiny, width = variant == "tiny", variant == "width"
    config = ConfigDict({"title": "HeavySkill on step chains", "stages": {}})
    config.stages.thinker = thinker(tiny)
    config.stages.thinkers = thinkers(16 if width else 2 if tiny else K, tiny)
    kinds: dict[str, dict] = {"chains": {}} if tiny else KINDS
    if width:
        kinds = {f"chains_k{k}": {"width": k} for k in (2, 4, 8, 16)}
        kinds["chains_k16_cut"] = {"width": 16, "cache_tokens": 4 * ATTEMPT}
    for name, reads in kinds.items():
        reads = {"width": 2 if tiny else K} | reads
        config.stages[f"warm_{name}"] = warm(reads, tiny)
        for seed in range(3 if variant == "" else 1):
            stage = rl(f"@warm_{name}", reads, seed, GRPO, tiny)
            config.stages[f"{name}_{seed}" if variant == "" else name] = stage
    if variant == "":
        stage = rl("@warm_chains", {"width": K}, 0, {"name": "gspo"}, tiny)
        stage.rollout.updates = 4
        config.stages.gspo = stage
    if not (width or tiny):
        for seed in range(3 if variant == "" else 1):
            config.stages[f"direct_{seed}" if variant == "" else "direct"] = direct(seed, tiny)
    return config


def thinker(tiny: bool) -> ConfigDict:
    """A supervised run on noisy chains."""
    config = base({"noisy": True}, tiny)
    config.trainer = "sft"
    config.model = model(tiny)
    config.data.max_prompt = 8
    config.batch_size = 4 if tiny else 96
    config.max_length = 36
    steps = 2 if tiny else 300
    config.train = common.train(steps, eval_every=steps, checkpoint_every=steps)
    config.optim = common.optim(2e-3 if tiny else 4e-3)
    config.eval.max_new_tokens, config.eval.temperature = written(tiny), 1.0
    return config


def thinkers(width: int, tiny: bool) -> ConfigDict:
    """The job that writes the texts, which it draws as the thinker learnt to write them."""
    config = base({}, tiny)
    del config.eval
    config.trainer = "think"
    config.model = common.model()
    config.model.path = "@thinker"
    config.data.max_prompt = 8
    config.width = width
    config.prompts = 4 if tiny else 256
    config.test_questions = 4 if tiny else 400
    config.max_new_tokens = written(tiny)
    config.prompt_multiple = 32 if tiny else 8
    config.top_k, config.top_p = None, None
    config.train = common.train(2 if tiny else 12, eval_every=1000, log_every=1)
    return config


def warm(reads: dict, tiny: bool) -> ConfigDict:
    """A supervised run that answers what one random thinker answers."""
    config = base({"answer_only": True}, tiny)
    config.trainer = "sft"
    config.model = model(tiny)
    config.thinkers = cached(reads | {"target": "answer", "max_pass_rate": 1.0, "easy_share": 0.0})
    config.data.max_prompt = room(reads)
    config.batch_size = 4 if tiny else 32
    config.max_length = 36 if tiny else room(reads) + 4
    steps = 2 if tiny else 150
    config.train = common.train(steps, eval_every=steps, checkpoint_every=steps)
    config.optim = common.optim(2e-3)
    return config


def rl(start: str, reads: dict, seed: int, loss: dict, tiny: bool) -> ConfigDict:
    """GRPO, or another method of rewards, from the warm start."""
    config = base({"answer_only": True}, tiny)
    config.trainer = "distill"
    config.seed = seed
    config.student = common.model()
    config.student.path = start
    config.teacher = None
    config.loss = loss
    config.thinkers = cached(reads)
    config.data.max_prompt = room(reads)
    config.rollout = ConfigDict(
        {
            "prompts": 4 if tiny else 16,
            "samples": 2 if tiny else 8,
            "max_new_tokens": 4,
            "temperature": 1.0,
            "prompt_multiple": 32 if tiny else room(reads),
            "response_multiple": 4,
        }
    )
    steps = 2 if tiny else 600
    config.train = common.train(
        steps, eval_every=max(steps // 8, 1), checkpoint_every=max(steps // 4, 1)
    )
    config.optim = common.optim(1e-3, schedule="linear", final_fraction=0.1)
    return config


def direct(seed: int, tiny: bool) -> ConfigDict:
    """GRPO of the thinker on its own chains."""
    config = rl("@thinker", {"width": 0}, seed, GRPO, tiny)
    del config.thinkers
    config.data.options.answer_only = False
    config.data.max_prompt = 8
    config.rollout.prompt_multiple = 32 if tiny else 8
    config.rollout.max_new_tokens = config.eval.max_new_tokens = written(tiny)
    return config


def cached(reads: dict) -> ConfigDict:
    """The texts that are read, and of which questions."""
    return ConfigDict({"path": "@thinkers", "easy_share": 0.25, **reads})


def written(tiny: bool) -> int:
    """Tokens of a chain. Tiny ones are cut off: all stages then sample by one program."""
    return 4 if tiny else ATTEMPT


def room(reads: dict) -> int:
    """Tokens of the longest prompt, a multiple of 8: the attempts, then the question."""
    attempts = min(reads["width"] * ATTEMPT, reads.get("cache_tokens", 80_000))
    attempts = 2 * reads["width"] if reads.get("prune") == "answer_only" else attempts
    return -(-(attempts + OPERATIONS + 2) // 8) * 8


def model(tiny: bool) -> ConfigDict:
    """Thinkers and deliberators are of one size."""
    return common.model(
        hidden_size=16 if tiny else 48,
        intermediate_size=32 if tiny else 128,
        num_layers=1 if tiny else 2,
        num_heads=4,
        num_kv_heads=4,
        qk_norm=True,
        rope={"theta": 1000.0},
        max_position=256,
    )


def base(options: dict, tiny: bool) -> ConfigDict:
    """What the stages share."""
    config = ConfigDict({"seed": 0})
    lengths = {"shortest": OPERATIONS, "longest": OPERATIONS, "shown": True}
    config.data = ConfigDict({"task": "chains", "options": lengths | options})
    config.eval = ConfigDict(
        {
            "prompts": 4 if tiny else 400,
            "samples": 2 if tiny else 4,
            "max_new_tokens": 4,
            "temperature": 1.0 if tiny else 0.7,
            "prompt_multiple": 32 if tiny else 8,
            "batch": 4 if tiny else 100,
        }
    )
    config.mesh = common.mesh()
    return config
