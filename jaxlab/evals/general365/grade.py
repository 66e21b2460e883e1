"""The cascade: a rule where one can decide, a judge for the rest.

Numbers and intervals go to math-verify, and to the judge where it finds them unequal; texts and
choices go to the judge. Without a judge ("rule"), choices are compared as sets of letters and texts
as words.
"""

import json
import re
from collections.abc import Sequence
from typing import Literal

from jaxlab.evals.graders import MathVerifier, Verdict, without_thinking
from jaxlab.evals.math.rows import last_box
from jaxlab.evals.rows import Row

Grader = Literal["cascade", "rule", "judge"]
BY_MATH = ("number", "interval")

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_FINAL = re.compile(r"(?:final\s+)?answer\s*(?:is|:)\s*(.+)", re.IGNORECASE)
_LETTER = re.compile(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])")
_WRAPPING = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_LONGEST_VERDICT = 10_000


def rule(
    verifier: MathVerifier,
    rows: Sequence[Row],
    texts: Sequence[str],
    float_round: Literal["field", "off"] | int = "field",
) -> list[Verdict]:
    """What can be said without a judge, for every answer type.

    Args:
        verifier: compares numbers and intervals.
        rows: with meta of `general365.rows`.
        texts: completions; what precedes the last </think> is ignored.
        float_round: decimal places: the row's own, the verifier's, or so many.
    """
    texts = [without_thinking(text) for text in texts]
    verdicts: dict[int, Verdict] = {}
    by_math = [i for i, row in enumerate(rows) if row.meta["answer_type"] in BY_MATH]
    places = [
        {"field": rows[i].meta["float_round"], "off": None}.get(str(float_round), float_round)
        for i in by_math
    ]
    found = verifier.verify_batch(
        [rows[i].answer for i in by_math], [texts[i] for i in by_math], places
    )
    verdicts |= dict(zip(by_math, found, strict=True))
    for i, row in enumerate(rows):
        if i not in verdicts:
            compare = _compare_texts if row.meta["answer_type"] == "text" else _compare_choices
            verdicts[i] = compare(row.answer, texts[i])
    return [verdicts[i] for i in range(len(rows))]


def needs_judge(row: Row, verdict: Verdict, grader: Grader) -> bool:
    """Whether a judge has the last word on this completion."""
    if grader == "cascade":
        return row.meta["answer_type"] not in BY_MATH or not verdict.correct
    return grader == "judge"


def parse_judge(reply: str) -> bool | None:
    """The verdict of a judge's reply; None where it is not the object that was asked for.

    One JSON object, bare or in one code fence, whose one key is "accuracy" with true or false.
    """
    if len(reply) > _LONGEST_VERDICT:
        return None
    text = reply.strip()
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


def final_answer(text: str) -> str | None:
    """The last box; else what follows the last "answer is" or "answer:"; else the last line."""
    boxed = last_box(text)
    if boxed is not None:
        return _plain(boxed)
    stated = _FINAL.findall(text)
    lines = [line for line in text.splitlines() if line.strip()]
    found = stated[-1] if stated else lines[-1] if lines else ""
    return _plain(found) or None


def letters(text: str) -> frozenset[str]:
    """The single capital letters in a text: the options of a choice."""
    return frozenset(_LETTER.findall(text))


def same_words(a: str, b: str) -> bool:
    """Whether two answers are equal but for case, punctuation and articles."""
    return _words(a) == _words(b)


def _compare_choices(gold: str, text: str) -> Verdict:
    wanted = letters(gold)
    if not wanted:
        return Verdict(False, None, "bad_gold")
    answer = final_answer(text)
    found = letters(answer or "")
    if not found:
        return Verdict(False, None, "no_answer")
    correct = found == wanted
    return Verdict(correct, ", ".join(sorted(found)), "match" if correct else "mismatch")


def _compare_texts(gold: str, text: str) -> Verdict:
    answer = final_answer(text)
    if answer is None:
        return Verdict(False, None, "no_answer")
    correct = same_words(gold, answer)
    return Verdict(correct, answer[:200], "match" if correct else "mismatch")


def _plain(text: str) -> str:
    """Without LaTeX wrapping, emphasis and a final full stop."""
    text = _WRAPPING.sub(r"\1", text).replace("*", "").replace("$", "").strip()
    return text.rstrip(".").strip()


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in ("the", "a", "an")]
