"""What a delta rule can keep track of: parity and words of groups, with and without beta above 1.

A step of a delta rule multiplies its state by I - beta k k^T, whose eigenvalue 1 - beta is positive
for beta in (0, 1). Grazzi et al. (2411.12537): such a recurrence cannot compute parity of any
length; with beta in (0, 2) it can. S_3 and more need several such steps for a letter, which are
several layers here. Trained on rows of 32 tokens, evaluated on longer ones: what is a rule of the
state goes on to be right, what was memorised does not.

    python -m jaxlab.train --config=configs/state_tracking.py --workdir=runs/state_tracking
    python -m jaxlab.train --config=configs/state_tracking.py:s3 --workdir=runs/s3

Run on 2026-11-25 (benchmarks/results/2026-11-25-state-tracking.md): parity at length 128, mean and
standard error of 3 seeds, with gates up to 1 and up to 2: KDA 0.63 +- 0.02 and 0.99 +- 0.01, FG2
0.61 +- 0.02 and 0.88 +- 0.12 (one of three seeds did not find it), FG2+ 0.60 +- 0.01 and 1.00 +-
0.00, attention 0.53 +- 0.01. 500 steps, 21 runs, 15 minutes of processor time. On S_3 no rule
learnt more than the first letters in 500 steps ("demo_s3").

Variants: "" (parity: KDA, FG2 and FG2+ with gates up to 1 and up to 2, and attention; 3 seeds),
"s3", "s5" (the same on permutations; for s5, which needs more layers, words of exchanges; not run),
"demo" and "demo_s3" (parity and S_3, KDA and FG2+, one seed), "tiny" (KDA
with gates up to 2 and attention, two steps, for tests).
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("", "s3", "s5", "demo", "demo_s3", "tiny")
GROUPS = {
    "s3": {"group": "s3"},
    "s5": {"group": "s5", "max_moved": 2},
    "demo_s3": {"group": "s3"},
}


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/state_tracking.py has the variants s3, s5, demo, demo_s3 and tiny, "
            f"not {variant!r}"
        )
    tiny, short = variant == "tiny", variant in ("demo", "demo_s3", "tiny")
    config = ConfigDict({"title": "State tracking", "stages": {}})
    seeds = 1 if short else 3
    for seed in range(seeds):
        rules = ("kda", "fg2_plus") if short else ("kda", "fg2", "fg2_plus")
        for name, mixer in mixers(("kda",))[1:] if tiny else mixers(rules):
            stage = run(mixer, GROUPS.get(variant, {"group": "z2"}), tiny)
            stage.seed = seed
            config.stages[name if seeds == 1 else f"{name}_{seed}"] = stage
    return config


def mixers(rules: tuple[str, ...]) -> list[tuple[str, dict]]:
    """Names and sizes of what is compared."""
    found = []
    for rule in rules:
        for name, negative in ((rule, False), (f"{rule}_negative", True)):
            delta = {"rule": rule, "num_heads": 2, "head_dim": 16, "negative_eigenvalues": negative}
            found.append((name, {"pattern": ("delta",), "delta": delta}))
    return [*found, ("attention", {"qk_norm": True})]


def run(mixer: dict, group: dict, tiny: bool) -> ConfigDict:
    """One mixer on one group."""
    steps, length = (2, 8) if tiny else (500, 32)
    config = ConfigDict({"trainer": "lm"})
    config.model = common.model(
        hidden_size=16 if tiny else 64,
        intermediate_size=32 if tiny else 128,
        num_layers=1 if tiny else 4 if group["group"] == "s5" else 2,
        num_heads=2,
        num_kv_heads=2,
        max_position=8 * length,
        **mixer,
    )
    config.data = ConfigDict({"task": "state_tracking", "options": group | {"length": length}})
    config.batch_size = 4 if tiny else 64
    config.train = common.train(steps, eval_every=max(steps // 4, 1), checkpoint_every=steps)
    config.optim = common.optim(3e-3, schedule="cosine", warmup_steps=steps // 20)
    settings = [{"length": n * length} for n in ((1, 2) if tiny else (1, 2, 4, 8))]
    config.eval = ConfigDict(
        {"examples": 4 if tiny else 128, "batch": 64, "settings": settings, "by_position": True}
    )
    config.mesh = common.mesh()
    return config
