"""Which tensors of a HuggingFace checkpoint are which parameters of a module, in file order."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxlab.interop.families.codecs import Codec, Shape
from jaxlab.interop.families.types import Family, Tensors
from jaxlab.models.decoder import DecoderConfig, Params
from jaxlab.models.stacking import members


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters and the tensors that make them up: mostly one, and one for each layer.

    Attributes:
        paths: in params, joined by "/".
        shapes: of these; with a leading axis over layers where they are stacked.
        names: of the tensors, for each layer.
        stacked: whether the leading axis runs over `names`; otherwise these are of one layer.
        codec: how one layer's parameters are stored as its tensors.
        keeps_float32: whether they are float32 whatever dtype the rest is stored in.
    """

    paths: tuple[str, ...]
    shapes: tuple[Shape, ...]
    names: tuple[tuple[str, ...], ...]
    stacked: bool
    codec: Codec
    keeps_float32: bool

    @property
    def stored(self) -> dict[str, Shape]:
        """Shape of each of the tensors in the checkpoint, by name."""
        shapes = [shape[1:] if self.stacked else shape for shape in self.shapes]
        return {
            name: shape
            for names in self.names
            for name, shape in zip(names, self.codec.stored(shapes, len(names)), strict=True)
        }


def replaced(config: Any, **fields: Any) -> Any:
    """The config with those of the fields that it has."""
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(
        config, **{name: value for name, value in fields.items() if name in known}
    )


def groups(config: Any, family: Family) -> list[Group]:
    """Every parameter of the module, in the order in which files hold them.

    The order is that of the kinds of parameter, then of the layers, and so does not depend on
    whether layers are stacked.
    """
    # Stored in bfloat16, what is float32 all the same shows.
    one, places = replaced(config, param_dtype="bfloat16", scan_layers=False, remat=False), {}
    if isinstance(config, DecoderConfig):
        # One repetition of each stack has all the shapes.
        one = dataclasses.replace(one, stacks=tuple((1, layers) for _, layers in config.stacks))
        places = {f"layer_{n}": place for n, place in enumerate(members(config))}
    shapes = flatten(family.params(one))
    tensors = {path: entry for entry in family.tensors(config) for path in entry.paths}
    found: list[Group] = []
    done: set[str] = set()
    for path in shapes:
        if path in done:
            continue
        top, _, rest = path.partition("/")
        entry = tensors.get(f"layer/{rest}" if top in places else path)
        if entry is None:
            raise KeyError(f"the family {family.name} names no tensor for the parameter {path}")
        paths = tuple(name.replace("layer/", f"{top}/", 1) for name in entry.paths)
        paths = paths if top in places else entry.paths
        done.update(paths)
        leaves = [shapes[name] for name in paths]
        found += _of_layers(config, entry, paths, leaves, places.get(top))
    return found


def _of_layers(
    config: Any,
    entry: Tensors,
    paths: tuple[str, ...],
    leaves: list[Any],
    place: tuple[int, int, list[int]] | None,
) -> list[Group]:
    """One group of parameters outside layers, or of all layers, or one for each layer."""
    shapes = tuple(tuple(leaf.shape) for leaf in leaves)
    wide = all(leaf.dtype == jnp.float32 for leaf in leaves)
    if place is None:
        return [Group(paths, shapes, (entry.names,), False, entry.codec, wide)]
    stack, i, numbers = place
    rest = [path.partition("/")[2] for path in paths]
    names = tuple(tuple(name.format(number) for name in entry.names) for number in numbers)
    if config.scan_layers:
        paths = tuple(f"stack_{stack}/layer_{i}/{path}" for path in rest)
        shapes = tuple((len(numbers), *shape) for shape in shapes)
        return [Group(paths, shapes, names, True, entry.codec, wide)]
    return [
        Group(
            tuple(f"layer_{number}/{path}" for path in rest),
            shapes, (of_layer,), False, entry.codec, wide,
        )
        for number, of_layer in zip(numbers, names, strict=True)
    ]  # fmt: skip


def flatten(params: Params) -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}, sorted by path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}


def nest(flat: dict[str, Any]) -> Params:
    """{"a/b/c": leaf} -> nested dict."""
    nested: Params = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested
