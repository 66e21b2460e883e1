"""Initial states of tasks, from a folder of the user's: the benchmark keeps them elsewhere.

    STATES/filesystem/KEY/ or KEY.zip
    STATES/postgres/KEY.backup, .dump, .tar (pg_restore) or .sql (psql)
    STATES/sqlite/KEY.sqlite, .db or .sql
    STATES/office/KEY/ or KEY.zip, STATES/page/KEY/ or KEY.zip (see `gui`)
    STATES/web/ for all of Search, STATES/web/Wide/, STATES/web/Wide/KEY/ (see `snapshot`)

KEY is the task's folder in the data, or CATEGORY/TASK, where there is such a file, for tasks of one
category need not begin alike (those of MCPMark's "security" do not); and else CATEGORY, as
MCPMark's archives are called. A folder CATEGORY/TASK/ is none of these: it would be one within the
state of the category. For states that are ready to be judged KEY is the unit's id.
"""

import datetime
import os
import shutil
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from jaxlab.evals.ajbench.sandbox import files

ENDS: dict[str, tuple[str, ...]] = {
    "filesystem": ("", ".zip"),
    "postgres": (".backup", ".dump", ".tar", ".sql"),
    "sqlite": (".sqlite", ".db", ".sql"),
    "office": ("", ".zip"),
    "page": ("", ".zip"),
}
# What a folder with a snapshot of the web has.
WEB_INDEX = "index.jsonl"
# What an archive may unpack to.
LARGEST_BYTES = 4 << 30


def find(states: Path | None, kind: str, *keys: str) -> Path:
    """The state of the first of these keys that has one.

    With a slash a key before the last is found as a file alone: a folder of its name may lie
    within the state of the last.

    Raises:
        FileNotFoundError: there is none; says where it would have to be.
    """
    if states is None:
        raise FileNotFoundError(
            f"the state {keys[-1]!r} is needed: give the folder with "
            f"{kind}/{keys[-1]}{ENDS[kind][-1]} as states"
        )
    places = []
    for key in keys:
        relative = PurePosixPath(key)
        if relative.is_absolute() or ".." in relative.parts:
            raise FileNotFoundError(f"{key!r} is no name of a state")
        for end in ENDS[kind]:
            if end or key == keys[-1] or len(relative.parts) == 1:
                places.append((states / kind / f"{relative}{end}", bool(end)))
    for place, file in places:
        if place.is_file() if file else place.is_dir():
            return place
    wanted = " or ".join(str(place) for place, _ in places)
    raise FileNotFoundError(f"no state: {wanted} is needed")


def find_web(states: Path | None, subdomain: str, key: str) -> Path:
    """The snapshot of a task, else that of its sub-domain, else the one of all.

    Raises:
        FileNotFoundError: there is none.
    """
    if states is None:
        raise FileNotFoundError(
            f"pages are needed: give the folder with web/{WEB_INDEX} as states, or judge with "
            "web=live and a browser of yours in servers"
        )
    kind = subdomain.partition("-")[2]
    places = [states / "web" / kind, states / "web"]
    relative = PurePosixPath(key)
    if not relative.is_absolute() and ".." not in relative.parts:
        places.insert(0, states / "web" / kind / relative)
    for place in places:
        if (place / WEB_INDEX).is_file():
            return place
    raise FileNotFoundError(f"no pages: {places[-1] / WEB_INDEX} is needed")


def tree(source: Path, target: Path) -> None:
    """Put a folder, or the content of a .zip, into `target`; links and devices are left out.

    Raises:
        ValueError: the archive is broken, too large, or leads out of its folder.
    """
    if source.is_dir():
        files.copy(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        inner = Path(place)
        try:
            with zipfile.ZipFile(source) as archive:
                members = [info for info in archive.infolist() if _wanted(info)]
                for info in members:
                    name = PurePosixPath(info.filename)
                    if name.is_absolute() or ".." in name.parts:
                        raise ValueError(f"{source}: {info.filename!r} leads out of its folder")
                    if len(name.parts) > files.MAX_DEPTH:
                        raise ValueError(
                            f"{source}: more than {files.MAX_DEPTH} folders in each other"
                        )
                if sum(info.file_size for info in members) > LARGEST_BYTES:
                    raise ValueError(f"{source}: more than {LARGEST_BYTES} bytes")
                for info in members:
                    path = archive.extract(info, inner)
                    seconds = _changed(info)
                    os.utime(path, (seconds, seconds))
        except zipfile.BadZipFile as error:
            raise ValueError(f"{source}: {error}") from None
        # MCPMark's archives hold one folder, with the name of the category.
        entries = list(inner.iterdir())
        wrapped = len(entries) == 1 and entries[0].name == source.stem and entries[0].is_dir()
        for entry in (entries[0] if wrapped else inner).iterdir():
            shutil.move(entry, target / entry.name)


def _changed(info: zipfile.ZipInfo) -> float:
    """When a member was changed last, in seconds since 1970, as unzip sets it.

    It stands in the extra field of Info-ZIP, or as a date without a zone, which is read as UTC.
    """
    rest = info.extra
    while len(rest) >= 4:
        kind, size = struct.unpack_from("<HH", rest)
        if kind == 0x5455 and size >= 5 and len(rest) >= 9 and rest[4] & 1:
            return float(struct.unpack_from("<i", rest, 5)[0])
        rest = rest[4 + size :]
    try:
        return datetime.datetime(*info.date_time, tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return 0.0  # no date


def sqlite_file(source: Path, target: Path) -> None:
    """Copy a database, with what its last program has left in a log beside it, or run a script.

    Raises:
        ValueError: it is no database, or the script fails.
    """
    script = source.suffix == ".sql"
    for end in () if script else ("", "-wal", "-journal"):
        if Path(f"{source}{end}").is_file():
            shutil.copyfile(f"{source}{end}", f"{target}{end}")
    connection = sqlite3.connect(target)
    try:
        if script:
            connection.executescript(source.read_text(encoding="utf-8-sig"))
        else:
            # Takes the log in, so that the file is all there is.
            connection.execute("PRAGMA journal_mode = delete")
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        raise ValueError(f"{source}: {error}") from None
    finally:
        connection.close()


def _wanted(info: zipfile.ZipInfo) -> bool:
    # Folders of macOS; and links, whose target would be their content.
    link = (info.external_attr >> 16) & 0o170000 == 0o120000
    return not link and not info.filename.startswith("__MACOSX/")


def names_of_root(paths: Sequence[str], entries: Sequence[str]) -> list[str]:
    """Absolute paths that may mean the root of a tree, the most likely first.

    Args:
        paths: absolute paths that a trajectory names.
        entries: what is in the root. A path whose rest begins with one of them votes for what is
            before it.
    """
    votes: dict[str, int] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        for cut in range(1, len(parts)):
            if parts[cut] in entries:
                name = str(PurePosixPath(*parts[:cut]))
                votes[name] = votes.get(name, 0) + 1
                break
    return sorted(votes, key=lambda name: (-votes[name], len(name)))
