"""LARY's panel of one encoder, on LARYBench's files.

    python -m jaxlab.evaluate --config=configs/eval_lary.py --workdir=runs/dinov3 \\
        --config.encoder.path=dinov3-vitl16 --config.data.root=DATA_DIR \\
        --config.tracks.calvin.train=calvin_metadata_train.csv \\
        --config.tracks.calvin.val=calvin_metadata_val.csv

`encoder.path` is a HuggingFace directory of DINOv2, DINOv3, SigLIP, SigLIP 2 or V-JEPA 2, a work
directory of configs/latent_action.py, or a file of your own (jaxlab/trainers/encoders.py says what
it holds); with --config.encoder=None, the features that the files name in `la_path` are taken. Any
of the tracks may be left out. Features are extracted once, into WORKDIR/features; then come the
probes, each with the controls of the panel, and lary.md. The same command again goes on where it
was killed.

The probes are the paper's: attentive, of width 768, five heads, cosine schedule; a residual MLP of
width 4096 with AdamW at 1e-4 for actions. Steps are counted here, not epochs: the released scripts
take 20 epochs of classes, and 50 (by themselves) or 20 (by the command line) of actions.

Variants: `small` has probes for a laptop, `tiny` two steps, for tests.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

VARIANTS = ("", "small", "tiny")
# The last two are names for any other files, such as the synthetic world's.
TRACKS = (
    *("libero", "human_1st", "robot_1st", "calvin", "vlabench", "robocoin", "agibotbeta"),
    *("labels", "chunks"),
)
STEPS = {"": 40_000, "small": 1000, "tiny": 2}


def get_config(variant: str = "") -> ConfigDict:
    """The panel; see the module's docstring."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/eval_lary.py has the variants small and tiny, not {variant!r}")
    config = ConfigDict({"title": "LARY"})
    # Placeholders of their own: one that is shared is set everywhere at once.
    config.tracks = ConfigDict(
        {name: {"train": placeholder(str), "val": placeholder(str)} for name in TRACKS}
    )
    # The release's images: 224 x 224, bicubic.
    config.encoder = ConfigDict(
        {"path": placeholder(str), "size": 224, "batch": 32, "store": "float16"}
    )
    if variant == "tiny":
        config.encoder.size = 32
    root = {"root": placeholder(str), "features": placeholder(str)}
    config.data = ConfigDict({**root, "missing": "error", "bad_rows": "error", "inner": 0.1})
    config.matched = 8 if variant == "tiny" else 256
    widths = {"": (768, 16, 4, 4096), "small": (128, 4, 2, 512), "tiny": (16, 2, 2, 16)}
    width, heads, depth, hidden = widths[variant]
    labels = {"name": "attentive", "width": width, "heads": heads, "depth": depth}
    config.labels = _probe(variant, labels, {"schedule": "cosine"})
    rates = {"learning_rates": (1e-4,), "weight_decays": (1e-4,)}
    constant = {"schedule": "constant", "warmup": 0.1}
    config.chunks = _probe(variant, {"name": "residual_mlp", "width": hidden}, rates | constant)
    config.mesh = common.mesh()
    return config


def _probe(variant: str, model: dict, optim: dict) -> ConfigDict:
    steps = STEPS[variant]
    every = max(steps // 4, 1)
    train = common.train(steps, eval_every=every, checkpoint_every=every, keep_checkpoints=1)
    return ConfigDict(
        {
            "trainer": "probe",
            "seed": 42,
            "model": model,
            "optim": optim,
            "data": ConfigDict({}),
            "train": train,
            "batch_size": 8 if variant == "tiny" else 256,
        }
    )
