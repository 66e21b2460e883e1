"""Token lists into arrays of one shape. Padding is known by length or mask, never by token id.

B: rows, T: time.
"""

from collections.abc import Sequence

import numpy as np

TokenIds = Sequence[int] | np.ndarray


def right_pad(rows: Sequence[TokenIds], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows flush left, as documents are for training.

    Returns:
        tokens int32[B, width] and lengths int32[B]; row b holds its tokens in
        `tokens[b, :lengths[b]]`.

    Raises:
        ValueError: a row is longer than `width`.
    """
    tokens, lengths = _blank(rows, width, pad_id)
    for b, row in enumerate(rows):
        tokens[b, : len(row)] = row
    return tokens, lengths


def bucket(n: int, sizes: int | Sequence[int]) -> int:
    """The smallest allowed size that holds `n`, so that few shapes are compiled.

    Args:
        n: the length to hold.
        sizes: an int allows its multiples (from one times on); a sequence lists the sizes.

    Raises:
        ValueError: `n` exceeds every listed size, or `sizes` holds no positive size.
    """
    allowed = [sizes] if isinstance(sizes, int) else sorted(sizes)
    if not allowed or allowed[0] < 1:
        raise ValueError(f"bucket sizes must be positive, got {sizes}")
    if isinstance(sizes, int):
        return max(1, -(-n // sizes)) * sizes
    for size in allowed:
        if n <= size:
            return size
    raise ValueError(f"length {n} exceeds the largest bucket {allowed[-1]}; add a larger one")


def prompt_completion(
    prompt_ids: TokenIds, completion_ids: TokenIds, width: int, pad_id: int, *, row: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """One supervised example: prompt, completion, padding.

    A completion that does not fit is cut; its end of sequence is then cut with it, so the model
    is not taught to stop there.

    Args:
        prompt_ids: conditioned on, never a target.
        completion_ids: the targets, with the end of sequence as their last token.
        width: T.
        pad_id: fills the rest.
        row: named in the error.

    Returns:
        tokens int32[T] and mask bool[T]: `mask[t]` is True where token t is a target that counts.
        `mask[0]` is False, since nothing comes before token 0 to predict it from.

    Raises:
        ValueError: the prompt leaves no room for a completion token, or there is none.
    """
    if len(prompt_ids) >= width:
        raise ValueError(
            f"row {row}: a prompt of {len(prompt_ids)} tokens (completion: {len(completion_ids)}) "
            f"leaves no room in a width of {width}; raise the width or drop the row"
        )
    if len(completion_ids) == 0:
        raise ValueError(f"row {row}: the completion is empty; it should hold at least its EOS")
    end = min(width, len(prompt_ids) + len(completion_ids))
    tokens = np.full(width, pad_id, np.int32)
    tokens[: len(prompt_ids)] = prompt_ids
    tokens[len(prompt_ids) : end] = completion_ids[: end - len(prompt_ids)]
    mask = np.zeros(width, bool)
    mask[max(1, len(prompt_ids)) : end] = True
    return tokens, mask


def prompt_completion_batch(
    prompts: Sequence[TokenIds], completions: Sequence[TokenIds], width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """`prompt_completion` of each pair, stacked: tokens int32[B, T] and mask bool[B, T]."""
    pairs = [
        prompt_completion(prompt, completion, width, pad_id, row=row)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    tokens, masks = zip(*pairs, strict=True)
    return np.stack(tokens), np.stack(masks)


def _blank(rows: Sequence[TokenIds], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int32)
    if (lengths > width).any():
        row = int(np.argmax(lengths > width))
        raise ValueError(
            f"row {row} has {lengths[row]} tokens, more than the width {width}; "
            "raise the width or cut the row"
        )
    return np.full((len(rows), width), pad_id, np.int32), lengths
