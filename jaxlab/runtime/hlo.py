"""What one device does in a compiled program, read from XLA's text of it.

XLA's own cost analysis takes the body of a loop once; here a loop's body counts as often as it
runs, where XLA knows how often (`known_trip_count`), and `trips` times otherwise.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
COLLECTIVES |= {"ragged-all-to-all", "collective-broadcast"}
# Operations that move nothing by themselves.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}
_FREE |= {"call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier", "async-done"}
_BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)


class Collective(NamedTuple):
    """Equal messages of a step.

    Attributes:
        operation: such as "all-reduce".
        axes: names of the mesh axes that it goes over, joined by "+".
        times: how often it runs in a step.
        bytes: of its result on one device, all runs together.
        wire: bytes that one device sends, if each goes once around a ring.
    """

    operation: str
    axes: str
    times: int
    bytes: float
    wire: float


class Program(NamedTuple):
    """What one device does in a step.

    Attributes:
        bytes: that its operations read and write, fused ones once.
        matmul_bytes: the same of the matrix products alone, as if all else were fused to them.
        collectives: by operation and axes, the largest first.
        largest: (bytes, shape, where it comes from) of intermediate results, largest first.
        unknown_loops: loops whose length XLA does not know.
    """

    bytes: float
    matmul_bytes: float
    collectives: tuple[Collective, ...]
    largest: tuple[tuple[int, str, str], ...]
    unknown_loops: int


class _Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str
    root: bool


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array in a shape: "(f32[2,3]{1,0}, bf16[])" -> [24, 2]."""
    found = []
    for dtype, dims in _ARRAY.findall(shape):
        bits = _BITS.get(dtype)
        if bits is None:
            match = re.search(r"\d+", dtype)
            bits = int(match[0]) if match else 0
        count = math.prod(int(size) for size in dims.split(",") if size)
        found.append(-(-count * bits // 8))
    return found


def read(text: str, mesh: Mapping[str, int], trips: int = 1) -> Program:
    """The program of `compiled.as_text()`.

    Args:
        text: one module, of one device.
        mesh: axis -> size in the order in which its devices are numbered.
        trips: of loops of unknown length; those within them count once.
    """
    computations, entry = _parse(text)
    total, matmuls, unknown = 0.0, 0.0, 0
    found: dict[tuple[str, str], list[float]] = {}
    largest: dict[tuple[str, str], int] = {}
    todo = [(entry, 1, trips)]
    while todo:
        name, times, trips = todo.pop()
        instructions = computations.get(name, {})
        for one in instructions.values():
            called = dict(_CALLED.findall(one.rest))
            operation = one.operation.removesuffix("-start")
            if operation == "while":
                known = re.search(r'known_trip_count\\?":\{\\?"n\\?":\\?"(\d+)', one.rest)
                unknown += known is None
                inside = (times * int(known[1]), trips) if known else (times * trips, 1)
                todo.append((called["body"], *inside))
            elif operation in ("call", "async"):
                todo += [(other, times, trips) for other in called.values()]
            elif operation == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
                names = [n.strip(" %") for n in branches[1].split(",")] if branches else []
                todo += [(n, times, trips) for n in (*names, *called.values())]
            if operation == "fusion":
                fused = computations.get(called["calls"], {})
                matmuls += times * sum(_whole(x, fused) for x in fused.values() if _matmul(x))
            elif _matmul(one):
                matmuls += times * _whole(one, instructions)
            if operation in COLLECTIVES:
                group, axes = _axes(one.rest, mesh)
                sizes = array_bytes(one.shape)
                if one.operation.endswith("-start") and operation != "all-reduce":
                    # Operands, then as many results, then what the device keeps of it.
                    sizes = sizes[len(one.operands) :][: len(one.operands)]
                size = sum(sizes)
                sums = found.setdefault((operation, axes), [0, 0.0, 0.0])
                sums[0] += times
                sums[1] += times * size
                sums[2] += times * size * _wire(operation, group)
            if operation in _FREE or one.operation.endswith("-done"):
                continue
            total += times * _moved(one, instructions, computations)
            where = re.search(r'op_name="([^"]*)"', one.rest)
            for array in _ARRAY.finditer(one.shape):
                label = (array[0], where[1] if where else operation)
                largest[label] = sum(array_bytes(array[0]))
    collectives = [Collective(*key, int(n), b, w) for key, (n, b, w) in found.items()]
    collectives.sort(key=lambda one: -one.wire)
    order = sorted(((size, *label) for label, size in largest.items()), reverse=True)
    return Program(total, matmuls, tuple(collectives), tuple(order[:8]), unknown)


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """Computations by name, each its instructions by name; and the name of the first to run."""
    computations: dict[str, dict[str, _Instruction]] = {}
    current: dict[str, _Instruction] = {}
    entry = ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head and not line.startswith(" "):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("  ") and " = " in line:
            one = _instruction(line.strip())
            current[one.name] = one
    return computations, entry


def _instruction(line: str) -> _Instruction:
    root = line.startswith("ROOT ")
    name, _, rest = line.removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    operation, _, _ = rest.partition("(")
    close = _closing(rest, len(operation))
    inside = rest[len(operation) + 1 : close]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside)) if "%" in inside else ()
    if not operands and operation != "constant":
        operands = tuple(word.split(" ")[-1] for word in inside.split(", ") if word)
    if operation == "parameter":
        operands = (inside,)
    return _Instruction(name.lstrip("%"), shape, operation, operands, rest[close + 1 :], root)


def _closing(text: str, opening: int) -> int:
    """The place of the bracket that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    return len(text)


def _matmul(one: _Instruction) -> bool:
    return one.operation in ("dot", "convolution", "ragged-dot")


def _whole(one: _Instruction, around: Mapping[str, _Instruction]) -> int:
    """Bytes of an operation's result and operands."""
    operands = [around[name].shape for name in one.operands if name in around]
    return sum(sum(array_bytes(shape)) for shape in (one.shape, *operands))


def _moved(
    one: _Instruction,
    around: Mapping[str, _Instruction],
    computations: Mapping[str, Mapping[str, _Instruction]],
) -> float:
    """Bytes that an operation reads and writes: of what it slices only the slice."""
    operands = [
        sum(array_bytes(around[name].shape)) if name in around else 0 for name in one.operands
    ]
    result = sum(array_bytes(one.shape))
    if one.operation in ("dynamic-slice", "slice", "gather"):
        return 2.0 * result
    if one.operation in ("dynamic-update-slice", "scatter"):
        return 2.0 * sum(operands[1:])
    if one.operation == "fusion":
        match = re.search(r"calls=%?([\w.\-]+)", one.rest)
        fused = computations.get(match[1], {}) if match else {}
        for inner in fused.values():
            if inner.operation != "parameter" or int(inner.operands[0]) >= len(operands):
                continue
            users = [user for user in fused.values() if inner.name in user.operands]
            first = all(user.operands[0] == inner.name for user in users)
            if users and first and all(user.operation == "dynamic-slice" for user in users):
                operands[int(inner.operands[0])] = sum(
                    sum(array_bytes(user.shape)) for user in users
                )
            elif first and [user.operation for user in users] == ["dynamic-update-slice"]:
                update = fused.get(users[0].operands[1])
                size = sum(array_bytes(update.shape)) if update else 0
                result -= sum(array_bytes(users[0].shape)) - size
                operands[int(inner.operands[0])] = 0
    return float(result + sum(operands))


def _axes(rest: str, mesh: Mapping[str, int]) -> tuple[int, str]:
    """The size of the groups, and over which axes of the mesh their devices differ."""
    sizes = tuple(mesh.values())
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    group: list[list[int]]
    if pairs:
        group = [[int(n) for n in pair.split(",")] for pair in re.findall(r"(\d+,\d+)", pairs[1])]
    else:
        group = _groups(rest, math.prod(sizes))
    places = [np.array(np.unravel_index(one, sizes)) for one in group]
    differ = np.any([np.ptp(one, axis=1) > 0 for one in places], axis=0)
    names = [name for name, varies in zip(mesh, differ, strict=True) if varies]
    return max(map(len, group)), "+".join(names) or "none"


def _groups(rest: str, devices: int) -> list[list[int]]:
    """The lists of devices in replica_groups={{0,1},{2,3}} or [2,2]<=[4] or [2,2]<=[2,2]T(1,0)."""
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        shape, dims = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
        ids = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            ids = ids.transpose([int(n) for n in iota[3].split(",")])
        return ids.reshape(shape).tolist()
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if not listed:
        return [list(range(devices))]
    return [[int(n) for n in one.split(",")] for one in re.findall(r"\{([\d,]+)\}", listed[1])]


def _wire(operation: str, group: int) -> float:
    """Bytes sent by one device per byte of the result, on a ring of so many devices."""
    if group == 1:
        return 0.0
    around = (group - 1) / group
    factors = {"all-reduce": 2 * around, "reduce-scatter": group - 1.0}
    return factors.get(operation, 1.0 if "permute" in operation else around)
