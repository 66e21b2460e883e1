"""Time of one decode step of two-level attention on this device, beside dense, and by stage.

    python benchmarks/two_level.py [--lengths=8192,32768,98304] [--repeats=15]

One layer of 32 query and 8 key heads of 128 in float32, one row, published budgets; random keys,
which are of use for times alone. Prints milliseconds by the wall, forms in turns: the shortest and
the median. "dense" is `attention_step`, which the gate runs below `min_len`; it is not the best
that a CPU can do, so that this tells nothing about PyTorch. "append" copies the index, since its
buffers are not donated; a decoding loop writes in place.
"""

import argparse
import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jaxlab_kernels import attention_step  # noqa: E402
from jaxlab_kernels.two_level import (  # noqa: E402
    IndexConfig,
    append_index,
    build_index,
    decode,
    select_blocks,
    select_tokens,
)


def calls(length: int) -> dict[str, Callable[[], Any]]:
    """What is timed at one length, by name."""
    config = dataclasses.replace(IndexConfig(), min_len=0)
    keys = jax.random.split(jax.random.key(0), 3)
    query = jax.random.normal(keys[0], (1, 32, 128))
    key, value = (jax.random.normal(k, (1, 8, length, 128)) for k in keys[1:])
    lengths = jnp.array([length - 5], jnp.int32)
    channels = jnp.tile(jnp.arange(config.channels, dtype=jnp.int32), (8, 1))

    def compiled(function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        return functools.partial(jax.jit(function), *given)

    def dense(query, key, value, lengths):
        first, last = jnp.zeros_like(lengths), lengths[:, None] - 1
        return attention_step(query[:, None], key, value, first=first, last=last)

    build = compiled(lambda k, n: build_index(k, n, channels, config), key, lengths)
    index = build()
    blocks_of = compiled(lambda q, i, n: select_blocks(q, i, n, config), query, index, lengths)

    def tokens(query, index, blocks, lengths):
        return select_tokens(query, index, blocks, lengths, config)

    def two_level(query, key, value, index, lengths):
        return decode(query, key, value, index, lengths, config)[0]

    def append(index, key, lengths):
        return append_index(index, key, lengths, channels, config)

    return {
        "dense": compiled(dense, query, key, value, lengths),
        "two-level": compiled(two_level, query, key, value, index, lengths),
        "blocks": blocks_of,
        "tokens": compiled(tokens, query, index, blocks_of(), lengths),
        "append": compiled(append, index, key, lengths),
        "build": build,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="8192,32768,98304", help="tokens in the cache")
    parser.add_argument("--repeats", type=int, default=15, help="turns of every form")
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, ms: shortest (median) of {args.repeats} turns")
    for length in map(int, args.lengths.split(",")):
        forms = calls(length)
        for form in forms.values():
            jax.block_until_ready(form())
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(args.repeats):
            for name, form in forms.items():
                begin = time.perf_counter()
                jax.block_until_ready(form())
                times[name].append(1e3 * (time.perf_counter() - begin))
        told = (f"{n} {min(t):.2f} ({statistics.median(t):.2f})" for n, t in times.items())
        print(f"{length:>6}  " + "  ".join(told), flush=True)


if __name__ == "__main__":
    main()
