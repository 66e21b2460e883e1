"""LARY's question on the synthetic world: what do features tell of actions, and why?

    python -m jaxlab.train --config=configs/lary_synthetic.py:demo --workdir=runs/lary

Encoders are trained first, without actions: `semantic` (VICReg: views that differ in light and
background), `pixel` (an auto-encoder), `action` (LAPA's latent action model on pixels) and
`action_semantic` (the same on the semantic encoder's features). Then come probes of them and of a
random network: 27 classes, and the actions of two robots, absolute and relative. lary.md has the
table in the published form, and the panel of controls: one frame alone, the frames' difference, as
many numbers for all, rows without a reversal in train. From the source frame alone, relative
actions must stay at the mean predictor's error of 1. Classes do not stay at chance: their file is
augmented by time reversal, as LIBERO's is, and a reversed pair begins where the others end.

What is built in: the semantic encoder's views were made to match the world's nuisances. The latent
action models have more numbers (512) than the others (256), but of one codebook of 8.

Variants: `demo` is smaller, and its classes are told by ridge regression, since an attentive probe
needs more than its steps; `tiny` is two steps, for tests.
"""

from ml_collections import ConfigDict

from configs import common, latent_action

VARIANTS = ("", "demo", "tiny")
PAIRS = {"": 16_384, "demo": 4096, "tiny": 32}
STEPS = {"": 1200, "demo": 300, "tiny": 2}  # of encoders
PROBE_STEPS = {"": 1200, "demo": 200, "tiny": 2}
WIDTHS = {"": 128, "demo": 64, "tiny": 16}  # of the encoders
TRAINED = ("semantic", "pixel", "action", "action_semantic")
ENCODERS = (*TRAINED, "random")


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/lary_synthetic.py has the variants demo and tiny, not {variant!r}"
        )
    config = ConfigDict({"title": "LARY on the synthetic world", "stages": {}})
    stages = {name: encoder(variant, name) for name in TRAINED}
    for name in ENCODERS:
        stages[f"{name}_labels"] = (
            ridge(variant, name, "label") if variant == "demo" else labels(variant, name)
        )
        stages[f"{name}_absolute"] = chunks(variant, name)
        stages[f"{name}_relative"] = chunks(variant, name, mode="relative")
        # Ridge regression: as many numbers for all.
        stages[f"{name}_labels_matched"] = ridge(variant, name, "label", pca=_matched(variant))
        stages[f"{name}_labels_grouped"] = ridge(variant, name, "label", split="grouped")
        stages[f"{name}_relative_matched"] = ridge(
            variant, name, "chunk", mode="relative", pca=_matched(variant)
        )
    for name in ("semantic", "pixel"):
        for frames in ("source", "target", "difference"):
            stages[f"{name}_labels_{frames}"] = ridge(variant, name, "label", input=frames)
            stages[f"{name}_absolute_{frames}"] = ridge(variant, name, "chunk", input=frames)
            stages[f"{name}_relative_{frames}"] = ridge(
                variant, name, "chunk", mode="relative", input=frames
            )
    names = tuple(stages)
    if variant == "tiny":
        names = (
            "semantic",
            "action_semantic",
            "action_semantic_labels",
            "semantic_relative_source",
        )
    config.stages = ConfigDict({name: stages[name] for name in names})
    return config


def encoder(variant: str, name: str) -> ConfigDict:
    """An encoder's training; the first of them writes the world."""
    tiny, width = variant == "tiny", WIDTHS[variant]
    made = {"pairs": PAIRS[variant], "target": "chunk"}
    if name != "semantic":
        made["path"] = "@semantic"
    config = ConfigDict({"trainer": "representation", "seed": 0, "size": 32})
    config.data = ConfigDict({"synthetic": made})
    if name.startswith("action"):
        config.model = latent_action.sizes(tiny)
        config.model.width = width
        if name == "action_semantic":
            config.encoder = ConfigDict({"path": "@semantic"})
    else:
        kind = {"semantic": "invariant", "pixel": "autoencoder"}[name]
        config.model = ConfigDict({"name": kind, "width": width, "latent": 8})
    steps = STEPS[variant]
    config.train = common.train(steps, eval_every=max(steps // 4, 1), checkpoint_every=steps)
    config.optim = common.optim(1e-3, schedule="cosine", warmup_steps=steps // 20)
    config.batch_size = {"": 128, "demo": 64, "tiny": 8}[variant]
    config.mesh = common.mesh()
    return config


def labels(variant: str, name: str, **data: object) -> ConfigDict:
    """The attentive probe; the paper's is of width 768, on batches of 256."""
    width = 16 if variant == "tiny" else 64
    config = _run(variant, name, "label", **data)
    config.model = ConfigDict({"name": "attentive", "width": width, "heads": 2, "depth": 2})
    return config


def chunks(variant: str, name: str, **data: object) -> ConfigDict:
    """The residual MLP; the paper's is of width 4096."""
    tiny = variant == "tiny"
    config = _run(variant, name, "chunk", **data)
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


def ridge(variant: str, name: str, target: str, **data: object) -> ConfigDict:
    """Ridge regression, in closed form: a control costs seconds."""
    config = _run(variant, name, target, **data)
    config.model = ConfigDict({"name": "ridge"})
    config.train = common.train(1)
    config.plots = False
    return config


def _matched(variant: str) -> int:
    return 8 if variant == "tiny" else 64


def _run(variant: str, name: str, target: str, **data: object) -> ConfigDict:
    config = ConfigDict({"trainer": "probe", "seed": 0})
    made = {"pairs": PAIRS[variant], "target": target, "encoder": "random", "path": "@semantic"}
    config.data = ConfigDict({"synthetic": made, "inner": 0.1, **data})
    if name != "random":
        config.data.encoder = ConfigDict({"path": f"@{name}", "batch": 128})
    steps = PROBE_STEPS[variant]
    config.train = common.train(steps, eval_every=max(steps // 2, 1), checkpoint_every=steps)
    config.batch_size = 8 if variant == "tiny" else 128
    config.optim = ConfigDict({"schedule": "cosine"})
    config.mesh = common.mesh()
    return config
