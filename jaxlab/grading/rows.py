"""Rows of a benchmark: read, checked, and fixed as a panel that no batch or worker can change."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxlab.grading.sources import check_text, parse_row

# What names rows; a command line makes numbers of digits.
Ids = tuple[str | int, ...] | str | int
BadRows = Literal["error", "skip"]


@dataclass(frozen=True)
class Row:
    """One problem.

    Attributes:
        id: unique in its set.
        question: as the model is to read it, without instructions.
        answer: the reference.
        cluster: rows of one cluster (variants of one problem) are not independent.
        meta: what the benchmark groups by, as JSON values.
    """

    id: str
    question: str
    answer: str
    cluster: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row that could not be used: "file:line" and why."""

    where: str
    cause: str


@dataclass(frozen=True)
class Panel:
    """The rows of a run, and those that were left out of it."""

    rows: tuple[Row, ...]
    rejected: tuple[Rejected, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex digits over ids, questions and answers; the order of the rows does not matter."""
        lines = sorted(json.dumps([row.id, row.question, row.answer]) for row in self.rows)
        return _hash("\n".join(lines))[:16]

    def subset(self, limit: int | None) -> "Panel":
        """The `limit` rows whose ids hash lowest: the same ones whatever the file's order."""
        if limit is None or limit >= len(self.rows):
            return self
        chosen = {row.id for row in sorted(self.rows, key=lambda row: _hash(row.id))[:limit]}
        return Panel(tuple(row for row in self.rows if row.id in chosen), self.rejected)

    def only(self, ids: Ids) -> "Panel":
        """The rows of these ids, all if there are none; a string has commas between them.

        Raises:
            ValueError: there is no row of an id.
        """
        names = str(ids).split(",") if isinstance(ids, str | int) else map(str, ids)
        wanted = {name.strip() for name in names if name.strip()}
        if not wanted:
            return self
        unknown = wanted - {row.id for row in self.rows}
        if unknown:
            raise ValueError(f"ids: there is no row {min(unknown)!r}")
        return Panel(tuple(row for row in self.rows if row.id in wanted), self.rejected)


def read(
    path: str | Path,
    parse: Callable[[dict[str, Any]], Row],
    bad_rows: BadRows = "error",
) -> Panel:
    """The rows of a .jsonl file, of a .json file that holds one array, or of a dataset's directory.

    Args:
        path: the file, UTF-8 with or without a byte order mark; or a directory that
            tensorflow-datasets has written, with one split in array_record files.
        parse: makes a row, or raises ValueError with the cause.
        bad_rows: "error" ends at the first bad row; "skip" leaves it out and keeps an account in
            `Panel.rejected`. Bad are malformed lines, halves of surrogate pairs, what
            `parse` refuses, and an id seen before. Rows without an id have one made of their
            content, so that a copy is bad too: counted twice, one problem would weigh as two.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: "file:line: cause" for the first bad row; or there is no good one; or the
            directory holds no such dataset.
    """
    path = Path(path)
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file; give the path of a .jsonl or .json file")
    rows: dict[str, Row] = {}
    rejected = []
    for where, content in _lines(path):
        try:
            if isinstance(content, bytes):
                content = parse_row(content, where)
            else:
                content = _plain(content)
                check_text(content)
            row = parse(content)
            if row.id in rows:
                same = "row" if rows[row.id] == row else "id"
                raise ValueError(f"the {same} {row.id!r} occurs twice; leave one out")
            rows[row.id] = row
        except (ValueError, RecursionError) as error:
            cause = str(error).removeprefix(f"{where}: ")
            if bad_rows == "error":
                raise ValueError(f"{where}: {cause}; bad_rows=skip leaves such rows out") from None
            rejected.append(Rejected(where, cause))
    if not rows:
        raise ValueError(f"{path}: no usable row, {len(rejected)} bad ones")
    return Panel(tuple(rows.values()), tuple(rejected))


def first_text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """The value of the first of the fields `names` that the row has, stripped.

    Raises:
        ValueError: none of them is there, or it is not a string that says something.
    """
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise ValueError(f"no field {' or '.join(names)}; the row has {', '.join(row) or 'none'}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {name!r} must be a string that is not empty, got {value!r:.60}")
    return value.strip()


def row_id(row: Mapping[str, Any], names: Sequence[str], *content: str) -> str:
    """The row's own id, else one made of its content.

    Raises:
        ValueError: the field holds neither a string nor an integer.
    """
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        return _hash("\x1f".join(content))[:12]
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"field {name!r} must be a string or an integer, got {value!r:.60}")
    return str(value)


def sample_seed(seed: int, row_id: str, sample: int) -> int:
    """The seed, in [0, 2^31), of one sample of a row: it depends on nothing else."""
    return int(_hash(f"{seed}\x1f{row_id}\x1f{sample}")[:8], 16) >> 1


def _lines(path: Path) -> Iterable[tuple[str, bytes | dict[str, Any]]]:
    if path.is_dir():
        for i, row in enumerate(_dataset(path)):
            yield f"{path}[{i}]", row
        return
    if path.suffix == ".json":
        try:
            array = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: malformed JSON: {error}") from None
        if not isinstance(array, list):
            raise ValueError(f"{path}: expected an array of rows, got {type(array).__name__}")
        for i, row in enumerate(array):
            yield f"{path}[{i}]", row if isinstance(row, dict) else json.dumps(row).encode()
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", line


def _dataset(path: Path) -> Sequence[dict[str, Any]]:
    """The one split of a dataset; only here is tensorflow-datasets needed."""
    import tensorflow_datasets as tfds

    if not (path / "dataset_info.json").exists():
        raise ValueError(f"{path} is no dataset: name a .jsonl file, or the folder of a version")
    try:
        builder = tfds.builder_from_directory(str(path))
        (split,) = builder.info.splits
        return builder.as_data_source(split)
    except (ValueError, NotImplementedError) as error:
        cause = str(error).partition("\n")[0]
        raise ValueError(f"{path}: one split in array_record files is needed: {cause}") from None


def _plain(value: Any) -> Any:
    """What a dataset holds, as JSON values."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _hash(text: str) -> str:
    # Lone surrogates, which JSON can hold, have no UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
