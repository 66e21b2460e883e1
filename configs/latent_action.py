"""Latent action models: LAPA on pixels, and on the features of a frozen encoder.

    python -m jaxlab.train --config=configs/latent_action.py --workdir=runs/lapa \\
        --config.data.train=TRAIN.csv --config.data.val=VAL.csv --config.data.root=DATA_DIR
    python -m jaxlab.train --config=configs/latent_action.py:features --workdir=runs/lapa-dinov2 \\
        --config.encoder.path=dinov2-large --config.data.train=...

The paper's general latent action model (arXiv 2604.11689): 4 + 4 layers, spatial and temporal, 16
heads of 64, 16 tokens of width 32, a codebook of 8, 100,000 steps; `features` predicts the
penultimate features of the frozen encoder, which are made once. Rows are image pairs or clips of
LARYBench, whose neighbouring frames are pairs; actions are not read. metrics.jsonl has the share of
the codebook in use, dead codes, perplexity, and `explained`, by how much the second frame is nearer
than by copying the first. The work directory is then an `encoder.path` of configs/eval_lary.py,
`encoder.stage` says before or after the quantiser.

[reconstructed] The schedule, the batch and the restarts of codes that no row uses: the paper gives
none of them; LAPA's are followed where it has some (NSVQ, restarts).

Variants: `features`; `world` and `tiny` train on the synthetic world, at a laptop's size.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

VARIANTS = ("", "features", "world", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/latent_action.py has the variants features, world and tiny, not {variant!r}"
        )
    small = variant in ("world", "tiny")
    config = ConfigDict({"trainer": "representation", "seed": 0, "title": "Latent actions"})
    config.model = ConfigDict({"name": "latent_action", "tokens": 16, "codes": 8, "code_width": 32})
    config.data = ConfigDict(
        {"train": placeholder(str), "val": placeholder(str), "root": placeholder(str)}
    )
    config.size = 224
    config.batch_size = 256
    steps = 100_000
    if variant == "features":
        config.encoder = ConfigDict(
            {"path": placeholder(str), "size": 224, "skip": 1, "store": "float16"}
        )
    if small:
        tiny = variant == "tiny"
        config.data = ConfigDict({"synthetic": {"pairs": 32 if tiny else 8192}})
        config.size = 32
        config.model = sizes(tiny)
        config.batch_size = 8 if tiny else 128
        steps = 2 if tiny else 1500
    every = max(steps // 5, 1)
    config.train = common.train(steps, eval_every=every, checkpoint_every=every, keep_checkpoints=1)
    warmup = 0 if variant == "tiny" else steps // 50
    config.optim = common.optim(3e-4 if small else 1e-4, schedule="cosine", warmup_steps=warmup)
    config.mesh = common.mesh()
    return config


def sizes(tiny: bool) -> ConfigDict:
    """A latent action model of a laptop: patches of 8 pixels, so that 32 x 32 has 16."""
    width, heads, layers = (16, 2, 1) if tiny else (128, 4, 2)
    return ConfigDict(
        {
            "name": "latent_action",
            "width": width,
            "heads": heads,
            "spatial": layers,
            "temporal": layers,
            "decoder": layers,
            "mlp_ratio": 2,
            "patch": 8,
            "tokens": 16,
            "codes": 8,
            "code_width": 32,
        }
    )
