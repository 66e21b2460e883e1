"""Published numbers of accelerators, for estimates of what a step takes on them."""

from typing import NamedTuple

from jaxlab.runtime.profiling import PEAK_FLOPS

GIB = 2**30


class Chip(NamedTuple):
    """One device, as its vendor describes it.

    Attributes:
        kind: as JAX names it.
        flops: bfloat16 FLOPs per second, without sparsity.
        bandwidth: bytes per second of its memory (HBM).
        memory: bytes of it.
        network: bytes per second that it sends to all of its neighbours together (ICI, NVLink):
            half of what is published as bidirectional.
        source: of the numbers.
    """

    kind: str
    flops: float
    bandwidth: float
    memory: float
    network: float
    source: str


def _tpu(kind: str, bandwidth: float, memory: float, gigabits: float, page: str) -> Chip:
    source = f"cloud.google.com/tpu/docs/{page}, system architecture"
    return Chip(kind, PEAK_FLOPS[kind], bandwidth, memory * GIB, gigabits * 1e9 / 8, source)


def _gpu(kind: str, bandwidth: float, memory: float, nvlink: float, sheet: str) -> Chip:
    source = f"NVIDIA {sheet} data sheet"
    return Chip(kind, PEAK_FLOPS[kind], bandwidth, memory, nvlink / 2, source)


# By the name that --topology gives them.
CHIPS = {
    "v4": _tpu("TPU v4", 1228e9, 32, 2400, "v4"),
    "v5e": _tpu("TPU v5 lite", 819e9, 16, 1600, "v5e"),
    "v5p": _tpu("TPU v5", 2765e9, 95, 4800, "v5p"),
    "v6e": _tpu("TPU v6 lite", 1640e9, 32, 3584, "v6e"),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 2039e9, 80e9, 600e9, "A100"),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 3350e9, 80e9, 900e9, "H100"),
    "h200": _gpu("NVIDIA H200", 4800e9, 141e9, 900e9, "H200"),
}
