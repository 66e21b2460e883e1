"""Five heads of a probe in one program beside five programs of one head: time of a step.

    python benchmarks/probe_heads.py [--steps=20]

Forward and backward of both probes at the sizes of configs/lary_synthetic.py. Seconds of the
processor are given beside those of the clock, which other programs stretch.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.nn.probe import Attentive, ResidualMlp
from jaxlab.trainers.heads import over_heads

HEADS = 5
CASES = {
    "attentive, width 64": (Attentive(width=64, heads=2, depth=2), 27),
    "residual MLP, width 512": (ResidualMlp(width=512), 15),
}


def main() -> None:
    """Print a line of each case and form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(128, 2, 16, 8)), jnp.float32)
    print("| probe | form | processor, ms | clock, ms | first call, processor, s |")
    print("|---" * 5 + "|")
    for name, (options, outputs) in CASES.items():
        module = options.module(outputs)
        shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
        one = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.05, leaf.shape)), shapes)
        many = jax.tree.map(lambda leaf: jnp.stack([leaf] * HEADS), one)

        def loss(params, module=module):
            return -jnp.mean(jax.nn.log_softmax(module.apply({"params": params}, x))[:, 0])

        grad = jax.value_and_grad(loss)
        forms = {
            "five programs": (jax.jit(grad), one, HEADS),
            "one, heads in turn": (jax.jit(over_heads(grad, "cpu")), many, 1),
            "one, vmapped": (jax.jit(jax.vmap(grad)), many, 1),
        }
        for form, (run, params, calls) in forms.items():
            begun = time.process_time()
            jax.block_until_ready(run(params))
            first = time.process_time() - begun
            clock, begun = time.perf_counter(), time.process_time()
            for _ in range(steps * calls):
                result = run(params)
            jax.block_until_ready(result)
            used, passed = time.process_time() - begun, time.perf_counter() - clock
            print(
                f"| {name} | {form} | {1e3 * used / steps:.0f} | {1e3 * passed / steps:.0f} "
                f"| {first:.1f} |"
            )


if __name__ == "__main__":
    main()
