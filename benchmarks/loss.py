"""Time and memory of a distillation loss with its gradient: dense [N, V], chunked, and TRL's.

    python benchmarks/loss.py --vocab=151936 --tokens=2048 --hidden=128 --method=aopd,gkd
    python benchmarks/loss.py --method=full_reverse_kl --trl-python=/path/to/bin/python

Each form runs in a fresh process, so that its peak resident memory is its own. Before anything is
timed, our two are compared at a small size. TRL's chunked loss, which is compared where
--trl-python names its environment, computes the reverse KL and the student's entropy; ours logs
both divergences, both entropies and the tails of the advantage besides.
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

PEER = ROOT / "benchmarks" / "peers" / "trl_loss.py"
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


def row_of(form: str, method: str, args: argparse.Namespace) -> dict:
    """The measurement of one form, made in a process of its own."""
    names = ("vocab", "tokens", "hidden", "repeats")
    flags = [f"--{name}={getattr(args, name)}" for name in names]
    if form == "TRL":
        command = [args.trl_python, str(PEER), *flags]
    else:
        command = [sys.executable, __file__, f"--method={method}", f"--form={form}", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints one row per method and form, and the ratios to the chunked form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--method", default="full_reverse_kl,aopd,gkd", help=", ".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trl-python", help="interpreter of an environment with trl 1.16")
    parser.add_argument("--form", choices=("dense", "chunked"), help="measure this form here")
    args = parser.parse_args()
    for method in args.method.split(","):
        if method not in METHODS:
            parser.error(f"--method={method!r} is not one of {', '.join(METHODS)}")
    if args.form:
        sizes = (args.vocab, args.tokens, args.hidden, args.repeats)
        print(json.dumps(measure(args.form, args.method, *sizes)))
        return
    print(
        f"{'method':<16}{'form':<9}{'s/step':>9}{'peak MiB':>11}{'added MiB':>11}{'loss':>10}"
        "   this : chunked, time and added memory"
    )
    for method in args.method.split(","):
        check_parity(method)
        forms = ["chunked", "dense"]
        if method == "full_reverse_kl" and args.trl_python:
            forms.append("TRL")
        rows = {form: row_of(form, method, args) for form in forms}
        ours = rows["chunked"]
        for form, row in rows.items():
            ratios = "".join(f"{row[key] / ours[key]:>9.2f}" for key in ("seconds", "added_mib"))
            print(
                f"{method:<16}{form:<9}{row['seconds']:>9.2f}{row['peak_mib']:>11.0f}"
                f"{row['added_mib']:>11.0f}{row['loss']:>10.4f}{ratios}",
                flush=True,
            )


if __name__ == "__main__":
    main()
