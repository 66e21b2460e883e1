"""How long a layer takes, by sequence length and by blocks per query: measured, or by a formula.

L: tokens of a sequence; k: budget, the key blocks that each query attends to.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxlab import json_file


class Latency(Protocol):
    """Anything that knows seconds from length and budget."""

    def predict(self, length: ArrayLike, budget: ArrayLike) -> Any:
        """Seconds of one layer, forward and backward, at these lengths and budgets (broadcast)."""


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Measured seconds of one layer, forward and backward, on a grid of lengths and budgets.

    Entries that noise made smaller than those of a shorter length or a smaller budget are raised to
    them, so that more work is never predicted to take less time; `raised` counts them. Between grid
    points the look-up is bilinear in (log2 L, k).

    Attributes:
        lengths: tokens of a sequence, ascending.
        budgets: blocks per query, ascending.
        seconds: [len(lengths)][len(budgets)], of one layer.
        device: what it was measured on.
        model: which layer was measured, in words.
        layers: how many such layers the model has.
        other: seconds per token that the model spends outside of these layers; `profile` does not
            measure them and leaves 0.

    Source: SparseBalance's offline look-up table; its grid and its interpolation are not published.
    """

    lengths: tuple[int, ...]
    budgets: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]
    device: str = "unknown"
    model: str = "unknown"
    layers: int = 1
    other: float = 0.0
    raised: int = dataclasses.field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Check the grid, and make the entries monotone."""
        for name, axis in (("lengths", self.lengths), ("budgets", self.budgets)):
            ascending = all(a < b for a, b in itertools.pairwise(axis))
            if not axis or min(axis) < 1 or not ascending:
                raise ValueError(f"{name} must be ascending whole numbers from 1, not {axis}")
        shape = (len(self.lengths), len(self.budgets))
        try:
            grid = np.asarray(self.seconds, np.float64)
        except (TypeError, ValueError):
            grid = np.zeros(())
        if grid.shape != shape:
            raise ValueError(
                f"seconds must be a table of {shape[0]} lengths by {shape[1]} budgets, not of "
                f"shape {grid.shape}"
            )
        bad = np.argwhere(~(np.isfinite(grid) & (grid > 0)))
        if len(bad):
            i, j = map(int, bad[0])
            raise ValueError(
                f"seconds at length {self.lengths[i]}, budget {self.budgets[j]} is {grid[i, j]}: "
                "expected a finite number above 0"
            )
        if self.layers < 1 or not (math.isfinite(self.other) and self.other >= 0):
            raise ValueError(
                f"layers is {self.layers} and other {self.other}: expected at least 1 and 0"
            )
        risen = np.maximum.accumulate(np.maximum.accumulate(grid, axis=0), axis=1)
        object.__setattr__(self, "raised", self.raised + int((risen > grid).sum()))
        object.__setattr__(self, "seconds", tuple(map(tuple, risen.tolist())))

    @classmethod
    def profile(
        cls,
        model: Any,
        lengths: Sequence[int],
        budgets: Sequence[int],
        *,
        repeats: int = 3,
        progress: Callable[[str], None] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> "LatencyTable":
        """Measures one sparse layer of a model on this device.

        Args:
            model: a decoder, or its config, with a layer whose mixer is block_sparse; or a function
                (length, budget) that returns another, which does the work once when called.
            lengths: tokens of a sequence.
            budgets: blocks per query.
            repeats: timed calls of each cell, after one that compiles; the shortest counts.
            progress: called with a line for each length.
            clock: seconds so far; None is the wall's. `time.process_time` is steadier on a CPU that
                others use as well.

        Raises:
            ValueError: the model has no block-sparse layer, or lengths or budgets are no counts.
        """
        from jaxlab.balance import measure

        return measure.profile(
            cls, model, lengths=lengths, budgets=budgets, repeats=repeats, progress=progress,
            clock=clock,
        )  # fmt: skip

    @classmethod
    def sample(
        cls, latency: Latency, lengths: Sequence[int], budgets: Sequence[int], **fields: Any
    ) -> "LatencyTable":
        """A table of what something else predicts at these points."""
        grid = latency.predict(np.asarray(lengths)[:, None], np.asarray(budgets)[None])
        seconds = tuple(map(tuple, np.asarray(grid, np.float64).tolist()))
        return cls(tuple(lengths), tuple(budgets), seconds, **fields)

    @property
    def id(self) -> str:
        """A name of this table's content, for checkpoints: other entries, another id."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def predict(self, length: ArrayLike, budget: ArrayLike) -> Any:
        """Seconds of one layer for one sequence; arrays are broadcast against each other.

        Outside of the grid the nearest edge is returned, with a warning that names the range; for a
        length of 0 the answer is 0.

        Raises:
            ValueError: a budget below 1 or a negative length.
        """
        tokens, blocks = _counts(length, budget)
        low, high = self.lengths[0], self.lengths[-1]
        asked = tokens[tokens > 0]
        for name, values, first, last in (
            ("length", asked, low, high),
            ("budget", blocks, self.budgets[0], self.budgets[-1]),
        ):
            outside = (values < first) | (values > last)
            if outside.any():
                warnings.warn(
                    f"{name} {values[outside].flat[0]:g} is outside of the latency table's "
                    f"{first} to {last}: the edge's seconds are used; profile a wider grid",
                    stacklevel=2,
                )
        x = np.log2(np.clip(tokens, low, high))
        result = _bilinear(
            np.log2(np.asarray(self.lengths, np.float64)),
            np.asarray(self.budgets, np.float64),
            np.asarray(self.seconds),
            x,
            np.clip(blocks, self.budgets[0], self.budgets[-1]),
        )
        result = np.where(tokens > 0, result, 0.0)
        return float(result) if result.ndim == 0 else result

    def model_seconds(self, length: ArrayLike, budget: ArrayLike) -> Any:
        """Seconds of the whole model: all layers, and what it spends on a token beside them."""
        return self.layers * self.predict(length, budget) + self.other * np.asarray(length)

    def check(self, *, device: str | None = None, model: str | None = None) -> None:
        """Raises a ValueError where the table is of another device or model than these."""
        for name, ours, theirs in (("device", self.device, device), ("model", self.model, model)):
            if theirs is not None and ours != theirs:
                raise ValueError(
                    f"the latency table was measured for the {name} {ours!r}, not for {theirs!r}: "
                    "profile this one (LatencyTable.profile)"
                )

    def save(self, path: str | Path) -> None:
        """Writes the table as JSON."""
        Path(path).write_text(json.dumps(self._content(), indent=1) + "\n")

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | None = None, model: str | None = None
    ) -> "LatencyTable":
        """Reads a table that `save` wrote.

        Raises:
            ValueError: naming the file and the key that is missing or wrong, or the device or model
                of which it is where another is asked for.
        """
        path = Path(path)
        data = json_file.read(path)
        names = [field.name for field in dataclasses.fields(cls) if field.name != "raised"]
        missing = [name for name in names if name not in data]
        if missing or set(data) - set(names):
            wrong = missing or sorted(set(data) - set(names))
            raise ValueError(
                f"{path}: {'no key' if missing else 'unknown key'} {', '.join(wrong)}: expected a "
                "latency table with " + ", ".join(names)
            )
        kinds = {
            "lengths": json_file.list_of(json_file.SIZE),
            "budgets": json_file.list_of(json_file.SIZE),
            "device": json_file.TEXT,
            "model": json_file.TEXT,
            "layers": json_file.SIZE,
            "seconds": json_file.list_of(json_file.list_of(json_file.POSITIVE)),
        }
        json_file.check(data, kinds, str(path))
        if type(data["other"]) not in (int, float):
            raise ValueError(f"{path}: other is {data['other']!r}: expected seconds per token")
        for name in ("lengths", "budgets"):
            data[name] = tuple(data[name])
        data["seconds"] = tuple(map(tuple, data["seconds"]))
        try:
            table = cls(**data)
            table.check(device=device, model=model)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return table

    def _content(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        del fields["raised"]
        return fields


@dataclasses.dataclass(frozen=True)
class WholeModel:
    """A table's seconds of all layers of the model, and of what stands beside them."""

    table: LatencyTable

    @property
    def id(self) -> str:
        """The table's."""
        return self.table.id

    def predict(self, length: ArrayLike, budget: ArrayLike) -> Any:
        """See `LatencyTable.model_seconds`."""
        return self.table.model_seconds(length, budget)


@dataclasses.dataclass(frozen=True)
class Formula:
    """Seconds of one layer by counting: c0 + c1 L + c2 pairs(L, k) + c3 L^2 / (2 B) + c4 L^2 / 2.

    `pairs` are the query-key pairs of block-sparse attention, b^2 / 2 + (L - b) b with
    b = min(L, k B): dense up to b, and b keys for each later query. The last term is the router's,
    every query against every past block: the part that no budget removes.

    Attributes:
        start: c0, seconds per call.
        token: c1, seconds per token: projections and feed-forward layer.
        pair: c2, seconds per query-key pair.
        route: c3, seconds per query-block pair.
        block: B, tokens per block.
        dense: c4, seconds per query-key pair of layers that stay dense.
    """

    start: float = 0.0
    token: float = 0.0
    pair: float = 0.0
    route: float = 0.0
    block: int = 256
    dense: float = 0.0

    @property
    def id(self) -> str:
        """A name of these numbers, for checkpoints."""
        content = json.dumps(dataclasses.asdict(self))
        return "formula-" + hashlib.sha256(content.encode()).hexdigest()[:16]

    def predict(self, length: ArrayLike, budget: ArrayLike) -> Any:
        """See `Latency`."""
        tokens, blocks = _counts(length, budget)
        result = (
            self.start * (tokens > 0)
            + self.token * tokens
            + self.pair * pairs(tokens, blocks, self.block)
            + self.route * tokens**2 / (2 * self.block)
            + self.dense * tokens**2 / 2
        )
        return float(result) if result.ndim == 0 else result


def pairs(length: ArrayLike, budget: ArrayLike, block: int) -> Any:
    """Query-key pairs of block-sparse attention, b^2 / 2 + (L - b) b with b = min(L, k B)."""
    tokens = np.asarray(length, np.float64)
    dense = np.minimum(tokens, np.asarray(budget, np.float64) * block)
    return dense**2 / 2 + (tokens - dense) * dense


def qwen25_3b(slowdown: float = 1.0, block: int = 256, rate: float = 4e14) -> Formula:
    """A layer of Qwen2.5-3B by its FLOPs, forward and backward, at `rate` FLOP/s.

    Hidden 2,048, 16 query and 2 key heads of 128, feed-forward 11,008. Backward counts twice.

    Args:
        slowdown: how many times as long a FLOP of the sparse kernel takes as one of a linear layer.
        block: tokens per block.
        rate: FLOP/s of the linear layers.
    """
    hidden, heads, kv_heads, dim, wide = 2048, 16, 2, 128, 11008
    linear = hidden * dim * (2 * heads + 2 * kv_heads) + 3 * hidden * wide
    return Formula(
        token=3 * 2 * linear / rate,
        pair=3 * 4 * heads * dim * slowdown / rate,
        # The router has no backward pass.
        route=2 * heads * dim * slowdown / rate,
        block=block,
    )


def _counts(length: ArrayLike, budget: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    tokens, blocks = np.broadcast_arrays(
        np.asarray(length, np.float64), np.asarray(budget, np.float64)
    )
    if not (tokens >= 0).all():
        raise ValueError(f"length is {tokens[~(tokens >= 0)].flat[0]}: expected at least 0 tokens")
    if not (blocks >= 1).all():
        raise ValueError(
            f"budget is {blocks[~(blocks >= 1)].flat[0]:g}: expected at least 1, for a query "
            "always attends to its own block"
        )
    return tokens, blocks


def _bilinear(
    rows: np.ndarray, columns: np.ndarray, grid: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Values of `grid` [len(rows), len(columns)] at points within it."""

    def place(axis: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, max(len(axis) - 2, 0))
        high = np.minimum(low + 1, len(axis) - 1)
        width = np.where(high > low, axis[high] - axis[low], 1.0)
        return low, high, (at - axis[low]) / width

    i0, i1, u = place(rows, x)
    j0, j1, v = place(columns, y)
    upper = grid[i0, j0] * (1 - v) + grid[i0, j1] * v
    lower = grid[i1, j0] * (1 - v) + grid[i1, j1] * v
    return upper * (1 - u) + lower * u
