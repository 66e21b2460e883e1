"""Logit parity between a checkpoint directory, as PyTorch runs it, and the decoder.

Needs the `torch` extra.
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab import json_file
from jaxlab.interop import delta_json, directory, families, fla_json
from jaxlab.models import sparse
from jaxlab.models.decoder import Decoder, DecoderConfig, Params


def compare(
    hf_dir: str | Path,
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_difference: float,
) -> dict[str, Any]:
    """Run both models on the same tokens and write the difference beside the weights.

    Both run in float32 on what is stored: transformers on the CPU, the decoder where params are.
    Python code in the directory is run where it is the code that `hf.save` writes, and only then.
    It is also what runs the tensors of flash-linear-attention's families, whose own code needs a
    GPU: that checks the tensors, and not how that package reads config.json.

    Args:
        hf_dir: checkpoint directory, as `hf.save` writes it.
        config: of the decoder; its block-sparse layers attend to all blocks here, as PyTorch's do.
        params: of the decoder.
        prompts: token ids; rows may differ in length, each has at least one token.
        max_difference: largest absolute difference of a logit that passes.

    Returns:
        What `parity.json` in `hf_dir` then holds: max_abs_difference, mean_abs_difference,
        argmax_agreement (share of positions where both models' likeliest token is the same),
        positions, max_difference, passed, model_type of the PyTorch model, and versions.

    Raises:
        ImportError: torch or transformers is not installed.
        ValueError: no prompts, an empty one, or a token outside the vocabulary.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"the comparison with PyTorch needs the torch extra ({error}): "
            "pip install 'jaxlab[torch]'"
        ) from error

    tokens, valid = _padded(prompts, config.vocab_size)
    # Padding stands at the end, where causal attention keeps it from every token that counts.
    decoder = Decoder(dataclasses.replace(sparse.dense(config), dtype="float32"))
    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(decoder.apply)({"params": params}, jnp.asarray(tokens)))[valid]

    with _runnable(Path(hf_dir)) as path:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, trust_remote_code=directory.carries_our_code(path)
        )
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(tokens).long()).logits.numpy()[valid]

    difference = np.abs(ours - theirs)
    largest = float(difference.max())
    report = {
        "max_abs_difference": largest,
        "mean_abs_difference": float(difference.mean(dtype=np.float64)),
        "argmax_agreement": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        "positions": int(valid.sum()),
        "max_difference": max_difference,
        # False for NaN too.
        "passed": largest <= max_difference,
        "model_type": model.config.model_type,
        "versions": {
            "jax": jax.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (Path(hf_dir) / directory.PARITY).write_text(
        json.dumps(report, indent=2) + "\n", encoding="utf-8"
    )
    return report


@contextlib.contextmanager
def _runnable(path: Path) -> Iterator[Path]:
    """The directory, or one with its tensors that runs on a CPU."""
    data = json_file.read(path / directory.CONFIG)
    family = families.family_of_json(data)
    if family not in fla_json.ARCHITECTURES:
        yield path
        return
    with tempfile.TemporaryDirectory() as parent:
        # transformers keeps a copy of the code under the directory's name.
        copy = Path(parent) / delta_json.MODEL_TYPE
        copy.mkdir()
        own = delta_json.to_json(families.from_json(data))
        directory.write_json(copy / directory.CONFIG, own)
        for file in directory.CODE_FILES:
            shutil.copyfile(file, copy / file.name)
        for file in [*path.glob("*.safetensors"), *path.glob(directory.INDEX)]:
            (copy / file.name).symlink_to(file.resolve())
        yield copy


def _padded(prompts: Sequence[Sequence[int]], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [B, T], zero after each prompt's end, and bool [B, T], True on the prompts."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("the comparison needs at least one prompt, and a token in each")
    lengths = np.array([len(prompt) for prompt in prompts])
    valid = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(valid.shape, np.int32)
    tokens[valid] = np.concatenate([np.asarray(prompt) for prompt in prompts])
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(
            f"prompts hold token {tokens.min() if tokens.min() < 0 else tokens.max()}, outside the "
            f"vocabulary of {vocab_size}"
        )
    return tokens, valid
