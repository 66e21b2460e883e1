"""Our side of `benchmarks/training.py`: a step of `jaxlab.trainers.distill` at each request.

With --check it compares the losses with float64 NumPy and ends.
"""

import argparse
import pathlib
import sys
import tempfile
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import turns
from distillation_work import MICROBATCH, NEW_TOKENS, PROMPT, PROMPTS, SAMPLES, work

from jaxlab import config as config_lib
from jaxlab.losses import chunked_vocab
from jaxlab.losses.methods.aopd import Aopd
from jaxlab.losses.methods.gkd import FullReverseKl
from jaxlab.losses.types import Tokens
from jaxlab.runtime import decode_devices, host_memory
from jaxlab.runtime.mesh import start
from jaxlab.trainers import distill

LOSSES = {
    "reverse_kl": {"name": "full_reverse_kl"},
    "aopd": {"name": "aopd"},
    "opd": {"name": "opd"},
}


def main() -> None:
    """Serve steps of one loss and vocabulary, or check the losses."""
    # As the doors begin.
    host_memory.keep_freed()
    decode_devices.automatically()
    start()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--loss", choices=LOSSES, default="reverse_kl")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        check_parity()
        return
    config = config_lib.build(distill.Distill, run_config(arguments.vocab, arguments.loss))
    with tempfile.TemporaryDirectory() as directory:
        program = distill.program(config, pathlib.Path(directory))
        current, step = program.init(), 0

        def run() -> dict[str, Any]:
            nonlocal current, step
            output = program.step(current, step)
            current, step = output.state, step + 1
            host = output.host_metrics()
            loss = float(output.metrics["loss"])
            jax.block_until_ready(current)
            return {"loss": loss, "tokens": host["tokens"]}

        turns.serve(run, {"jax": jax.__version__})


def run_config(vocab: int, loss: str) -> dict[str, Any]:
    """The work as a config of `distill`."""
    shapes, addends = work(vocab), PROMPT - 1
    return {
        "student": {"sizes": shapes["student"] | {"qk_norm": True}},
        "teacher": {"sizes": shapes["teacher"] | {"qk_norm": True}},
        # Words: the numbers, a name for each addend, "=", "#", and two special tokens.
        "data": {
            "task": "modsum",
            "options": {"modulus": vocab - addends - 4, "addends": addends},
            "num_train": 4096,
            "max_prompt": PROMPT,
        },
        "train": {"steps": 1000, "microbatch": MICROBATCH},
        "optim": {"learning_rate": 1e-4},
        "loss": LOSSES[loss],
        "rollout": {"prompts": PROMPTS, "samples": SAMPLES, "max_new_tokens": NEW_TOKENS},
    }


def check_parity() -> None:
    """Raises an AssertionError unless the timed losses agree with float64 NumPy."""
    rng = np.random.default_rng(0)
    batch, length, vocab = 3, 5, 50
    student, student_table = rng.normal(size=(batch, length, 8)), rng.normal(size=(vocab, 8))
    teacher, teacher_table = rng.normal(size=(batch, length, 6)), rng.normal(size=(vocab, 6))
    tokens = rng.integers(vocab, size=(batch, length))
    mask = np.arange(length) < np.array([5, 3, 1])[:, None]
    log_s, log_t = _log_softmax(student @ student_table.T), _log_softmax(teacher @ teacher_table.T)
    reverse_kl = np.sum(np.exp(log_s) * (log_s - log_t), axis=-1)
    at_token = np.indices(tokens.shape)
    s_token, t_token = (x[at_token[0], at_token[1], tokens] for x in (log_s, log_t))
    top = np.argsort(-log_t, axis=-1)[..., :32]
    top_s, top_t = (np.take_along_axis(x, top, axis=-1) for x in (log_s, log_t))
    guided = np.sum(np.exp(top_t) * (top_t - top_s), axis=-1) / 32
    aopd = np.where(t_token <= s_token, guided, -(t_token - s_token) * s_token)
    arrays = [jnp.asarray(x, jnp.float32) for x in (student, student_table, teacher, teacher_table)]
    for method, losses in (
        (FullReverseKl(), reverse_kl),
        (Aopd(), aopd),
    ):
        wanted = np.mean([row[counts].mean() for row, counts in zip(losses, mask, strict=True)])
        loss, _ = chunked_vocab.loss(
            method,
            *arrays[:2],
            Tokens(tokens=jnp.asarray(tokens)),
            jnp.asarray(mask),
            teacher=(arrays[2], arrays[3]),
            chunk_size=4,
        )
        np.testing.assert_allclose(float(loss), wanted, rtol=2e-5, err_msg=repr(method))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


if __name__ == "__main__":
    main()
