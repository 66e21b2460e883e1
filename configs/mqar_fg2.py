"""Associative recall by delta rules and by attention: GDN, KDA, FG2, FG2+ from the same data.

FG2-GDN (2604.19021) gives the delta rule a write strength per key channel, FG2-GDN+ one for what is
erased and one for what is written. The paper's own recall experiment is not public in its details;
this is the associative recall of Zoology, small: 4 pairs of 16 keys and 16 values, asked at once,
in two mixers of one head of 8 x 8 without feed-forward layers. Evaluated also with fewer and more
pairs and on longer rows than trained. A guess among the four values in the row is right in 25 %.

    python -m jaxlab.train --config=configs/mqar_fg2.py --workdir=runs/mqar
    python -m jaxlab.train --config=configs/mqar_fg2.py:matched --workdir=runs/mqar_matched
    python -m jaxlab.train --config=configs/mqar_fg2.py:demo --workdir=runs/mqar_demo

Run on 2026-11-25 (benchmarks/results/2026-11-25-mqar.md): accuracy on 4 pairs at the better of two
rates, mean and standard error of 5 seeds, at one width: GDN 0.41 +- 0.10, KDA 0.66 +- 0.13,
separate scalars 0.80 +- 0.09, left 0.73 +- 0.12, FG2 0.83 +- 0.08, FG2+ 0.79 +- 0.07, GDN-2 0.64 +-
0.16, attention behind a KDA layer 0.73 +- 0.14; attention alone stays at the guess. With FG2+'s
number of parameters: GDN 0.48 +- 0.16, KDA 0.85 +- 0.07, FG2 0.85 +- 0.05. A run has either found
the recall by step 1000 or not, under every rule, so that five seeds rank none but GDN below the
others. After 4000 steps ("long") nearly all have: FG2+ 0.989 +- 0.004, separate scalars 0.989 +-
0.005, KDA 0.956 +- 0.016, FG2 0.950 +- 0.043, GDN 0.892 +- 0.069.

Variants: "" (nine mixers of one width, each at the "low" rate 3e-3 and the "high" 1e-2, 5 seeds,
1000 steps: 90 runs of 11 to 60 s on one core), "matched" (the smaller mixers widened to the
parameters of FG2+, and FG2+ with gates of rank 1: 80 runs), "long" (the first at 3e-3 with four
times the steps: 45 runs of about a minute), "demo" (the nine mixers at 3e-3, one
seed, one plot: about five minutes of processor time; it shows that rules learn recall and how it
fades with pairs and length, and ranks nothing), "zoology" (Zoology's own data: 8192 words, up to 64
pairs in 256 tokens, tested up to 256 pairs in 1024; for a GPU; not run), "tiny" (two mixers, two
steps, for tests).
"""

from ml_collections import ConfigDict

from configs import common

RULES = ("gdn", "kda", "fg2", "fg2_plus", "separate_scalars", "left", "gdn2")
# Plain attention, and attention behind one KDA layer, whose convolution it can use.
MIXERS = (*RULES, "attention", "kda_attention")
RATES = {"low": 3e-3, "high": 1e-2}
# The widths at which the smaller layers have the 8322 parameters of FG2+ at 48, to 0.7 %.
MATCHED_WIDTHS = {"gdn": 68, "kda": 59, "fg2": 53, "separate_scalars": 58, "left": 53,
                  "attention": 84, "kda_attention": 69}  # fmt: skip
SEEDS = 5
VARIANTS = ("", "matched", "long", "demo", "zoology", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/mqar_fg2.py has the variants matched, long, demo, zoology and tiny, "
            f"not {variant!r}"
        )
    config = ConfigDict({"title": "Multi-query associative recall", "stages": {}})
    low = {"low": RATES["low"]}
    studies = {"": (width, RATES), "matched": (matched, RATES), "long": (long, low)}
    if variant in studies:
        study, rates = studies[variant]
        for seed in range(SEEDS):
            for name, rate in rates.items():
                for stage, run in study(rate, seed).items():
                    config.stages[f"{stage}_{name}_{seed}"] = run
        return config
    for mixer in ("fg2_plus", "attention") if variant == "tiny" else MIXERS:
        config.stages[mixer] = (
            zoology(mixer)
            if variant == "zoology"
            else mini(mixer, RATES["low"], tiny=variant == "tiny")
        )
    return config


def width(rate: float, seed: int) -> dict[str, ConfigDict]:
    """Every mixer in layers of the same width."""
    return {mixer: mini(mixer, rate, seed) for mixer in MIXERS}


def matched(rate: float, seed: int) -> dict[str, ConfigDict]:
    """The mixers smaller than FG2+ widened to its size, and FG2+ with gates of rank 1."""
    runs = {mixer: mini(mixer, rate, seed, hidden_size=d) for mixer, d in MATCHED_WIDTHS.items()}
    small = mini("fg2_plus", rate, seed)
    small.model.sizes.delta.update({"erase_rank": 1, "write_rank": 1})
    return runs | {"fg2_plus_rank1": small}


def long(rate: float, seed: int) -> dict[str, ConfigDict]:
    """Every mixer in layers of the same width, for four times as many steps."""
    return {mixer: mini(mixer, rate, seed, steps=4000) for mixer in MIXERS}


def mini(
    mixer: str,
    rate: float,
    seed: int = 0,
    hidden_size: int = 48,
    steps: int = 1000,
    tiny: bool = False,
) -> ConfigDict:
    """A run of seconds."""
    steps = 2 if tiny else steps
    config = ConfigDict({"trainer": "lm", "seed": seed})
    config.model = model(mixer, hidden_size=16 if tiny else hidden_size, head_dim=8, num_heads=1)
    if tiny:
        config.model.sizes.num_layers = 1
    # Zoology keeps token 0 for filler; here every word of 32 is in use.
    options = {"vocab_size": 32, "length": 16, "num_pairs": 4, "power_a": 1.0, "first_key": 0}
    config.data = ConfigDict({"task": "mqar", "options": options})
    config.batch_size = 4 if tiny else 64
    config.train = common.train(steps, eval_every=max(steps // 2, 1), checkpoint_every=steps)
    config.optim = common.optim(rate, schedule="cosine", warmup_steps=min(50, steps // 2))
    settings = [{"num_pairs": n} for n in (1, 2, 4)]
    if not tiny:
        settings += [{"length": n} for n in (16, 32, 64, 128)]
        settings += [{"length": 4 * n, "num_pairs": n} for n in (4, 6, 8, 16)]
    config.eval = ConfigDict({"examples": 4 if tiny else 512, "batch": 256, "settings": settings})
    config.mesh = common.mesh()
    return config


def zoology(mixer: str) -> ConfigDict:
    """Zoology's mixture of lengths, 64 passes over 180,000 rows."""
    config = ConfigDict({"trainer": "lm", "seed": 0})
    config.model = model(mixer, hidden_size=128, head_dim=64, num_heads=2)
    config.model.sizes.max_position = 1024
    config.data = ConfigDict(
        {
            "task": "mqar",
            "options": {"vocab_size": 8192, "power_a": 0.01},
            "num_train": 100_000,
            "mixture": [
                {"options": {"length": length, "num_pairs": pairs}, "weight": weight}
                for length, pairs, weight in (
                    (64, 4, 5.0),
                    (128, 8, 1.0),
                    (256, 16, 1.0),
                    (256, 32, 1.0),
                    (256, 64, 1.0),
                )
            ],
        }
    )
    config.batch_size = 256
    config.train = common.train(45_000, eval_every=2_500, checkpoint_every=2_500)
    # Zoology searches the rate from 1e-4 to 1e-2 for each model; this is the middle.
    config.optim = common.optim(1e-3, schedule="cosine", weight_decay=0.1)
    settings = [
        {"length": length, "num_pairs": pairs}
        for length, pairs in (
            (64, 4),
            (64, 8),
            (64, 16),
            (128, 32),
            (256, 64),
            (512, 64),
            (512, 128),
            (1024, 256),
        )
    ]
    config.eval = ConfigDict({"examples": 1000, "batch": 100, "settings": settings})
    config.mesh = common.mesh()
    return config


def model(mixer: str, **sizes: object) -> ConfigDict:
    """Two mixers without feed-forward layers."""
    sizes |= {
        "num_kv_heads": sizes["num_heads"],
        "num_layers": 2,
        "intermediate_size": 0,
        "tie_embeddings": True,
        "max_position": 128,
    }
    if mixer == "attention":
        return common.model(**sizes, qk_norm=True, rope={"theta": 1000.0})
    heads = {name: sizes[name] for name in ("num_heads", "head_dim")}
    pattern = ("delta", "attention") if mixer == "kda_attention" else ("delta",)
    if mixer == "kda_attention":
        sizes |= {"qk_norm": True, "rope": {"theta": 1000.0}}
        mixer = "kda"
    return common.model(**sizes, pattern=pattern, delta={"rule": mixer, **heads})
