"""Letters of Word and PowerPoint files: python-docx and python-pptx have fonts of the same form."""

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

ALIGNMENTS = ("left", "center", "right", "justify")
_PER_POINT = 12_700  # English Metric Units


def points(length: int | None) -> str:
    """A length of either library in points."""
    return f"{length / _PER_POINT:g}" if length is not None else "?"


def notes(font: Any, names: Iterable[str]) -> list[str]:
    """Which of the named properties a font has, which of two it denies, its face and size."""
    found = [name for name in names if getattr(font, name)]
    found += [f"not {name}" for name in ("bold", "italic") if getattr(font, name) is False]
    if font.name:
        found.append(font.name)
    if font.size is not None:
        found.append(f"{points(font.size)} pt")
    return found


def change(font: Any, wanted: Mapping[str, Any], units: ModuleType, colors: ModuleType) -> None:
    """Give a font the checked values of `formats.TEXT`, as far as it has them.

    Args:
        font: of a run.
        wanted: name -> value; other names are left alone.
        units: the library's module with `Pt`.
        colors: the library's module with `RGBColor`.
    """
    for name in ("bold", "italic", "underline", "strike"):
        if name in wanted:
            setattr(font, name, wanted[name])
    if "font" in wanted:
        font.name = wanted["font"]
    if "size" in wanted:
        font.size = units.Pt(wanted["size"])
    if "color" in wanted:
        font.color.rgb = colors.RGBColor.from_string(wanted["color"])
