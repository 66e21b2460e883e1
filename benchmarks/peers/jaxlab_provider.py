"""One contender of `benchmarks/provider.py`: the provider, or `generate` with the same prompts."""

import argparse
import asyncio
import pathlib
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import turns
from inspect_ai.model import GenerateConfig, get_model

from jaxlab.data.batch import right_pad
from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder, DecoderConfig, Params
from jaxlab.models.sizes import Sizes
from jaxlab.runtime import decode_devices, host_memory
from jaxlab.runtime.mesh import make_mesh, start
from jaxlab.sampling import SamplingConfig, generate
from jaxlab.text.tokenizer import Tokenizer, train_bpe

PROMPT_MULTIPLE = 32


def main() -> None:
    """Serve: one request answers all texts and replies with the number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("requests", "tokens", "hidden", "batch", "concurrent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--through", choices=("provider", "generate"), required=True)
    options = parser.parse_args()
    # As the doors begin.
    host_memory.keep_freed()
    decode_devices.automatically()
    start()
    texts = [f"Question {i}: what is {i} and {i + 1}?" for i in range(options.requests)]
    tokenizer = train_bpe(texts, 512)
    config = Sizes(
        vocab_size=512,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        max_position=1024,
    ).decoder()
    params = jax.jit(Decoder(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "inspect_ai")}
    run = provider if options.through == "provider" else direct
    with tempfile.TemporaryDirectory() as folder:
        turns.serve(run(config, params, tokenizer, texts, options, folder), versions)


def provider(
    config: DecoderConfig,
    params: Params,
    tokenizer: Tokenizer,
    texts: list[str],
    options: argparse.Namespace,
    folder: str,
) -> Any:
    """All texts as requests, `concurrent` at a time."""
    hf.save(folder, config, params)
    tokenizer.save(folder)
    model = get_model(f"jaxlab/{folder}", batch=options.batch, prompt_multiple=PROMPT_MULTIPLE)
    request = GenerateConfig(
        max_tokens=options.tokens, temperature=0.0, max_connections=options.concurrent
    )

    async def ask_all() -> int:
        limit = asyncio.Semaphore(options.concurrent)

        async def one(text: str) -> int:
            async with limit:
                output = await model.generate(text, config=request)
                return output.usage.output_tokens if output.usage else 0

        return sum(await asyncio.gather(*(one(text) for text in texts)))

    return lambda: {"tokens": asyncio.run(ask_all())}


def direct(
    config: DecoderConfig,
    params: Params,
    tokenizer: Tokenizer,
    texts: list[str],
    options: argparse.Namespace,
    folder: str,
) -> Any:
    """All texts in calls of `batch` rows."""
    del folder
    sampling = SamplingConfig(
        max_new_tokens=options.tokens,
        temperature=0.0,
        prompt_multiple=PROMPT_MULTIPLE,
        stop_ids=tuple(tokenizer.eos_ids),
    )
    home = make_mesh({"data": -1})
    rows, lengths = right_pad(tokenizer.encode_batch(texts), PROMPT_MULTIPLE, 0)

    def run() -> dict[str, int]:
        count = 0
        for i in range(0, len(rows), options.batch):
            given = rows[i : i + options.batch], lengths[i : i + options.batch]
            split = decode_devices.mesh_for(home, params, len(given[0]), 1)
            out = generate(Decoder(config), params, *given, jax.random.key(0), sampling, split)
            count += int(np.sum(out.lengths))
        return {"tokens": count}

    return run


if __name__ == "__main__":
    main()
