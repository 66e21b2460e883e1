"""Contenders of `benchmarks/heavy_cost.py`: the heavy workflow over our ways of generating."""

import argparse
import asyncio
import importlib.metadata
import os
import pathlib
import sys
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import turns

from jaxlab.agents import heavy, heavy_prompts
from jaxlab.text.tokenizer import Tokenizer, load, train_bpe

PROMPT_MULTIPLE = 64
CONTEXT = 8192


def main(ways: dict[str, Any], frameworks: tuple[str, ...]) -> None:
    """Serve: one request thinks about all questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="HuggingFace directory of the model")
    parser.add_argument("--make", action="store_true", help="write the directory instead")
    parser.add_argument("--through", choices=tuple(ways))
    for name in ("questions", "width", "samples", "tokens", "hidden"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    if options.make:
        make(options)
        return
    tokenizer = load(options.folder)
    generate, per_call, read = ways[options.through](options, tokenizer)
    asked = heavy.Heavy(
        width=options.width, samples=options.samples, per_call=per_call, timeout_s=3600.0
    )

    async def all_questions() -> None:
        for i in range(options.questions):
            question = f"What is {i} + {i + 1}?"
            await heavy.think(question, generate, asked, tokenizer)

    def run() -> dict[str, int]:
        before = read()
        asyncio.run(all_questions())
        return {"read": read() - before}

    turns.serve(run, {name: importlib.metadata.version(name) for name in frameworks})


def make(options: argparse.Namespace) -> None:
    """A random decoder, and a tokenizer of the workflow's own prompts."""
    import jax
    import jax.numpy as jnp

    from jaxlab.interop import hf
    from jaxlab.models.decoder import Decoder
    from jaxlab.models.sizes import Sizes

    tokenizer = train_bpe([*heavy_prompts.RULES, heavy_prompts.skill()], 512)
    config = Sizes(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        qk_norm=True,
        max_position=CONTEXT,
    ).decoder()
    variables = jax.jit(Decoder(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    hf.save(options.folder, config, variables["params"])
    tokenizer.save(options.folder)


def _ours(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Decoder, params and mesh."""
    from jaxlab.interop import hf
    from jaxlab.models.decoder import Decoder
    from jaxlab.runtime.mesh import make_mesh, start

    start()
    config, params = hf.load(options.folder)
    return Decoder(config), params, make_mesh({"data": -1})


def _sampling(options: argparse.Namespace, tokenizer: Tokenizer) -> Any:
    """No text ends before its length, so that all ways write equally many tokens."""
    from jaxlab.sampling import SamplingConfig

    return SamplingConfig(
        max_new_tokens=options.tokens,
        pad_id=tokenizer.pad_id,
        vocab_size=tokenizer.vocab_size,
        prompt_multiple=PROMPT_MULTIPLE,
    )


# Each gives what generates, texts per call, and a count of the prompt tokens read so far.


def batched(options: argparse.Namespace, tokenizer: Tokenizer, together: bool) -> Any:
    """Our batcher: all texts of a prompt as one group, or each as a request of its own."""
    from jaxlab.rollouts.batcher import Batcher

    decoder, params, mesh = _ours(options)
    batcher = Batcher(decoder, params, mesh, tokenizer.pad_id, rows=16, padding="power_of_two")
    sampling = _sampling(options, tokenizer)

    async def generate(prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        seeds = [seed + i for i in range(samples)]
        ids = tokenizer.encode_prompt(prompt)
        replies = await asyncio.wrap_future(batcher.submit_group(ids, sampling, seeds))
        return tokenizer.decode_batch(reply.tokens for reply in replies)

    return generate, None if together else 1, lambda: batcher.prefilled


def plain(options: argparse.Namespace, tokenizer: Tokenizer) -> Any:
    """`jaxlab.sampling.generate`, one prompt and one text at a time."""
    import jax
    import numpy as np

    from jaxlab.data.batch import right_pad
    from jaxlab.sampling import generate as sample

    decoder, params, _ = _ours(options)
    sampling = _sampling(options, tokenizer)
    lengths: list[int] = []

    async def generate(prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        ids = tokenizer.encode_prompt(prompt)
        given = right_pad([ids], sampling.prompt_width(len(ids)), tokenizer.pad_id)
        out = sample(decoder, params, *given, jax.random.key(seed), sampling)
        lengths.append(len(ids))
        return tokenizer.decode_batch(np.asarray(out.tokens).tolist())

    return generate, 1, lambda: sum(lengths)


WAYS = {
    "groups": lambda options, tokenizer: batched(options, tokenizer, True),
    "requests": lambda options, tokenizer: batched(options, tokenizer, False),
    "plain": plain,
}

if __name__ == "__main__":
    main(WAYS, ("jax",))
