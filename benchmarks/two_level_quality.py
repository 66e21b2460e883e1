"""What selection keeps of structured keys, and what staleness costs: masses, needles, misses.

    python benchmarks/two_level_quality.py [--length=32768] [--budget=1024] [--steps=24]

One key head of 128 with four query heads in float32, blocks of 64, 128 candidates. Keys have a few
strong channels and follow topics of 64 to 512 tokens; 16 needles, single tokens at random places,
lie along the query of one head each. Queries are an AR(1) process of correlation rho that begins at
what they look for and forgets it. Random keys without structure would be of no use: of those even
the best 1024 tokens hold next to nothing. It measures the algorithm on made-up keys, not a model.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jaxlab_kernels.two_level import (  # noqa: E402
    IndexConfig,
    build_index,
    decode,
    select_blocks,
    select_tokens,
)

from jaxlab.sampling.caches.two_level import calibrate  # noqa: E402
from jaxlab.sampling.offload import Tables, place  # noqa: E402

DIM, HEADS, NEEDLES = 128, 4, 16
CORRELATIONS = (0.999, 0.97, 0.8, 0.5, 0.0)


def keys(length: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values [T, D], what the heads look for [G, D], and the needles' places."""
    rng = np.random.default_rng(seed)
    spread = rng.permutation((1 + np.arange(DIM)) ** -0.5)
    spread *= (DIM / (spread**2).sum()) ** 0.5
    lengths = rng.integers(64, 513, size=length // 64)
    topic = np.repeat(np.arange(len(lengths)), lengths)[:length]
    key = 0.7 * rng.normal(size=(len(lengths), DIM))[topic] + 0.7 * rng.normal(size=(length, DIM))
    key = key * spread
    query = rng.normal(size=(HEADS, DIM)) * spread
    places = np.sort(rng.choice(length - 256, NEEDLES, replace=False) + 64)
    towards = query / np.linalg.norm(query, axis=1, keepdims=True)
    # A logit of 12 above what noise gives, for the head that looks for it.
    strength = 12 * DIM**0.5 / np.linalg.norm(query, axis=1)
    heads = np.arange(NEEDLES) % HEADS
    key[places] += strength[heads, None] * towards[heads]
    return key, rng.normal(size=(length, DIM)), query, places


def forms(budget: int, length: int) -> dict[str, IndexConfig]:
    """The attentions at a budget of tokens."""
    base = IndexConfig(min_len=0, k_tokens=budget)
    small = dataclasses.replace(base, block=16, k_blocks=512)
    return {
        "sliding window": dataclasses.replace(base, k_blocks=0, recent_blocks=budget // 64 - 1),
        "Quest": dataclasses.replace(base, k_blocks=budget // 64),
        "Double Sparsity": dataclasses.replace(base, k_blocks=length // 64),
        "two-level": base,
        "two-level, blocks of 16": small,
    }


@functools.partial(jax.jit, static_argnames="config")
def measured(query, key, value, channels, config):
    """Stats of a step, the tokens that it selects, and the mass of the best as many."""
    length = jnp.full(1, key.shape[2], jnp.int32)
    index = build_index(key, length, channels, config)
    _, stats = decode(query, key, value, index, length, config, stats=True)
    blocks = select_blocks(query, index, length, config)
    tokens = select_tokens(query, index, blocks, length, config)
    # The most that as many tokens, the same for all heads, can hold.
    logits = jnp.einsum("hd,sd->hs", query[0], key[0, 0], precision="highest")
    weights = jax.nn.softmax(logits * DIM**-0.5, axis=-1)
    most = jax.lax.top_k(weights.mean(axis=0), tokens.shape[2])[0].sum()
    return stats, tokens, most


@functools.partial(jax.jit, static_argnames="config")
def stream(queries, key, value, channels, config):
    """Of queries [n, 1, G, D] in turn: masses fresh and stale, overlap, and misses of an LRU."""
    length = jnp.full(1, key.shape[2], jnp.int32)
    index = build_index(key, length, channels, config)
    number, slots = config.blocks(key.shape[2]), 2 * config.k_blocks
    first = select_blocks(queries[0], index, length, config)
    none = jnp.full(slots, -1, jnp.int32)
    tables = Tables(jnp.full(number, -1, jnp.int32), none, jnp.zeros(slots, jnp.int32))
    tables, *_ = place(tables, first[0, 0], first[0, 0], slots, jnp.zeros((), jnp.int32))

    def step(carry, query):
        before, tables, t = carry
        now = select_blocks(query, index, length, config)
        _, fresh = decode(query, key, value, index, length, config, stats=True)
        _, stale = decode(query, key, value, index, length, config, blocks=before, stats=True)
        tables, missing, _ = place(tables, now[0, 0], before[0, 0], slots, t)
        out = (fresh.mass.mean(), stale.mass.mean(), stale.overlap[0, 0], missing.sum())
        return (now, tables, t + 1), out

    return jax.lax.scan(step, (first, tables, jnp.ones((), jnp.int32)), queries[1:])[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=32768, help="tokens in the cache")
    parser.add_argument("--budget", type=int, default=1024, help="tokens attended to")
    parser.add_argument("--steps", type=int, default=24, help="queries of the staleness sweep")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    key, value, looked_for, places = keys(args.length, args.seed)
    array: Any = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    query, key, value = array(looked_for)[None], array(key)[None, None], array(value)[None, None]
    # On other queries of the same heads, as a calibration text has them.
    rng = np.random.default_rng(args.seed + 1)
    spread = np.std(np.asarray(key[0, 0]), axis=0)
    drawn = array(rng.normal(size=(1, 1024, HEADS, DIM)) * spread)
    counts = jnp.ones((1, 1024), bool)
    channels = calibrate(drawn, key[:, :, :1024].swapaxes(1, 2), counts, 32)[0]
    print(f"{args.length} tokens, budget {args.budget}: mass, of the best's, needles, MB read")
    for name, config in forms(args.budget, args.length).items():
        stats, tokens, most = measured(query, key, value, channels, config)
        found = np.isin(places, np.asarray(tokens)).mean()
        print(
            f"| {name} | {stats.mass.mean():.3f} | {stats.mass.mean() / most:.3f} | {found:.2f} | "
            f"{stats.bytes[0] / 1e6:.2f} |"
        )
    config = forms(args.budget, args.length)["two-level"]
    print(f"{args.steps} steps: rho, mass fresh, mass stale, overlap of blocks, misses of 128")
    for rho in CORRELATIONS:
        noise = rng.normal(size=(args.steps, HEADS, DIM)) * spread
        queries = [looked_for]
        for new in noise[1:]:
            queries.append(rho * queries[-1] + (1 - rho**2) ** 0.5 * new)
        fresh, stale, overlap, misses = stream(
            array(np.stack(queries))[:, None], key, value, channels, config
        )
        print(
            f"| {rho} | {fresh.mean():.3f} | {stale.mean():.3f} | {overlap.mean():.2f} | "
            f"{misses.mean():.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
