"""Which parameters a directory holds, told without reading all of them, and which code a file."""

import ast
import hashlib
from pathlib import Path

# Of a HuggingFace directory: what decides about answers.
_SUFFIXES = (".json", ".jinja", ".model", ".safetensors")
_PIECES, _PIECE_BYTES = 64, 4096


def of_model(path: str | Path) -> str | None:
    """A work directory's last step and the hash of its manifest; else a hash of the model's files.

    Of large files, size and 64 evenly spread pieces are read: training moves every parameter.

    Returns:
        Such as "step 400, 1f0c8e55a1b2c3d4"; None where the directory holds no model.
    """
    path = Path(path)
    if (path / "model" / "decoder.json").exists():
        steps = [int(entry.name) for entry in path.glob("checkpoints/*") if entry.name.isdecimal()]
        if not steps:
            return None
        last = path / "checkpoints" / str(max(steps))
        # Has the size and a checksum of every file.
        return f"step {max(steps)}, {_digest([last / 'manifest.json', *_files(path / 'model')])}"
    files = _files(path)
    return _digest(files) if files else None


def of_benchmark(path: str) -> str:
    """16 hex digits over a benchmark file's code without comments and `tables`: they grade nothing.

    What the file imports is not in it.
    """
    tree = ast.parse(Path(path).read_bytes())
    tree.body = [part for part in tree.body if getattr(part, "name", None) != "tables"]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(file for file in directory.iterdir() if file.suffix in _SUFFIXES)


def _digest(files: list[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        if not path.is_file():
            continue
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _PIECES * _PIECE_BYTES:
                found.update(file.read())
                continue
            for i in range(_PIECES):
                file.seek(i * (size - _PIECE_BYTES) // (_PIECES - 1))
                found.update(file.read(_PIECE_BYTES))
    return found.hexdigest()[:16]
