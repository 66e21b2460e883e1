"""Sentence encoders from HuggingFace directories, as callables: texts -> vectors of length 1.

    encoder = sentence_encoder.load("all-MiniLM-L6-v2")
    rows = encoder(["where are mugs kept"])   # float32 [1, 384]

It is what `jaxlab.agents.skill_library.SkillLibrary` takes as its encoder.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlab import json_file
from jaxlab.interop import directory
from jaxlab.interop.families import bert
from jaxlab.json_file import BOOL, SIZE, TEXT, CheckpointFormatError
from jaxlab.models.text_encoder import EncoderConfig, Params, TextEncoder, sentence_vectors
from jaxlab.text import wordpiece

# The most tokens of a text where the directory does not say: all-MiniLM-L6-v2's.
LENGTH = 256
# Texts are padded to the next of these, so that few programs are compiled.
_WIDTHS = (*range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, 513, 64))
# Tokens that are computed together. Texts of about one length stand side by side, so that fewer
# would be padded less, and more would be no faster by the token.
_TOKENS = 1024
_POOLING = "pooling_mode_"


class SentenceEncoder:
    """Texts -> the means of their hidden states, of length 1.

    Attributes:
        name: says all that the vectors depend on: sizes, length, and a digest of the files.
        dimensions: of a vector.
        length: tokens at which a text is cut, [CLS] and [SEP] included.
    """

    def __init__(
        self, config: EncoderConfig, params: Params, tokenizer: Any, length: int, digest: str
    ) -> None:
        """`load` reads all of it."""
        self.dimensions, self.length = config.width, length
        self.name = (
            f"bert of {config.num_layers} layers of {config.width}, {length} tokens, {digest}"
        )
        self._params, self._tokenizer = params, tokenizer
        self._widths = (*(w for w in _WIDTHS if w < length), length)
        self._embed = functools.partial(_embed, TextEncoder(config))

    def __call__(self, texts: Sequence[str], /) -> np.ndarray:
        """Vectors float32 [N, D]; an empty text has one, too, of [CLS] and [SEP] alone."""
        # Half a surrogate pair is no text that could be encoded.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            # From the longest on, whose width the batch has.
            width = next(w for w in self._widths if w >= len(ids[order[-1]]))
            members = order[-_rows_of(width) :]
            rows[members] = self._rows([ids[i] for i in members], width)
            del order[-len(members) :]
        return rows

    def _rows(self, ids: list[list[int]], width: int) -> np.ndarray:
        # A power of two, for the same reason as the widths.
        count = 1 << (len(ids) - 1).bit_length()
        tokens = np.zeros((count, width), np.int32)
        lengths = np.zeros(count, np.int32)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = one
            lengths[row] = len(one)
        return np.asarray(self._embed(self._params, tokens, lengths))[: len(ids)]


def _rows_of(width: int) -> int:
    """How many texts of a width are computed together: a power of two."""
    return 1 << (max(_TOKENS // width, 1).bit_length() - 1)


@functools.partial(jax.jit, static_argnums=0)
def _embed(model: TextEncoder, params: Params, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    hidden: Any = model.apply({"params": params}, tokens, lengths)
    return sentence_vectors(hidden, lengths)


def load(path: str | Path) -> SentenceEncoder:
    """The sentence encoder of a directory, as sentence-transformers or transformers writes it.

    `modules.json` and what it names may say mean pooling and a norm, and nothing else; without it
    the pooling is the mean. `sentence_bert_config.json`, beside the transformer's files, may say
    `max_seq_length`.

    Raises:
        CheckpointFormatError: a file is missing, damaged, or asks for what is not computed.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointFormatError(f"{path}: is no directory of a sentence encoder")
    root = _modules(path)
    config, params = bert.load(root)
    length = min(_length(root), config.max_position)
    tokenizer = wordpiece.load(root, length)
    most = max(tokenizer.get_vocab().values())
    if most >= config.vocab_size:
        raise CheckpointFormatError(
            f"{root}: the tokenizer has token {most}, config.json a vocab_size of "
            f"{config.vocab_size}"
        )
    total = hashlib.sha256(tokenizer.to_str().encode())
    for file in sorted({stored.file for stored in directory.tensors(root).values()}):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    total.update(repr(config).encode())
    return SentenceEncoder(config, params, tokenizer, length, total.hexdigest()[:16])


def _length(path: Path) -> int:
    file = path / "sentence_bert_config.json"
    if not file.is_file():
        return LENGTH
    data = json_file.read(file)
    kinds = {"max_seq_length": SIZE | json_file.NULL, "do_lower_case": BOOL | json_file.NULL}
    json_file.check(data, kinds, str(file))
    if data.get("do_lower_case"):
        raise CheckpointFormatError(
            f"{file}: do_lower_case true is not supported; supported: false,"
            " the tokenizer's own case"
        )
    return data.get("max_seq_length") or LENGTH


def _modules(path: Path) -> Path:
    """The directory of the transformer.

    Raises:
        CheckpointFormatError: modules.json names others than a transformer, mean pooling, a norm.
    """
    file = path / "modules.json"
    if not file.is_file():
        return path
    try:
        modules = json_file.parse(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"{file}: unreadable JSON: {error}") from error
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise CheckpointFormatError(f"{file}: is no list of modules")
    root = path
    for module in modules:
        json_file.check(module, {"type": TEXT, "path": TEXT}, str(file))
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        folder = path / str(module.get("path", ""))
        if kind == "Transformer":
            root = folder
        elif kind == "Pooling":
            _check_pooling(folder / "config.json")
        elif kind != "Normalize":
            raise CheckpointFormatError(
                f"{file}: module {kind!r} is not supported; supported: Transformer, Pooling, "
                "Normalize"
            )
    return root


def _check_pooling(file: Path) -> None:
    data = json_file.read(file)
    modes = {key for key in data if key.startswith(_POOLING)}
    json_file.check(data, {"pooling_mode": TEXT, **dict.fromkeys(modes, BOOL)}, str(file))
    asked = sorted(key[len(_POOLING) :] for key in modes if data[key])
    asked = [data["pooling_mode"]] if "pooling_mode" in data else asked
    if asked not in (["mean"], ["mean_tokens"]):
        raise CheckpointFormatError(
            f"{file}: pooling {', '.join(asked) or 'of no kind'} is not supported; supported: mean"
        )
