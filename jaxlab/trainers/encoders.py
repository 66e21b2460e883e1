"""Frozen encoders of image pairs and clips, as `jaxlab.evals.feature_store.extract` wants them.

An encoder of your own is a file with one function:

    def encoder():
        '''Returns (key, prepare, encode).'''
        def prepare(frames): ...   # uint8 [F, H, W, 3] -> array, in threads
        def encode(batch): ...     # arrays [B, ...] -> features [B, F, N, D]
        return "mine-1", prepare, encode
"""

import dataclasses
import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlab import config as config_lib
from jaxlab.config import by
from jaxlab.evals.feature_store import Encoder, EncoderOptions
from jaxlab.interop import vision
from jaxlab.interop.image_processor import Processor
from jaxlab.models import vision as vision_lib
from jaxlab.models.image_pairs import Autoencoder, Invariant
from jaxlab.models.latent_action import LatentAction
from jaxlab.models.vision import Vision
from jaxlab.runtime.checkpoint import Checkpointer

# In a work directory of the trainer "representation": what its checkpoints are of.
DESCRIPTION = "representation.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model of the trainer "representation", as its work directory describes it.

    Attributes:
        model: its options.
        size: side of the square that pixels are resized to.
        encoder: whose features it sees instead; None: pixels.
    """

    model: Annotated[LatentAction | Autoencoder | Invariant, by("name")]
    size: int
    encoder: EncoderOptions | None = None


def load(options: EncoderOptions) -> Encoder:
    """The encoder that the options name.

    Raises:
        ConfigError: the path is none of an encoder.
        CheckpointFormatError: a HuggingFace directory is damaged or of another kind.
    """
    if options.path is None:
        raise config_lib.ConfigError(
            "encoder.path is not given: a HuggingFace directory, a work directory of training, or "
            "a file PATH.py; --config.encoder=None takes the features of the files"
        )
    path = Path(options.path).expanduser()
    if path.suffix == ".py":
        return _own(path, options)
    if not path.is_dir():
        raise config_lib.ConfigError(
            f"encoder.path: {path} is no directory: give a HuggingFace directory (hf download NAME "
            "--local-dir DIR), a work directory of training, or a file PATH.py"
        )
    if (path / DESCRIPTION).exists():
        return _trained(path, options)
    return _pretrained(path, options)


def sees_clips(options: EncoderOptions) -> bool:
    """Whether the encoder is a pretrained one that sees frames together.

    Raises:
        CheckpointFormatError: the directory's config.json is damaged or of another kind.
    """
    path = Path(options.path or "").expanduser()
    if path.suffix == ".py" or (path / DESCRIPTION).exists():
        return False
    return vision.inspect(path).frames > 1


def _pretrained(path: Path, options: EncoderOptions) -> Encoder:
    _refuse_stage(options, path)
    found = vision.load(path)
    processor = found.processor if options.size is None else found.processor.square(options.size)
    config, params = found.config, found.params
    if options.skip:
        config, params = vision_lib.shorter(config, params, options.skip)
    module = Vision(config)
    apart = options.apart or config.frames == 1

    def encode(params: Any, x: jax.Array) -> jax.Array:
        rows, frames = x.shape[:2]
        if apart:
            x = x.reshape(rows * frames, *x.shape[2:])
            if config.frames > 1:
                x = jnp.repeat(x[:, None], config.frames, 1)
        tokens: Any = module.apply({"params": params}, x)
        tokens = tokens[:, config.prefix :]
        groups = frames if apart else max(frames // config.frames, 1)
        found: jax.Array = tokens.reshape(rows, groups, -1, tokens.shape[-1])
        return found

    return _frozen(options, found.key, prepare(processor), encode, params)


def _trained(path: Path, options: EncoderOptions) -> Encoder:
    about = config_lib.build(
        Trained, config_lib.load_json(path / DESCRIPTION), str(path / DESCRIPTION)
    )
    with Checkpointer(path / "checkpoints") as checkpointer:
        step = checkpointer.latest()
        if step is None:
            raise config_lib.ConfigError(f"encoder.path: the run {path} has no checkpoint yet")
        params = checkpointer.restore_params()
    _refuse_layers(options, f"{path} was trained here")
    if options.size not in (None, about.size):
        raise config_lib.ConfigError(
            f"encoder.size: {options.size}, but {path} was trained on images of {about.size}:"
            " give that"
        )
    inner = None if about.encoder is None else load(about.encoder)
    module = about.model.module()

    def encode(params: Any, x: jax.Array) -> jax.Array:
        found: Any = module.apply({"params": params}, x, options.stage, method="features")
        return found

    stat = sorted((path / "checkpoints" / str(step)).rglob("*"))
    files = [(f.name, f.stat().st_mtime_ns) for f in stat if f.is_file()]
    key = json.dumps([config_lib.to_json(about), step, files])
    if inner is None:
        return _frozen(options, key, prepare(Processor().square(about.size)), encode, params)
    whole = _frozen(options, key + inner.key, inner.prepare, encode, params)
    return dataclasses.replace(
        whole, encode=lambda x: whole.encode(np.asarray(inner.encode(x), np.float32))
    )


def _own(path: Path, options: EncoderOptions) -> Encoder:
    if not path.is_file():
        raise config_lib.ConfigError(f"encoder.path: {path}: no such file")
    _refuse_layers(options, f"{path} is a file of your own")
    _refuse_stage(options, path)
    found = runpy.run_path(str(path)).get("encoder")
    if found is None:
        raise config_lib.ConfigError(f"encoder.path: {path} has no function encoder()")
    key, prepare, encode = found()
    key = hashlib.sha256(json.dumps([str(key), path.read_text()]).encode()).hexdigest()[:16]
    return Encoder(key, options.batch, np.dtype(options.store), prepare, encode)


def _refuse_layers(options: EncoderOptions, cause: str) -> None:
    if options.skip or options.apart:
        raise config_lib.ConfigError(f"encoder: skip and apart are of pretrained models; {cause}")


def _refuse_stage(options: EncoderOptions, path: Path) -> None:
    if options.stage != EncoderOptions.stage:
        raise config_lib.ConfigError(
            f"encoder.stage: {options.stage} is of latent action models, and {path} is none"
        )


def prepare(processor: Processor) -> Callable[[np.ndarray], np.ndarray]:
    """What is done to the frames of a row: [F, h, w, 3] of uint8[F, H, W, 3]."""
    return lambda frames: np.stack([processor(frame) for frame in frames])


def pixels(prepare: Callable[[np.ndarray], np.ndarray], size: int) -> Encoder:
    """No encoder: the prepared pixels are the features."""
    return Encoder(f"pixels-{size}", 64, np.dtype(np.float16), prepare, lambda x: x)


def _frozen(
    options: EncoderOptions,
    key: str,
    prepare: Callable[[np.ndarray], np.ndarray],
    encode: Callable[[Any, jax.Array], jax.Array],
    params: Any,
) -> Encoder:
    """Jitted over this process's devices: rows are divided, parameters are on each of them."""
    devices = np.array(jax.local_devices())
    mesh = Mesh(devices, ("data",))
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    params = jax.device_put(params, everywhere)
    compiled = jax.jit(encode, out_shardings=rows)
    taken = dataclasses.asdict(options)
    taken = {name: taken[name] for name in ("size", "skip", "apart", "stage")}
    digest = hashlib.sha256(json.dumps([key, taken], sort_keys=True).encode()).hexdigest()[:16]
    batch = -(-options.batch // len(devices)) * len(devices)

    def run(prepared: np.ndarray) -> jax.Array:
        return compiled(params, jax.device_put(prepared, rows))

    return Encoder(digest, batch, np.dtype(options.store), prepare, run)
