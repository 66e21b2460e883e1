"""Starting the processes of a run, the mesh of their devices, and getting data onto it."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlab.runtime import decode_devices as decoding

_ENV = {
    "coordinator": "JAXLAB_COORDINATOR",
    "num_processes": "JAXLAB_NUM_PROCESSES",
    "process_id": "JAXLAB_PROCESS_ID",
}


def start(multihost: str | Mapping[str, Any] = "none", decode_devices: int | None = None) -> None:
    """Joins the processes of one run; call it before anything touches a device.

    Args:
        multihost: "none": a single process (nothing happens). "auto": ask the cluster (TPU, SLURM,
            Kubernetes). "env": read JAXLAB_COORDINATOR (host:port), JAXLAB_NUM_PROCESSES and
            JAXLAB_PROCESS_ID. A mapping gives coordinator, num_processes and process_id directly.
        decode_devices: CPU devices over which a single process splits decoding; see
            `decode_devices.start`.

    Raises:
        ValueError: an unknown mode, a variable that is absent or not a number, or a number of
            devices that cannot be.
    """
    if jax.distributed.is_initialized():
        return
    if multihost == "none":
        decoding.start(decode_devices)
        return
    if multihost == "auto":
        jax.distributed.initialize()
        return
    if multihost == "env":
        absent = [name for name in _ENV.values() if name not in os.environ]
        if absent:
            raise ValueError(f'multihost="env" needs the variables {", ".join(absent)}')
        given: Mapping[str, Any] = {key: os.environ[name] for key, name in _ENV.items()}
    elif isinstance(multihost, Mapping):
        given = multihost
        if set(given) != set(_ENV):
            raise ValueError(f"multihost needs the keys {', '.join(_ENV)}; got {sorted(given)}")
    else:
        raise ValueError(f"multihost must be none, auto, env or a mapping; got {multihost!r}")
    try:
        count, index = int(given["num_processes"]), int(given["process_id"])
    except ValueError as error:
        raise ValueError(f"num_processes and process_id must be whole numbers: {error}") from error
    if not 0 <= index < count:
        raise ValueError(f"process_id {index} is not in [0, num_processes = {count})")
    jax.distributed.initialize(str(given["coordinator"]), count, index)


def make_mesh(
    shape: Mapping[str, int],
    axis_type: Literal["auto", "explicit"] = "auto",
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Lays the devices out as a mesh.

    Args:
        shape: axis name -> size, in order, for example {"data": -1, "model": 4}. At most one size
            may be -1: it takes the devices that are left.
        axis_type: who propagates shardings: the compiler ("auto") or the types ("explicit").
        devices: the devices to use; when None all of the run but those for decoding alone.

    Raises:
        ValueError: the shape does not use exactly the devices there are.
    """
    types = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
    if axis_type not in types:
        raise ValueError(f"axis_type must be auto or explicit; got {axis_type!r}")
    devices = decoding.others(jax.devices()) if devices is None else list(devices)
    sizes = _fill(dict(shape), len(devices), devices[0].platform)
    return jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), (types[axis_type],) * len(sizes), devices=devices
    )


def _fill(shape: dict[str, int], n_devices: int, platform: str) -> dict[str, int]:
    free = [name for name, size in shape.items() if size == -1]
    if not shape or len(free) > 1 or any(s < 1 and s != -1 for s in shape.values()):
        raise ValueError(f"a mesh needs named sizes >= 1, at most one of them -1; got {shape}")
    fixed = math.prod(size for size in shape.values() if size != -1)
    if free and n_devices % fixed == 0:
        return {name: n_devices // fixed if size == -1 else size for name, size in shape.items()}
    if free or fixed != n_devices:
        wanted = f"a multiple of {fixed}" if free else f"{fixed}"
        raise ValueError(
            f"the mesh {shape} needs {wanted} devices, but there are {n_devices} ({platform})"
        )
    return shape


def is_main() -> bool:
    """True in the process that writes files and prints: process 0."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process of the run has come to the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast(value: Any) -> Any:
    """Returns process 0's JSON-able value in every process (the others' argument is ignored)."""
    if jax.process_count() == 1:
        return value
    payload = np.frombuffer(json.dumps(value if is_main() else None).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(payload.size)))
    buffer = np.zeros(size, np.uint8)
    if is_main():
        buffer[:] = payload
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)))


def everywhere(flag: bool) -> bool:
    """True in every process if the flag is true in all of them."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.all(multihost_utils.process_allgather(np.int32(flag))))


def host_batch_slice(
    global_batch: int, mesh: Mesh | None = None, axes: str | Sequence[str] = ("data",)
) -> slice:
    """The rows of the global batch that this process has to make.

    Args:
        global_batch: number of rows over all processes.
        mesh: when given, the rows that this process's devices hold once the batch is sharded over
            `axes`; processes that split only other axes then make the same rows. Without a mesh the
            processes take equal parts in order.
        axes: the mesh axes that shard the batch.

    Raises:
        ValueError: the batch does not divide evenly, or this process's rows are not contiguous.
    """
    if mesh is None:
        count = jax.process_count()
        if global_batch % count:
            raise ValueError(f"the global batch {global_batch} does not divide by {count} hosts")
        rows = global_batch // count
        return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    shards = math.prod(mesh.shape[name] for name in axes)
    if global_batch % shards:
        raise ValueError(
            f"the global batch {global_batch} does not divide by the mesh axes "
            f"{', '.join(axes)} of size {shards}"
        )
    sharding = NamedSharding(mesh, PartitionSpec(axes))
    parts = {
        index[0].indices(global_batch)[:2]
        for index in sharding.addressable_devices_indices_map((global_batch,)).values()
        if index is not None
    }
    begin, end = min(a for a, _ in parts), max(b for _, b in parts)
    if end - begin != sum(b - a for a, b in parts):
        raise ValueError(f"the rows of process {jax.process_index()} are not contiguous: {parts}")
    return slice(begin, end)


def put_global(tree: Any, mesh: Mesh, spec: Sequence | PartitionSpec = ("data",)) -> Any:
    """Makes global arrays from the rows that each process holds.

    Args:
        tree: pytree of host arrays: this process's rows (see `host_batch_slice`).
        mesh: where the arrays go.
        spec: the partition of the leading dimensions, for example ("data",); scalars and missing
            dimensions are replicated.

    Returns:
        The same tree of `jax.Array`, whose leading dimension counts all processes' rows.
    """

    def put(leaf):
        leaf = np.asarray(leaf)
        sharding = NamedSharding(mesh, PartitionSpec(*tuple(spec)[: leaf.ndim]))
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, tree)
