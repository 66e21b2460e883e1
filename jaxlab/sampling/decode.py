"""Prompts to completions: one compiled program that reads the prompts and samples to the end."""

import dataclasses
import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxlab.models.decoder import Decoder, Params
from jaxlab.sampling import steps
from jaxlab.sampling.caches import OffloadAttention
from jaxlab.sampling.caches.channels import Channels, check_channels
from jaxlab.sampling.config import SamplingConfig
from jaxlab.sampling.offload import check_device
from jaxlab.sampling.steps import Completions as Completions


def generate(
    model: Decoder,
    params: Params,
    prompts: ArrayLike,
    prompt_lengths: ArrayLike,
    key: jax.Array,
    sampling: SamplingConfig,
    mesh: Mesh | None = None,
    channels: Channels | None = None,
    choices: ArrayLike | None = None,
) -> Completions:
    """Sample completions of token prompts.

    Prefill and the whole decoding loop are one jitted function, compiled once per model, sampling
    config, batch size and padded prompt width. The random numbers of row b, sample j and token t
    are a function of (the row's key, j, t), so that a row's completion does not depend on the
    batch it is in. (That holds for threefry keys, jax's default; "rbg" keys are not stable under
    vmap.) Rows whose logits are not finite go on with token 0 and log-probability NaN.

    Args:
        model: the decoder.
        params: its parameters, without the "params" level.
        prompts: int [B, P], each row's prompt in its first columns; what stands behind is ignored.
        prompt_lengths: int [B], from 1 to P.
        key: one key, of which row b uses fold_in(key, b); or keys [B], one for each row, of which
            sample j uses fold_in(key, j); or keys [B, num_samples], used as they are.
        sampling: what to sample, and when to stop.
        mesh: split the rows evenly over the devices of its axis "data", by prompts or, where
            those do not divide, by samples too. Each device holds a copy of the params and goes
            on until its own rows have stopped; the result lies on the mesh. None: decode where
            the arguments are.
        channels: of `jaxlab.calibrate`, for sampling.attention.calibration="checkpoint".
        choices: int32 [B, A, L]: each row's completion is one of A token sequences, each with its
            stop token, and -1 behind it; a row whose choices are all -1 may write anything. A
            token is drawn, and its log-probability taken, among those that continue a choice.

    Raises:
        ValueError: shapes disagree, a length or token id is out of range, prompt and completion
            exceed the model's max_position, or the attention does not suit the model, its channels
            or the devices. Lengths of arrays that this process cannot read, and
            ids of jax arrays, are not checked.
    """
    tokens, lengths = _as_array(prompts), _as_array(prompt_lengths)
    _check(model, tokens, lengths, sampling)
    # One dtype, so that int64 and int32 inputs share one program.
    tokens, lengths = tokens.astype(np.int32), lengths.astype(np.int32)
    extra = sampling.prompt_width(tokens.shape[1]) - tokens.shape[1]
    if extra:
        xp = np if isinstance(tokens, np.ndarray) else jnp
        tokens = xp.pad(tokens, ((0, 0), (0, extra)))
    keys = _sample_keys(_typed(key), tokens.shape[0], sampling.num_samples)
    if sampling.attention.calibration == "checkpoint":
        channels = check_channels(model.config, channels, sampling.attention.channels)
    else:
        channels = None
    listed = None if choices is None else _as_array(choices).astype(np.int32)
    if listed is not None:
        _check_choices(listed, tokens.shape[0], sampling)
    by_host = _check_offload(model, sampling, mesh, tokens)
    if mesh is None or (by_host and mesh.size == 1):
        if by_host:
            task = steps.Task(params, tokens, lengths, keys, channels, listed)
            return steps.decoded_by_host(model, sampling, task)
        return _generate(model, sampling, params, tokens, lengths, keys, channels, listed)
    # Repeated prompts with fewer samples each: the order of the rows stays.
    times = (parts := mesh.shape["data"]) // math.gcd(parts, tokens.shape[0])
    if sampling.num_samples % times:
        raise ValueError(
            f"{tokens.shape[0]} prompts x {sampling.num_samples} samples do not divide evenly by "
            f"{parts} devices"
        )
    sampling = dataclasses.replace(sampling, num_samples=sampling.num_samples // times)
    tokens, lengths = np.repeat(tokens, times, axis=0), np.repeat(lengths, times, axis=0)
    keys = keys.reshape(tokens.shape[0], sampling.num_samples)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    if listed is not None:
        listed = jax.device_put(np.repeat(listed, times, axis=0), rows)
    tokens, lengths, keys = jax.device_put((tokens, lengths, keys), rows)
    task = steps.Task(params, tokens, lengths, keys, channels, listed)
    return _generate_split(model, sampling, mesh, task)


@functools.partial(jax.jit, static_argnames=("model", "sampling", "mesh"))
def _generate_split(
    model: Decoder,
    sampling: SamplingConfig,
    mesh: Mesh,
    task: steps.Task,
) -> Completions:
    """`_generate` on each device's share of the rows, without a word between devices."""

    def share(task: steps.Task) -> Completions:
        out = steps.decoded(model, sampling, task)
        return out._replace(steps=out.steps[None])

    whole, rows = PartitionSpec(), PartitionSpec("data")
    # Not checked: the loop's carry begins equal on all devices and does not stay so.
    specs: Any = steps.Task(*cast(Any, (whole, rows, rows, rows, whole, rows)))
    call = jax.shard_map(share, mesh=mesh, in_specs=(specs,), out_specs=rows, check_vma=False)
    out = call(task)
    return out._replace(steps=jnp.max(out.steps))


@functools.partial(jax.jit, static_argnames=("model", "sampling"))
def _generate(
    model: Decoder,
    sampling: SamplingConfig,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    channels: Channels | None = None,
    choices: jax.Array | None = None,
) -> Completions:
    """`steps.decoded`, compiled."""
    task = steps.Task(params, prompts, lengths, keys, channels, choices)
    return steps.decoded(model, sampling, task)


# For those who compile it ahead of time: (model, sampling, params, prompts, lengths, keys, ...).
program = _generate


def _check_offload(
    model: Decoder, sampling: SamplingConfig, mesh: Mesh | None, prompts: Any
) -> bool:
    """Whether the host moves blocks; raises a ValueError where model or devices cannot off-load."""
    attention = sampling.attention
    if not isinstance(attention, OffloadAttention):
        return False
    check_device()
    if attention.waits and model.config.scan_layers:
        raise ValueError(
            "stale=False and resync_every copy blocks inside of a layer, and the model's layers "
            "are stacked, which would copy the whole pool too: set scan_layers=False"
        )
    if mesh is not None and mesh.size > 1 and attention.engine == "hostloop":
        raise ValueError(
            f"engine is 'hostloop', which serves one device, and the mesh has {mesh.size}: use "
            "engine='injit'"
        )
    if mesh is None and isinstance(prompts, jax.Array) and len(prompts.devices()) > 1:
        raise ValueError(
            f"prompts lie on {len(prompts.devices())} devices: an off-loaded cache is of one; give "
            "`mesh`, which splits the rows"
        )
    return attention.engine == "hostloop"


@functools.partial(jax.jit, static_argnums=(1, 2))
def _fold(keys: jax.Array, batch: int, num_samples: int) -> jax.Array:
    if keys.ndim == 0:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(keys, jnp.arange(batch))
    samples = jnp.arange(num_samples)
    return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, samples))(keys)


def _sample_keys(keys: jax.Array, batch: int, num_samples: int) -> jax.Array:
    """One key, keys [B] or keys [B, num_samples] -> keys [B, num_samples]."""
    if keys.shape == (batch, num_samples):
        return keys
    if keys.shape not in ((), (batch,)):
        raise ValueError(
            f"keys have shape {keys.shape}: give one key, or keys [{batch}], or keys [{batch}, "
            f"{num_samples}]"
        )
    return _fold(keys, batch, num_samples)


def _typed(key: jax.Array) -> jax.Array:
    """Typed keys, from typed or raw ones."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(jnp.asarray(key))


def _as_array(x: ArrayLike) -> Any:
    return x if isinstance(x, jax.Array) else np.asarray(x)


def _readable(x: Any) -> bool:
    if isinstance(x, jax.core.Tracer):
        return False
    return isinstance(x, np.ndarray) or x.is_fully_addressable


def _check_choices(choices: Any, rows: int, sampling: SamplingConfig) -> None:
    if choices.ndim != 3 or choices.shape[0] != rows or not choices.shape[1]:
        raise ValueError(f"choices {choices.shape}: they must be [B, A, L] with B = {rows}")
    if choices.shape[2] > sampling.max_new_tokens:
        raise ValueError(
            f"choices of {choices.shape[2]} tokens do not fit into max_new_tokens = "
            f"{sampling.max_new_tokens}"
        )


def _check(model: Decoder, prompts: Any, lengths: Any, sampling: SamplingConfig) -> None:
    config = model.config
    if prompts.ndim != 2 or lengths.shape != prompts.shape[:1] or not prompts.shape[0]:
        raise ValueError(
            f"prompts {prompts.shape} and prompt_lengths {lengths.shape}: they must be [B, P] and "
            "[B], with B at least 1"
        )
    for name, x in (("prompts", prompts), ("prompt_lengths", lengths)):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"{name} are {x.dtype}: they must be integers")
    width = prompts.shape[1]
    words = sampling.vocab_size or config.vocab_size
    if words > config.vocab_size:
        raise ValueError(f"vocab_size is {words}, but the model's table has {config.vocab_size}")
    if any(i >= words for i in sampling.stop_ids):
        raise ValueError(f"stop_ids {sampling.stop_ids} go beyond the vocabulary of {words}")
    longest = width
    if _readable(lengths):
        lengths = np.asarray(lengths)
        bad = np.flatnonzero((lengths < 1) | (lengths > width))
        if bad.size:
            raise ValueError(
                f"prompt_lengths[{bad[0]}] is {lengths[bad[0]]}: with prompts {prompts.shape} it "
                f"must be from 1 to {width}"
            )
        longest = int(lengths.max())
        if isinstance(prompts, np.ndarray):
            real = np.arange(width) < lengths[:, None]
            outside = np.argwhere(real & ((prompts < 0) | (prompts >= config.vocab_size)))
            if outside.size:
                row, column = outside[0]
                raise ValueError(
                    f"prompts[{row}, {column}] is {prompts[row, column]}: ids must be from 0 to "
                    f"{config.vocab_size - 1}"
                )
    if longest + sampling.max_new_tokens > config.max_position:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens {sampling.max_new_tokens} exceed the "
            f"model's max_position {config.max_position}: shorten one of them"
        )
