"""From a work directory to a HuggingFace directory."""

import logging
import pathlib

import numpy as np

from jaxlab.interop import hf, torch_check
from jaxlab.models.decoder import unscan
from jaxlab.runtime.checkpoint import Checkpointer
from jaxlab.trainers import models

logger = logging.getLogger(__name__)


def export(
    workdir: pathlib.Path,
    out: pathlib.Path,
    step: int | None = None,
    dtype: str | None = None,
    check: bool = False,
) -> pathlib.Path:
    """Write the params of a checkpoint as safetensors, with config.json and tokenizer.

    Args:
        workdir: the run.
        out: the new directory; an earlier export there is replaced.
        step: of the checkpoint; None is the newest good one.
        dtype: of the written tensors; None keeps the params' own.
        check: compare logits with PyTorch.

    Returns:
        `out`.

    Raises:
        ConfigError, CheckpointError: the directory holds no run, or no good checkpoint.
    """
    config = models.read_run(workdir)
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        params = checkpointer.restore_params(step)
    config, params = unscan(config, params)
    described = workdir / "model"
    like = described if (described / "config.json").exists() else None
    hf.save(out, config, params, dtype=dtype, like=like, tokenizer_from=described, overwrite=True)
    if check:
        prompts = np.random.default_rng(0).integers(0, config.vocab_size, (2, 16))
        found = torch_check.compare(out, config, params, prompts, max_difference=2e-4)
        logger.info("largest logit difference from PyTorch: %.2g", found["max_difference"])
    return out
