"""LARY's two probes on the synthetic world, from features that nobody trained.

    python -m jaxlab.train --config=configs/lary_synthetic.py --workdir=runs/lary

The stages are probes of 27 classes (attentive, five heads) and of the actions of two robots
(residual MLP), absolute and relative, on fixed random features; and the controls that the
benchmark's tables leave out: the source image alone, which must stay at chance (1/27 = 0.037) and,
for relative actions, at the mean predictor's error of 1. A probe of your own features has
`data.synthetic=None`, and `data.train`, `data.val` and `data.root`.

Variants: `demo` is smaller; `tiny` is two steps, for tests.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = ("", "demo", "tiny")
PAIRS = {"": 16_384, "demo": 4096, "tiny": 32}
STEPS = {"": 1200, "demo": 400, "tiny": 2}


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/lary_synthetic.py has the variants demo and tiny, not {variant!r}"
        )
    config = ConfigDict({"title": "LARY's probes on the synthetic world", "stages": {}})
    stages = {
        "labels": labels(variant),
        "labels_source": labels(variant, input="source"),
        "labels_difference": labels(variant, input="difference"),
        "absolute": chunks(variant),
        "relative": chunks(variant, mode="relative"),
        "relative_source": chunks(variant, mode="relative", input="source"),
    }
    for name in stages.keys() - {"labels"}:
        stages[name].data.synthetic.path = "@labels"  # one world for all
    names = ("labels", "relative") if variant == "tiny" else tuple(stages)
    config.stages = ConfigDict({name: stages[name] for name in names})
    return config


def labels(variant: str, **data: object) -> ConfigDict:
    """The attentive probe; the paper's is of width 768, on batches of 256."""
    tiny = variant == "tiny"
    sizes = {"width": 16, "heads": 2, "depth": 2} if tiny else {"width": 64, "heads": 4, "depth": 2}
    config = _run(variant, "label", **data)
    config.model = ConfigDict({"name": "attentive", **sizes})
    return config


def chunks(variant: str, **data: object) -> ConfigDict:
    """The residual MLP; the paper's is of width 4096."""
    tiny = variant == "tiny"
    config = _run(variant, "chunk", **data)
    config.model = ConfigDict({"name": "residual_mlp", "width": 32 if tiny else 512})
    config.optim = ConfigDict(
        {
            "learning_rates": (1e-4,) if tiny else (1e-3, 3e-4, 1e-4),
            "weight_decays": (1e-4,) if tiny else (1e-4, 1e-4, 1e-4),
            "schedule": "constant",
            "warmup": 0.1,
        }
    )
    return config


def _run(variant: str, target: str, **data: object) -> ConfigDict:
    config = ConfigDict({"trainer": "probe", "seed": 0})
    made = {"pairs": PAIRS[variant], "target": target, "encoder": "random"}
    config.data = ConfigDict({"synthetic": made, "inner": 0.1, **data})
    steps = STEPS[variant]
    config.train = common.train(steps, eval_every=max(steps // 4, 1), checkpoint_every=steps)
    config.batch_size = 8 if variant == "tiny" else 128
    config.optim = ConfigDict({"schedule": "cosine"})
    config.mesh = common.mesh()
    return config
