"""Our side of `benchmarks/loss.py`: the loss and its gradients, dense or in chunks.

With --check it compares the two at a small size and ends.
"""

import argparse
import functools
import pathlib
import resource
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
import turns

from jaxlab.losses import chunked_vocab, distillation
from jaxlab.losses.divergences import log_probs
from jaxlab.losses.methods.aopd import Aopd
from jaxlab.losses.methods.gkd import FullReverseKl, Gkd
from jaxlab.losses.methods.opd import Opd
from jaxlab.losses.types import Tokens

METHODS = {
    "aopd": Aopd(),
    "gkd": Gkd(),
    "opd": Opd(),
    "full_reverse_kl": FullReverseKl(),
}


def main() -> None:
    """Serve steps of one form of one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("vocab", "tokens", "hidden"):
        parser.add_argument(f"--{name}", type=int, default=64)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--form", choices=("dense", "chunked"), default="chunked")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        check_parity(args.method)
        return
    inputs = jax.block_until_ready(make_inputs(args.vocab, args.tokens, args.hidden))
    before, one_step = peak_mib(), step(args.form, args.method)

    def run() -> dict[str, Any]:
        (loss, _), _ = jax.block_until_ready(one_step(inputs))
        return {"loss": float(loss), "added_mib": peak_mib() - before}

    turns.serve(run, {"jax": jax.__version__})


def peak_mib() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_inputs(vocab: int, tokens: int, hidden: int) -> dict[str, jax.Array]:
    """Random hidden states, unembeddings and tokens; logits have a standard deviation of 1."""
    keys = jax.random.split(jax.random.key(0), 5)
    return {
        "student_hidden": jax.random.normal(keys[0], (1, tokens, hidden)) / hidden**0.5,
        "student_unembedding": jax.random.normal(keys[1], (vocab, hidden)),
        "teacher_hidden": jax.random.normal(keys[2], (1, tokens, hidden)) / hidden**0.5,
        "teacher_unembedding": jax.random.normal(keys[3], (vocab, hidden)),
        "tokens": jax.random.randint(keys[4], (1, tokens), 0, vocab),
        "mask": jnp.ones((1, tokens), bool),
    }


def dense(method, student_hidden, student_unembedding, teacher_hidden, teacher_unembedding, **rest):
    """`chunked_vocab.loss` with the logits of all tokens at once."""
    student_logp = log_probs(student_hidden @ student_unembedding.T)
    teacher_logp = log_probs(teacher_hidden @ teacher_unembedding.T)
    return distillation.distill(method, student_logp, teacher_logp, **rest)


def chunked(
    method,
    student_hidden,
    student_unembedding,
    teacher_hidden,
    teacher_unembedding,
    tokens,
    mask,
):
    """As the trainer does it: the teacher's view first, unless all of its distribution is used."""
    teacher, view = (teacher_hidden, teacher_unembedding), None
    if method.needs.teacher != "full":
        view = chunked_vocab.teacher_view(method.needs, *teacher, tokens)
    return chunked_vocab.loss(
        method,
        student_hidden,
        student_unembedding,
        Tokens(tokens=tokens, teacher=view),
        mask,
        teacher=teacher if view is None else None,
    )


def step(form: str, method: str):
    """Jitted: inputs -> ((loss, metrics), gradients in student hidden states and unembedding)."""
    function = dense if form == "dense" else chunked
    loss = functools.partial(function, METHODS[method])

    def of_student(student, rest):
        return loss(**student, **rest)

    def run(inputs):
        names = ("student_hidden", "student_unembedding")
        student = {name: inputs[name] for name in names}
        rest = {name: x for name, x in inputs.items() if name not in names}
        return jax.value_and_grad(of_student, has_aux=True)(student, rest)

    return jax.jit(run)


def check_parity(method: str) -> None:
    """Raises an AssertionError unless dense and chunked agree at a small size."""
    inputs = make_inputs(vocab=512, tokens=37, hidden=16)
    ((loss, metrics), grads), other = (step(form, method)(inputs) for form in ("dense", "chunked"))
    # The dense form measures more.
    metrics = {name: metrics[name] for name in other[0][1]}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        ((loss, metrics), grads),
        other,
    )


if __name__ == "__main__":
    main()
