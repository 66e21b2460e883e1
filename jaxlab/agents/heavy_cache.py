"""The cache that deliberators read: which attempts, in which order, and how much of each."""

import hashlib
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jaxlab.agents.heavy_prompts import Prompts, defused
from jaxlab.grading import answers
from jaxlab.grading.unicode import well_formed

Prune = Literal["keep_tail", "head_tail", "answer_only", "summary", "released"]
Select = Literal["random", "max_answer_number", "max_diversity", "max_length"]

# The released workflow takes a text for repetitive whose last so many characters occurred before.
REPEATED = 512


class Tokenizer(Protocol):
    """What counts tokens."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""


class Tokens:
    """Counts and cuts in tokens of a tokenizer; without one, in quarters of UTF-8 bytes."""

    def __init__(self, tokenizer: Tokenizer | None = None):
        """Take the tokenizer; `unit` says what is counted."""
        self._tokenizer = tokenizer
        name = getattr(tokenizer, "name", "the tokenizer")
        self.unit = f"tokens of {name}" if tokenizer else "UTF-8 bytes / 4"

    def count(self, text: str) -> int:
        """Tokens of the text."""
        if self._tokenizer is None:
            return -(-len(text.encode("utf-8", "surrogatepass")) // 4)
        return len(self._tokenizer.encode(text))

    def tail(self, text: str, limit: int) -> str:
        """The longest end of the text, up to where merges differ, with at most `limit` tokens."""
        total, offsets = self._read(text)
        guess = len(text) - offsets[-limit][0] if 0 < limit <= len(offsets) else None
        return self._cut(lambda n: text[len(text) - n :], len(text), total, limit, guess)

    def head(self, text: str, limit: int) -> str:
        """The longest beginning of the text with at most `limit` tokens."""
        total, offsets = self._read(text)
        guess = offsets[limit - 1][1] if 0 < limit <= len(offsets) else None
        return self._cut(lambda n: text[:n], len(text), total, limit, guess)

    def _read(self, text: str) -> tuple[int, Sequence[tuple[int, int]]]:
        """Tokens of the text, and where each begins and ends, if the tokenizer says so."""
        backend = getattr(self._tokenizer, "backend", None)
        if backend is None:
            return self.count(text), ()
        offsets = backend.encode(text, add_special_tokens=False).offsets
        return len(offsets), offsets

    def _cut(
        self, part: Callable[[int], str], length: int, total: int, limit: int, guess: int | None
    ) -> str:
        """The longest part with at most `limit` tokens, by bisection around a guess.

        Ids cannot be cut: a character may be of several, and a part's ids are not the whole's.
        """
        if total <= limit:
            return part(length)
        # The low end has few enough tokens, the high end too many.
        low, high, step = 0, length, 1
        at = length * max(0, limit) // total if guess is None else guess
        while low < high - 1:
            at = min(max(at, low + 1), high - 1)
            if self.count(part(at)) <= limit:
                low, at = at, at + step
            else:
                high, at = at, at - step
            # Steps double until both ends are near, then the gap is halved.
            step *= 2
            if high - low <= step:
                at = (low + high) // 2
        return part(low)


@dataclass(frozen=True)
class Attempt:
    """A text that deliberators may read: "Thinker" or "Expert", its number from 1, and the text."""

    kind: str
    number: int
    text: str


def repetitive(text: str) -> bool:
    """Whether the text's last 512 characters occurred in it before (the released filter)."""
    place = text.find(text[-REPEATED:])
    return len(text) > REPEATED and place < len(text) - REPEATED


def select(
    texts: Sequence[str],
    found: Sequence[str | None],
    width: int,
    rule: Select,
    rng: random.Random,
) -> list[int]:
    """Indices of the `width` texts that are read, in order of preference.

    Args:
        texts: to choose from.
        found: the answer of each; those without are one group.
        width: how many; all where there are fewer.
        rule: "random"; "max_answer_number" takes whole groups of equal answers, the largest first;
            "max_diversity" takes one of every group in turn, from the largest on; "max_length" the
            texts of most characters.
        rng: breaks every tie.
    """
    order = list(range(len(texts)))
    rng.shuffle(order)
    groups: dict[str | None, list[int]] = defaultdict(list)
    for i in order:
        groups[found[i]].append(i)
    # Stable, so that the shuffle decides between groups of one size; no answer comes last.
    ranked = sorted(groups, key=lambda answer: (answer is None, -len(groups[answer])))
    place = {i: (g, j) for g, answer in enumerate(ranked) for j, i in enumerate(groups[answer])}
    if rule == "max_answer_number":
        order.sort(key=lambda i: place[i])
    elif rule == "max_diversity":
        order.sort(key=lambda i: place[i][::-1])
    elif rule == "max_length":
        order.sort(key=lambda i: -len(texts[i]))
    return order[:width]


def build(
    attempts: Sequence[Attempt],
    prompts: Prompts,
    tokens: Tokens,
    prune: Prune,
    room: int,
) -> tuple[list[str], dict[str, Any]]:
    """The attempts as blocks of the prompt, pruned to `room` tokens, and an account of it.

    All attempts may keep equally many tokens, and what shorter ones leave is shared by the others
    (so that none is cut while another has room). The sum is counted over the joined blocks, marks
    included, by the tokenizer that counts.

    Args:
        attempts: in the order of the prompt.
        prompts: their marks.
        tokens: counts.
        prune: "keep_tail" cuts from the beginning, where answers rarely stand; "head_tail" from the
            middle; "answer_only" keeps the answers; "summary" keeps what follows </think>, else the
            last paragraph, and cuts that from its beginning; "released" does as the released
            workflow does: it cuts equally many words off each head, but leaves alone what is
            shorter than that, and may exceed the room.
        room: tokens for all blocks.

    Raises:
        ValueError: not even the marks fit.
    """
    texts = [defused(str(well_formed(attempt.text))) for attempt in attempts]
    changed = sum(text != attempt.text for text, attempt in zip(texts, attempts, strict=True))
    fence = _fence(texts)
    bodies = [_content(text, prune, prompts) for text in texts]

    def blocks(parts: Sequence[str]) -> list[str]:
        pairs = zip(attempts, parts, strict=True)
        return [prompts.attempt(one.kind, one.number, part, fence) for one, part in pairs]

    def size(parts: Sequence[str]) -> int:
        return tokens.count("\n\n".join(blocks(parts)))

    if prune == "released":
        kept = _released(bodies, room)
    else:
        kept = _fitted(bodies, prompts.cut_mark, tokens, prune == "head_tail", room, size)
    total = size(kept)
    account: dict[str, Any] = {
        "rule": prune,
        "unit": tokens.unit,
        "room": room,
        "tokens": total,
        "exceeded": total > room,
        "control_words_defused": changed,
        "attempts": [
            {
                "kind": one.kind,
                "number": one.number,
                "tokens": (before := tokens.count(one.text)),
                "kept": (after := tokens.count(part)),
                "cut": max(0, before - after),
                "answer": prompts.answer(one.text),
            }
            for one, part in zip(attempts, kept, strict=True)
        ],
    }
    return blocks(kept), account


def _content(text: str, prune: Prune, prompts: Prompts) -> str:
    """What of a text may be read at all."""
    if prune == "answer_only":
        return prompts.answer(text) or ""
    if prune == "summary":
        after = answers.without_thinking(text).strip()
        if after != text.strip():
            return after
        return re.split(r"\n\s*\n", after)[-1]
    return text


def _fitted(
    bodies: Sequence[str],
    mark: str,
    tokens: Tokens,
    middle: bool,
    room: int,
    size: Callable[[Sequence[str]], int],
) -> list[str]:
    """The bodies, cut where they must be so that `size` of them is at most `room`."""
    if size(bodies) <= room:
        return list(bodies)
    empty = size([""] * len(bodies))
    if empty > room:
        raise ValueError(
            f"cache_tokens: room for {room} tokens does not hold the marks of {len(bodies)} "
            f"attempts, which have {empty}: raise it, or lower width"
        )
    counts = [tokens.count(body) for body in bodies]
    slack = 0
    while True:
        quota = _quota(counts, room - empty - slack)
        kept = [
            body if count <= quota else _cut(body, mark, tokens, quota, middle)
            for body, count in zip(bodies, counts, strict=True)
        ]
        excess = size(kept) - room
        if excess <= 0:
            return kept
        # Tokens merge across borders, or fail to: a few fewer, until it fits.
        slack += excess


def _cut(body: str, mark: str, tokens: Tokens, quota: int, middle: bool) -> str:
    """At most `quota` tokens of the body, the mark of the cut included; "" where none fit."""
    left = quota - tokens.count(mark)
    if left <= 0:
        return ""
    if not middle:
        return mark + tokens.tail(body, left)
    head = tokens.head(body, left // 2)
    return head + mark + tokens.tail(body, left - left // 2)


def _quota(counts: Sequence[int], total: int) -> int:
    """The largest q with sum(min(count, q)) <= total; 0 where there is none."""
    left, remaining = max(0, total), sorted(counts)
    while remaining:
        share = left // len(remaining)
        if remaining[0] > share:
            return share
        left -= remaining.pop(0)
    return max(counts, default=0)


def _released(bodies: Sequence[str], room: int) -> list[str]:
    """Equally many words off each head; a body that has no more than that stays whole."""
    words = [list(re.finditer(r"\S+", body)) for body in bodies]
    excess = sum(map(len, words)) - room
    if excess <= 0:
        return list(bodies)
    cut = math.ceil(excess / len(bodies))
    return [
        body[found[cut].start() :] if len(found) > cut else body
        for body, found in zip(bodies, words, strict=True)
    ]


def _fence(texts: Sequence[str]) -> str:
    """Six digits that stand in no text, so that none can close its own mark."""
    seed = hashlib.sha256("\x1f".join(texts).encode()).hexdigest()
    while any(seed[:6] in text for text in texts):
        seed = hashlib.sha256(seed.encode()).hexdigest()
    return seed[:6]


def vote(found: Sequence[str | None]) -> tuple[str | None, bool]:
    """The most frequent answer, of tied ones the first, and whether there was a tie."""
    votes = Counter(answer for answer in found if answer is not None)
    most = max(votes.values(), default=0)
    tied = [answer for answer, count in votes.items() if count == most]
    return (tied[0] if tied else None), len(tied) > 1
