"""Tables of a report, as Markdown and as JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlab.evals.metrics import Bootstrap

Cell = str | int | float | Bootstrap | None


@dataclass(frozen=True)
class Table:
    """Rows under a title; columns are the keys in order of first occurrence."""

    title: str
    rows: Sequence[Mapping[str, Cell]]
    note: str = ""

    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def markdown(self) -> list[str]:
        """Lines of Markdown, heading and note included."""
        names = self.columns()
        lines = [f"## {self.title}", ""]
        lines += ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        lines += [
            "| " + " | ".join(show(row.get(name)) for name in names) + " |" for row in self.rows
        ]
        return [*lines, "", *([self.note, ""] if self.note else [])]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; what is not a number is null."""
        rows = [{name: _json(value) for name, value in row.items()} for row in self.rows]
        return {"title": self.title, "rows": rows, "note": self.note}


def show(value: Cell) -> str:
    """A cell as text: three decimals, an interval in brackets, "n/a" for what is not there."""
    if isinstance(value, Bootstrap):
        if math.isnan(value.low):
            return show(value.mean)
        return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _json(value: Cell) -> Any:
    if isinstance(value, Bootstrap):
        return {name: _json(number) for name, number in value._asdict().items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def find(tables: Iterable[Table], title: str) -> Table:
    """The table of this title.

    Raises:
        KeyError: there is none.
    """
    for table in tables:
        if table.title == title:
            return table
    raise KeyError(title)
