"""WordPiece tokenizers, from tokenizer.json or from vocab.txt as BERT's checkpoints have it."""

from pathlib import Path

import tokenizers

from jaxlab import json_file
from jaxlab.json_file import BOOL, NULL, CheckpointFormatError
from jaxlab.text import tokenizer_files

_CONFIG = {
    "do_lower_case": BOOL,
    "strip_accents": BOOL | NULL,
    "tokenize_chinese_chars": BOOL,
}


def load(path: Path, length: int) -> tokenizers.Tokenizer:
    """The tokenizer of a directory: texts get [CLS] and [SEP], are cut at `length`, not padded.

    Args:
        path: has tokenizer.json, or vocab.txt with a token a line; tokenizer_config.json may say
            `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`.
        length: the most tokens of a text, special ones included; instead of the file's own number.

    Raises:
        CheckpointFormatError: there is neither file, or one is damaged.
    """
    if (path / "tokenizer.json").is_file():
        backend = tokenizer_files.read_backend(path / "tokenizer.json")
    else:
        backend = _of_vocab(path)
    backend.no_padding()
    backend.enable_truncation(length)
    return backend


def _of_vocab(path: Path) -> tokenizers.Tokenizer:
    file = path / "vocab.txt"
    if not file.is_file():
        raise CheckpointFormatError(f"{path}: has neither tokenizer.json nor vocab.txt")
    try:
        words = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointFormatError(f"{file}: is no UTF-8: {error}") from None
    while words and not words[-1]:
        words.pop()
    vocab = {word.rstrip("\r"): i for i, word in enumerate(words)}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocab]
    if missing:
        raise CheckpointFormatError(f"{file}: has no {', '.join(missing)}; is it cut short?")
    about = path / "tokenizer_config.json"
    config = json_file.read(about) if about.is_file() else {}
    json_file.check(config, _CONFIG, str(about))
    made = tokenizers.BertWordPieceTokenizer(
        vocab,
        lowercase=config.get("do_lower_case", True),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    return tokenizers.Tokenizer.from_str(made.to_str())
