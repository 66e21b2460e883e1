"""Means and standard deviations of actions, by robot, and the z-scores of the probes' targets.

The release computes them from the training split, for each `robot_type`, over all steps of all
chunks (since 2026-05-07); for CALVIN and VLABench its code has constants instead
(`Normaliser.shipped`). A deviation below 1e-6 becomes 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxlab.evals.lary import tracks
from jaxlab.evals.lary.rows import Row
from jaxlab.grading.rows import Rejected

SMALLEST = 1e-6


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation, float64[D], of `count` steps."""

    mean: np.ndarray
    std: np.ndarray
    count: int = 0


@dataclass(frozen=True)
class Normaliser:
    """z-scores of actions.

    Attributes:
        robots: moments by robot; "" is a robot that the file does not name.
        everywhere: moments for every robot, where they do not depend on it.
    """

    robots: dict[str, Moments]
    everywhere: Moments | None = None

    @classmethod
    def fit(cls, examples: Iterable[tuple[Row, np.ndarray]], by_robot: bool = True) -> "Normaliser":
        """From the training split's rows and actions [steps, D], one pass, memory of one chunk.

        Raises:
            ValueError: there are none.
        """
        running: dict[str, _Running] = {}
        for row, values in examples:
            name = row.robot_type if by_robot else ""
            running.setdefault(name, _Running(values.shape[-1])).add(values)
        if not running:
            raise ValueError("statistics of actions: there is no row to compute them from")
        found = {name: moments.result() for name, moments in sorted(running.items())}
        return cls(found) if by_robot else cls({}, found[""])

    @classmethod
    def shipped(cls, track: str) -> "Normaliser":
        """The constants for absolute actions that the release has in its code.

        Raises:
            ValueError: it has none for this track.
        """
        constants = tracks.TRACKS[track].shipped
        if constants is None:
            known = ", ".join(name for name, one in tracks.TRACKS.items() if one.shipped)
            raise ValueError(f"norm=shipped: {track} has no constants in the release; {known} have")
        mean, std = (np.array(part, np.float64) for part in constants)
        return cls({}, Moments(mean, std))

    def __call__(
        self,
        rows: Sequence[Row],
        values: np.ndarray,
        unknown: Literal["error", "identity"] = "error",
    ) -> tuple[np.ndarray, list[Rejected]]:
        """z-scores of actions [N, steps, D], as float32.

        Args:
            rows: of the actions.
            values: float[N, steps, D].
            unknown: what to do with a robot that the training split does not have: an error, or, as
                the release does, mean 0 and deviation 1, with an account.

        Returns:
            The z-scores, and the rows whose robot is unknown.

        Raises:
            ValueError: the first row whose robot is unknown.
        """
        if len(rows) != len(values):
            raise ValueError(f"{len(rows)} rows, but {len(values)} chunks")
        out, strangers = np.array(values, np.float64), []
        for i, row in enumerate(rows):
            moments = self.everywhere or self.robots.get(row.robot_type)
            if moments is not None:
                out[i] = (out[i] - moments.mean) / moments.std
                continue
            known = ", ".join(map(repr, self.robots))
            cause = f"robot_type {row.robot_type!r} is not in the training split, which has {known}"
            if unknown == "error":
                raise ValueError(
                    f"{row.id}: {cause}; unknown=identity leaves its actions as they are"
                )
            strangers.append(Rejected(row.id, cause))
        return out.astype(np.float32), strangers


class _Running:
    """Moments of steps that come chunk by chunk (Chan, Golub and LeVeque 1979)."""

    def __init__(self, dims: int):
        self._count, self._mean, self._squares = 0, np.zeros(dims), np.zeros(dims)

    def add(self, values: np.ndarray) -> None:
        values = np.asarray(values, np.float64)
        count, mean = len(values), values.mean(0)
        total, delta = self._count + count, mean - self._mean
        self._squares += ((values - mean) ** 2).sum(0)
        self._squares += delta**2 * (self._count * count / total)
        self._mean += delta * (count / total)
        self._count = total

    def result(self) -> Moments:
        return Moments(self._mean, _deviation(np.sqrt(self._squares / self._count)), self._count)


def _deviation(std: np.ndarray) -> np.ndarray:
    return np.where(std < SMALLEST, 1.0, std)
