"""Time and memory of a distillation loss with its gradient: dense [N, V] against chunked.

    python benchmarks/loss.py --vocab=151936 --tokens=2048 --hidden=128 --method=aopd,gkd

Each form runs in a fresh process, so that its peak resident memory is its own. Before anything is
timed, the two are compared at a small size.
"""

import argparse
import functools
import json
import pathlib
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jaxlab.losses import chunked_vocab, distillation  # noqa: E402
from jaxlab.losses.divergences import log_probs  # noqa: E402

METHODS = {
    "aopd": distillation.Aopd(),
    "gkd": distillation.Gkd(),
    "opd": distillation.Opd(),
    "full_reverse_kl": distillation.FullReverseKl(),
}


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
    """`chunked_vocab.distill` with the logits of all tokens at once."""
    student_logp = log_probs(student_hidden @ student_unembedding.T)
    teacher_logp = log_probs(teacher_hidden @ teacher_unembedding.T)
    return distillation.distill(method, student_logp, teacher_logp, **rest)


def step(form: str, method: str):
    """Jitted: inputs -> ((loss, metrics), gradients in student hidden states and unembedding)."""
    function = dense if form == "dense" else chunked_vocab.distill
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
    results = [step(form, method)(inputs) for form in ("dense", "chunked")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def measure(form: str, method: str, vocab: int, tokens: int, hidden: int, repeats: int) -> dict:
    """Seconds of the fastest step, and how far the steps lifted the peak resident memory."""
    inputs = jax.block_until_ready(make_inputs(vocab, tokens, hidden))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = step(form, method)
    (loss, _), _ = jax.block_until_ready(run(inputs))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(inputs))
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": min(seconds),
        "peak_mib": peak / 1024,
        "added_mib": (peak - before) / 1024,
        "loss": float(loss),
    }


def main() -> None:
    """Prints one row per method and form, and the ratios chunked : dense."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--method", default="aopd,gkd", help=", ".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=("dense", "chunked"), help="measure this form here")
    args = parser.parse_args()
    for method in args.method.split(","):
        if method not in METHODS:
            parser.error(f"--method={method!r} is not one of {', '.join(METHODS)}")
    sizes = (args.vocab, args.tokens, args.hidden, args.repeats)
    if args.form:
        print(json.dumps(measure(args.form, args.method, *sizes)))
        return
    print(f"{'method':<16}{'form':<9}{'s/step':>9}{'peak MiB':>11}{'added MiB':>11}{'loss':>14}")
    for method in args.method.split(","):
        check_parity(method)
        rows = {}
        for form in ("dense", "chunked"):
            flags = [f"--method={method}", f"--form={form}", f"--repeats={args.repeats}"]
            flags += [f"--{name}={getattr(args, name)}" for name in ("vocab", "tokens", "hidden")]
            command = [sys.executable, __file__, *flags]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[form] = row = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{method:<16}{form:<9}{row['seconds']:>9.2f}{row['peak_mib']:>11.0f}"
                f"{row['added_mib']:>11.0f}{row['loss']:>14.6f}"
            )
        ratios = {
            key: rows["chunked"][key] / x if x else float("nan") for key, x in rows["dense"].items()
        }
        print(
            f"{method:<16}{'ratio':<9}{ratios['seconds']:>9.2f}{ratios['peak_mib']:>11.2f}"
            f"{ratios['added_mib']:>11.2f}"
        )


if __name__ == "__main__":
    main()
