"""The decoding loop: prompts are read, then every row takes one token per step.

What a step carries is `State`; `start`, `advance` and `finish` are traced by one program
(`decoded`), or by a program each that the host calls (`decoded_by_host`), for off-loaded caches
whose blocks the host moves between steps.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlab.models.decoder import Cache, Decoder, Params, empty_caches
from jaxlab.sampling import exchange
from jaxlab.sampling.caches.channels import Channels, with_channels
from jaxlab.sampling.caches.reading import done, reading
from jaxlab.sampling.config import SamplingConfig
from jaxlab.sampling.offload import Moves, Stats, fetch, write_back
from jaxlab.sampling.sample import Draw, sample


class Completions(NamedTuple):
    """Completions of B prompts, num_samples for each: row b * num_samples + j is sample j of b.

    Attributes:
        tokens: int32 [R, N] with R = B * num_samples; the stop token is part of a completion, and
            pad_id stands behind it.
        logprobs: float32 [R, N], of each token under softmax(logits / temperature), untruncated:
            what a forward pass over the same tokens computes. Temperature 1 when greedy. 0 behind
            the end.
        sampling_logprobs: float32 [R, N], under the truncated distribution that was sampled from; 0
            when greedy, and behind the end.
        lengths: int32 [R], tokens of each completion, its stop token included.
        stopped: bool [R], whether it ended in a stop token; False means cut off at N tokens.
        steps: int32 scalar, columns computed before every row had stopped.
        offload: what off-loaded caches moved; None where there are none.
    """

    tokens: jax.Array
    logprobs: jax.Array
    sampling_logprobs: jax.Array
    lengths: jax.Array
    stopped: jax.Array
    steps: jax.Array
    offload: Stats | None = None


class Task(NamedTuple):
    """What a loop is given.

    Attributes:
        params: of the decoder.
        prompts: int32 [B, P], right-padded.
        lengths: int32 [B].
        keys: [B, num_samples].
        channels: of the token indices, where they were calibrated.
        choices: int32 [B, A, L], see `decode.generate`; None: any row may write anything.
    """

    params: Params
    prompts: jax.Array
    lengths: jax.Array
    keys: jax.Array
    channels: Channels | None = None
    choices: jax.Array | None = None


class State(NamedTuple):
    """The loop's carry; `written` is time-major [N, R], so that a step writes one run.

    Attributes:
        t: int32 scalar, steps done.
        last: int32 [R], the newest tokens.
        cache: of the decoder.
        pools: of off-loaded caches, where blocks move between steps.
        written: draws so far.
        lengths: int32 [R].
        stopped: bool [R].
        open: bool [R, A], the choices that a row's tokens so far begin; None without choices.
    """

    t: jax.Array
    last: jax.Array
    cache: Cache
    pools: list[jax.Array]
    written: Draw
    lengths: jax.Array
    stopped: jax.Array
    open: jax.Array | None = None


def start(model: Decoder, sampling: SamplingConfig, task: Task) -> State:
    """Reads the prompts and draws the first token of every row."""
    budget, times = sampling.max_new_tokens, sampling.num_samples
    # The last token of a completion is never read, hence the - 1.
    kind = sampling.attention.kind(
        task.prompts.shape[1] + budget - 1, sampling.cache_dtype, new=budget - 1, samples=times,
        calibrated=task.channels is not None,
    )  # fmt: skip
    empty = empty_caches(model.config, len(task.prompts), kind)
    if task.channels is not None:
        empty = with_channels(model.config, empty, task.channels)
    prompts = _left_pad(task.prompts, task.lengths)
    if sampling.prefill_chunk is None:
        hidden, cache = _apply(model, task, "prefill", prompts, task.lengths, kind, empty)
    else:
        hidden, cache = _in_chunks(model, task, prompts, sampling.prefill_chunk, empty)
    cache = model.repeat(cache, times)
    pools: list[jax.Array] = []
    if not sampling.attention.waits:
        layers, pools = exchange.detached(cache.layers)
        cache = cache._replace(layers=layers)
    hidden = jnp.repeat(hidden, times, axis=0)
    rows = hidden.shape[0]
    written = Draw(
        jnp.full((budget, rows), sampling.pad_id, jnp.int32),
        jnp.zeros((budget, rows), jnp.float32),
        jnp.zeros((budget, rows), jnp.float32),
    )
    none = jnp.zeros(rows, jnp.int32)
    begin = State(jnp.zeros((), jnp.int32), none, cache, pools, written, none, none > 0)
    if task.choices is not None:
        begin = begin._replace(open=_choices(task)[:, :, 0] >= 0)
    return _record(begin, _draw(model, sampling, task, begin, hidden), sampling, task)


def _in_chunks(
    model: Decoder, task: Task, prompts: jax.Array, chunk: int, empty: Any
) -> tuple[jax.Array, Cache]:
    """`Decoder.prefill` whose layers never hold more tokens at once than a chunk."""
    rows, width = prompts.shape
    first = Cache(reading(empty), jnp.zeros((), jnp.int32), width - task.lengths)

    def one(carry: tuple[jax.Array, Cache], tokens: jax.Array) -> Any:
        hidden, cache = _apply(model, task, "extend", tokens, carry[1])
        return (hidden[:, -1], cache), None

    # The first chunk is the short one, so that the last ends where every prompt does.
    short = (width - 1) % chunk + 1
    (last, cache), _ = one((jnp.zeros(()), first), prompts[:, :short])
    chunks = prompts[:, short:].reshape(rows, (width - short) // chunk, chunk).swapaxes(0, 1)
    (last, cache), _ = jax.lax.scan(one, (last, cache), chunks)
    return last, cache._replace(layers=done(cache.layers))


def unfinished(sampling: SamplingConfig, state: State) -> jax.Array:
    """Whether there is a row that goes on."""
    return (state.t < sampling.max_new_tokens) & ~jnp.all(state.stopped)


def advance(model: Decoder, sampling: SamplingConfig, task: Task, state: State) -> State:
    """Reads the newest token of every row and draws the next."""
    hidden, cache = _apply(model, task, "step", state.last, state.cache)
    drawn = _draw(model, sampling, task, state, hidden)
    return _record(state._replace(cache=cache), drawn, sampling, task)


def finish(state: State) -> Completions:
    """The result of the loop."""
    tokens, logprobs, sampling_logprobs = (rows.T for rows in state.written)
    return Completions(
        tokens, logprobs, sampling_logprobs, state.lengths, state.stopped, state.t,
        exchange.stats(state.cache.layers),
    )  # fmt: skip


def decoded(model: Decoder, sampling: SamplingConfig, task: Task) -> Completions:
    """The whole loop, to be traced."""

    def body(state: State) -> State:
        state = advance(model, sampling, task, state)
        if not state.pools:
            return state
        state, full, missing = _planned(state)
        layers, pools = exchange.moved(state.cache.layers, state.pools, full, missing)
        return state._replace(cache=state.cache._replace(layers=layers), pools=pools)

    state = start(model, sampling, task)
    return finish(jax.lax.while_loop(functools.partial(unfinished, sampling), body, state))


def decoded_by_host(model: Decoder, sampling: SamplingConfig, task: Task) -> Completions:
    """The loop by the host, which starts as many copies as each step asks for.

    Whatever ends it, pools are freed with it.
    """
    state, going = _start(model, sampling, task)
    try:
        while going:
            ahead, going, full, missing = _advance(model, sampling, task, state._replace(pools=[]))
            state = ahead._replace(pools=state.pools)
            # One transfer tells of all layers; the copies need no answer.
            going, full, missing = jax.device_get((going, full, missing))
            state = _copied(state, full, missing)
        return _finish(state._replace(pools=[]))
    finally:
        # A traceback keeps its frames, and they the state.
        for pool in state.pools:
            if not pool.is_deleted():
                pool.delete()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(model: Decoder, sampling: SamplingConfig, task: Task) -> tuple[State, jax.Array]:
    state = start(model, sampling, task)
    return state, unfinished(sampling, state)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(model: Decoder, sampling: SamplingConfig, task: Task, state: State) -> Any:
    state, full, missing = _planned(advance(model, sampling, task, state))
    return state, unfinished(sampling, state), full, missing


_finish = jax.jit(finish)


def _planned(state: State) -> tuple[State, list[Moves], list[Moves]]:
    layers, full, missing = exchange.planned(state.cache.layers)
    return state._replace(cache=state.cache._replace(layers=layers)), full, missing


def _copied(state: State, full: list[Moves], missing: list[Moves]) -> State:
    """The state after moves that the host knows."""
    layers = state.cache.layers
    records = exchange.records(layers)
    for i, (back, ahead) in enumerate(zip(full, missing, strict=True)):
        for part in _parts(back):
            state.pools[i] = _write_back(records[i], state.pools[i], *part)
        for part in _parts(ahead):
            records[i] = _fetch(records[i], state.pools[i], *part)
    layers = exchange.with_records(layers, records)
    return state._replace(cache=state.cache._replace(layers=layers))


def _parts(todo: Moves) -> list[tuple[jax.Array, jax.Array]]:
    """The moves in parts whose lengths are powers of two, so that few programs are compiled."""
    parts, begin, number = [], 0, int(todo.number)
    while begin < number:
        size = 1 << ((number - begin).bit_length() - 1)
        parts.append((todo.slot[begin : begin + size], todo.record[begin : begin + size]))
        begin += size
    return parts


@functools.partial(jax.jit, donate_argnums=0)
def _fetch(records: jax.Array, pool: jax.Array, slot: jax.Array, record: jax.Array) -> jax.Array:
    return fetch(records, pool, Moves(jnp.asarray(len(slot)), slot, record))


@functools.partial(jax.jit, donate_argnums=1)
def _write_back(
    records: jax.Array, pool: jax.Array, slot: jax.Array, record: jax.Array
) -> jax.Array:
    return write_back(records, pool, Moves(jnp.asarray(len(slot)), slot, record))


def _apply(model: Decoder, task: Task, method: str, *arguments: Any) -> Any:
    return model.apply({"params": task.params}, *arguments, method=method)


def _draw(
    model: Decoder, sampling: SamplingConfig, task: Task, state: State, hidden: jax.Array
) -> Draw:
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(task.keys.reshape(-1), state.t)
    bits = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(step_keys)
    logits = _apply(model, task, "logits", hidden)[:, : sampling.vocab_size]
    if state.open is not None:
        tokens = _choices(task)[:, :, state.t]
        going = state.open & (tokens >= 0)
        # A negative index would count from the end.
        tokens = jnp.where(going, tokens, logits.shape[1])
        rows = jnp.arange(logits.shape[0])[:, None]
        allowed = jnp.zeros(logits.shape, bool).at[rows, tokens].set(True, mode="drop")
        # Rows that may write anything, and those that have stopped, have no choice going on.
        allowed |= ~jnp.any(going, axis=1, keepdims=True)
        logits = jnp.where(allowed, logits, -jnp.inf)
    return sample(logits, bits, sampling)


def _choices(task: Task) -> jax.Array:
    """int32 [R, A, L], of every row."""
    assert task.choices is not None
    return jnp.repeat(task.choices, task.keys.size // len(task.choices), axis=0)


def _record(state: State, draw: Draw, sampling: SamplingConfig, task: Task) -> State:
    """The state with a token of every row that goes on."""
    running = ~state.stopped
    columns = (
        jnp.where(running, draw.tokens, sampling.pad_id),
        jnp.where(running, draw.logprobs, 0.0),
        jnp.where(running, draw.sampling_logprobs, 0.0),
    )
    written = jax.tree.map(
        lambda rows, row: jax.lax.dynamic_update_index_in_dim(rows, row, state.t, axis=0),
        state.written,
        Draw(*columns),
    )
    stop_ids = jnp.asarray(sampling.stop_ids, jnp.int32)
    hit = jnp.any(draw.tokens[:, None] == stop_ids[None, :], axis=1)
    if state.open is not None:
        chosen = _choices(task)[:, :, state.t] == draw.tokens[:, None]
        state = state._replace(open=state.open & chosen)
    return state._replace(
        t=state.t + 1,
        last=draw.tokens,
        written=written,
        lengths=state.lengths + running,
        stopped=state.stopped | hit,
    )


def _left_pad(prompts: jax.Array, lengths: jax.Array) -> jax.Array:
    """Right-padded prompts [B, P] moved to the last columns, with 0 in front."""
    source = jnp.arange(prompts.shape[1])[None, :] - (prompts.shape[1] - lengths)[:, None]
    moved = jnp.take_along_axis(prompts, jnp.maximum(source, 0), axis=1)
    return jnp.where(source >= 0, moved, 0).astype(jnp.int32)
