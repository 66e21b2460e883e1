"""Grading of mathematical answers by rule."""

from collections.abc import Sequence

from jaxlab.grading.answers import without_thinking
from jaxlab.grading.graders import MathVerifier, Verdict
from jaxlab.grading.rows import Panel, Row


def grade(
    verifier: MathVerifier,
    golds: Sequence[str],
    texts: Sequence[str],
    truncated: Sequence[bool] | None = None,
) -> list[Verdict]:
    """Whether each completion gives its reference answer.

    Args:
        verifier: compares.
        golds: references.
        texts: completions; what precedes the last </think> is ignored.
        truncated: those that were cut off by their length are wrong, whatever stands in them.
    """
    verdicts = verifier.verify_batch(golds, [without_thinking(text) for text in texts])
    if truncated is None:
        return verdicts
    return [
        Verdict(False, verdict.parsed, "truncated") if cut else verdict
        for verdict, cut in zip(verdicts, truncated, strict=True)
    ]


def self_test(verifier: MathVerifier, panel: Panel) -> list[tuple[Row, Verdict]]:
    """The rows whose reference, written in a box, is not graded equal to itself.

    The references of the public sets hold a few that no grader can parse; a model cannot be right
    on those, so they are reported beside the scores.
    """
    golds = [row.answer for row in panel.rows]
    verdicts = verifier.verify_batch(golds, [f"\\boxed{{{gold}}}" for gold in golds])
    pairs = zip(panel.rows, verdicts, strict=True)
    return [(row, verdict) for row, verdict in pairs if not verdict.correct]
