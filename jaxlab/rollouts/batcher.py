"""Requests that arrive one by one, decoded in batches of one shape.

A request's completion depends on its own prompt, seed and sampling alone: every batch has the same
number of rows, its width comes from the request's own length, and every row has randomness of its
own. So it does not matter who shares the batch, in which order requests arrive, or how many wait.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlab.models.decoder import Decoder, Params
from jaxlab.rollouts.policy import Policy, Rollout
from jaxlab.runtime.sharding import Rules
from jaxlab.sampling import SamplingConfig


class Reply(NamedTuple):
    """One completion.

    Attributes:
        tokens: ids, the stop token included.
        logprobs: of each token under softmax(logits / temperature), in nats.
        stopped: False where the completion was cut off by its length.
    """

    tokens: list[int]
    logprobs: list[float]
    stopped: bool


# Requests of one shape can share a batch: sampling, of as many samples as each has, and width.
_Shape = tuple[SamplingConfig, int]


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    """One prompt; `reply` is one Reply, or a list with one for each seed."""

    prompt: tuple[int, ...]
    seeds: tuple[int, ...]
    shape: _Shape
    listed: bool
    reply: Future[Any] = dataclasses.field(default_factory=Future)
    arrived: float = dataclasses.field(default_factory=time.monotonic)


class Batcher:
    """Gathers requests from any thread and decodes them in one of its own.

    A batch starts when it is full, or when nothing has arrived for a moment. Requests of other
    shapes wait their turn; the oldest request goes first. With twice as many requests under way as
    a batch has rows, one batch is decoded while the callers work on the replies of the other.
    """

    def __init__(
        self,
        decoder: Decoder,
        params: Params,
        mesh: Mesh,
        pad_id: int,
        *,
        rows: int = 64,
        padding: Literal["full", "power_of_two"] = "full",
        patience_s: float = 0.02,
        rules: Rules | None = None,
    ):
        """Start the thread; it ends with `close`.

        Args:
            decoder: the model.
            params: its parameters.
            mesh: where; the rows of a batch are split over its "data" axis.
            pad_id: fills up prompts.
            rows: of a full batch; rounded up to a multiple of the devices that share them.
            padding: "full" fills every batch up to `rows`. "power_of_two" fills a batch that is not
                full to the next power of two, which saves work at the end of a run, but matrix
                products of other shapes round differently in the last bit.
            patience_s: how long to wait for the next request before a batch starts that is not
                full.
            rules: of the params for decoding, as in `Policy`.

        Raises:
            ValueError: no row.
        """
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows}")
        self._decoder, self._params, self._mesh = decoder, params, mesh
        self._pad_id, self._rules = pad_id, rules
        self._shares = mesh.shape["data"]
        self.rows = -(-rows // self._shares) * self._shares
        self._padding, self._patience_s = padding, patience_s
        # Tokens of the prompts that were read, those of copies that fill batches included.
        self.prefilled = 0
        self._policies: dict[SamplingConfig, Policy] = {}
        self._arrivals: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # Replies that somebody may wait for, and why there will be no further ones. The lock makes
        # sure that whatever is submitted is either refused or settled by the end of the thread.
        self._owed: set[Future[Any]] = set()
        self._ended: RuntimeError | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._thread.start()

    def submit_group(
        self, prompt: Sequence[int], sampling: SamplingConfig, seeds: Sequence[int]
    ) -> Future[list[Reply]]:
        """Ask for several completions of one prompt, which is read once for all of them.

        Args:
            prompt: token ids.
            sampling: how; its num_samples must be 1.
            seeds: one for each completion, which is what `submit` gives for the seed, up to
                rounding.

        Returns:
            A future; what decoding raises, it raises.

        Raises:
            ValueError: there is no seed; and as in `submit`.
            TypeError, RuntimeError: as in `submit`.
        """
        if not seeds:
            raise ValueError("a group has at least one seed")
        return self._submit(prompt, sampling, tuple(seeds), listed=True)

    def submit(self, prompt: Sequence[int], sampling: SamplingConfig, seed: int) -> Future[Reply]:
        """Ask for one completion.

        Args:
            prompt: token ids.
            sampling: how; its num_samples must be 1.
            seed: the same prompt, sampling and seed give the same completion.

        Returns:
            A future; what decoding raises, it raises.

        Raises:
            ValueError: the prompt is empty, or does not fit with its completion into the context.
            TypeError: the sampling has values of another type.
            RuntimeError: the batcher is closed, or its thread has failed; the cause says how.
        """
        return self._submit(prompt, sampling, (seed,), listed=False)

    def _submit(
        self, prompt: Sequence[int], sampling: SamplingConfig, seeds: tuple[int, ...], listed: bool
    ) -> Future[Any]:
        context = self._decoder.config.max_position
        if not prompt or len(prompt) + sampling.max_new_tokens > context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and a completion of {sampling.max_new_tokens}: "
                f"together they must be at most {context}, and the prompt not empty"
            )
        if sampling.num_samples != 1:
            raise ValueError("one completion per request: num_samples must be 1")
        width = sampling.prompt_width(len(prompt))
        shape = (dataclasses.replace(sampling, num_samples=len(seeds)), width)
        request = _Request(tuple(prompt), seeds, shape, listed)
        hash(request.shape)  # fails here, not in the thread
        with self._lock:
            if self._ended is not None:
                raise RuntimeError(str(self._ended)) from self._ended.__cause__
            self._owed.add(request.reply)
            self._arrivals.put(request)
        request.reply.add_done_callback(self._owed.discard)
        return request.reply

    def close(self) -> None:
        """End the thread when the batch under way is done; requests that wait are cancelled."""
        with self._lock:
            self._ended = self._ended or RuntimeError("the batcher is closed")
            self._arrivals.put(None)
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._decode_all()
        except BaseException as error:  # nobody else hears of what ends a thread
            cause = f"{type(error).__name__}: {error}".rstrip(": ")
            failure = RuntimeError(f"the batcher's thread failed with {cause}")
            failure.__cause__ = error
            with self._lock:
                self._ended = failure
            for reply in list(self._owed):
                _set(reply, failure)
        else:
            for reply in list(self._owed):
                reply.cancel()

    def _decode_all(self) -> None:
        """Decode until `close`."""
        waiting: dict[_Shape, deque[_Request]] = {}
        done: list[_Outcome] = []
        while self._gather(waiting, done):
            batch = _take(waiting, self._prompts(_oldest(waiting)))
            # Started before the last replies are handed out: their receivers need the interpreter,
            # which starting a batch does too, and decoding it does not.
            started = self._start(batch)
            _settle(done)
            done = self._finish(batch, started)
        _settle(done)

    def _gather(self, waiting: dict[_Shape, deque[_Request]], done: list["_Outcome"]) -> bool:
        """Wait until a batch should start; False when closed.

        Hands out what is `done`, unless the next batch is there already.
        """
        latest = time.monotonic()
        while True:
            patience: float | None = 0.0
            if not self._ripe(waiting) and self._arrivals.empty():
                _settle(done)
                patience = None
                if waiting:
                    patience = max(0.0, latest + self._patience_s - time.monotonic())
            try:
                request = self._arrivals.get(timeout=patience)
            except queue.Empty:
                return True
            if request is None:
                return False
            if not request.reply.cancelled():
                waiting.setdefault(request.shape, deque()).append(request)
            latest = time.monotonic()

    def _prompts(self, shape: _Shape) -> int:
        """Prompts of a full batch, of which each has the rows of its samples."""
        prompts = max(1, self.rows // shape[0].num_samples)
        return -(-prompts // self._shares) * self._shares

    def _ripe(self, waiting: dict[_Shape, deque[_Request]]) -> bool:
        """Whether the oldest request can go in a full batch."""
        if not waiting:
            return False
        shape = _oldest(waiting)
        return len(waiting[shape]) >= self._prompts(shape)

    def _start(self, batch: list[_Request]) -> Rollout | Exception:
        """Begin to decode; jax does it while this thread goes on."""
        try:
            return self._decode(batch)
        except Exception as error:  # whatever it is, it is the callers' to see
            return error

    def _finish(self, batch: list[_Request], started: Rollout | Exception) -> list["_Outcome"]:
        try:
            if isinstance(started, Exception):
                raise started
            out = started
            arrays = jax.device_get((out.response, out.mask, out.logprobs, out.stopped))
        except Exception as error:
            return [(request, error) for request in batch]
        replies = [
            Reply(tokens[mask].tolist(), logprobs[mask].tolist(), bool(stopped))
            for tokens, mask, logprobs, stopped in zip(*arrays, strict=True)
        ]
        # The rows that fill the batch are dropped.
        each = batch[0].shape[0].num_samples
        groups = [replies[i * each : (i + 1) * each] for i in range(len(batch))]
        return [
            (request, group if request.listed else group[0])
            for request, group in zip(batch, groups, strict=True)
        ]

    def _decode(self, batch: list[_Request]) -> Rollout:
        sampling, _ = batch[0].shape
        if sampling not in self._policies:
            self._policies[sampling] = Policy(
                self._decoder, sampling, self._mesh, self._pad_id, self._rules
            )
        prompts = self._prompts(batch[0].shape)
        if self._padding == "power_of_two":
            power = 1 << (len(batch) - 1).bit_length()
            prompts = min(prompts, -(-power // self._shares) * self._shares)
        # Copies of the first request fill the batch: they end when it does.
        filled = batch + [batch[0]] * (prompts - len(batch))
        self.prefilled += sum(len(request.prompt) for request in filled)
        seeds = np.array([[s & 0xFFFFFFFF for s in request.seeds] for request in filled], np.uint32)
        return self._policies[sampling](self._params, [r.prompt for r in filled], _keys(seeds))


_Outcome = tuple[_Request, Reply | list[Reply] | Exception]


@jax.jit
def _keys(seeds: jax.Array) -> jax.Array:
    """Keys [P, n] from seeds [P, n]: of each the one that a prompt of one sample would have."""
    return jax.vmap(jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 0)))(seeds)


def _oldest(waiting: dict[_Shape, deque[_Request]]) -> _Shape:
    return min(waiting, key=lambda shape: waiting[shape][0].arrived)


def _take(waiting: dict[_Shape, deque[_Request]], most: int) -> list[_Request]:
    """Remove the oldest request and those that go with it."""
    shape = _oldest(waiting)
    queued = waiting[shape]
    batch = [queued.popleft() for _ in range(min(most, len(queued)))]
    if not queued:
        del waiting[shape]
    return batch


def _settle(outcomes: list[_Outcome]) -> None:
    """Hand the outcomes over, unless nobody waits for them any more, and empty the list."""
    for request, outcome in outcomes:
        _set(request.reply, outcome)
    outcomes.clear()


def _set(reply: Future[Any], outcome: Reply | list[Reply] | Exception) -> None:
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            reply.set_exception(outcome)
        else:
            reply.set_result(outcome)
