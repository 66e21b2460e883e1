"""Restores, then saves as fast as it can until it is killed: for checkpoint_test.py."""

import sys

import jax
import jax.numpy as jnp

from jaxlab.runtime import checkpoint


def _state(step):
    return {"params": {"a": jnp.full(2000, float(step)), "b": jnp.full((3, 5), float(step))}}


def main(directory):
    saver = checkpoint.Checkpointer(directory, keep=2)
    restored = saver.restore(_state(0))
    step = 0 if restored is None else restored.step
    for leaf in jax.tree.leaves({} if restored is None else restored.state):
        assert (leaf == step).all()
    print("restored", step, flush=True)
    while True:
        step += 1
        saver.save(step, _state(step), {"step": step})
        saver.wait()
        print("saved", step, flush=True)


main(sys.argv[1])
