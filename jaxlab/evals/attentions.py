"""One model read through several caches: what sparse attention keeps of its answers."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.data.tasks.tokens import TokenSource
from jaxlab.models.decoder import Decoder, Params
from jaxlab.sampling.caches import TwoLevelAttention

# Attention by its name and its budget: {"quest": {"64": ...}}.
Attentions = dict[str, dict[str, TwoLevelAttention]]


class _Sums(NamedTuple):
    """Sums over rows: right answers, mass, recall, bytes of all layers; and a step's seconds."""

    right: float
    mass: float
    recall: float
    bytes: float
    seconds: float


def compare(
    decoder: Decoder,
    params: Params,
    source: TokenSource,
    attentions: Attentions,
    *,
    rows: int,
    batch: int,
    decoded: int = 1,
) -> dict[str, float]:
    """Accuracy at the end of held-out rows, whose last tokens are decoded one by one.

    All tokens but the last `decoded` are read as a prompt, by dense attention.

    Args:
        decoder: the model.
        params: its parameters.
        source: of the rows.
        attentions: to be compared.
        rows: of the test split, the first ones; all, where there are fewer.
        batch: rows read together; the last batch is filled up with rows that count for nothing.
        decoded: tokens, of which the last one's target counts.

    Returns:
        As "NAME@attention=..,budget=..": accuracy; mass, the share of dense attention's weights on
        what was attended to, mean over layers, heads and steps; recall of as many best tokens;
        kilobytes that a step of one row reads, all layers; milliseconds of a step of the batch,
        the shortest of the batches, by the wall and without the measures.

    Raises:
        ValueError: a row's last token does not count, a row packs documents, or the model has no
            layer whose cache could be read in several ways.
    """
    found: dict[str, list[_Sums]] = {}
    rows = min(rows, source.num_examples("test"))
    for begin in range(0, rows, batch):
        got = source.batch(np.minimum(np.arange(begin, begin + batch), rows - 1), "test")
        tokens, targets = jnp.asarray(got.tokens), np.asarray(got.targets[:, -1])
        targets = targets[: rows - begin]
        if got.segment_ids is not None:
            raise ValueError("attentions are compared on rows of one document each")
        if not np.asarray(got.mask)[:, -1].all():
            raise ValueError("attentions are compared on the last token of a row, which must count")
        prompts: dict[Any, Any] = {}
        for name, budgets in attentions.items():
            for budget, attention in budgets.items():
                key = _same_prompt(attention)
                if key not in prompts:
                    prompts[key] = _read(decoder, key, decoded, params, tokens)
                sums = _answers(decoder, attention, decoded, params, tokens, prompts[key], targets)
                found.setdefault(f"attention={name},budget={budget}", []).append(sums)
    scores: dict[str, float] = {}
    for setting, parts in found.items():
        total = _Sums(*np.sum(parts, axis=0))
        scores |= {
            f"accuracy@{setting}": total.right / rows,
            f"mass@{setting}": total.mass / rows,
            f"recall@{setting}": total.recall / rows,
            f"kilobytes@{setting}": total.bytes / rows / 1024,
            f"milliseconds@{setting}": 1e3 * min(part.seconds for part in parts),
        }
    return scores


def _same_prompt(attention: TwoLevelAttention) -> TwoLevelAttention:
    """Equal for attentions whose caches are the same behind a prompt."""
    # Blocks of the step before depend on their number.
    blocks = attention.k_blocks if attention.stale else 0
    return dataclasses.replace(attention, k_blocks=blocks, k_tokens=1, min_len=0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _read(
    decoder: Decoder, attention: TwoLevelAttention, decoded: int, params: Params, tokens: jax.Array
) -> Any:
    """The cache behind all tokens but the last."""
    rows, length = tokens.shape
    kind = attention.kind(length, None)
    lengths = jnp.full(rows, length - decoded, jnp.int32)
    prompts = tokens[:, : length - decoded]
    return decoder.apply({"params": params}, prompts, lengths, kind, method="prefill")[1]


def _answers(
    decoder: Decoder,
    attention: TwoLevelAttention,
    decoded: int,
    params: Params,
    tokens: jax.Array,
    cache: Any,
    targets: np.ndarray,
) -> _Sums:
    """Of the first rows, as many as there are targets."""
    step = functools.partial(_extend, decoder, attention)
    last = tokens[:, -decoded:]
    words, layers = step(True, params, last, cache)
    jax.block_until_ready(step(False, params, last, cache))
    begin = time.perf_counter()
    jax.block_until_ready(step(False, params, last, cache))
    seconds = (time.perf_counter() - begin) / decoded
    if not layers:
        raise ValueError("attentions: the model has no attention layer that they could decode")
    rows = len(targets)
    # [layers, rows] each; stacked layers hold several.
    mass, recall, size = (
        np.concatenate([np.reshape(x, (-1, len(last)))[:, :rows] for x in kind]) / decoded
        for kind in zip(*layers, strict=True)
    )
    right = (np.asarray(words)[:rows] == targets).sum()
    return _Sums(right, mass.mean(0).sum(), recall.mean(0).sum(), size.sum(), seconds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _extend(
    decoder: Decoder,
    attention: TwoLevelAttention,
    measure: bool,
    params: Params,
    tokens: jax.Array,
    cache: Any,
) -> tuple[jax.Array, list[Any]]:
    """The most probable word behind the last token, and the measures of each cache, if wanted."""

    def is_cache(x: Any) -> bool:
        return hasattr(x, "reading_by")

    def chosen(x: Any) -> Any:
        return x.reading_by(attention, attention.refresh, measure) if is_cache(x) else x

    layers = jax.tree.map(chosen, cache.layers, is_leaf=is_cache)
    out: Any = decoder.apply(
        {"params": params}, tokens, cache._replace(layers=layers), method="extend"
    )
    hidden, cache = out
    logits: Any = decoder.apply({"params": params}, hidden[:, -1], method="logits")
    found = jax.tree.leaves(cache.layers, is_leaf=is_cache)
    return jnp.argmax(logits, axis=-1), [x.measured for x in found if is_cache(x)]
