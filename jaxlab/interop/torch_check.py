"""Logit parity between a checkpoint directory, as PyTorch runs it, and the decoder.

Needs the `torch` extra.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.interop import directory
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

    Args:
        hf_dir: checkpoint directory, as `hf.save` writes it.
        config: of the decoder.
        params: of the decoder.
        prompts: token ids; rows may differ in length, each has at least one token.
        max_difference: largest absolute difference of a logit that passes.

    Returns:
        What `parity.json` in `hf_dir` then holds: max_abs_difference, mean_abs_difference,
        argmax_agreement (share of positions where both models' likeliest token is the same),
        positions, max_difference, passed, and versions.

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
    decoder = Decoder(dataclasses.replace(config, dtype="float32"))
    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(decoder.apply)({"params": params}, jnp.asarray(tokens)))[valid]

    model = transformers.AutoModelForCausalLM.from_pretrained(
        hf_dir, dtype=torch.float32, trust_remote_code=directory.carries_our_code(Path(hf_dir))
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
