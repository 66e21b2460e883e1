"""One of two hosts that train, save, restore and are preempted: for checkpoint_test.py."""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.runtime import checkpoint, mesh, sharding
from jaxlab.runtime.preemption import Preemption

RULES = (("w", ("data",)), (".*", ()))


@jax.jit
def _train_step(state, batch):
    params = jax.tree.map(lambda w: w + batch.sum(), state["params"])
    return {"step": state["step"] + 1, "params": params}


def main(directory):
    jax.config.update("jax_num_cpu_devices", 2)
    mesh.start("env")
    hosts = mesh.make_mesh({"data": 4})
    assert mesh.broadcast(["from", jax.process_index()]) == ["from", 0]
    assert not mesh.everywhere(mesh.is_main())
    rows = mesh.host_batch_slice(8, hosts)
    assert rows == mesh.host_batch_slice(8) == slice(4 * jax.process_index(), 4 + rows.start)
    example = {"step": jnp.int32(0), "params": {"w": jnp.zeros((8, 2))}}
    shardings = sharding.infer(example, RULES, hosts)
    state = jax.jit(lambda: example, out_shardings=shardings)()

    saver = checkpoint.Checkpointer(directory)
    with Preemption() as preemption:
        for step in range(1, 1000):
            batch = mesh.put_global(np.arange(8.0, dtype=np.float32)[rows], hosts)
            # Gloo's collectives starve each other when many steps are in flight.
            state = jax.block_until_ready(_train_step(state, batch))
            if step == 2:
                saver.save(step, state, {"rows": 8})
                restored = saver.restore(
                    jax.tree.map(
                        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        example,
                        shardings,
                    )
                )
                assert (restored.step, restored.extra) == (2, {"rows": 8})
                state = restored.state
            if step == 4 and not mesh.is_main():
                os.kill(os.getpid(), signal.SIGTERM)
            if preemption.reached(step):
                saver.save(step, state)
                saver.close()
                print("preempted", step, flush=True)
                preemption.leave()
    raise AssertionError("the signal never arrived")


main(sys.argv[1])
