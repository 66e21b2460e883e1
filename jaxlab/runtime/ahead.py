"""Compiling for devices that are not there: what a program would take of their memory and time.

Nothing is allocated: arguments are `jax.ShapeDtypeStruct` with shardings. For a TPU the program is
compiled by its own compiler (libtpu); for other names it is XLA:CPU's, on devices that are not
there either: bytes of arguments are then exact, those of temporaries and messages XLA:CPU's.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlab.runtime import counting, hlo
from jaxlab.runtime.chips import CHIPS, GIB, Chip
from jaxlab.runtime.sharding import leaf_path

# XLA:CPU's optimisations of machine code take minutes for programs that are never run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
GUESSED = (
    "FLOPs are too few: the length of some loops (tiles of experts, passes of block-sparse "
    "attention) is data, and they were counted as one step"
)


class Topology(NamedTuple):
    """Devices by name.

    Attributes:
        name: as it was given.
        devices: to make a mesh of.
        platform: for which programs are lowered.
        chip: its numbers; None where there are none.
    """

    name: str
    devices: Sequence[jax.Device]
    platform: str
    chip: Chip | None


def topology(name: str) -> Topology:
    """The devices of a name; call it before anything touches a device.

    Args:
        name: "v5p:4x4x4" (a kind of TPU and how many chips stand side by side in each direction),
            "h100:64" or "v5p:64" (so many fake CPU devices with a chip's numbers), or "cpu:8".

    Raises:
        ValueError: there is no such kind or shape, or JAX has started with fewer devices.
        ImportError: libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    known = ", ".join([*CHIPS, "cpu"])
    if kind != "cpu" and kind not in CHIPS:
        raise ValueError(f"--topology={name}: there is no {kind!r}; there are {known}")
    chip = CHIPS.get(kind)
    is_tpu = chip is not None and chip.kind.startswith("TPU")
    if is_tpu and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        return Topology(name, _tpu(name, shape), "tpu", chip)
    if not re.fullmatch(r"[1-9]\d{0,5}", shape):
        more = ", or chips side by side, such as v5e:4x4 and v5p:4x4x4" if is_tpu else ""
        raise ValueError(f"--topology={name}: give a number of devices, such as {kind}:8{more}")
    return Topology(name, fake_devices(int(shape)), "cpu", chip)


def fake_devices(count: int) -> list[jax.Device]:
    """So many CPU devices, which only programs that are not run may use.

    Raises:
        ValueError: JAX has started with fewer.
    """
    with contextlib.suppress(RuntimeError):  # JAX has started
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology: {count} fake devices are wanted, but JAX runs with {len(devices)}: unset "
            "JAX_NUM_CPU_DEVICES and XLA_FLAGS"
        )
    return devices[:count]


def _tpu(name: str, shape: str) -> Sequence[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        count = np.prod([int(size) for size in shape.split("x")])
        raise ImportError(
            f"--topology={name} needs libtpu, the compiler for TPUs: pip install 'jaxlab[tpu]' "
            f"({name.partition(':')[0]}:{count} takes fake devices with its numbers instead)"
        )
    from jax.experimental import topologies

    # It would ask a cloud of which this machine is no part.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    jax.config.update("jax_platforms", "cpu")
    try:
        devices: Sequence[jax.Device] = topologies.get_topology_desc(name, "tpu").devices
    except Exception as error:  # of several kinds
        raise ValueError(f"--topology={name}: {str(error).splitlines()[0]}") from error
    return devices


class DoesNotFitError(RuntimeError):
    """The compiler refuses a program that is too large for its device; the message is one line."""


class Argument(NamedTuple):
    """An argument of a program, or what lies on the devices besides.

    Attributes:
        kind: "params", "optimiser", "batch" or whatever it is to be called. A tree with `params`
            and `opt_state` is split into these.
        tree: of `jax.ShapeDtypeStruct` with shardings; or a static value, of the kind "".
    """

    kind: str
    tree: Any


class Work(NamedTuple):
    """A program to be compiled.

    Attributes:
        name: such as "update".
        function: jitted.
        arguments: in its order.
        resident: what lies on the devices meanwhile.
        cache: (bytes on all devices, devices that share them) of a decoding cache, which is a part
            of the temporaries.
        trips: how often loops of unknown length run.
        cures: kind of memory -> what makes it smaller; "temporaries" are one.
        notes: what else is to be known.
    """

    name: str
    function: Any
    arguments: tuple[Argument, ...]
    resident: tuple[Argument, ...] = ()
    cache: tuple[float, int] = (0.0, 1)
    trips: int = 1
    cures: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What a program takes, of one chip where nothing else is said.

    Attributes:
        name: of the program.
        topology: as it was named.
        mesh: axis -> size.
        memory: kind -> bytes. "temporaries" hold activations, and "cache" what a decoding cache
            is of them at least; "outputs" are those that reuse no argument.
        capacity: bytes of a chip's memory; None: not known.
        largest: (bytes, name, shape), the largest first.
        flops: of the matrix products as traced, loops counted, an equal share of all chips'.
        bytes: that operations read and write; of fake devices, matrix products alone.
        collectives: messages between chips.
        seconds: "compute", "memory" and "network", each at the chip's published peak.
        compile_seconds: of tracing, lowering and compiling.
        cures: see `Work`.
        notes: what is to be known of the numbers.
    """

    name: str
    topology: str
    mesh: dict[str, int]
    memory: dict[str, int]
    capacity: float | None
    largest: tuple[tuple[int, str, str], ...]
    flops: float
    bytes: float
    collectives: tuple[hlo.Collective, ...]
    seconds: dict[str, float]
    compile_seconds: float
    cures: dict[str, str]
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of a chip that are in use at once, at most."""
        return sum(size for kind, size in self.memory.items() if kind != "cache")

    @property
    def fits(self) -> bool:
        """Whether that is within the chip's memory; True where this is not known."""
        return self.capacity is None or self.total <= self.capacity

    @property
    def step_seconds(self) -> float | None:
        """The roofline: the slowest of compute, memory and network, which overlap."""
        return max(self.seconds.values()) if self.seconds else None

    def problem(self) -> str:
        """One line on a program that does not fit: the largest arrays, and what to change."""
        assert self.capacity is not None
        largest = "; ".join(f"{size(n)} {name} {shape}" for n, name, shape in self.largest[:3])
        kinds = sorted(self.cures, key=lambda kind: -self.memory.get(kind, 0))
        cures = "; ".join(f"{kind}: {self.cures[kind]}" for kind in kinds if self.memory.get(kind))
        return (
            f"{self.name} does not fit: {size(self.total)} of {size(self.capacity)} per chip on "
            f"{self.topology}. Largest: {largest}. Change {cures}"
        )

    def json(self) -> dict[str, Any]:
        """The report as JSON, with what follows from it."""
        found = dataclasses.asdict(self)
        found["collectives"] = [one._asdict() for one in self.collectives]
        return found | {"total": self.total, "fits": self.fits, "step_seconds": self.step_seconds}

    def lines(self) -> Iterator[str]:
        """The report for people."""
        axes = " x ".join(f"{name} {count}" for name, count in self.mesh.items())
        yield f"{self.name} on {self.topology} ({axes}); {self.compile_seconds:.1f} s to compile"
        parts = ", ".join(
            f"{kind} {size(n)}" for kind, n in self.memory.items() if n and kind != "cache"
        )
        if self.memory.get("cache"):
            parts += f" (of which cache {size(self.memory['cache'])})"
        whole = "" if self.capacity is None else f" of {size(self.capacity)}"
        yield f"  memory per chip  {size(self.total)}{whole}: {parts}"
        for n, name, shape in self.largest[:3]:
            yield f"    {size(n):>10}  {name} {shape}"
        yield f"  per chip         {self.flops:.3g} FLOPs, {size(self.bytes)} read and written"
        for one in self.collectives:
            yield (
                f"  {one.operation:<16} over {one.axes}: {one.times} a step, results of "
                f"{size(one.bytes)}, {size(one.wire)} sent"
            )
        if self.step_seconds is not None:
            each = ", ".join(f"{name} {found:.3g}" for name, found in self.seconds.items())
            yield f"  roofline         {self.step_seconds:.3g} s a step, all at peak: {each}"
        for note in self.notes:
            yield f"  note: {note}"


def size(count: float) -> str:
    """Bytes for people: 3 GiB."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def placed(tree: Any, shardings: Any) -> Any:
    """The tree as shapes and dtypes that lie on devices as `shardings` say, one or a tree."""
    if isinstance(shardings, jax.sharding.Sharding):
        only = shardings
        shardings = jax.tree.map(lambda _: only, tree)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        shardings,
    )


def shard_bytes(tree: Any) -> Iterator[tuple[int, str, str]]:
    """(bytes on one device, path, shape there) of each leaf."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        shape = tuple(leaf.shape)
        if getattr(leaf, "sharding", None) is not None:
            shape = leaf.sharding.shard_shape(shape)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            itemsize = 8
        else:
            itemsize = leaf.dtype.itemsize
        count = int(np.prod(shape)) * itemsize
        yield count, "/".join(leaf_path(path)), f"{leaf.dtype}{list(shape)}"


def traced(work: Work, target: Topology, mesh: jax.sharding.Mesh) -> Report:
    """What is known without compiling: arguments, what is resident, and FLOPs; bounds from below.

    The memory's seconds are those of reading the arguments once, and of a decoding loop those of
    reading params and half of the cache for every token.
    """
    begin = time.monotonic()
    jaxpr = work.function.trace(*(a.tree for a in work.arguments)).jaxpr
    flops, guessed = counting.count(jaxpr, work.trips)
    memory, largest = _held(work)
    if work.cache[0]:
        memory["temporaries"] = memory["cache"] = int(work.cache[0] / work.cache[1])
        largest.append((memory["cache"], "cache", "of all layers"))
    read = float(sum(count for one in _kinds(work.arguments) for count, *_ in shard_bytes(one[1])))
    if work.cache[0]:
        read = work.trips * (read + memory["cache"] / 2)
    seconds = {}
    if target.chip is not None:
        share = flops / mesh.size / target.chip.flops
        seconds = {"compute": share, "memory": read / target.chip.bandwidth}
    return Report(
        work.name, target.name, dict(mesh.shape), memory, target.chip and target.chip.memory,
        tuple(sorted(largest, reverse=True)[:8]), flops / mesh.size, read, (), seconds,
        time.monotonic() - begin, dict(work.cures),
        (*work.notes, *[GUESSED] * guessed, "traced, not compiled"),
    )  # fmt: skip


def _held(work: Work) -> tuple[dict[str, int], list[tuple[int, str, str]]]:
    """Bytes of one chip by kind, of arguments and what is resident, and those of each array."""
    memory: dict[str, int] = {}
    largest = []
    for kind, tree in _kinds((*work.arguments, *work.resident)):
        for count, path, shape in shard_bytes(tree):
            memory[kind] = memory.get(kind, 0) + count
            largest.append((count, f"{kind}/{path}" if path else kind, shape))
    return memory, largest


def compiled(work: Work, target: Topology, mesh: jax.sharding.Mesh) -> tuple[Report, Any]:
    """Compiles a program; its report, and XLA's executable, whose shardings others may need."""
    begin = time.monotonic()
    trace = work.function.trace(*(one.tree for one in work.arguments))
    lowered = trace.lower(lowering_platforms=(target.platform,))
    memory, largest = _held(work)
    try:
        executable = lowered.compile(_QUICK if target.platform == "cpu" else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFitError(_refused(work, target, memory, largest, str(error))) from error
    took = time.monotonic() - begin
    analysis = executable.memory_analysis()
    memory["temporaries"] = analysis.temp_size_in_bytes
    memory["outputs"] = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory["code"] = analysis.generated_code_size_in_bytes
    if work.cache[0]:
        memory["cache"] = int(work.cache[0] / work.cache[1])
    program = hlo.read(executable.as_text(), dict(mesh.shape), work.trips)
    notes = list(work.notes)
    moved = program.bytes
    if target.platform == "cpu":
        # XLA:CPU fuses little: what is left after fusion on an accelerator are the products.
        moved = program.matmul_bytes
        notes.append(
            "temporaries and messages are XLA:CPU's, not an accelerator's, and the bytes are those "
            "of matrix products alone, in float32 where they are bfloat16"
        )
    # One array that several operations pass on has one size.
    seen = {count for count, _, _ in largest}
    for count, shape, origin in program.largest:
        if count <= memory["temporaries"] and count not in seen:
            seen.add(count)
            largest.append((count, f"temporary of {origin}", shape))
    flops, guessed = counting.count(trace.jaxpr, work.trips)
    flops /= mesh.size
    notes += [GUESSED] * guessed
    seconds = {}
    if target.chip is not None:
        chip, wire = target.chip, sum(one.wire for one in program.collectives)
        seconds = {
            "compute": flops / chip.flops,
            "memory": moved / chip.bandwidth,
            "network": wire / chip.network,
        }
    report = Report(
        work.name,
        target.name,
        dict(mesh.shape),
        memory,
        target.chip and target.chip.memory,
        tuple(sorted(largest, reverse=True)[:8]),
        flops,
        moved,
        program.collectives,
        seconds,
        took,
        dict(work.cures),
        tuple(notes),
    )
    return report, executable


def _refused(
    work: Work,
    target: Topology,
    memory: Mapping[str, int],
    largest: list[tuple[int, str, str]],
    error: str,
) -> str:
    """One line on a program that the compiler itself finds too large."""
    arrays = "; ".join(
        f"{size(n)} {name} {shape}" for n, name, shape in sorted(largest, reverse=True)[:3]
    )
    held = ", ".join(f"{kind} {size(n)}" for kind, n in memory.items())
    cures = "; ".join(f"{kind}: {cure}" for kind, cure in work.cures.items())
    said = re.search(r"Used [\d.]+\w of [\d.]+\w \w+", error)
    return (
        f"{work.name} does not fit on {target.name}: {said[0] if said else error.splitlines()[0]}, "
        f"of which {held}. Largest arguments: {arrays}. Change {cures}"
    )


def _kinds(arguments: Sequence[Argument]) -> Iterator[tuple[str, Any]]:
    for kind, tree in arguments:
        if hasattr(tree, "params") and hasattr(tree, "opt_state"):
            yield from (("params", tree.params), ("optimiser", tree.opt_state))
        elif kind:
            yield kind, tree


def check_batch(rows: int, key: str, mesh: jax.sharding.Mesh) -> None:
    """Checks that the rows of a step can be split over the mesh.

    Raises:
        ValueError: they cannot; names the config's key.
    """
    shards = mesh.shape["data"]
    if rows % shards:
        near = -(-rows // shards) * shards
        raise ValueError(
            f"{key}: {rows} rows do not divide by the mesh axis data of size {shards}: set it to "
            f"{near}, or give mesh.shape another axis"
        )
