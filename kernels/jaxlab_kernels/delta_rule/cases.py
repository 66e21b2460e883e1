"""Named calls of the operation, shared by tests and benchmarks."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One member of the family at one size.

    Attributes:
        batch: B.
        length: T.
        heads: H.
        value_heads: HV.
        key_dim: Dk.
        value_dim: Dv.
        form: see `gated_delta`.
        decay: "none", "head" ([B, T, HV]) or "channel" ([B, T, HV, Dk]).
        erase: "head" or "channel".
        write: "same" (None), "head" or "channel".
    """

    batch: int = 2
    length: int = 83
    heads: int = 2
    value_heads: int = 2
    key_dim: int = 8
    value_dim: int = 8
    form: str = "symmetric"
    decay: str = "channel"
    erase: str = "channel"
    write: str = "same"


MEMBERS = {
    "delta_net": Case(decay="none", erase="head"),
    "gdn": Case(decay="head", erase="head", heads=1, value_dim=12),
    "kda": Case(erase="head", value_dim=12),
    "fg2": Case(),
    "fg2_plus": Case(write="channel", heads=1, value_dim=12),
    "separate_scalars": Case(erase="head", write="head"),
    "left": Case(form="left", value_dim=12),
    "gdn2": Case(form="gdn2", write="channel", value_dim=12),
}

BENCHMARKS = {
    f"{name}_d{dim}_t{length}": dataclasses.replace(
        MEMBERS[name], batch=1, length=length, heads=4, value_heads=4, key_dim=dim, value_dim=dim
    )
    for name in ("gdn", "kda", "fg2", "fg2_plus")
    for dim in (64, 128)
    for length in (2048, 8192)
}

DECAYS = ("mild", "zero", "-20", "-200", "mixed")
GATES = ("inside", "closed", "one", "near_two")


def make(
    case: Case, decays: str = "mild", gates: str = "inside", seed: int = 0, dtype: Any = np.float64
) -> dict[str, Any]:
    """Arguments of `gated_delta` for a case, as NumPy arrays; keys and queries have norm 1.

    Args:
        case: sizes, form and shapes of the gates.
        decays: "mild" (in [-0.5, 0]), "zero", "-20", "-200", or "mixed" (a tenth at -20).
        gates: "inside" (0, 1), "closed" (0), "one", or "near_two" (in [1.9, 2)).
        seed: of the random numbers.
        dtype: of the floating arrays.
    """
    rng = np.random.default_rng(seed)
    front = (case.batch, case.length)
    widths = {"head": (), "channel": (case.key_dim,), "none": ()}

    def unit(*shape):
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def gate(*shape):
        inside = rng.uniform(0.05, 0.95, size=shape)
        return {"inside": inside, "closed": 0 * inside, "one": 1 + 0 * inside,
                "near_two": 1.9 + 0.099 * inside}[gates]  # fmt: skip

    decay_shape = (*front, case.value_heads, *widths[case.decay])
    log_decay = {
        "mild": -0.5 * rng.uniform(size=decay_shape),
        "zero": np.zeros(decay_shape),
        "-20": np.full(decay_shape, -20.0),
        "-200": np.full(decay_shape, -200.0),
        "mixed": np.where(
            rng.uniform(size=decay_shape) < 0.1, -20.0, -0.5 * rng.uniform(size=decay_shape)
        ),
    }["zero" if case.decay == "none" else decays]
    arrays = {
        "q": unit(*front, case.heads, case.key_dim),
        "k": unit(*front, case.heads, case.key_dim),
        "v": rng.normal(size=(*front, case.value_heads, case.value_dim)),
        "log_decay": log_decay,
        "erase": gate(*front, case.value_heads, *widths[case.erase]),
        "initial_state": rng.normal(
            size=(case.batch, case.value_heads, case.key_dim, case.value_dim)
        ),
    }
    if case.write != "same":
        width = (case.value_dim,) if case.write == "channel" else ()
        arrays["write"] = gate(*front, case.value_heads, *width)
    return {name: x.astype(dtype) for name, x in arrays.items()} | {"form": case.form}
