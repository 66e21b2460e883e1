"""CPU devices for decoding: a step of it is too small for XLA to share between cores.

Training keeps the first CPU device, whose large matrix products use all cores already. Decoding
splits its rows over several devices, each of which decodes its rows by itself. Rows do not depend
on each other, but matrix products of fewer rows may round differently in the last bit: runs that
are to agree bit for bit use the same number of devices.
"""

import dataclasses
import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

# Parameters of the models that gain. The smallest spend their time on starting operations; the
# largest use all cores for every matrix product, and each device holds a copy of them.
GAIN = range(500_000, 100_000_000)
# More have not been measured.
MOST = 4


@dataclasses.dataclass
class _State:
    """What belongs to the process, as JAX's devices do.

    Attributes:
        automatic: the process is a program of its own, whose devices are settled by its needs.
        count: devices that decoding may use.
        own: they were made here, so that nothing else uses more than the first.
        always: use them for models of every size.
    """

    automatic: bool = False
    count: int = 1
    own: bool = False
    always: bool = False


_state = _State()


def automatically() -> None:
    """Let `start(None)` make devices; for programs, since devices belong to a whole process."""
    _state.automatic = True


def start(wanted: int | None) -> None:
    """Make the devices, before anything touches one; a second call changes nothing.

    Args:
        wanted: how many; they are then used for models of every size. None: in a program that
            called `automatically`, and where the number of CPU devices is not set already, one
            per usable core up to `MOST`, for models that gain.

    Raises:
        ValueError: less than 1, or JAX has started with fewer CPU devices.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"mesh.decode_devices must be at least 1, not {wanted}")
    if _state.count > 1 or wanted == 1:
        return
    settings: Any = jax.config  # whose type lists no settings
    given = settings.jax_num_cpu_devices >= 0
    given |= "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if wanted is None and (given or not _state.automatic):
        return
    count = min(_usable_cores(), MOST) if wanted is None else wanted
    if not given:
        try:
            jax.config.update("jax_num_cpu_devices", count)
            _state.own = True
        except RuntimeError:  # JAX has started
            if wanted is None:
                return
    if not _state.own and len(jax.local_devices(backend="cpu")) < count:
        raise ValueError(
            f"mesh.decode_devices: {count} CPU devices are wanted, but JAX runs with "
            f"{len(jax.local_devices(backend='cpu'))}: set JAX_NUM_CPU_DEVICES={count} before "
            "Python starts"
        )
    _state.count, _state.always = count, wanted is not None


def others(devices: list[jax.Device]) -> list[jax.Device]:
    """The devices without those that exist for decoding alone."""
    return devices[:1] if _state.own and devices[0].platform == "cpu" else devices


def mesh_for(mesh: Mesh, params: Any, prompts: int, samples: int) -> Mesh | None:
    """The mesh, of one axis "data", over which completions of prompts are split.

    Args:
        mesh: what the model is on otherwise.
        params: its parameters.
        prompts: number of prompts.
        samples: completions of each; they are split where the prompts do not divide.

    Returns:
        None where the model is decoded on `mesh`: it has more than one device or none of a CPU,
        there is one device for decoding, or the model does not gain.
    """
    if _state.count == 1 or mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
        return None
    if not _state.always and sum(leaf.size for leaf in jax.tree.leaves(params)) not in GAIN:
        return None
    count = max(n for n in range(1, _state.count + 1) if divides(n, prompts, samples))
    if count == 1:
        return None
    return Mesh(np.array(jax.local_devices(backend="cpu")[:count]), ("data",))


def divides(count: int, prompts: int, samples: int) -> bool:
    """Whether `samples` completions of each of the prompts can be split evenly over devices."""
    return samples % (count // math.gcd(count, prompts)) == 0


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
