"""From a work directory to a HuggingFace directory."""

import logging
import pathlib

import numpy as np

from jaxlab.interop import hf, models, torch_check
from jaxlab.interop.families import DeltaFamily
from jaxlab.interop.hf import DType
from jaxlab.models.decoder import DecoderConfig, unscan
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

    Returns:
        `out`.

    Raises:
        ConfigError, CheckpointError: the directory holds no run, or no good checkpoint.
        CheckpointFormatError: the family has no such model.
        FileExistsError: `out` holds other files than a model's.
        ParityError: PyTorch's logits differ.
    """
    config = models.read_run(workdir)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        params = checkpointer.restore_params(step)
    config, params = unscan(config, params)
    described = workdir / "model"
    like = described if (described / "config.json").exists() else None
    # A model of token ids that stand for no text has none.
    words = described if (described / "tokenizer.json").exists() else None
    hf.save(out, config, params, family=family, dtype=dtype, like=like, tokenizer_from=words)
    if check and mesh_lib.is_main():
        _compare(out, config)
    return out


def _compare(out: pathlib.Path, config: DecoderConfig) -> None:
    """Run what was written in PyTorch and here."""
    _, params = hf.load(out)
    prompts = np.random.default_rng(0).integers(0, config.vocab_size, (2, 16)).tolist()
    found = torch_check.compare(out, config, params, prompts, max_difference=MAX_DIFFERENCE)
    difference = f"largest logit difference from PyTorch: {found['max_abs_difference']:.2g}"
    if not found["passed"]:
        raise ParityError(f"{out}: {difference}, more than {MAX_DIFFERENCE}")
    logger.info(difference)
