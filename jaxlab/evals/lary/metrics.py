"""Accuracies and errors of LARY, with intervals clustered by episode. numpy, float64.

The released evaluation reports micro accuracy (right over all), where the paper's text says that
accuracy is averaged over classes: both are here. N: rows, C: classes, S: steps, D: components.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlab.evals.metrics import Bootstrap, cluster_bootstrap
from jaxlab.evals.tables import Table

COMPOSITE = ("human_1st", "robot_1st")
LABELS = ("libero", *COMPOSITE)
CHUNKS = ("calvin", "vlabench", "robocoin", "agibotbeta")


@dataclass(frozen=True)
class ClassScore:
    """One class: rows that are of it, and precision, recall and F1; NaN where undefined."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Accuracy:
    """Scores of a classification.

    Attributes:
        micro: right rows over all rows.
        macro: mean of the recalls of the classes that have rows.
        classes: one score each.
        robots: micro accuracy by robot.
        confusion: int64[C, C]; as in the release, rows are what was predicted, columns what is.
    """

    micro: Bootstrap
    macro: Bootstrap
    classes: tuple[ClassScore, ...]
    robots: dict[str, Bootstrap]
    confusion: np.ndarray

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a row, which the macro average leaves out."""
        return tuple(one.name for one in self.classes if not one.rows)

    def tables(self) -> list[Table]:
        """Tables of a report: in all, by class, by robot."""
        note = f"Classes without a row: {', '.join(self.absent)}." if self.absent else ""
        whole = Table("Accuracy", [{"micro": self.micro, "macro": self.macro}], note)
        fields = ("precision", "recall", "f1")
        by_class = Table(
            "Accuracy by class",
            [
                {"class": c.name, "rows": c.rows, **{f: getattr(c, f) for f in fields}}
                for c in self.classes
            ],
        )
        return [whole, by_class, _by_robot("Accuracy by robot", "micro", self.robots)]


@dataclass(frozen=True)
class ChunkError:
    """Mean squared errors of z-scored actions; 1 is what the mean predictor of train scores.

    Attributes:
        mse: over all rows, steps and components.
        dims: by component.
        groups: of position, orientation and gripper.
        steps: by step of the chunk.
        robots: by robot.
    """

    mse: Bootstrap
    dims: dict[str, float]
    groups: dict[str, Bootstrap]
    steps: tuple[float, ...]
    robots: dict[str, Bootstrap]

    def tables(self) -> list[Table]:
        """Tables of a report: in all and by group, by component, by robot."""
        return [
            Table("Squared error", [{"all": self.mse, **self.groups}]),
            Table("Squared error by component", [dict(self.dims)]),
            _by_robot("Squared error by robot", "MSE", self.robots),
        ]


def accuracy(
    predicted: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    clusters: Sequence[Hashable] | None = None,
    robots: Sequence[str] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Accuracy:
    """Scores of predicted classes.

    Args:
        predicted: int[N], ids of classes.
        target: int[N].
        classes: names by id.
        clusters: episode of each row; every row its own by default.
        robots: of each row; None: not reported.
        num_resamples: bootstrap draws of whole clusters.
        seed: the draws are a pure function of it.

    Raises:
        ValueError: lengths differ, there is no row, or an id is out of range.
    """
    predicted, target = np.asarray(predicted), np.asarray(target)
    size = len(classes)
    if predicted.shape != target.shape or predicted.ndim != 1 or not predicted.size:
        raise ValueError(f"ids [N] are needed, got {predicted.shape} and {target.shape}")
    for name, ids in (("predicted", predicted), ("target", target)):
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= size:
            raise ValueError(f"{name}: ids must be whole numbers in [0, {size}), got {ids!r:.60}")
    right = (predicted == target).astype(float)
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (predicted, target), 1)
    scores = tuple(
        _class_score(name, confusion[i, i], confusion[i].sum(), confusion[:, i].sum())
        for i, name in enumerate(classes)
    )
    options = {"num_resamples": num_resamples, "seed": seed}
    return Accuracy(
        cluster_bootstrap(right, clusters, **options),
        _macro(right, target, size, clusters, **options),
        scores,
        _per_robot(right, clusters, robots, **options),
        confusion,
    )


def chunk_error(
    predicted: np.ndarray,
    target: np.ndarray,
    dims: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    clusters: Sequence[Hashable] | None = None,
    robots: Sequence[str] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> ChunkError:
    """Errors of predicted actions.

    Args:
        predicted: float[N, S, D], z-scores.
        target: float[N, S, D].
        dims: names of the D components.
        groups: name -> numbers of components, as `Track.groups`.
        clusters: episode of each row; every row its own by default.
        robots: of each row; None: not reported.
        num_resamples: bootstrap draws of whole clusters.
        seed: the draws are a pure function of it.

    Raises:
        ValueError: shapes differ, there is no row, or a number is not finite.
    """
    predicted, target = np.asarray(predicted, float), np.asarray(target, float)
    if predicted.shape != target.shape or target.ndim != 3 or not target.size:
        raise ValueError(f"actions [N, S, D] are needed, got {predicted.shape} and {target.shape}")
    if target.shape[2] != len(dims):
        raise ValueError(f"{target.shape[2]} components, but {len(dims)} names")
    squares = (predicted - target) ** 2
    wrong = np.flatnonzero(~np.isfinite(squares).all((1, 2)))
    if wrong.size:
        raise ValueError(f"{wrong.size} rows are not finite, the first is row {wrong[0]}")
    options = {"num_resamples": num_resamples, "seed": seed}
    rows = squares.mean((1, 2))
    return ChunkError(
        cluster_bootstrap(rows, clusters, **options),
        dict(zip(dims, squares.mean((0, 1)).tolist(), strict=True)),
        {
            name: cluster_bootstrap(squares[:, :, list(indices)].mean((1, 2)), clusters, **options)
            for name, indices in groups.items()
        },
        tuple(squares.mean((0, 2)).tolist()),
        _per_robot(rows, clusters, robots, **options),
    )


def averages(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Averages over tracks, each None where a track of it is missing.

    The project's page ranks by the "composite" average of the two sets of clips, the paper's text
    quotes that of "all" three sets of labels; "regression" is over the four sets of chunks.

    Args:
        scores: track -> accuracy, or error for chunks.
    """
    kinds = {"composite": COMPOSITE, "all": LABELS, "regression": CHUNKS}
    return {
        name: float(np.mean([scores[track] for track in needed]))
        if all(track in scores for track in needed)
        else None
        for name, needed in kinds.items()
    }


def _class_score(name: str, right: int, predicted: int, rows: int) -> ClassScore:
    return ClassScore(
        name,
        int(rows),
        right / predicted if predicted else np.nan,
        right / rows if rows else np.nan,
        2 * right / (predicted + rows) if predicted + rows else np.nan,
    )


def _macro(
    right: np.ndarray,
    target: np.ndarray,
    size: int,
    clusters: Sequence[Hashable] | None,
    num_resamples: int,
    seed: int,
) -> Bootstrap:
    """Mean recall; in a resample, over the classes that were drawn."""
    labels = range(len(target)) if clusters is None else clusters
    if len(labels) != len(target):
        raise ValueError(f"{len(target)} rows, but {len(labels)} cluster labels")
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    members = np.array([number[label] for label in labels])

    def mean(weights: np.ndarray | None) -> float:
        rows = np.bincount(target, weights, size)
        hits = np.bincount(target, right if weights is None else right * weights, size)
        return float((hits[rows > 0] / rows[rows > 0]).mean())

    if len(number) == 1:
        return Bootstrap(mean(None), np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(number), size=len(number)) for _ in range(num_resamples))
    means = np.array([mean(np.bincount(d, minlength=len(number))[members]) for d in draws])
    low, high = np.quantile(means, [0.025, 0.975])
    return Bootstrap(mean(None), float(means.std(ddof=1)), float(low), float(high))


def _per_robot(
    values: np.ndarray,
    clusters: Sequence[Hashable] | None,
    robots: Sequence[str] | None,
    **options: int,
) -> dict[str, Bootstrap]:
    if robots is None:
        return {}
    if len(robots) != len(values):
        raise ValueError(f"{len(values)} rows, but {len(robots)} robots")
    found = {}
    for name in sorted(set(robots)):
        rows = [i for i, robot in enumerate(robots) if robot == name]
        own = None if clusters is None else [clusters[i] for i in rows]
        found[name] = cluster_bootstrap(values[rows], own, **options)
    return found


def _by_robot(title: str, column: str, robots: Mapping[str, Bootstrap]) -> Table:
    return Table(title, [{"robot": name or "(none)", column: one} for name, one in robots.items()])
