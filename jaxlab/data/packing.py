"""Several documents in one row, kept apart by segment ids.

B: rows, T: time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxlab.data.batch import TokenIds
from jaxlab.data.tasks.tokens import NO_TARGET, Row


class Packed(NamedTuple):
    """Documents in rows.

    Attributes:
        tokens: int32[B, T].
        segment_ids: int32[B, T]; 1, 2, ... number the documents of a row, 0 is padding.
        positions: int32[B, T]; from 0 within each document, 0 in padding.
        mask: bool[B, T]; True where the token is a target that counts. The first token of a
            document never is: what stands before it belongs to another document.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    mask: np.ndarray


def pack(
    documents: Sequence[TokenIds],
    width: int,
    pad_id: int,
    masks: Sequence[Sequence[bool] | np.ndarray] | None = None,
) -> Packed:
    """Puts each document into the first row that has room, in the order given (first fit).

    A document longer than `width` becomes several documents of at most `width` tokens. Empty ones
    are left out. Every token appears exactly once, and the result depends on the arguments alone.

    Args:
        documents: token ids of each.
        width: T.
        pad_id: fills what no document covers.
        masks: for each document, which of its tokens count as targets; all by default.

    Returns:
        As many rows as are needed.

    Raises:
        ValueError: `width` is below 1, or a mask does not match its document.
    """
    if width < 1:
        raise ValueError(f"rows must be at least 1 token wide, got {width}")
    if masks is None:
        masks = [np.ones(len(document), bool) for document in documents]
    for i, (document, mask) in enumerate(zip(documents, masks, strict=True)):
        if len(document) != len(mask):
            raise ValueError(f"document {i} has {len(document)} tokens, its mask {len(mask)}")

    pieces = [
        (np.asarray(document[start : start + width]), np.asarray(mask[start : start + width]))
        for document, mask in zip(documents, masks, strict=True)
        for start in range(0, len(document), width)
    ]
    used = np.zeros(len(pieces), np.int64)  # tokens in each row; no more rows than pieces
    count = np.zeros(len(pieces), np.int64)  # documents in each row
    shape = (len(pieces), width)
    tokens = np.full(shape, pad_id, np.int32)
    segment_ids, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    targets = np.zeros(shape, bool)
    rows = 0
    for piece, mask in pieces:
        row = int(np.argmax(used[: rows + 1] + len(piece) <= width))
        rows = max(rows, row + 1)
        here = slice(used[row], used[row] + len(piece))
        used[row] += len(piece)
        count[row] += 1
        tokens[row, here] = piece
        segment_ids[row, here] = count[row]
        positions[row, here] = np.arange(len(piece))
        targets[row, here] = mask
        targets[row, here.start] = False
    return Packed(tokens[:rows], segment_ids[:rows], positions[:rows], targets[:rows])


class Line(NamedTuple):
    """Documents one after the other; arrays [T].

    Attributes:
        tokens: int32, what the model reads.
        targets: int32, what it is to say next.
        mask: bool, True where the target counts.
        segment_ids: int32; 1, 2, ... number the documents, 0 is padding.
        positions: int32, from 0 within each document, 0 in padding.
    """

    tokens: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray


def line(documents: Sequence[Row], width: int) -> Line:
    """Lays documents into one row in the order given; without documents it is padding.

    Args:
        documents: with targets, so that none looks into the next.
        width: T.

    Raises:
        ValueError: they have more than `width` tokens together.
    """
    lengths = [len(document.tokens) for document in documents]
    if sum(lengths) > width:
        raise ValueError(f"{len(lengths)} documents of {sum(lengths)} tokens do not fit {width}")
    row = Line(
        np.zeros(width, np.int32), np.full(width, NO_TARGET, np.int32), np.zeros(width, bool),
        np.zeros(width, np.int32), np.zeros(width, np.int32),
    )  # fmt: skip
    begin = 0
    for number, (document, length) in enumerate(zip(documents, lengths, strict=True), 1):
        here = slice(begin, begin + length)
        row.tokens[here], row.targets[here] = document.tokens, document.targets
        row.mask[here], row.segment_ids[here] = document.mask, number
        row.positions[here] = np.arange(length)
        begin += length
    return row
