"""Budgets of block-sparse attention that even out data-parallel ranks, in real training.

SparseBalance (2604.13847) packs documents over ranks by what they are predicted to take, and gives
each microbatch the budget, blocks per query, that brings it near the mean. Here four ranks train on
documents of 64 to 8,192 tokens (blocks of 32, base budget 16, so that budgets bind from 512 tokens
on) under four policies:

    in_turn   documents dealt in turn, the base budget
    packed    packed by predicted time (SAB), the base budget
    tuned     packed, budgets by the tuner (SAB + DST)
    control   packed, one fixed budget that takes the work of `tuned`: what tuning has to beat

On a CPU four devices are asked for by XLA_FLAGS:

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m jaxlab.train \\
        --config=configs/sparse_balance_text.py:demo --workdir=runs/sparse_balance
    ... --config=configs/sparse_balance_text.py --config.data.options.train=text.txt

The metrics `balance/*` of every step say how even the load was (docs/sparse_balance.md).

The demo was run to its end on 2026-12-01 (3 minutes, one seed;
benchmarks/results/2026-11-30-sparse-balance-training.md): counted work of the most loaded rank over
the mean is 1.49 in turn, 1.04 packed, 1.09 tuned, 1.08 control. Loss stays at the guess, ln 8,
since its one layer cannot recall: it shows balance alone. The other variants were not run.

Variants: "" (a text by the command line, cut into documents of eight lengths; three seeds),
"needle" (recall of one pair in noise, the same lengths and policies; three seeds), "demo" (needles
of 64 to 1,024 tokens, blocks of 16, base budget 4, one layer, one seed), "tiny" (two policies, two
steps, for tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

VARIANTS = ("", "needle", "demo", "tiny")
POLICIES = ("in_turn", "packed", "tuned", "control")
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
SEEDS = 3


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/sparse_balance_text.py has the variants needle, demo and tiny, not "
            f"{variant!r}"
        )
    config = ConfigDict({"title": "Budgets as a load balancer", "stages": {}})
    if variant == "tiny":
        for policy in ("tuned", "control"):
            config.stages[policy] = tiny(policy)
        return config
    if variant == "demo":
        for policy in POLICIES:
            config.stages[policy] = small(policy)
        return config
    for seed in range(SEEDS):
        for policy in POLICIES:
            config.stages[f"{policy}_{seed}"] = large(policy, seed, text=variant == "")
    return config


def large(policy: str, seed: int, text: bool) -> ConfigDict:
    """Documents of 64 to 8,192 tokens."""
    run = base(policy, seed, LENGTHS, block=32, budget=16, suffix=f"_{seed}")
    if text:
        run.data = ConfigDict(
            {
                "task": "text",
                "options": {
                    "train": placeholder(str),
                    "valid": placeholder(str),
                    "tokenizer": "char",
                    "length": LENGTHS[-1],
                },
                "mixture": parts(LENGTHS),
                "cache": placeholder(str),
            }
        )
    return run


def small(policy: str, seed: int = 0, steps: int = 200, suffix: str = "") -> ConfigDict:
    """Needles in documents of 64 to 1,024 tokens: a quarter of a second a step on one core."""
    lengths = LENGTHS[:5]
    run = base(policy, seed, lengths, block=16, budget=4, steps=steps, suffix=suffix)
    run.model.sizes.num_layers = 1
    run.data.options.update({"num_keys": 8, "num_values": 8, "num_noise": 16})
    run.batch_size = 16
    run.balance.tuner.buckets = (1, 2, 3, 4, 6, 8, 12, 16)
    run.balance.widths = (1024,)
    run.eval.update({"examples": 128, "settings": [{"length": 64}, {"length": 256}]})
    run.train.eval_every = steps // 2
    return run


def tiny(policy: str) -> ConfigDict:
    """Two steps."""
    run = base(policy, 0, (8, 16), block=4, budget=2, steps=2)
    run.model.sizes.update({"hidden_size": 8, "num_layers": 1, "head_dim": 8})
    run.balance.tuner.buckets = (1, 2, 4)
    run.balance.widths = (32,)
    run.train.log_every = 2
    run.batch_size = 4
    run.eval.update({"examples": 2, "batch": 2, "settings": []})
    return run


def base(
    policy: str,
    seed: int,
    lengths: tuple[int, ...],
    block: int,
    budget: int,
    steps: int = 600,
    suffix: str = "",
) -> ConfigDict:
    """Two layers of attention without feed-forward layers, and one needle in each document."""
    config = ConfigDict({"trainer": "lm", "seed": seed, "batch_size": 24})
    config.model = common.model(
        hidden_size=32,
        intermediate_size=0,
        num_layers=2,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        qk_norm=True,
        tie_embeddings=True,
        max_position=2 * lengths[-1],
    )
    config.model.mixer = {"name": "block_sparse", "block_size": block, "budget": budget}
    config.data = ConfigDict(
        {"task": "needle", "options": {"length": lengths[-1]}, "mixture": parts(lengths)}
    )
    config.train = common.train(
        steps, eval_every=max(steps // 4, 1), checkpoint_every=steps, log_every=1
    )
    config.optim = common.optim(1e-2, schedule="cosine", warmup_steps=steps // 10)
    settings = [{"length": length} for length in lengths[:-1]]
    config.eval = ConfigDict({"examples": 64, "batch": 16, "settings": settings})
    config.mesh = common.mesh()
    config.balance = balance(policy, lengths, budget, suffix)
    return config


def balance(policy: str, lengths: tuple[int, ...], budget: int, suffix: str) -> ConfigDict:
    """How a policy packs and what budgets it gives."""
    config = ConfigDict(
        {
            "microbatches": 2,
            "widths": (lengths[-1] // 2, lengths[-1], 2 * lengths[-1]),
            "tuner": {"base": budget, "buckets": (4, 6, 8, 12, 16, 24, 32, 48)},
            "batching": "in_batch" if policy == "in_turn" else "global_batch",
        }
    )
    if policy == "control":
        config.control = {"path": f"@tuned{suffix}"}
    else:
        config.tune = policy == "tuned"
    return config


def parts(lengths: tuple[int, ...]) -> list[dict]:
    """As many documents of each length."""
    return [{"options": {"length": length}} for length in lengths]
