"""Figures; matplotlib is imported with the first one, for it takes a second of every start."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write a figure, its parts moved so that none is cut off."""
    figure.tight_layout()
    figure.savefig(path, dpi=120)
