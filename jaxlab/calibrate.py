"""Choose the key channels of two-level attention's token index, from a text. One command.

    python -m jaxlab.calibrate --model DIR --text FILE [--length=T] [--rows=16]

DIR is a HuggingFace directory or a work directory of training. Of each layer and key head, the
channels are ordered by their mean |q k| over the text's first rows (Double Sparsity), and written
to channels.json beside the checkpoint, where attention with calibration=checkpoint finds them. FILE
is plain text; some ten thousand tokens of what the model will read are enough.
"""

import codecs
import hashlib
import logging
from pathlib import Path

import jax
import numpy as np
from absl import flags

from jaxlab import doors
from jaxlab.interop import channels, models
from jaxlab.interop.models import Model
from jaxlab.models.decoder import Decoder
from jaxlab.runtime.mesh import make_mesh
from jaxlab.sampling import calibration
from jaxlab.text.tokenizer import Tokenizer

# jaxlab.heavy has a flag of this name; a process runs one door.
MODEL = flags.DEFINE_string(
    "model", None, "A HuggingFace directory or a work directory.", allow_override=True
)
TEXT = flags.DEFINE_string("text", None, "A file of plain text to calibrate on.")
LENGTH = flags.DEFINE_integer(
    "length", None, "Tokens of a row; by default 1024, or the model's context.", lower_bound=2
)
ROWS = flags.DEFINE_integer("rows", 16, "Rows that are read, at most.", lower_bound=1)

logger = logging.getLogger("jaxlab.calibrate")


def main(argv: list[str]) -> None:
    """Calibrate the model of the command line."""
    del argv
    with doors.reading_input():
        # Both are required flags.
        path = calibrate(str(MODEL.value), Path(str(TEXT.value)), LENGTH.value, ROWS.value)
    logger.info("wrote %s", path)


def calibrate(model: str, text: Path, length: int | None = None, rows: int = 16) -> Path:
    """Write channels.json beside a checkpoint.

    Args:
        model: a HuggingFace directory or a work directory.
        text: a file of plain text.
        length: tokens of a row; a shorter text is one shorter row. None is 1024, or the model's
            context where that is less.
        rows: rows that are read, the first ones.

    Returns:
        The file's path.

    Raises:
        ValueError: there is no model or tokenizer, or the text is of no use; says which.
    """
    spec = Model(path=model)
    tokenizer = models.tokenizer_at(spec, "--model")
    if tokenizer is None:
        raise ValueError(f"--model={model}: it has no tokenizer to read a text with")
    source = models.find(spec, "--model", vocab_size=tokenizer.vocab_size, seed=0)
    context = source.config.max_position
    length = min(1024, context) if length is None else length
    if length > context:
        raise ValueError(f"--length={length} exceeds the model's context of {context}")
    # Enough for the rows at 32 bytes a token, so that a large file is not read to its end.
    limit = 32 * length * rows
    with text.expanduser().open("rb") as file:
        data = file.read(limit)
    ids = _rows(data, len(data) < limit, str(text), tokenizer, length, rows)
    params = source.load(make_mesh({"data": 1}, devices=jax.devices()[:1]), ((r".*", ()),))
    assert source.directory is not None
    made = channels.Calibration(
        calibration.measure(Decoder(source.config), params, ids),
        channels.fingerprint(params),
        ids.size,
        hashlib.sha256(data).hexdigest(),
    )
    return channels.save(source.directory, made)


def _rows(
    data: bytes, whole: bool, name: str, tokenizer: Tokenizer, length: int, rows: int
) -> np.ndarray:
    """The text's first tokens as rows, int [N, T]; `whole` unless its last word may be cut."""
    try:
        words = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--text={name} is not UTF-8: {error.reason} at byte {error.start}"
        ) from None
    ids = tokenizer.encode(words)
    if len(ids) < 2:
        raise ValueError(f"--text={name} has {len(ids)} tokens: at least 2")
    length = min(length, len(ids))
    count = min(rows, len(ids) // length)
    return np.asarray(ids[: count * length], np.int64).reshape(count, length)


def start() -> None:
    """Run the program of the command line: `python -m jaxlab.calibrate`."""
    doors.run(main, required=["model", "text"])


if __name__ == "__main__":
    start()
