"""Tokens per second of 64 concurrent requests to the in-process provider, beside one big call.

    python benchmarks/provider.py [--requests=512] [--tokens=128] [--hidden=128]

Both decode the same prompts greedily with the same random decoder, few of whose completions end
before their limit: the share is what gathering, the event loop and detokenising leave. "one call"
decodes all rows at once; "calls of 64" one batch after the other.
"""

import argparse
import asyncio
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from inspect_ai.model import GenerateConfig, get_model

from jaxlab.data.batch import right_pad
from jaxlab.interop import hf
from jaxlab.interop.tokenizer import train_bpe
from jaxlab.models.decoder import Decoder, DecoderConfig
from jaxlab.sampling import SamplingConfig, generate

CONCURRENT = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="of each completion")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    texts = [f"Question {i}: what is {i} and {i + 1}?" for i in range(options.requests)]
    tokenizer = train_bpe(texts, 512)
    config = DecoderConfig(
        vocab_size=512,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        max_position=1024,
    )
    params = Decoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    sampling = SamplingConfig(
        max_new_tokens=options.tokens,
        temperature=0.0,
        prompt_multiple=32,
        stop_ids=tuple(tokenizer.eos_ids),
    )
    prompts = tokenizer.encode_batch(texts)
    rows, lengths = right_pad(prompts, 32, 0)

    def direct(batch: int) -> float:
        begin, count = time.perf_counter(), 0
        for i in range(0, len(rows), batch):
            part = slice(i, i + batch)
            out = generate(
                Decoder(config), params, rows[part], lengths[part], jax.random.key(0), sampling
            )
            count += int(np.sum(out.lengths))
        return count / (time.perf_counter() - begin)

    with tempfile.TemporaryDirectory() as folder:
        hf.save(folder, config, params)
        tokenizer.save(folder)
        model = get_model(f"jaxlab/{folder}", batch=CONCURRENT, prompt_multiple=32)

        async def served() -> tuple[float, int]:
            limit = asyncio.Semaphore(CONCURRENT)

            async def one(text: str) -> int:
                async with limit:
                    request = GenerateConfig(
                        max_tokens=options.tokens, temperature=0.0, max_connections=CONCURRENT
                    )
                    output = await model.generate(text, config=request)
                    return output.usage.output_tokens if output.usage else 0

            begin = time.perf_counter()
            counts = await asyncio.gather(*(one(text) for text in texts))
            return sum(counts) / (time.perf_counter() - begin), sum(counts)

        direct(CONCURRENT), direct(len(rows)), asyncio.run(served())  # compile
        results = []
        for _ in range(options.repeats):
            speed, count = asyncio.run(served())
            results.append((speed, direct(CONCURRENT), direct(len(rows)), count))
    device = jax.devices()[0].device_kind
    print(f"{device}, {options.requests} requests x {options.tokens} tokens, d={options.hidden}")
    for speed, batches, whole, count in results:
        print(
            f"provider {speed:,.0f} tok/s ({count} tokens); calls of {CONCURRENT} {batches:,.0f} "
            f"({speed / batches:.0%}); one call {whole:,.0f} ({speed / whole:.0%})"
        )


if __name__ == "__main__":
    main()
