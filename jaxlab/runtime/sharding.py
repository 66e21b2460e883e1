"""Shardings as data: (pattern on the path, partition) rules, and helpers that take no mesh.

Axis names that a mesh lacks count as unsharded everywhere in this file, so that one list of rules
serves a laptop with one device and a pod.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Spec = Sequence[Any]
Rules = Sequence[tuple[str, Spec]]


def leaf_path(key_path: Sequence[Any]) -> tuple[str, ...]:
    """The names on the way to a leaf: dict keys, field names and positions, as strings."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in key_path)


def infer(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """Finds the sharding of every leaf.

    The first rule whose pattern is found (`re.search`) in the leaf's path 'a/b/c' gives its
    partition; scalars are replicated. Missing trailing dimensions of a partition are unsharded.

    A tree with a `params` entry at its top is taken as a training state. Rules then apply to the
    paths below `params`. Any other leaf follows the parameter whose whole path ends its own and
    whose shape it shares (an optimizer's moments, however deep they lie, masked or not); the rest
    (counters, coefficients, factored moments) is replicated.

    Args:
        tree: pytree of arrays or `jax.ShapeDtypeStruct`.
        rules: (regex, partition) pairs, for example (("mlp/up/kernel", (None, "model")), (".*",
            ())).
        mesh: the mesh whose axes the partitions name.

    Returns:
        The same tree of `NamedSharding`.

    Raises:
        ValueError: no rule matches a leaf, a partition has more entries than the leaf has
            dimensions, or an axis does not divide its dimension.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    paths = [leaf_path(path) for path, _ in leaves]
    shapes = [tuple(np.shape(leaf)) for _, leaf in leaves]
    compiled = [(re.compile(pattern), tuple(spec)) for pattern, spec in rules]

    def by_rule(path, shape):
        return _match("/".join(path), shape, compiled, mesh)

    if not _is_state(tree):
        specs = [by_rule(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    else:
        params = {
            path[1:]: (shape, by_rule(path[1:], shape))
            for path, shape in zip(paths, shapes, strict=True)
            if path[0] == "params"
        }
        specs = [_follow(path, shape, params) for path, shape in zip(paths, shapes, strict=True)]
    return jax.tree.unflatten(treedef, [NamedSharding(mesh, spec) for spec in specs])


@contextlib.contextmanager
def ambient(mesh: Mesh) -> Iterator[None]:
    """What is traced inside has the mesh for `shard_call`; its arrays are on it.

    Unlike `jax.set_mesh` it says nothing of where arrays are put. On one device it does nothing.
    """
    if mesh.size == 1:
        yield
    else:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield


def dividing(axis: str, *sizes: int) -> str | None:
    """The axis if the ambient mesh has it and it divides every size, else None."""
    shape = jax.sharding.get_abstract_mesh().shape
    return axis if axis in shape and all(size % shape[axis] == 0 for size in sizes) else None


def shard_call(f: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """Runs `f` on each device's shard of the ambient mesh; without one, it is `f`.

    For kernels, which the compiler cannot partition: models call them through here and need no
    mesh argument. Inside another `shard_call`, it is `f` as well.

    Args:
        f: function of arrays that is local to a shard.
        in_specs: one partition for each argument: a tuple such as ("data", None, "model") or a
            `PartitionSpec`; it holds for every array of an argument that is a tree.
        out_specs: the partition of the result; a list of them, or a tuple of `PartitionSpec`, if
            `f` returns a tuple.
    """

    def call(*args):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.manual_axes:
            return f(*args)
        if len(args) != len(in_specs):
            raise ValueError(f"shard_call got {len(args)} arguments for {len(in_specs)} partitions")
        specs = tuple(_partition(spec, mesh.shape) for spec in in_specs)
        outs = _partition(out_specs, mesh.shape)
        if AxisType.Explicit in mesh.axis_types:
            args = tuple(
                jax.sharding.reshard(arg, spec) for arg, spec in zip(args, specs, strict=True)
            )
        # Pallas and Triton calls do not declare over which axes their results vary.
        return jax.shard_map(f, in_specs=specs, out_specs=outs, check_vma=False)(*args)

    return call


def _is_state(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return "params" in tree
    return hasattr(tree, "params")


def _follow(path: tuple[str, ...], shape: tuple[int, ...], params: Mapping) -> PartitionSpec:
    """The partition of the parameter that this leaf of a training state belongs to."""
    for start in range(1, len(path)):
        if path[start:] in params:
            owner_shape, spec = params[path[start:]]
            return spec if shape == owner_shape else PartitionSpec()
    return PartitionSpec()


def _match(path, shape, rules, mesh: Mesh) -> PartitionSpec:
    if not shape:
        return PartitionSpec()
    matching = [rule for rule in rules if rule[0].search(path)]
    if not matching:
        raise ValueError(f"no sharding rule matches {path} of shape {shape}; end with ('.*', ())")
    pattern, spec = matching[0]
    if len(spec) > len(shape):
        raise ValueError(
            f"the rule {pattern.pattern!r} gives {spec} to {path}, whose shape {shape} is shorter"
        )
    known = _known(spec, mesh.shape)
    for dim, axes in enumerate(known):
        size = _size(axes, mesh.shape)
        if shape[dim] % size:
            raise ValueError(
                f"dimension {dim} of {path}, shape {shape}, does not divide by the mesh axis "
                f"{axes!r} of size {size} (rule {pattern.pattern!r})"
            )
    return PartitionSpec(*known)


def _known(spec: Spec, mesh_shape: Mapping[str, int]) -> tuple:
    """The partition without the axes that the mesh lacks."""

    def keep(entry):
        if isinstance(entry, str):
            return entry if entry in mesh_shape else None
        if entry is None:
            return None
        return tuple(name for name in entry if name in mesh_shape) or None

    return tuple(keep(entry) for entry in spec)


def _partition(spec: Any, mesh_shape: Mapping[str, int]) -> Any:
    """The `PartitionSpec` of a spec, or the tuple of those of several (see `shard_call`)."""
    several = isinstance(spec, list) or (
        isinstance(spec, tuple) and any(isinstance(part, PartitionSpec | list) for part in spec)
    )
    if several and not isinstance(spec, PartitionSpec):
        return tuple(_partition(part, mesh_shape) for part in spec)
    return PartitionSpec(*_known(spec, mesh_shape))


def _size(axes: Any, mesh_shape: Mapping[str, int]) -> int:
    if axes is None:
        return 1
    return int(np.prod([mesh_shape[a] for a in ((axes,) if isinstance(axes, str) else axes)]))
