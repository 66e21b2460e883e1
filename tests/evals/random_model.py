"""A small random model on disk, whose replies are noise."""

from pathlib import Path

import jax
import jax.numpy as jnp

from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.runtime.drawing import by_operations
from jaxlab.text.tokenizer import train_bpe


def save(folder: Path, max_position: int = 256, gain: float = 1.0) -> Path:
    """A HuggingFace directory with a tokenizer of bytes; parameters are scaled by `gain`."""
    config = Sizes(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        max_position=max_position,
    ).decoder()
    tokenizer = train_bpe(["a b c 1 2 3"], 257)
    params = by_operations(Decoder(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
    params = jax.tree.map(lambda x: gain * x, params)
    # Rows of the tables that stand for no token: no reply and no score may depend on them.
    for table in (params["embed"], params["unembed"]):
        table["embedding"] = table["embedding"].at[tokenizer.vocab_size :].set(jnp.nan)
    hf.save(folder, config, params)
    tokenizer.save(folder)
    return folder
