"""What a state of fixed size can hold: palindromes, stacks and a needle in noise.

The synthetic tasks beside `mqar_fg2.py` and `state_tracking.py`: symbols said backwards and several
stacks under one stream of operations, as Kimi Linear (2510.26692) tests KDA, and one pair to be
found in noise. Trained at one length, evaluated on longer rows too (the needle: also by its depth).
Every task has the rules and softmax attention. Of palindromes one seed at one rate was run: every
mixer learns its length (0.98 to 1.00), and at twice that FG2+ has 0.72, KDA and FG2 0.60, GDN 0.28
(benchmarks/results/2026-11-25-text-and-palindromes.md).

    python -m jaxlab.train --config=configs/synthetic_tasks.py:palindrome --workdir=runs/palindrome

Variants: "palindrome", "stacks", "needle" (GDN, KDA, FG2, FG2+, attention behind a KDA layer; 3e-3
and 1e-2, 3 seeds, 2000 steps), "" (all three), "tiny" (palindromes, FG2+, two steps, for tests).
"""

from ml_collections import ConfigDict

from configs import common

TASKS = {
    "palindrome": {"vocab_size": 16, "length": 32},
    "stacks": {"num_stacks": 4, "num_symbols": 16, "length": 96},
    "needle": {"length": 64},
}
SETTINGS = {
    "palindrome": [{"length": n} for n in (16, 32, 64, 128)],
    "stacks": [{"length": n} for n in (96, 192, 384)],
    "needle": [{"length": n} for n in (64, 128, 256)]
    + [{"depth": depth} for depth in (0.0, 0.5, 1.0)],
}
MIXERS = ("gdn", "kda", "fg2", "fg2_plus", "kda_attention")
RATES = {"low": 3e-3, "high": 1e-2}
VARIANTS = ("", *TASKS, "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The runs; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            "configs/synthetic_tasks.py has the variants palindrome, stacks, needle and tiny, not "
            f"{variant!r}"
        )
    config = ConfigDict({"title": "Synthetic tasks", "stages": {}})
    if variant == "tiny":
        config.stages["fg2_plus"] = run("palindrome", "fg2_plus", 3e-3, 0, tiny=True)
        return config
    for task in (variant,) if variant in TASKS else TASKS:
        for seed in range(3):
            for mixer in MIXERS:
                for name, rate in RATES.items():
                    stage = f"{mixer}_{name}_{seed}" if variant else f"{task}_{mixer}_{name}_{seed}"
                    config.stages[stage] = run(task, mixer, rate, seed)
    return config


def run(task: str, mixer: str, rate: float, seed: int, tiny: bool = False) -> ConfigDict:
    """One mixer on one task."""
    steps = 2 if tiny else 2000
    config = ConfigDict({"trainer": "lm", "seed": seed})
    rule, attention = mixer.removesuffix("_attention"), mixer.endswith("_attention")
    config.model = common.model(
        hidden_size=16 if tiny else 64,
        intermediate_size=32 if tiny else 128,
        num_layers=1 if tiny else 2,
        num_heads=2,
        num_kv_heads=2,
        qk_norm=True,
        tie_embeddings=True,
        max_position=512,
        pattern=("delta", "attention") if attention else ("delta",),
        delta={"rule": rule, "num_heads": 2, "head_dim": 8 if tiny else 16},
    )
    options = TASKS[task] | ({"length": 8} if tiny else {})
    config.data = ConfigDict({"task": task, "options": options})
    config.batch_size = 4 if tiny else 64
    config.train = common.train(steps, eval_every=max(steps // 4, 1), checkpoint_every=steps)
    config.optim = common.optim(rate, schedule="cosine", warmup_steps=steps // 20)
    settings = [{"length": 8}, {"length": 16}] if tiny else SETTINGS[task]
    config.eval = ConfigDict({"examples": 4 if tiny else 256, "batch": 64, "settings": settings})
    config.mesh = common.mesh()
    return config
