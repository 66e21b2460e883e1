"""Processor time and memory of distillation losses with gradients, by what they ask of a teacher.

    python benchmarks/method_cost.py [--vocab=32768 --tokens=1536 --width=128 --repeats=5]

Forms take turns; the time is that of all threads of the process, so that other programs disturb it
little. Memory is what XLA reserves for temporaries of the compiled program.

- whole: the teacher's hidden states are unembedded at each update, with the divergences of both
  distributions; every method once worked so;
- view: the teacher is read once (`teacher_view`), then the update;
- update: the update alone, which is what each further update on a batch costs.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from jaxlab.losses import chunked_vocab
from jaxlab.losses.methods.names import METHODS
from jaxlab.losses.types import Tokens

# Method and form.
ROWS = (
    ("full_reverse_kl", "whole"),
    ("full_reverse_kl", "update"),
    ("opd", "whole"),
    ("opd", "view"),
    ("opd", "update"),
    ("aopd", "whole"),
    ("aopd", "view"),
    ("aopd", "update"),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("vocab", 32_768), ("tokens", 1536), ("width", 128), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    inputs = make_inputs(args.vocab, args.tokens, args.width)
    programs = {}
    for method, form in ROWS:
        function, arguments = prepared(method, form, inputs)
        programs[method, form] = jax.jit(function).lower(*arguments).compile(), arguments
    seconds: dict[tuple[str, str], list[float]] = {row: [] for row in programs}
    for turn in range(args.repeats + 1):
        for row, (program, arguments) in programs.items():
            begin = time.process_time()
            jax.block_until_ready(program(*arguments))
            if turn:  # the first one touches its memory
                seconds[row].append(time.process_time() - begin)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, V = {args.vocab:,}, ", end="")
    print(f"{args.tokens} tokens, width {args.width}, {args.repeats} turns\n")
    print(
        "| method | form | CPU seconds, least | median | temporaries, MiB |\n|---|---|---|---|---|"
    )
    for row, (program, _) in programs.items():
        times = sorted(seconds[row])
        memory = program.memory_analysis().temp_size_in_bytes / 2**20
        median = times[len(times) // 2]
        print(f"| {' | '.join(row)} | {times[0]:.2f} | {median:.2f} | {memory:.0f} |")


def make_inputs(vocab: int, tokens: int, width: int) -> dict[str, jax.Array]:
    """Random hidden states, unembeddings and tokens; logits have a standard deviation of 1."""
    keys = jax.random.split(jax.random.key(0), 5)
    return {
        "hidden": jax.random.normal(keys[0], (1, tokens, width)) / width**0.5,
        "unembedding": jax.random.normal(keys[1], (vocab, width)),
        "teacher_hidden": jax.random.normal(keys[2], (1, tokens, width)) / width**0.5,
        "teacher_unembedding": jax.random.normal(keys[3], (vocab, width)),
        "tokens": jax.random.randint(keys[4], (1, tokens), 0, vocab),
    }


def prepared(name: str, form: str, inputs: dict[str, jax.Array]):
    """A function that makes the loss and the student's gradients, and its arguments."""
    method = METHODS[name]()
    mask = jnp.ones(inputs["tokens"].shape, bool)

    def view(inputs):
        teacher = inputs["teacher_hidden"], inputs["teacher_unembedding"]
        return chunked_vocab.teacher_view(method.needs, *teacher, inputs["tokens"])

    def gradients(inputs, known):
        whole = known is None
        teacher = (inputs["teacher_hidden"], inputs["teacher_unembedding"]) if whole else None

        def loss(student):
            return chunked_vocab.loss(
                method,
                *student,
                Tokens(tokens=inputs["tokens"], teacher=known),
                mask,
                teacher=teacher,
                statistics=form == "whole",
            )

        student = inputs["hidden"], inputs["unembedding"]
        return jax.value_and_grad(loss, has_aux=True)(student)

    if form == "whole" or method.needs.teacher == "full":
        return lambda inputs: gradients(inputs, None), (inputs,)
    if form == "view":
        return lambda inputs: gradients(inputs, view(inputs)), (inputs,)
    return gradients, (inputs, jax.jit(view)(inputs))


if __name__ == "__main__":
    main()
