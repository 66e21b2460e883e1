"""The manifest of a directory: size and CRC-32 of every file, by which damage is found."""

import concurrent.futures
import json
import pathlib
import zlib
from collections.abc import Iterable

from jaxlab.runtime import atomic

NAME = "manifest.json"
# orbax rewrites these while it commits a checkpoint; nothing reads them.
_UNLISTED = frozenset({NAME, "_CHECKPOINT_METADATA", "commit_success.txt"})


def check(path: pathlib.Path) -> tuple[bool, str | None]:
    """Returns (has a manifest, what is wrong with the files or None)."""
    try:
        files = json.loads((path / NAME).read_text())["files"]
        listed = {str(name): (int(size), str(crc)) for name, (size, crc) in files.items()}
    except FileNotFoundError:
        return False, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return True, f"{NAME} is unreadable ({type(error).__name__})"
    for name, (size, _) in listed.items():
        file = path / name
        if not file.is_file():
            return True, f"{name} is missing"
        if file.stat().st_size != size:
            return True, f"{name} has {file.stat().st_size} bytes instead of {size}"
    for name, checksum in _checksums(path, listed).items():
        if checksum != listed[name][1]:
            return True, f"{name} has changed (CRC-32 {checksum} instead of {listed[name][1]})"
    return True, None


def write(path: pathlib.Path) -> None:
    """Writes the manifest of a directory that is complete."""
    names = [
        str(file.relative_to(path))
        for file in sorted(path.rglob("*"))
        if file.is_file() and str(file.relative_to(path)) not in _UNLISTED
    ]
    files = {
        name: ((path / name).stat().st_size, crc) for name, crc in _checksums(path, names).items()
    }
    atomic.write(path / NAME, json.dumps({"files": files}, indent=1).encode())


def _checksums(path: pathlib.Path, names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(lambda name: _crc32(path / name), names), strict=True))


def _crc32(path: pathlib.Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
