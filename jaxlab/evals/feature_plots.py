"""Plots of a probe: its confusion matrix, and its features along two principal components."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxlab.evals import components, figures

_MOST = 1500  # points


def confusion(path: Path, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Shares of each class's rows, predicted (rows) by true class (columns).

    Args:
        path: of the picture.
        counts: int[C, C], rows are what was predicted.
        classes: names by id.
    """
    shares = counts / np.maximum(counts.sum(0, keepdims=True), 1)
    side = min(4 + 0.18 * len(classes), 16)
    figure = figures.new(side + 1, side)
    axis = figure.subplots()
    shown = axis.imshow(shares, vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(shown, ax=axis, label="share of the class's rows")
    if len(classes) <= 60:
        axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
        axis.set_yticks(range(len(classes)), classes, fontsize=6)
    axis.set(xlabel="class", ylabel="predicted")
    figures.save(figure, path)


def latents(
    path: Path,
    read: Callable[[np.ndarray], np.ndarray],
    colours: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Features of rows along their first two components; colours are class ids or a number.

    Args:
        path: of the picture.
        read: numbers of rows -> features [n, ...].
        colours: [N], of the rows.
        classes: names by id; empty where colours are numbers.
    """
    chosen = np.unique(np.linspace(0, len(colours) - 1, min(len(colours), _MOST)).astype(int))
    features = read(chosen)
    found = components.fit(lambda ids: features[ids], len(features), 2)
    x, y = found(features).T
    figure = figures.new(6.5, 5)
    axis = figure.subplots()
    shown = axis.scatter(
        x, y, c=colours[chosen], s=8, cmap="nipy_spectral" if len(classes) else "coolwarm"
    )
    bar = figure.colorbar(
        shown, ax=axis, label="class" if len(classes) else "first number, z-score"
    )
    if 0 < len(classes) <= 40:
        bar.set_ticks(range(len(classes)), labels=list(classes), fontsize=6)
    axis.set(
        xlabel="first component",
        ylabel="second component",
        title=f"{found.share:.0%} of the variance",
    )
    figures.save(figure, path)
