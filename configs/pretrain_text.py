"""Pre-training on local text: a linear-attention decoder (FG2-GDN+), or any other.

    python -m jaxlab.train --config=configs/pretrain_text.py --workdir=runs/text \\
        --config.data.options.train=train.jsonl --config.data.options.valid=valid.jsonl

A .jsonl file holds documents in the field `text`, any other file is one document. Without `valid`
the last 5 % are held out. The tokenizer is trained (byte-level BPE), or read from the directory
`data.options.tokenizer`. Perplexity and bits per byte are taken at the trained length, at twice and
four times it, and by position.

Variants: "" (12 layers of 768, 2,048 tokens), "340m" (the size and length of FG2-GDN's smaller
study, see `paper`), "small" (characters of a text of a megabyte, ten minutes on a CPU core), "tiny"
(two steps, for tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

VARIANTS = ("", "340m", "small", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/pretrain_text.py has the variants 340m, small and tiny, not {variant!r}"
        )
    if variant == "340m":
        return paper()
    if variant == "":
        config = base(length=2048, batch_size=128, examples=256)
        config.model = linear(768, 12, 6, 128, dtype="bfloat16", remat=True, scan_layers=True)
        config.data.options.vocab_size = 32_000
        config.train = common.train(10_000, eval_every=500, checkpoint_every=500, microbatch=32)
        config.optim = optim(1e-3, warmup_steps=500)
        config.mesh.rules = common.SHARDED
        return config
    tiny = variant == "tiny"
    config = base(16, 4, 8) if tiny else base(128, 32, 512)
    config.model = linear(16, 1, 1, 8) if tiny else linear(128, 4, 4, 32)
    config.data.options.tokenizer = "char"
    steps = 2 if tiny else 600
    config.train = common.train(
        steps, eval_every=max(steps // 10, 1), checkpoint_every=max(steps // 4, 1)
    )
    config.optim = optim(2e-3, warmup_steps=steps // 20)
    return config


def paper() -> ConfigDict:
    """340M parameters, 15B tokens of SlimPajama, rows of 8,192 tokens.

    Sizes, tokens and length are the paper's (as public notes give them). Its optimiser is not
    known here; the rate, the warm-up of 2^29 tokens, the batch of 2^19 tokens, the decay and the
    clipping are reconstructed from those of Gated DeltaNet (Yang et al., 2025). The tokenizer (a
    vocabulary of 32,000 there) is to be named: `--config.data.options.tokenizer=DIR`.
    """
    config = base(length=8192, batch_size=64, examples=64)
    config.model = common.model(dtype="bfloat16", remat=True, scan_layers=True)
    config.model.preset = "fg2-gdn-340m"
    config.model.sizes.max_position = 4 * 8192
    config.train = common.train(28_610, eval_every=1000, checkpoint_every=1000)
    config.optim = optim(4e-4, warmup_steps=1024)
    config.mesh.rules = common.SHARDED
    return config


def base(length: int, batch_size: int, examples: int) -> ConfigDict:
    """What the variants share."""
    config = ConfigDict({"trainer": "lm", "seed": 0, "batch_size": batch_size})
    config.data = ConfigDict(
        {
            "task": "text",
            "options": {
                "train": placeholder(str),
                "valid": placeholder(str),
                "field": "text",
                "tokenizer": placeholder(str),
                "vocab_size": 1024,
                "length": length,
                "documents": False,
            },
            "cache": placeholder(str),
        }
    )
    config.eval = ConfigDict(
        {
            "examples": examples,
            "batch": min(examples, 16),
            "settings": [{"length": n * length} for n in (1, 2, 4)],
            "by_position": True,
        }
    )
    config.mesh = common.mesh()
    config.title = placeholder(str)
    return config


def linear(
    hidden_size: int, num_layers: int, num_heads: int, head_dim: int, **more: object
) -> ConfigDict:
    """FG2-GDN+ layers, each with a feed-forward layer of 8/3 the width."""
    return common.model(
        hidden_size=hidden_size,
        intermediate_size=-(-8 * hidden_size // 3 // 16) * 16,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        pattern=("delta",),
        delta={"rule": "fg2_plus", "num_heads": num_heads, "head_dim": head_dim},
        tie_embeddings=True,
        max_position=8192,
        **more,
    )


def optim(learning_rate: float, warmup_steps: int) -> ConfigDict:
    """AdamW as language models are trained: cosine to a tenth of the rate."""
    return common.optim(
        learning_rate,
        schedule="cosine",
        warmup_steps=warmup_steps,
        final_fraction=0.1,
        weight_decay=0.1,
        b2=0.95,
    )
