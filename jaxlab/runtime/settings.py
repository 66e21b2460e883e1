"""The section `mesh` of a config."""

import dataclasses
from typing import Literal

from jaxlab import ranges

Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices and how parameters lie on them.

    Attributes:
        shape: size of each mesh axis; one may be -1 (the rest). Batches are split over "data".
        rules: (pattern over the parameter's path, PartitionSpec) pairs, first match wins.
        decode_rules: as `rules`, for sampling: parameters that training splits over "data" are
            gathered once per rollout, not once per token. None: as they are.
        multihost: "none" (one process), "auto" (jax finds the cluster), "env" (JAXLAB_COORDINATOR,
            JAXLAB_NUM_PROCESSES, JAXLAB_PROCESS_ID).
        decode_devices: CPU devices over which a single process splits the rows that it decodes,
            while it trains on one. None: one per core, up to 4, for models that gain (0.5 to
            100 million parameters). Runs agree bit for bit only if they use the same number. It
            belongs to the process, so that stages of one config cannot give different ones.
    """

    shape: dict[str, int] = dataclasses.field(default_factory=lambda: {"data": -1})
    rules: Rules = ((".*", ()),)
    decode_rules: Rules | None = None
    multihost: Literal["none", "auto", "env"] = "none"
    decode_devices: int | None = None

    def __post_init__(self) -> None:
        """Check that batches can be split over the mesh, and that rules are regular expressions."""
        if "data" not in self.shape:
            raise ValueError(
                f'shape needs an axis "data", over which batches are split: {self.shape}'
            )
        sizes = list(self.shape.values())
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                "shape must have sizes of at least 1, of which one may be -1 (the devices that are "
                f"left), not {self.shape}"
            )
        ranges.check_counts(self, "decode_devices")
        ranges.check_patterns("rules", (pattern for pattern, _ in self.rules))
        ranges.check_patterns("decode_rules", (pattern for pattern, _ in self.decode_rules or ()))
