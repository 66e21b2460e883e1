"""How tensors of a checkpoint become parameters: orders of axes, stacks and splits.

A codec maps some parameters (mostly one) to some tensors (mostly one), both ways. PyTorch stores a
linear layer as [out, in], the modules here as [in, out].
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

Shape = tuple[int, ...]
# Opens a tensor: a read-only view of a file, or a copy.
Opener = Callable[[], np.ndarray]


class Target(NamedTuple):
    """What is to be read of a parameter, and where to.

    Attributes:
        out: filled; of the shape of the part.
        shape: of the whole parameter.
        part: a slice for each axis; () is all of it.
    """

    out: np.ndarray
    shape: Shape
    part: tuple[slice, ...] = ()


class Codec(Protocol):
    """A way to store parameters as tensors; frozen, so that equal ones are one."""

    def stored(self, shapes: Sequence[Shape], count: int) -> list[Shape]:
        """The shapes of `count` tensors that hold parameters of these shapes.

        Raises:
            ValueError: so many tensors cannot.
        """

    def read(self, tensors: Sequence[Opener], targets: Sequence[Target]) -> None:
        """Fills parts of the parameters; each tensor is opened when it is its turn."""

    def write(self, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the tensors of the parameters, in order."""


@dataclasses.dataclass(frozen=True)
class Permute:
    """One parameter is one tensor with its axes in another order: tensor.transpose(axes).

    Attributes:
        axes: axis i of the parameter is axis axes[i] of the tensor; None is the tensor's own order.
    """

    axes: tuple[int, ...] | None = None

    def stored(self, shapes: Sequence[Shape], count: int) -> list[Shape]:
        """See `Codec`."""
        (shape,) = shapes
        if count != 1:
            raise ValueError(f"one parameter of shape {shape} is one tensor, not {count}")
        return [shape if self.axes is None else tuple(shape[i] for i in np.argsort(self.axes))]

    def read(self, tensors: Sequence[Opener], targets: Sequence[Target]) -> None:
        """See `Codec`."""
        ((out, shape, part),) = targets
        out[...] = tensors[0]().transpose(self.axes or range(len(shape)))[part]

    def write(self, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Codec`."""
        yield arrays[0] if self.axes is None else arrays[0].transpose(np.argsort(self.axes))


OWN = Permute()
LINEAR = Permute((1, 0))


@dataclasses.dataclass(frozen=True)
class DepthwiseConv:
    """Taps [W, C] of a causal convolution, stored as [C, 1, W]."""

    def stored(self, shapes: Sequence[Shape], count: int) -> list[Shape]:
        """See `Codec`."""
        (shape,) = shapes
        return [(shape[1], 1, shape[0])]

    def read(self, tensors: Sequence[Opener], targets: Sequence[Target]) -> None:
        """See `Codec`."""
        ((out, _, part),) = targets
        out[...] = tensors[0]()[:, 0].T[part]

    def write(self, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Codec`."""
        yield arrays[0].T[:, None]


CONV = DepthwiseConv()


@dataclasses.dataclass(frozen=True)
class Stack:
    """One parameter [E, ...] is E tensors, each stored by `each`: the experts of a layer.

    Attributes:
        each: of one of them.
    """

    each: Codec = LINEAR

    def stored(self, shapes: Sequence[Shape], count: int) -> list[Shape]:
        """See `Codec`."""
        (shape,) = shapes
        if shape[0] != count:
            raise ValueError(f"a parameter of shape {shape} is {shape[0]} tensors, not {count}")
        return self.each.stored([shape[1:]], 1) * count

    def read(self, tensors: Sequence[Opener], targets: Sequence[Target]) -> None:
        """See `Codec`."""
        ((out, shape, part),) = targets
        wanted = tensors[part[0]] if part else tensors
        for one, tensor in zip(out, wanted, strict=True):
            self.each.read([tensor], [Target(one, shape[1:], part[1:])])

    def write(self, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Codec`."""
        for one in arrays[0]:
            yield from self.each.write([one])


@dataclasses.dataclass(frozen=True)
class Split:
    """Several parameters lie one behind the other in one tensor: fused projections.

    Attributes:
        axis: of the tensor.
        each: of each part, once it is cut out.
    """

    axis: int = 0
    each: Codec = LINEAR

    def stored(self, shapes: Sequence[Shape], count: int) -> list[Shape]:
        """See `Codec`."""
        parts = self._parts(shapes)
        whole = list(parts[0])
        whole[self.axis] = sum(part[self.axis] for part in parts)
        return [tuple(whole)]

    def read(self, tensors: Sequence[Opener], targets: Sequence[Target]) -> None:
        """See `Codec`."""
        parts = self._parts([target.shape for target in targets])
        ends = np.cumsum([part[self.axis] for part in parts])[:-1]
        pieces = np.split(tensors[0](), ends, axis=self.axis)
        for target, piece in zip(targets, pieces, strict=True):
            self.each.read([_at_hand(piece)], [target])

    def write(self, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Codec`."""
        parts = [next(self.each.write([one])) for one in arrays]
        yield np.concatenate(parts, axis=self.axis)

    def _parts(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [self.each.stored([shape], 1)[0] for shape in shapes]


def _at_hand(tensor: np.ndarray) -> Opener:
    return lambda: tensor
