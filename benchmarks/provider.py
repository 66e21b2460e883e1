"""Tokens per second of 64 concurrent requests to the in-process provider, beside one big call.

    python benchmarks/provider.py [--requests=512] [--tokens=128] [--hidden=128]

Both decode the same prompts greedily with the same random decoder, few of whose completions end
before their limit: the share is what gathering, the event loop and detokenising leave. The provider
has batches of 32, so that one is decoded while the other's replies are worked on; "one call"
decodes all rows at once. The two take turns, and the medians are compared: of wall time, which
says whether the decoder ever waits, and of the process's own time, which says what inspect_ai
costs and which other programs on the machine do not change.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable

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
    parser.add_argument("--batch", type=int, default=CONCURRENT // 2, help="of the provider")
    parser.add_argument("--repeats", type=int, default=7)
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
    rows, lengths = right_pad(tokenizer.encode_batch(texts), 32, 0)

    def direct(batch: int) -> int:
        count = 0
        for i in range(0, len(rows), batch):
            part = slice(i, i + batch)
            out = generate(
                Decoder(config), params, rows[part], lengths[part], jax.random.key(0), sampling
            )
            count += int(np.sum(out.lengths))
        return count

    with tempfile.TemporaryDirectory() as folder:
        hf.save(folder, config, params)
        tokenizer.save(folder)
        model = get_model(f"jaxlab/{folder}", batch=options.batch, prompt_multiple=32)

        async def ask_all() -> int:
            limit = asyncio.Semaphore(CONCURRENT)
            request = GenerateConfig(
                max_tokens=options.tokens, temperature=0.0, max_connections=CONCURRENT
            )

            async def one(text: str) -> int:
                async with limit:
                    output = await model.generate(text, config=request)
                    return output.usage.output_tokens if output.usage else 0

            return sum(await asyncio.gather(*(one(text) for text in texts)))

        contestants: dict[str, Callable[[], int]] = {
            "provider": lambda: asyncio.run(ask_all()),
            f"calls of {options.batch}": lambda: direct(options.batch),
            "one call": lambda: direct(len(rows)),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for run in contestants.values():
            run()  # compile
        for _ in range(options.repeats):
            for name, run in contestants.items():
                wall, own = time.perf_counter(), time.process_time()
                count = run()
                spent = time.perf_counter() - wall, time.process_time() - own
                times[name].append((spent[0] / count, spent[1] / count))
    print(
        f"{jax.devices()[0].device_kind}, load {os.getloadavg()[0]:.1f}: {options.requests} "
        f"requests x {options.tokens} tokens, width {options.hidden}, medians of {options.repeats}"
    )
    whole_wall, whole_own = map(statistics.median, zip(*times["one call"], strict=True))
    for name, found in times.items():
        wall, own = map(statistics.median, zip(*found, strict=True))
        shares = [w / wall for (w, _), (wall, _) in zip(times["one call"], found, strict=True)]
        print(
            f"{name:>12}: {1 / wall:8,.0f} tok/s wall ({whole_wall / wall:.0%} of one call, turn "
            f"by turn {min(shares):.0%} to {max(shares):.0%}), {1 / own:8,.0f} tok/s of processor "
            f"time ({whole_own / own:.0%})"
        )


if __name__ == "__main__":
    main()
