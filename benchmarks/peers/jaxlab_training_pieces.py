"""The pieces of our step that `benchmarks/training.py` times, one at each request.

FLOPs of a model: 2 N per token forward, 6 N forward and backward, N without the embedding table,
plus attention.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import turns
from distillation_work import MICROBATCH, NEW_TOKENS, PROMPT, PROMPTS, SAMPLES, work

from jaxlab import config as config_lib
from jaxlab.losses import chunked_vocab
from jaxlab.losses.aggregate import per_token, summarise
from jaxlab.losses.methods.gkd import FullReverseKl
from jaxlab.losses.types import Tokens
from jaxlab.models.decoder import Decoder, unembedding
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.policy import Policy, Rollout, response_hidden
from jaxlab.runtime import decode_devices, host_memory
from jaxlab.runtime.mesh import make_mesh, start
from jaxlab.sampling import SamplingConfig
from jaxlab.trainers import microbatch, optim, state


def main() -> None:
    """Serve the pieces at one vocabulary size; without a name the reply is all names and FLOPs."""
    # As the doors begin.
    host_memory.keep_freed()
    decode_devices.automatically()
    start()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=512)
    timed = pieces(parser.parse_args().vocab)

    def run(piece: str | None = None) -> dict[str, Any]:
        if piece is None:
            return {name: flops for name, (_, flops) in timed.items()}
        jax.block_until_ready(timed[piece][0]())
        return {}

    turns.serve(run, {"jax": jax.__version__})


def pieces(vocab: int) -> dict[str, tuple[Callable[[], Any], float | None]]:
    """The parts of a step, with their model FLOPs where those are known."""
    shapes = work(vocab)
    student, teacher = (
        Decoder(config_lib.build(Sizes, shapes[name] | {"qk_norm": True}).decoder())
        for name in ("student", "teacher")
    )
    tokens = PROMPTS * SAMPLES * NEW_TOKENS
    prompts = jax.random.randint(jax.random.key(0), (PROMPTS, PROMPT), 2, vocab)
    student_params, teacher_params = (
        jax.jit(model.init)(jax.random.key(seed), prompts)["params"]
        for seed, model in enumerate((student, teacher))
    )
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, stop_ids=(1,), num_samples=SAMPLES)
    policy = Policy(student, sampling, make_mesh({"data": -1}), pad_id=0)
    answer = functools.partial(policy, prompts=np.asarray(prompts).tolist(), key=jax.random.key(2))
    rollout = answer(student_params)
    optimizer = optim.make(optim.Optim(learning_rate=1e-4), 1000)
    # As the trainer does it: microbatches of whole groups of completions of one prompt.
    parts, group = PROMPTS * SAMPLES // MICROBATCH, math.gcd(MICROBATCH, SAMPLES)
    read = functools.partial(response_hidden, samples=group)

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model: Decoder, params: Any, r: Rollout) -> jax.Array:
        return microbatch.over_parts(functools.partial(read, model, params), r, parts, group)

    student_hidden = forward(student, student_params, rollout)
    seen = forward(teacher, teacher_params, rollout)

    # Whatever is not an argument, XLA would compute once and for all while compiling.
    def loss(params: Any, batch: tuple[jax.Array, jax.Array, Rollout], teacher_params: Any) -> Any:
        hidden, seen, r = batch
        return chunked_vocab.loss(
            FullReverseKl(),
            hidden,
            unembedding(params),
            Tokens(tokens=r.response),
            r.mask,
            teacher=(seen, unembedding(teacher_params)),
            denominator=PROMPTS * SAMPLES,
            summary=per_token,
        )

    def update(current: state.TrainState, seen: jax.Array, r: Rollout, teacher_params: Any) -> Any:
        def of_part(params: Any, part: tuple[jax.Array, Rollout]) -> Any:
            hidden = read(student, params, part[1])
            return loss(params, (hidden, *part), teacher_params)

        (value, stats), grads = microbatch.value_and_grad(
            of_part, current.params, (seen, r), parts, group
        )
        new = state.apply_gradients(current, grads, value, optimizer, False)[0]
        return new, summarise(value, stats, r.mask)

    def body_gradient(params: Any, cotangent: jax.Array, r: Rollout) -> Any:
        def of_part(params: Any, part: tuple[jax.Array, Rollout]) -> Any:
            return jnp.sum(read(student, params, part[1]) * part[0]), ()

        return microbatch.value_and_grad(of_part, params, (cotangent, r), parts, group)

    def loss_gradient(params: Any, batch: Any, teacher_params: Any) -> Any:
        def of_part(inputs: Any, part: Any) -> Any:
            return loss(inputs[0], (inputs[1], *part), teacher_params)

        return jax.grad(of_part, has_aux=True)((params, batch[0]), batch[1:])

    def optimize(current: state.TrainState) -> state.TrainState:
        grads = current.params
        return state.apply_gradients(current, grads, jnp.zeros(()), optimizer, False)[0]

    current = state.create(student_params, optimizer)
    square = jax.random.normal(jax.random.key(3), (2048, 2048))
    flops = functools.partial(model_flops, rollout=rollout)
    widths = student.config.hidden_size, teacher.config.hidden_size
    return {
        "matmul 2048^3": (bind(jnp.matmul, square, square), 2.0 * 2048**3),
        "rollout": (lambda: answer(student_params), None),
        "teacher forward": (
            functools.partial(forward, teacher, teacher_params, rollout),
            flops(teacher, teacher_params, backward=False, unembeds=False),
        ),
        "student update": (
            bind(update, current, seen, rollout, teacher_params),
            flops(student, student_params, backward=True, unembeds=True)
            + 2.0 * tokens * vocab * widths[1],
        ),
        "  body, forward": (
            functools.partial(forward, student, student_params, rollout),
            flops(student, student_params, backward=False, unembeds=False),
        ),
        "  body, gradient": (
            bind(body_gradient, student_params, student_hidden, rollout),
            flops(student, student_params, backward=True, unembeds=False),
        ),
        "  loss, gradient": (
            bind(loss_gradient, student_params, (student_hidden, seen, rollout), teacher_params),
            # The student's logits and their two gradients, and the teacher's logits.
            2.0 * tokens * vocab * (3 * widths[0] + widths[1]),
        ),
        "  optimizer": (bind(optimize, current), None),
    }


def bind(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """The jitted function with these arguments."""
    return functools.partial(jax.jit(function), *args)


def model_flops(
    decoder: Decoder, params: Any, *, rollout: Rollout, backward: bool, unembeds: bool
) -> float:
    """2 N per token and the causal half of the attention, three times that with a backward pass.

    Only completion tokens are unembedded.
    """
    c = Sizes.of(decoder.config)
    rows, width = rollout.tokens.shape[0], rollout.prompt_width
    table = c.vocab_size * c.hidden_size
    # A prompt is read once for the completions of it that a microbatch has side by side.
    flops, first = 0.0, 0
    for count, length in ((rows / math.gcd(MICROBATCH, SAMPLES), width), (rows, NEW_TOKENS - 1)):
        seen = length * (first + (length + 1) / 2)
        attention = 4 * c.num_layers * c.num_heads * c.head_dim * seen
        flops += count * (2.0 * length * (matmul_params(params) - table) + attention)
        first += length
    if unembeds:
        flops += 2.0 * rows * rollout.response.shape[1] * table
    return 3.0 * flops if backward else flops


def matmul_params(params: Any) -> int:
    """N: entries of what every token is multiplied with; in the embedding it is looked up."""
    return sum(
        leaf.size
        for name, part in params.items()
        if name != "embed"
        for leaf in jax.tree.leaves(part)
    )


if __name__ == "__main__":
    main()
