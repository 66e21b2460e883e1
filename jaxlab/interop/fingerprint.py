"""A model's fingerprint: whether two paths hold the same weights, without reading all of them."""

import hashlib
import json
import pathlib
from collections.abc import Iterable

from jaxlab import config as config_lib
from jaxlab.interop.models import EXECUTION_FIELDS, Model, Source
from jaxlab.runtime import manifest
from jaxlab.runtime.checkpoint import Checkpointer

# So many evenly spaced blocks of a file are read, and its size.
BLOCKS, BLOCK_BYTES = 64, 1 << 14


def fingerprint(spec: Model, source: Source, seed: int) -> str:
    """Hexadecimal digits that models share if, and in all likelihood only if, they are one.

    How a model is computed (dtype, rematerialisation) is left out. Of weight files sizes and some
    blocks are read, of a run's newest checkpoint the checksums that it has of its files; a model
    from scratch is its sizes and seed.

    Args:
        spec: of the model.
        source: what `models.find` made of it.
        seed: of random params.
    """
    described = config_lib.to_json(source.config)
    kept = {name: value for name, value in described.items() if name not in EXECUTION_FIELDS}
    # What it was read as, and not what it computes.
    kept.pop("family", None)
    digest = hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=8)
    if spec.path is None:
        digest.update(str(seed).encode())
        return digest.hexdigest()
    path = pathlib.Path(spec.path).expanduser()
    if (path / "model" / "decoder.json").exists():
        saved = path / "checkpoints"
        digest.update((saved / str(Checkpointer(saved).latest()) / manifest.NAME).read_bytes())
        return digest.hexdigest()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(file.name.encode())
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: pathlib.Path) -> Iterable[bytes]:
    size = file.stat().st_size
    yield str(size).encode()
    with file.open("rb") as opened:
        for i in range(BLOCKS):
            opened.seek(max(0, size - BLOCK_BYTES) * i // (BLOCKS - 1))
            yield opened.read(BLOCK_BYTES)
            if size <= BLOCK_BYTES:
                return
