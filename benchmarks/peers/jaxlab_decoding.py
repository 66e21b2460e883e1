"""Our side of `benchmarks/decoding.py`: answers of a policy, as the doors make them.

Writes its random model as a HuggingFace directory first, for the other side to read.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import turns

from jaxlab.interop import hf
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.rollouts.policy import Policy
from jaxlab.runtime import decode_devices, host_memory
from jaxlab.runtime.mesh import make_mesh, start
from jaxlab.sampling import SamplingConfig


def main() -> None:
    """Build the model and answer the prompts at each request."""
    host_memory.keep_freed()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", help="JSON: model, prompts, new_tokens")
    parser.add_argument("--save", help="where to write the model")
    parser.add_argument("--decode-devices", type=int, help="default: as the doors choose")
    arguments = parser.parse_args()
    decode_devices.automatically()
    start(decode_devices=arguments.decode_devices)
    work = json.loads(arguments.work)
    config = Sizes(**work["model"], qk_norm=True).decoder()
    model = Decoder(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    if arguments.save:
        hf.save(arguments.save, config, params)
    mesh = make_mesh({"data": -1})

    def run(samples: int, temperature: float, tokens: bool) -> dict[str, Any]:
        nonlocal seed
        seed += 1
        sampling = SamplingConfig(work["new_tokens"], temperature, num_samples=samples)
        policy = Policy(model, sampling, mesh, pad_id=0)
        out = policy(params, work["prompts"], jax.random.key(seed))
        response = np.asarray(jax.block_until_ready(out).response)
        return {"tokens": response.tolist()} if tokens else {}

    seed = 0
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "flax": flax.__version__}
    turns.serve(run, versions)


if __name__ == "__main__":
    main()
