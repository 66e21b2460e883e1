"""One needle of eight at four times the trained length: what sparse attention keeps of a model.

AsyncTLS (2604.07815) decodes through block bounds and a token index without training. Here a small
hybrid (a KDA layer, then softmax attention without positions) learns to find needles with full
attention, and is then read on longer rows through seven attentions, each of at most 64, 128 and 256
tokens: full, a sliding window with a sink block, Quest (blocks alone), Double Sparsity (tokens
alone), two levels (candidates of twice the budget), the same from the blocks of the step before
(stale), and two levels with blocks of a quarter the size. All but the last two tokens of a row are
its prompt, read densely; question and key are decoded, and the value behind the key counts.

    python -m jaxlab.train --config=configs/two_level_needle.py:demo --workdir=runs/needle_demo

The report has tables of accuracy, captured mass, recall of the best tokens, kilobytes read and
milliseconds of a step by attention and budget, and plots of the first two. A stale step has the
question mark's blocks, which was read before the key was known.

Recall is learnt on rows of an eighth of the length first ("short"), where a step is cheap, and then
on the lengths mixed; with tables of deviation 0.2 it begins in two thirds of the steps. From the
whole length alone 600 steps taught nothing.

Run on 2026-12-01 (":demo", 6 CPU minutes): benchmarks/results/2026-12-01-two-level-needle.md.

Variants: "" (trained at 1024, read at 4096, three seeds; not run), "demo" (trained at 512, read at
2048, one seed), "tiny" (two steps of the second stage, for tests).
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("", "demo", "tiny")
LENGTH = {"": 1024, "demo": 512, "tiny": 64}
STEPS = {"": 2000, "demo": 150, "tiny": 2}
SHORT_STEPS = {"": 4000, "demo": 1200}
BLOCK, BUDGETS = 16, (64, 128, 256)


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/two_level_needle.py has the variants demo and tiny, not {variant!r}"
        )
    config = ConfigDict({"title": "Needles by sparse decoding", "stages": {}})
    for seed in range(1 if variant else 3):
        if variant != "tiny":
            config.stages[f"short_{seed}"] = short(variant, seed)
        config.stages[f"model_{seed}"] = run(variant, seed)
    return config


def short(variant: str, seed: int) -> ConfigDict:
    """The model on rows of an eighth of the length, where recall is learnt in cheap steps."""
    config = ConfigDict({"trainer": "lm", "seed": seed})
    config.model = model(variant)
    config.data = ConfigDict({"task": "needle", "options": options(variant, LENGTH[variant] // 8)})
    config.batch_size = 64
    steps = SHORT_STEPS[variant]
    config.train = common.train(
        steps, eval_every=max(steps // 4, 1), checkpoint_every=max(steps // 4, 1)
    )
    config.optim = common.optim(3e-3, schedule="cosine", warmup_steps=steps // 20)
    config.eval = ConfigDict({"examples": 64, "batch": 8})
    config.mesh = common.mesh()
    return config


def model(variant: str) -> ConfigDict:
    """Two layers: a delta layer, and softmax attention without positions."""
    tiny = variant == "tiny"
    return common.model(
        hidden_size=16 if tiny else 64,
        intermediate_size=32 if tiny else 128,
        num_layers=2,
        num_heads=2 if tiny else 4,
        num_kv_heads=1 if tiny else 2,
        head_dim=8 if tiny else 32,
        qk_norm=True,
        rope=None,
        tie_embeddings=True,
        embedding_std=0.2,
        max_position=4 * LENGTH[variant],
        pattern=("delta", "attention"),
        delta={"rule": "kda", "num_heads": 2, "head_dim": 8 if tiny else 16},
    )


def options(variant: str, length: int) -> dict[str, int]:
    """Rows of the task in which half of the needles are asked for.

    If all were, the last answer would be the value that was not said yet, and no key would have to
    be read: models learn that first (loss ln(8!) / 8).
    """
    needles = 2 if variant == "tiny" else 8
    return {"length": length, "num_needles": needles, "num_queries": needles // 2}


def run(variant: str, seed: int) -> ConfigDict:
    """One model, trained with full attention."""
    tiny, length = variant == "tiny", LENGTH[variant]
    config = ConfigDict({"trainer": "lm", "seed": seed})
    config.model = model(variant) if tiny else ConfigDict({"path": f"@short_{seed}"})
    config.data = ConfigDict({"task": "needle", "options": options(variant, length)})
    if not tiny:
        config.data.mixture = [
            {"options": {"length": length // 8}, "weight": 3.0},
            {"options": {"length": length // 2}, "weight": 1.0},
            {"options": {"length": length}, "weight": 1.0},
        ]
    config.batch_size = 4 if tiny else 32
    steps = STEPS[variant]
    config.train = common.train(
        steps, eval_every=max(steps // 4, 1), checkpoint_every=max(steps // 4, 1)
    )
    config.optim = common.optim(3e-3, schedule="cosine", warmup_steps=steps // 20)
    config.eval = ConfigDict(
        {
            "examples": 4 if tiny else 64,
            "batch": 8,
            "settings": [{"length": 4 * length}],
            "decoded": 2,
        }
    )
    config.eval.attentions = attentions(4 * length, BUDGETS, BLOCK)
    if tiny:
        stale = config.eval.attentions.two_level_stale["64"]
        stale.update({"block": 4, "k_blocks": 4, "k_tokens": 8})
        config.eval.attentions = ConfigDict({"two_level_stale": {"8": stale}})
    config.mesh = common.mesh()
    return config


def attentions(slots: int, budgets: tuple[int, ...], block: int) -> ConfigDict:
    """Ways to read a cache of so many tokens, each attending to at most `budget` of them."""
    found: dict[str, dict[str, ConfigDict]] = {}

    def add(name: str, budget: int, k_blocks: int, size: int = block, **more: object) -> None:
        found.setdefault(name, {})[str(budget)] = ConfigDict(
            {"block": size, "k_blocks": k_blocks, "k_tokens": budget, "channels": 8, "min_len": 0}
            | {"sink_blocks": 1, "recent_blocks": 1, **more}
        )

    for budget in budgets:
        blocks = budget // block
        add("full", budget, slots, k_tokens=slots)
        add("sliding_window", budget, 0, recent_blocks=blocks - 1)
        add("quest", budget, blocks)
        add("double_sparsity", budget, slots // block)
        add("two_level", budget, 2 * blocks)
        add("two_level_stale", budget, 2 * blocks, stale=True)
        add("two_level_small_blocks", budget, 8 * blocks, size=block // 4)
    return ConfigDict(found)
