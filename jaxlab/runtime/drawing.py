"""Initial parameters: one program where they lie on several devices, single operations on one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval
from jax.sharding import Mesh


def drawn(
    init: Callable[[jax.Array], Any], mesh: Mesh, shardings: Any
) -> Callable[[jax.Array], Any]:
    """Makes `init` a compiled function of a key, with the same numbers on any mesh.

    On several devices it is one program, for the whole need not fit on one of them.

    Args:
        init: key -> parameters.
        mesh: where they are to lie.
        shardings: how, a tree as of the parameters.
    """
    if mesh.size > 1:
        return jax.jit(init, out_shardings=shardings)
    single = by_operations(init)

    def run(key: jax.Array) -> Any:
        with jax.default_device(mesh.devices.flat[0]):
            return jax.device_put(single(key), shardings)

    return run


def by_operations(init: Callable[..., Any]) -> Callable[..., Any]:
    """Flax's `init`, of which the operations that parameters depend on are run, each by itself.

    In one program every parameter has a generator of random bits of its own, which takes as long
    to compile as a layer. Here operations of equal shapes are compiled once, for all layers and
    for the models that follow. The numbers are the same.

    Args:
        init: (key, inputs, ...) -> parameters; of the inputs it may read shapes alone.
    """

    @functools.cache
    def needed(structure: Any, *shapes: Any) -> tuple[core.ClosedJaxpr, Any]:
        arguments = jax.tree.unflatten(structure, shapes)
        whole, found = jax.make_jaxpr(init, return_shape=True)(*arguments)
        used = [True] * len(whole.jaxpr.outvars)
        jaxpr, _ = partial_eval.dce_jaxpr(whole.jaxpr, used, instantiate=True)
        return core.ClosedJaxpr(jaxpr, whole.consts), jax.tree.structure(found)

    def run(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        shapes = (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        operations, result = needed(structure, *shapes)
        return jax.tree.unflatten(result, core.jaxpr_as_fun(operations)(*leaves))

    return run
