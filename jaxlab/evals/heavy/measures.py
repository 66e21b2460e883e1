"""M@K, P@K, V@K, HM and HP of HeavySkill (arXiv 2605.02396), per question. numpy, no jax.

M: the mean accuracy of K thinkers; P: whether any is right; V: whether their majority is; HM and
HP: the mean accuracy of the K1 deliberations, and whether any is right. The paper expects
HP >= HM >= V >= M; nothing here enforces it, and HP may exceed P.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from jaxlab.evals import metrics


@dataclass(frozen=True)
class Text:
    """One graded text.

    Attributes:
        correct: the verdict.
        answer: as votes compare it; None where none was found.
        length: characters.
        tokens: that were generated for it.
        finished: not cut off.
        repetitive: its last 512 characters occurred before.
        boxed: whether its answer stands in a box.
        score: of a scorer, for best-of-N; None where there is none.
        graded: False where the grader failed, which counts as wrong.
    """

    correct: bool
    answer: str | None
    length: int = 0
    tokens: int = 0
    finished: bool = True
    repetitive: bool = False
    boxed: bool = True
    score: float | None = None
    graded: bool = True


@dataclass(frozen=True)
class Question:
    """All graded texts of one question.

    Attributes:
        id: of the row.
        cluster: rows of one cluster are not independent.
        thinkers: those whose texts the deliberations read.
        rounds: deliberations of each round.
        controls: texts by the control's name; without an entry it was not run.
        tokens: that the workflow read and generated, without controls.
        seconds: that it took.
        missing: texts of the workflow that did not come.
        controls_missing: texts of the controls that did not come.
    """

    id: str
    cluster: str
    thinkers: Sequence[Text]
    rounds: Sequence[Sequence[Text]] = ()
    controls: Mapping[str, Sequence[Text]] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    missing: int = 0
    controls_missing: int = 0


def kept(texts: Sequence[Text]) -> list[Text]:
    """Without the unfinished and the repetitive, as the released workflow measures."""
    return [text for text in texts if text.finished and not text.repetitive]


def mean(texts: Sequence[Text]) -> float:
    """M@K or HM@K1 of one question; 0 without a text."""
    return float(np.mean([text.correct for text in texts])) if texts else 0.0


def any_right(texts: Sequence[Text]) -> float:
    """P@K or HP@K1 of one question."""
    return float(any(text.correct for text in texts))


def vote(texts: Sequence[Text], ties: Literal["mean", "released"] = "mean") -> float:
    """V@K of one question.

    Args:
        texts: K of them.
        ties: "mean" is the expectation over a random choice among the most frequent answers, where
            a text without an answer has no vote; "released": of the largest groups the one whose
            texts are longest on average, and the texts without a box are a group too.
    """
    if ties == "mean":
        correct = np.array([[text.correct for text in texts]])
        return float(metrics.maj_at_n([[text.answer for text in texts]], correct)[0])
    groups: dict[str | None, list[Text]] = defaultdict(list)
    for text in texts:
        groups[text.answer if text.boxed else None].append(text)
    if not groups:
        return 0.0
    ranked = max(groups.values(), key=lambda g: (len(g), np.mean([text.length for text in g])))
    return mean(ranked)


def best_of_n(texts: Sequence[Text]) -> float | None:
    """Whether the text of the highest score is right, the expectation over ties.

    None where any text has no score; 0 without a text.
    """
    if any(text.score is None or np.isnan(text.score) for text in texts):
        return None
    highest = max((text.score for text in texts if text.score is not None), default=None)
    return mean([text for text in texts if text.score == highest])


@dataclass(frozen=True)
class Bucket:
    """Questions of similar pass rate.

    Attributes:
        low: smallest mean accuracy of the thinkers.
        high: up to here, exclusively but for 1.
        questions: how many.
        thinkers: their mean accuracy, M.
        heavy: HM of the last round.
        rescued: questions on which vote is wrong (V < 1/2) and HM >= 1/2.
        not_rescued: on which vote is wrong and HM < 1/2.
        kept: on which vote is right and HM >= 1/2.
        broken: on which vote is right and HM < 1/2.
    """

    low: float
    high: float
    questions: int
    thinkers: float
    heavy: float
    rescued: int
    not_rescued: int
    kept: int
    broken: int


def buckets(questions: Sequence[Question], count: int = 4) -> list[Bucket]:
    """The bucket study: parallel and heavy pass rate by the thinkers' pass rate.

    Args:
        questions: those without a deliberation count as HM = 0.
        count: buckets of equal width; the paper has four, with centres .125, .375, .625, .875.
    """
    groups: list[list[Question]] = [[] for _ in range(count)]
    for question in questions:
        groups[min(count - 1, int(mean(question.thinkers) * count + 1e-9))].append(question)
    found = []
    for i, group in enumerate(groups):
        heavy = [mean(last(question)) for question in group]
        right = [vote(question.thinkers) >= 0.5 for question in group]
        outcomes = [(was, now >= 0.5) for was, now in zip(right, heavy, strict=True)]
        found.append(
            Bucket(
                i / count,
                (i + 1) / count,
                len(group),
                float(np.mean([mean(q.thinkers) for q in group])) if group else np.nan,
                float(np.mean(heavy)) if group else np.nan,
                outcomes.count((False, True)),
                outcomes.count((False, False)),
                outcomes.count((True, True)),
                outcomes.count((True, False)),
            )
        )
    return found


def last(question: Question) -> Sequence[Text]:
    """Deliberations of the last round; none where there was no round."""
    return question.rounds[-1] if question.rounds else ()
