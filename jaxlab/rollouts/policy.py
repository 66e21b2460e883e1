"""A policy is a decoder that answers prompts: params and token ids in, a `Rollout` out."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab.data.batch import right_pad
from jaxlab.models.decoder import Decoder, Params, left_padded
from jaxlab.nn.routing import Balance, balance
from jaxlab.runtime.decode_devices import mesh_for
from jaxlab.runtime.mesh import host_batch_slice, put_global
from jaxlab.runtime.sharding import Rules, ambient, infer
from jaxlab.sampling import SamplingConfig, generate
from jaxlab.sampling.caches import Dense
from jaxlab.sampling.caches.channels import Channels
from jaxlab.sampling.offload import Stats


class Rollout(NamedTuple):
    """Completions of a batch of prompts, all arrays on the device.

    Attributes:
        tokens: int32 [B, W + N], the left-padded prompt, then the completion.
        lengths: int32 [B], tokens of each prompt.
        response: int32 [B, N], the completion.
        mask: bool [B, N], True up to and including the stop token.
        logprobs: float32 [B, N], the sampler's log-probability of each token.
        stopped: bool [B], False where the completion was cut off by its length.
        offload: what off-loaded caches moved; None where there are none.
        choices: int32 [B, N, A], the words among which each token was drawn, by which its
            log-probability is counted; -1 in the first place: among all. None: all were.
    """

    tokens: jax.Array
    lengths: jax.Array
    response: jax.Array
    mask: jax.Array
    logprobs: jax.Array
    stopped: jax.Array
    offload: Stats | None = None
    choices: jax.Array | None = None

    @property
    def prompt_width(self) -> int:
        """W."""
        return self.tokens.shape[1] - self.response.shape[1]


class Policy:
    """Samples completions from a decoder on a mesh."""

    def __init__(
        self,
        decoder: Decoder,
        sampling: SamplingConfig,
        mesh: Mesh,
        pad_id: int,
        rules: Rules | None = None,
        channels: Channels | None = None,
    ):
        """Fix everything but the params and the prompts.

        Args:
            decoder: the model.
            sampling: how completions are drawn.
            mesh: where; prompts are split over its "data" axis.
            pad_id: fills up prompts and completions.
            rules: the params are laid out by them before decoding; None leaves them as they are.
            channels: calibrated ones, for attention that wants them.
        """
        self._decoder, self._sampling, self._mesh, self._pad_id = decoder, sampling, mesh, pad_id
        self._rules, self._channels = rules, channels

    def __call__(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        key: jax.Array,
        choices: np.ndarray | None = None,
    ) -> Rollout:
        """Complete each prompt `sampling.num_samples` times.

        Args:
            params: the decoder's.
            prompts: token ids; the same list in every process.
            key: row r, sample j, token t has randomness of its own under it; or keys [prompts], one
                for each row, as in `sampling.generate`.
            choices: int32 [prompts, A, L], see `sampling.generate`; the rollout does not hold them.

        Returns:
            A rollout with B = len(prompts) * num_samples rows, prompt-major.
        """
        width = self._sampling.prompt_width(max(len(prompt) for prompt in prompts))
        given = right_pad(prompts, width, self._pad_id)
        mine = host_batch_slice(len(prompts), self._mesh)
        rows, lengths = put_global(tuple(x[mine] for x in given), self._mesh)
        channels = self._channels
        split = mesh_for(self._mesh, params, len(prompts), self._sampling.num_samples)
        if split is not None:
            out = generate(
                self._decoder, params, *given, key, self._sampling, split, channels, choices
            )
            out = jax.device_put(out, NamedSharding(self._mesh, PartitionSpec()))
        else:
            if self._rules is not None:
                params = jax.device_put(params, infer(params, self._rules, self._mesh))
            if choices is not None:
                choices = put_global(choices[mine], self._mesh)
            with ambient(self._mesh):
                out = generate(
                    *(self._decoder, params, rows, lengths, key, self._sampling),
                    channels=channels,
                    choices=choices,
                )
        rollout = _assemble(
            rows, lengths, out.tokens, out.lengths, out.logprobs, out.stopped, pad_id=self._pad_id
        )
        return rollout._replace(offload=out.offload)

    def given(self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> Rollout:
        """A rollout of completions that somebody else wrote, in the shapes of sampled ones.

        Args:
            prompts: token ids; the same list in every process.
            texts: token ids of completions: one for each prompt, taken `sampling.num_samples`
                times, or as many for each. One of more than `sampling.max_new_tokens` is cut off
                there.

        Returns:
            As of a call; `logprobs` are 0, since nobody sampled, and `stopped` is False where a
            completion is cut off, here or before: it has no stop token at its end.
        """
        width = self._sampling.prompt_width(max(map(len, prompts)))
        longest, stops = self._sampling.max_new_tokens, self._sampling.stop_ids
        rows = right_pad(prompts, width, self._pad_id)
        if len(texts) == len(prompts):
            texts = [text for text in texts for _ in range(self._sampling.num_samples)]
        cut = [text[:longest] for text in texts]
        response, lengths = right_pad(cut, longest, self._pad_id)
        stopped = np.array([len(text) <= longest and text[-1] in stops for text in texts])
        no_logprobs = np.zeros(response.shape, np.float32)

        def placed(count: int, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
            mine = host_batch_slice(count, self._mesh)
            return put_global(tuple(x[mine] for x in arrays), self._mesh)

        return _assemble(
            *placed(len(prompts), *rows),
            *placed(len(cut), response, lengths, no_logprobs, stopped),
            pad_id=self._pad_id,
        )


@functools.partial(jax.jit, static_argnames="pad_id")
def _assemble(
    prompts: jax.Array,
    lengths: jax.Array,
    response: jax.Array,
    response_lengths: jax.Array,
    logprobs: jax.Array,
    stopped: jax.Array,
    *,
    pad_id: int,
) -> Rollout:
    """Join right-padded prompts [P, W] and completions [P * n, N]."""
    width = prompts.shape[1]
    column = jnp.arange(width) - (width - lengths)[:, None]
    shifted = jnp.take_along_axis(prompts, jnp.maximum(column, 0), axis=1)
    left = jnp.where(column >= 0, shifted, pad_id)
    samples = response.shape[0] // prompts.shape[0]
    tokens = jnp.concatenate([jnp.repeat(left, samples, axis=0), response], axis=1)
    mask = jnp.arange(response.shape[1]) < response_lengths[:, None]
    return Rollout(
        tokens, jnp.repeat(lengths, samples), response, mask, logprobs, stopped.astype(bool)
    )


def cropped(rollout: Rollout, multiple: int) -> Rollout:
    """The rollout without the columns behind its longest completion, rounded up to a multiple.

    Reading a batch costs as much as its widest row, and most batches end well before the limit.
    Few widths, so that few programs are compiled.
    """
    width = rollout.response.shape[1]
    longest = int(jnp.max(jnp.sum(rollout.mask, axis=1)))
    excess = width - min(width, -(-longest // multiple) * multiple)
    if not excess:
        return rollout
    cut = {
        name: getattr(rollout, name)[:, :-excess]
        for name in ("tokens", "response", "mask", "logprobs", "choices")
        if getattr(rollout, name) is not None
    }
    return rollout._replace(**cut)


def response_hidden(
    decoder: Decoder, params: Params, rollout: Rollout, samples: int = 1
) -> jax.Array:
    """The decoder's hidden states [B, N, d] from which each completion token is predicted.

    Args:
        decoder: the model.
        params: the decoder's.
        rollout: B completions.
        samples: so many consecutive rows have one prompt, which is read once for all of them.
    """
    return hidden_and_balance(decoder, params, rollout, samples)[0]


def hidden_and_balance(
    decoder: Decoder, params: Params, rollout: Rollout, samples: int = 1
) -> tuple[jax.Array, Balance | None]:
    """`response_hidden`, and how evenly experts were used; None where the decoder has none.

    Prompts that are read once count once, and columns behind a completion's end count where prompts
    are shared.
    """
    if samples > 1:
        return _behind_shared_prompts(decoder, params, rollout, samples)
    count = rollout.response.shape[1]
    positions, segment_ids = left_padded(rollout.tokens.shape[1], rollout.lengths + count)
    inputs = (x[:, :-1] for x in (rollout.tokens, positions, segment_ids))
    hidden, sown = _apply(decoder, params, "hidden", *inputs)
    return hidden[:, -count:], balance([sown])


def _behind_shared_prompts(
    decoder: Decoder, params: Params, rollout: Rollout, samples: int
) -> tuple[jax.Array, Balance | None]:
    """`hidden_and_balance` by way of a cache: prompts [B / samples, W], then completions [B, N]."""

    def firsts(x: jax.Array) -> jax.Array:
        return x.reshape(-1, samples, *x.shape[1:])[:, 0]

    prompts = firsts(rollout.tokens)[:, : rollout.prompt_width]
    # The last token of a completion predicts nothing.
    seen = rollout.response[:, :-1]
    slots = rollout.prompt_width + seen.shape[1]
    (last, cache), sown = _apply(
        decoder, params, "prefill", prompts, firsts(rollout.lengths), Dense(slots)
    )
    first = jnp.repeat(last, samples, axis=0)[:, None]
    if not seen.shape[1]:
        return first, balance([sown])
    (hidden, _), more = _apply(decoder, params, "extend", seen, decoder.repeat(cache, samples))
    return jnp.concatenate([first, hidden], axis=1), balance([sown, more])


def _apply(decoder: Decoder, params: Params, method: str, *args: Any) -> tuple[Any, Any]:
    """What the method returns, and what routers sowed on the way."""
    if not decoder.config.routed:
        return decoder.apply({"params": params}, *args, method=method), {}
    out, sown = decoder.apply({"params": params}, *args, method=method, mutable=["aux"])
    return out, sown.get("aux", {})


def to_host(rollout: Rollout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Completions int32 [B, N], their mask and `stopped`, as NumPy arrays in every process."""
    wanted = (rollout.response, rollout.mask, rollout.stopped)
    response, mask, stopped = multihost_utils.process_allgather(wanted, tiled=True)
    return response, mask, stopped
