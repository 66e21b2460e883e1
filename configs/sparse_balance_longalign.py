"""SparseBalance's long run: Qwen2.5-3B on LongAlign-10k with balanced block-sparse attention.

The paper (2604.13847, as public notes give it) trains Qwen2.5-0.5B and 3B for three epochs at 1e-6
with 20 % of warm-up, 16 documents of 8k to 72k tokens per step, blocks of 256 and a base budget of
32 (MoBA's top 32, 8,192 tokens), the mean anchor and p = 0.1. Its cluster divides a model over 4
data-parallel ranks x 4 pipeline stages x 2 devices; here the ranks are all devices, 4 of them for
the paper's batch of 4 microbatches, each with the whole model.

    python -m jaxlab.train --config=configs/sparse_balance_longalign.py --workdir=runs/longalign \\
        --config.model.path=Qwen2.5-3B --config.data.options.train=longalign.jsonl \\
        --config.data.options.valid=held_out.jsonl --config.balance.table=table.json

A row of the files is a document in the field `text`, rendered with the chat template beforehand;
every token of it is a target (the paper's loss counts the answers' alone). Without a table,
which `LatencyTable.profile` measures on the device at hand, latencies are counted FLOPs. Longer
documents than the widest row end the run before it begins: balance.long_documents is "error".

Not run: it wants four GPUs of 80 GB. What the simulator says of these lengths is in
docs/sparse_balance.md. Its speed is to be compared with the fixed budget
(`--config.balance.tune=False`) and with equal work (`--config.balance.control.path=RUN`).

Variants: "" (the paper's), "tiny" (a random model, two steps on a text by the command line, for
tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/sparse_balance_longalign.py has the variants tiny, not {variant!r}"
        )
    tiny = variant == "tiny"
    steps = 2 if tiny else 1875
    config = ConfigDict({"trainer": "lm", "seed": 0, "batch_size": 4 if tiny else 16})
    if tiny:
        config.model = common.model(
            hidden_size=8, intermediate_size=0, num_layers=1, num_heads=1, num_kv_heads=1,
            head_dim=8, max_position=64,
        )  # fmt: skip
    else:
        config.model = common.model(dtype="bfloat16", remat=True, scan_layers=True)
    block, budget = (4, 2) if tiny else (256, 32)
    config.model.mixer = {"name": "block_sparse", "block_size": block, "budget": budget}
    config.data = ConfigDict(
        {
            "task": "text",
            "options": {
                "train": placeholder(str),
                "valid": placeholder(str),
                "field": "text",
                "tokenizer": "char" if tiny else placeholder(str),
                "length": 16 if tiny else 8192,
                "documents": True,
            },
            "cache": placeholder(str),
        }
    )
    config.train = common.train(
        steps, eval_every=max(steps // 15, 1), checkpoint_every=max(steps // 15, 1)
    )
    config.optim = common.optim(1e-6, schedule="cosine", warmup_steps=steps // 5)
    settings = [] if tiny else [{"length": 32_768}, {"length": 65_536}]
    config.eval = ConfigDict({"examples": 2 if tiny else 64, "batch": 4, "settings": settings})
    config.mesh = common.mesh()
    config.balance = ConfigDict(
        {
            "microbatches": 1 if tiny else 4,
            "widths": (64,) if tiny else (8192, 16_384, 32_768, 73_728),
            "tuner": {"base": budget, "p": 0.1, "anchor": "mean"},
            "table": placeholder(str),
            "long_documents": "split" if tiny else "error",
        }
    )
    if tiny:
        config.balance.tuner.buckets = (1, 2, 4)
    config.title = placeholder(str)
    return config
