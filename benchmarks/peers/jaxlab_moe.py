"""Our side of `benchmarks/moe.py`: experts, a dense layer of the same FLOPs, the whole layer.

Writes weights, tokens and outputs of the layer for the other side to read.
"""

import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "kernels"))

import jax
import jax.numpy as jnp
import numpy as np
import turns

from jaxlab.interop.names import flatten
from jaxlab.nn.experts import experts
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router
from jaxlab.runtime import host_memory


def main() -> None:
    """Build the programs and run one at each request, as often as it says."""
    host_memory.keep_freed()
    work = json.loads(sys.argv[1])
    tokens, top_k, dim, width, count = (
        work[key] for key in ("tokens", "top_k", "dim", "width", "experts")
    )
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)

    matrices = (draw(count, dim, width), draw(count, dim, width), draw(count, width, dim))
    x, dy = draw(tokens, dim) * tokens**0.5, draw(tokens, dim)
    ids = np.stack([rng.permutation(count)[:top_k] for _ in range(tokens)])
    quarter = ids.copy()
    heavy = (np.arange(tokens) % 4 == 0)[:, None] & ~(ids == 0).any(1)[:, None]
    quarter[:, :1] = np.where(heavy, 0, quarter[:, :1])
    weights = jnp.asarray(rng.random((tokens, top_k)), jnp.float32)
    router = Router(count, top_k, score="sigmoid", correction=True)
    layer = MoE(width, router, shared_size=width).module(model_dim=dim)
    params = jax.jit(layer.init)(jax.random.key(0), x[None])["params"]

    def dense(rows, gate, up, down):
        return (jax.nn.silu(rows @ gate) * (rows @ up)) @ down

    def routed(choice):
        return lambda x, weights, *matrices: experts(x, choice, weights, *matrices)

    rows = jnp.repeat(x, top_k, axis=0)
    programs = {
        "dense": (dense, (rows, *(matrix[0] for matrix in matrices)), jnp.repeat(dy, top_k, 0)),
        "even": (routed(jnp.asarray(ids, jnp.int32)), (x, weights, *matrices), dy),
        "quarter": (routed(jnp.asarray(quarter, jnp.int32)), (x, weights, *matrices), dy),
        "layer": (lambda x, p: layer.apply({"params": p}, x[None])[0], (x, params), dy),
    }
    compiled: dict[tuple[str, bool], Any] = {}

    def program(what: str, gradient: bool) -> Any:
        function, arguments, weigh = programs[what]
        if gradient:
            every = tuple(range(len(arguments)))
            run = jax.jit(jax.grad(lambda *a: jnp.sum(function(*a) * weigh), argnums=every))
        else:
            run = jax.jit(function)
        return lambda: jax.block_until_ready(run(*arguments))

    def answer(what: str, gradient: bool, calls: int = 1) -> dict[str, Any]:
        if what == "save":
            arrays = {"x": x, "y": program("layer", False)(), **flatten(params)}
            np.savez(pathlib.Path(work["folder"]) / "layer.npz", **arrays)
            return {}
        key = (what, gradient)
        compiled.setdefault(key, program(what, gradient))
        for _ in range(calls):
            compiled[key]()
        return {}

    turns.serve(answer, {"jax": jax.__version__})


if __name__ == "__main__":
    main()
