"""From a work directory to a HuggingFace directory."""

import importlib.util
import logging
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from jaxlab.config import ConfigError
from jaxlab.interop import directory, hf, models, torch_check
from jaxlab.interop.families import DeltaFamily
from jaxlab.interop.hf import DType
from jaxlab.models.decoder import DecoderConfig
from jaxlab.models.stacking import unscan
from jaxlab.runtime import mesh as mesh_lib
from jaxlab.runtime.checkpoint import Checkpointer

# In float32, both models on the same stored numbers.
MAX_DIFFERENCE = 2e-4

logger = logging.getLogger(__name__)


class ParityError(RuntimeError):
    """The written model does not compute in PyTorch what it computes here."""


def export(
    workdir: pathlib.Path,
    out: pathlib.Path,
    step: int | None = None,
    dtype: DType | None = None,
    check: bool = False,
    family: DeltaFamily | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write the params of a checkpoint as safetensors, with config.json and tokenizer.

    Args:
        workdir: the run.
        out: the new directory; an earlier export there is replaced, anything else is refused.
        step: of the checkpoint; None is the newest good one.
        dtype: of the written tensors; None keeps the params' own.
        check: compare logits with PyTorch.
        family: of a model with gated-delta layers; None is that of the directory from which the run
            started, or our own, fg2_gdn.
        overwrite: replace `out` whatever it holds, but for a run.

    Returns:
        `out`.

    Raises:
        ConfigError, CheckpointError: the directory holds no run, or no good checkpoint.
        CheckpointFormatError: the family has no such model.
        FileExistsError: `out` holds other files than a model's, a run or the current directory.
        ImportError: PyTorch or transformers, which `check` needs, is not installed.
        ParityError: PyTorch's logits differ.
    """
    out = check_out(out, workdir, overwrite=overwrite)
    _check_single(workdir)
    if check and not can_compare():
        raise ImportError(
            "comparing with PyTorch needs torch and transformers: pip install 'jaxlab[torch]'"
        )
    config = models.read_run(workdir)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        params = checkpointer.restore_params(step)
    config, params = unscan(config, params)
    described = workdir / "model"
    like = described if (described / "config.json").exists() else None
    # A model of token ids that stand for no text has none.
    words = described if (described / "tokenizer.json").exists() else None
    hf.save(
        out,
        config,
        params,
        family=family,
        dtype=dtype,
        like=like,
        tokenizer_from=words,
        overwrite=overwrite,
    )
    if check and mesh_lib.is_main():
        _compare(out, config)
    return out


def check_out(
    out: pathlib.Path,
    workdir: pathlib.Path,
    runs: Iterable[pathlib.Path] = (),
    overwrite: bool = False,
) -> pathlib.Path:
    """Check that `out` can be made, or replaced, without loss.

    Args:
        out: the directory to be written.
        workdir: of the run or study.
        runs: work directories of stages, which may not exist yet.
        overwrite: as in `export`.

    Returns:
        `out`, absolute.

    Raises:
        FileExistsError: it is or holds the current directory or a run, or is a part of one; or it
            holds other files than a model's and `overwrite` is false.
    """
    real = out.resolve()
    here = pathlib.Path.cwd().resolve()
    if real == here or real in here.parents:
        raise FileExistsError(
            f"{out} holds the current directory, which cannot be replaced: name a new directory, "
            "such as model_hf"
        )
    for run in (workdir, *runs):
        kept = run.resolve()
        parts = [kept / name for name in ("checkpoints", "model", "tokens")]
        if real == kept or real in kept.parents or {real, *real.parents} & set(parts):
            raise FileExistsError(
                f"{out} is a directory of the run {run}, which would be lost: name a new one, such "
                f"as {workdir}_hf"
            )
    if any(any(real.glob(name)) for name in ("checkpoints", "*/checkpoints")):
        raise FileExistsError(f"{out} holds a run, which would be lost: name a new directory")
    directory.check_replaceable(real, overwrite)
    return pathlib.Path(os.path.abspath(out))


def can_compare() -> bool:
    """Whether PyTorch and transformers are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def _check_single(workdir: pathlib.Path) -> None:
    """Check that the directory is not that of a study.

    Raises:
        ConfigError: it is; names the runs in it.
    """
    inside = sorted(path.parent.parent for path in workdir.glob("*/model/decoder.json"))
    if inside and not (workdir / "model" / "decoder.json").exists():
        raise ConfigError(
            f"{workdir} holds several runs: export one of them, --workdir={inside[0]}"
            f"{''.join(f' or {path.name}' for path in inside[1:6])}{' ...' * (len(inside) > 6)}"
        )


def _compare(out: pathlib.Path, config: DecoderConfig) -> None:
    """Run what was written in PyTorch and here."""
    _, params = hf.load(out)
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (2, 16)).tolist()
    found = torch_check.compare(out, config, params, prompts, max_difference=MAX_DIFFERENCE)
    difference = f"largest logit difference from PyTorch: {found['max_abs_difference']:.2g}"
    if not found["passed"]:
        raise ParityError(f"{out}: {difference}, more than {MAX_DIFFERENCE}")
    logger.info(difference)
