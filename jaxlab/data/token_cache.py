"""Text to token ids, once: the ids are kept on disk under a name made of what they depend on.

An entry is a directory that appears by being renamed, so a reader, or another process that makes
the same entry at the same time, never sees half of one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from jaxlab.text.tokenizer import Tokenizer
from jaxlab.text.tokenizer import load as load_tokenizer

# Part of every name: to be changed with what an entry holds.
VERSION = "1"

# Characters that are encoded as one piece: the tokenizers library keeps several objects per token.
PIECE = 1 << 20


@dataclass(frozen=True)
class Tokenised:
    """Documents as one stream of ids.

    Attributes:
        ids: uint16 or uint32 [N], on disk.
        ends: int64[D], where each document ends in `ids`, its end of sequence included.
        num_bytes: of the text in UTF-8.
        name: of the file it came from, for errors.
    """

    ids: np.ndarray
    ends: np.ndarray
    num_bytes: int
    name: str

    def __len__(self) -> int:
        return len(self.ids)

    def documents(self) -> list[np.ndarray]:
        """The ids of each document."""
        return np.split(self.ids, self.ends[:-1])


def tokenise(documents: Sequence[str], tokenizer: Tokenizer, cache: Path, name: str) -> Tokenised:
    """The ids of documents, each followed by the end of sequence where the tokenizer has one.

    Each also begins as the tokenizer's post-processor begins a text: with BOS, or with nothing.
    Special tokens that are written out in a text are encoded as the text they are: a document
    cannot end itself. Documents of more than `PIECE` characters are encoded in pieces that end with
    a line, where one does.

    Args:
        documents: none of them empty.
        tokenizer: makes the ids.
        cache: directory of entries.
        name: for errors.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    start, end = list(tokenizer.prefix), list(tokenizer.eos_ids[:1])
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32

    def write(folder: Path) -> None:
        ends, count = [], 0
        with (folder / "ids.bin").open("wb") as file:
            for document in documents:
                np.array(start, dtype).tofile(file)
                count += len(start)
                for piece in pieces(document):
                    ids = backend.encode(piece, add_special_tokens=False).ids
                    # Unlike tofile, this says it where the disk is full.
                    file.write(np.array(ids, dtype).tobytes())
                    count += len(ids)
                file.write(np.array(end, dtype).tobytes())
                count += len(end)
                ends.append(count)
        np.save(folder / "ends.npy", np.array(ends, np.int64))
        num_bytes = sum(len(document.encode()) for document in documents)
        (folder / "about.json").write_text(json.dumps({"num_bytes": num_bytes, "ids": count}))

    # Without a beginning the name is as it was before there were any.
    around = [start, end] if start else end
    key = _key(documents, "ids", backend.to_str(), json.dumps(around))
    folder = _entry(cache / f"tokens-{key}", write)
    about = json.loads((folder / "about.json").read_text())
    # An empty file cannot be mapped.
    ids = np.memmap(folder / "ids.bin", dtype, "r") if about["ids"] else np.empty(0, dtype)
    return Tokenised(ids, np.load(folder / "ends.npy"), about["num_bytes"], name)


def trained(
    documents: Sequence[str], recipe: str, cache: Path, train: Callable[[], Tokenizer]
) -> Tokenizer:
    """What `train` makes of these documents by this recipe, or made before."""
    folder = cache / f"tokenizer-{_key(documents, recipe)}"
    return load_tokenizer(_entry(folder, lambda scratch: train().save(scratch)))


def pieces(document: str) -> Iterator[str]:
    """The document in parts of at most `PIECE` characters, after the last line end in each."""
    start = 0
    while len(document) - start > PIECE:
        end = document.rfind("\n", start, start + PIECE) + 1
        end = end if end > start else start + PIECE
        yield document[start:end]
        start = end
    yield document[start:]


def _entry(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, written by `write` if it is not there."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        write(scratch)
        os.rename(scratch, folder)
    except OSError:
        # Another process was faster, with the same content.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _key(documents: Iterable[str], *more: str) -> str:
    digest = hashlib.sha256("\0".join((VERSION, *more)).encode())
    for document in documents:
        content = document.encode()
        # With its length, so that no two lists of documents look alike.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()[:32]
