"""The cascade: a rule where one can decide, a judge for the rest.

Numbers and intervals are compared by `equality`, and go to the judge where it finds them unequal;
texts and choices go to the judge. Without a judge ("rule"), choices are compared as sets of letters
and texts as words. Only what a response puts into a box or says to be the answer is compared: a
number that merely occurs in it is not extracted, as in the released grader.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from jaxlab.grading import answers
from jaxlab.grading.answers import Anchor, normalized, without_thinking
from jaxlab.grading.graders import MathVerifier, Verdict
from jaxlab.grading.rows import Row

Grader = Literal["cascade", "rule", "judge"]
BY_MATH = ("number", "interval")

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_PROSE = re.compile(r"\b(?!and\b|(?:[Oo]ption|[Cc]hoice)s?\b|[A-Z]+\b)[A-Za-z]{2}")
_RUN = re.compile(r"[A-Z]{2,26}")
_LETTER = re.compile(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])")
_OPTION = re.compile(r"\W{0,3}[A-Z]\W{0,3}[.:)]\W{0,3}\s")
# A choice that is denied or left open, which single letters do not show.
_HEDGED = re.compile(
    r"\b(?:not|nor|neither|or|but|except|unlikely|wrong)\b|n['\u2019]t\b|\\(?:neg|lnot|neq?)\b"
    r"|[\u4e0d\u975e\u6216\u9664\u9519]",  # Chinese "not", "or", "except", "wrong"
    re.IGNORECASE,
)
_WRAPPING = re.compile(r"\\(?:(?:text|math)[a-z]*|operatorname|boldsymbol|emph|mbox)\s*(?=\{)")
_WORD = re.compile(r"\w+|[^\w\s]")
# Marks of prose alone: others tell △ from ○, C++ from C and A > B from A < B.
_PUNCTUATION = frozenset(".,;:!?'\"()[]{}\u2018\u2019\u201c\u201d\u2013\u2014\u2026$\\`*_")
_DASH = re.compile(r"(?<=\w)-(?=\w)|-(?=\s)")
_LONGEST_VERDICT = 10_000


def rule(
    verifier: MathVerifier,
    rows: Sequence[Row],
    texts: Sequence[str],
    float_round: Literal["field", "off"] | int = "field",
    anchor: Anchor = "stated",
) -> list[Verdict]:
    """What can be said without a judge, for every answer type.

    Args:
        verifier: compares numbers and intervals.
        rows: with meta of `general365.rows`.
        texts: completions; what precedes the last </think> is ignored.
        float_round: decimal places: the row's own, the verifier's, or so many.
        anchor: where an answer may stand: "boxed", in a box alone; "stated", also behind the last
            "answer is" or as the only line; "anywhere", also as the last expression or line.
    """
    texts = [normalized(without_thinking(text)) for text in texts]
    verdicts: dict[int, Verdict] = {}
    by_math = [i for i, row in enumerate(rows) if row.meta["answer_type"] in BY_MATH]
    places = [
        {"field": rows[i].meta["float_round"], "off": None}.get(str(float_round), float_round)
        for i in by_math
    ]
    found = verifier.verify_batch(
        [rows[i].answer for i in by_math], [texts[i] for i in by_math], places, anchor
    )
    verdicts |= dict(zip(by_math, found, strict=True))
    for i, row in enumerate(rows):
        if i not in verdicts:
            choice = row.meta["answer_type"] != "text"
            compare = _compare_choices if choice else _compare_texts
            verdicts[i] = compare(normalized(row.answer), final_answer(texts[i], anchor, choice))
    return [verdicts[i] for i in range(len(rows))]


def needs_judge(row: Row, verdict: Verdict, grader: Grader) -> bool:
    """Whether a judge has the last word on this completion."""
    if grader == "cascade":
        return row.meta["answer_type"] not in BY_MATH or not verdict.correct
    return grader == "judge"


def parse_judge(reply: str) -> bool | None:
    """The verdict of a judge's reply; None where it is not the object that was asked for.

    One JSON object, bare or in one code fence, whose one key is "accuracy" with true or false. What
    a judge has thought before, up to </think>, is no part of its verdict.
    """
    text = without_thinking(reply)
    if len(text) > _LONGEST_VERDICT:
        return None
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        pairs = json.loads(fenced[1] if fenced else text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    # An array of pairs would look the same as an object.
    if not (fenced[1] if fenced else text).startswith("{") or len(pairs) != 1:
        return None
    key, value = pairs[0]
    return value if key == "accuracy" and isinstance(value, bool) else None


def judged(reply: str, answer: str | None) -> Verdict:
    """The verdict that a judge's reply stands for; a reply that is none counts as wrong."""
    verdict = parse_judge(reply)
    if verdict is None:
        return Verdict(False, answer, "no_verdict")
    return Verdict(verdict, answer, "match" if verdict else "mismatch")


def elected(replies: Sequence[str], answer: str | None) -> Verdict:
    """The verdict of most replies; one that is no verdict has no vote, and a tie is none."""
    verdicts = [judged(reply, answer) for reply in replies]
    votes = sum({"match": 1, "mismatch": -1}.get(verdict.reason, 0) for verdict in verdicts)
    if votes == 0:
        return Verdict(False, answer, "no_verdict")
    return Verdict(votes > 0, answer, "match" if votes > 0 else "mismatch")


def final_answer(text: str, anchor: Anchor = "stated", choice: bool = False) -> str | None:
    """The last box; else, as `anchor` allows (see `rule`), what is stated, or a line.

    Args:
        text: a completion.
        anchor: where an answer may stand.
        choice: whether the only line of a text is an answer without other words alone, "B, C", or
            behind an option's letter, "B: west".
    """
    boxed = answers.boxed(text)
    if boxed is not None:
        return _plain(boxed) or None
    if anchor == "boxed":
        return None
    said = answers.stated(text)
    if said is not None:
        return _plain(answers.without_reasons(said) if choice else said) or None
    lines = [line for line in text.splitlines() if line.strip()]
    alone = len(lines) == 1 and not (
        choice and _PROSE.search(lines[0]) and not _OPTION.match(lines[0])
    )
    return _plain(lines[-1]) or None if lines and (alone or anchor == "anywhere") else None


def letters(text: str) -> frozenset[str]:
    """The options of a choice: the single capital letters in a text, or all of a text like "AC"."""
    return frozenset(text if _RUN.fullmatch(text) else _LETTER.findall(text))


def same_words(a: str, b: str) -> bool:
    """Whether two answers are equal but for case, the punctuation of prose, and articles."""
    return _words(a) == _words(b)


def _compare_choices(gold: str, answer: str | None) -> Verdict:
    wanted = letters(gold)
    if not wanted:
        return Verdict(False, None, "bad_gold")
    found = letters(answer or "")
    if not found or _HEDGED.search(answer or ""):
        return Verdict(False, None, "no_answer")
    correct = found == wanted
    return Verdict(correct, ", ".join(sorted(found)), "match" if correct else "mismatch")


def _compare_texts(gold: str, answer: str | None) -> Verdict:
    if answer is None:
        return Verdict(False, None, "no_answer")
    asks = answer.rstrip().endswith("?") and not gold.rstrip().endswith("?")
    correct = same_words(gold, answer) and not asks
    return Verdict(correct, answer[:200], "match" if correct else "mismatch")


def _plain(text: str) -> str:
    """Without LaTeX wrapping, emphasis and a final full stop."""
    text = _WRAPPING.sub("", text).replace("*", "").replace("$", "").replace("`", "").strip()
    inner = text.strip("{} ")
    return (text if "{" in inner or "}" in inner else inner).rstrip(".").strip()


def _words(text: str) -> list[str]:
    text = _DASH.sub(" ", unicodedata.normalize("NFC", text).casefold())
    words = [word for word in _WORD.findall(text) if word not in _PUNCTUATION]
    return [word for word in words if word not in ("the", "a", "an")] or words
