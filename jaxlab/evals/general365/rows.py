"""Rows of General365.

The public schema is {id, question, answer, answer_type, float_round}, with float_round a string.
Category, seed and variant may be fields of their own, may stand in the id, or may be absent; then
what is grouped by them is not reported.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlab import config
from jaxlab.grading import rows
from jaxlab.grading.rows import BadRows, Panel, Row

ANSWER_TYPES = ("number", "interval", "text", "single_choice", "multiple_choice")
CATEGORIES = (
    "complex constraints",
    "branching and enumeration",
    "spatio-temporal",
    "recursion and backtracking",
    "semantic interference",
    "implicit information",
    "optimal strategy",
    "probability and uncertainty",
)
# Value of meta["variant"] for a row that is no variant.
SEED = "seed"

# Field of ours -> names under which it is looked for.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "question": ("question", "problem"),
    "answer": ("answer", "ground_truth"),
    "answer_type": ("answer_type",),
    "float_round": ("float_round",),
    "categories": ("categories", "category", "tags"),
    "seed_id": ("seed_id", "group"),
    "variant": ("variant", "variant_id", "is_variant"),
}


class Parser:
    """Makes rows from the objects of a file."""

    def __init__(self, fields: Mapping[str, str] | None = None, id_pattern: str | None = None):
        """Check what the user asks for.

        Args:
            fields: our name of a field -> its name in the file, before the usual ones.
            id_pattern: regular expression over the whole id with a group "seed" and perhaps one
                "variant", for files without such fields; an empty variant is the seed.

        Raises:
            ValueError: a field is unknown, or the pattern is none or has no such group.
        """
        unknown = set(fields or {}) - ALIASES.keys()
        if unknown:
            raise config.unknown_key("fields", min(unknown), ALIASES)
        self._names = {
            ours: ((fields or {})[ours],) if ours in (fields or {}) else names
            for ours, names in ALIASES.items()
        }
        self._pattern = None
        if id_pattern is not None:
            try:
                self._pattern = re.compile(id_pattern)
            except re.error as error:
                raise ValueError(f"id_pattern {id_pattern!r}: {error}") from None
            if "seed" not in self._pattern.groupindex:
                raise ValueError(f"id_pattern {id_pattern!r} has no group (?P<seed>...)")

    def __call__(self, row: dict[str, Any]) -> Row:
        """One row; ValueError says what is wrong with it."""
        question = rows.first_text(row, self._names["question"])
        answer = rows.first_text(_texts(row, self._names["answer"]), self._names["answer"])
        identity = rows.row_id(row, self._names["id"], question, answer)
        kind = rows.first_text(row, self._names["answer_type"])
        if kind not in ANSWER_TYPES:
            raise ValueError(f"answer_type {kind!r} is none of {', '.join(ANSWER_TYPES)}")
        meta: dict[str, Any] = {
            "answer_type": kind,
            "float_round": _rounding(self._value(row, "float_round")),
        }
        categories = _categories(self._value(row, "categories"))
        if categories:
            meta["categories"] = categories
        seed, variant = self._family(row, identity)
        if seed is not None:
            meta["seed_id"] = seed
        if variant is not None:
            meta["variant"] = variant
        return Row(identity, question, answer, cluster=seed or identity, meta=meta)

    def _value(self, row: Mapping[str, Any], ours: str) -> Any:
        return next((row[name] for name in self._names[ours] if row.get(name) is not None), None)

    def _family(self, row: Mapping[str, Any], identity: str) -> tuple[str | None, str | None]:
        """The row's seed, and "seed" or the name of its variant; None where unknown."""
        seed, variant = self._value(row, "seed_id"), self._value(row, "variant")
        if self._pattern is not None and seed is None:
            match = self._pattern.fullmatch(identity)
            if match is None:
                raise ValueError(f"the id {identity!r} does not match id_pattern")
            seed = match["seed"]
            if variant is None and "variant" in self._pattern.groupindex:
                variant = match["variant"] or SEED
        if isinstance(variant, bool):
            variant = "variant" if variant else SEED
        elif variant in ("", "0", 0):
            variant = SEED
        return (None if seed is None else str(seed)), (None if variant is None else str(variant))


def read(
    path: str | Path,
    fields: Mapping[str, str] | None = None,
    id_pattern: str | None = None,
    bad_rows: BadRows = "error",
) -> Panel:
    """The rows of a file; arguments and errors as in `Parser` and `rows.read`."""
    return rows.read(path, Parser(fields, id_pattern), bad_rows)


def subset(panel: Panel, name: str) -> Panel:
    """The rows of a part: "all", "seed", "variant", one of `ANSWER_TYPES`, or a category.

    Raises:
        ValueError: no row is of it.
    """
    if name == "all":
        return panel

    def belongs(row: Row) -> bool:
        if name in (SEED, "variant"):
            return "variant" in row.meta and (row.meta["variant"] == SEED) is (name == SEED)
        return name in (row.meta["answer_type"], *row.meta.get("categories", ()))

    chosen = tuple(row for row in panel.rows if belongs(row))
    if not chosen:
        labels = sorted({label for row in panel.rows for label in row.meta.get("categories", ())})
        known = ["all", SEED, "variant", *ANSWER_TYPES, *labels]
        near = config.nearest(name, known)
        cure = (
            f"did you mean {near!r}?" if near and near != name else f"there are {', '.join(known)}"
        )
        raise ValueError(f"subset: no row is of {name!r}; {cure}")
    return Panel(chosen, panel.rejected)


def _texts(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The row with an answer that is a number as a string."""
    found = dict(row)
    for name in names:
        value = found.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = str(value)
    return found


def _rounding(value: Any) -> int | None:
    """Decimal places; None for "0", which the public rows have where nothing is to be rounded."""
    if value is None or value == "":
        return None
    try:
        places = int(value) if isinstance(value, str | int) else -1
    except ValueError:
        places = -1
    if not 0 <= places <= 15:
        raise ValueError(f"float_round must be a number of decimal places, got {value!r:.40}")
    return places or None


def _categories(value: Any) -> list[str]:
    if value is None:
        return []
    labels = re.split(r"[;,|]", value) if isinstance(value, str) else value
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"categories must be a string or a list of strings, got {value!r:.60}")
    return list(dict.fromkeys(label.strip() for label in labels if label.strip()))
