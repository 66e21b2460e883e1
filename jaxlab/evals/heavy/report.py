"""The report of heavy thinking: every measure beside its controls, with paired tests."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxlab.agents.heavy_controls import NAMES
from jaxlab.evals import metrics
from jaxlab.evals.heavy import measures
from jaxlab.evals.heavy.measures import Question, Text
from jaxlab.evals.tables import Cell, Table

# The value of a row of the table on one question; None where there is none.
Measure = Callable[[Sequence[Text]], float | None]

CONTROLS = {
    "answers_only": "control: the thinkers' answers without their reasoning",
    "no_thinkers": "control: no thinkers, the question alone",
    "long_thought": "control: one long thought, equal tokens",
}


def tables(questions: Sequence[Question]) -> list[Table]:
    """The measures, the bucket study, and what it cost.

    Raises:
        ValueError: there is no question.
    """
    if not questions:
        raise ValueError("there is no question to report on")
    return [_measures(questions), _buckets(questions), _cost(questions)]


def write(folder: Path, questions: Sequence[Question], title: str) -> list[Path]:
    """heavy.md and heavy.json in the folder."""
    made = tables(questions)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", "", *(line for table in made for line in table.markdown())]
    content = {"title": title, "tables": [table.to_json() for table in made]}
    paths = [folder / "heavy.md", folder / "heavy.json"]
    paths[0].write_text("\n".join(lines), encoding="utf-8")
    paths[1].write_text(json.dumps(content, indent=1), encoding="utf-8")
    return paths


def _measures(questions: Sequence[Question]) -> Table:
    """Each measure with its interval, HM minus it, and the paired test; raw and filtered."""
    clusters = [question.cluster for question in questions]
    heavy = np.array([measures.mean(measures.last(question)) for question in questions])
    rows: list[dict[str, Cell]] = []
    tested: list[tuple[dict[str, Cell], float]] = []

    def add(name: str, values: Sequence[float | None], filtered: Sequence[float | None] | None):
        row: dict[str, Cell] = {"measure": name, "raw": _interval(values, clusters)}
        row["filtered"] = None if filtered is None else _interval(filtered, clusters)
        rows.append(row)
        if None in values or not any(question.rounds for question in questions):
            return
        if name != _HM:
            test = metrics.paired_test(np.array(values, float), heavy, clusters)
            row |= {"HM minus it": test.difference, "HM better": test.better}
            row |= {"HM worse": test.worse, "p": test.p_value}
            tested.append((row, test.p_value))

    of_thinkers: dict[str, Measure] = {
        "M@K, mean of the thinkers": measures.mean,
        "V@K, their vote": measures.vote,
        "V@K, ties as released": lambda texts: measures.vote(texts, "released"),
        "best of K by score": measures.best_of_n,
        "P@K, any thinker right": measures.any_right,
    }
    for name, measure in of_thinkers.items():
        add(
            name,
            [measure(question.thinkers) for question in questions],
            [measure(measures.kept(question.thinkers)) for question in questions],
        )
    depth = max(len(question.rounds) for question in questions)
    for number in range(1, depth):
        texts = [q.rounds[number - 1] if len(q.rounds) >= number else () for q in questions]
        add(f"HM@K1 after round {number}", *_both(measures.mean, texts))
    texts = [measures.last(question) for question in questions]
    add(_HM, *_both(measures.mean, texts))
    add("HP@K1, any deliberation right", *_both(measures.any_right, texts))
    for name in NAMES:
        given = [question.controls.get(name) for question in questions]
        values = [None if texts is None else measures.mean(texts) for texts in given]
        kept = [None if t is None else measures.mean(measures.kept(t)) for t in given]
        add(CONTROLS[name], values, kept)
    for (row, _), p_value in zip(tested, metrics.holm([p for _, p in tested]), strict=True):
        row["p (Holm)"] = p_value
    ungraded = sum(not text.graded for q in questions for text in _all(q))
    absent = [sum(q.missing for q in questions), sum(q.controls_missing for q in questions)]
    unkept = sum(len(q.thinkers) - len(measures.kept(q.thinkers)) for q in questions)
    return Table(
        "Heavy thinking",
        rows,
        f"{len(questions)} questions in {len(set(clusters))} clusters; {_range(questions)}. Raw "
        f"counts all texts; filtered leaves out {unkept} thinkers that were cut off or repeat "
        "themselves, as the released workflow does before it measures, and a question without any "
        f"left counts 0, as it does raw. {absent[0]} texts of the workflow and {absent[1]} of the "
        f"controls did not come; {ungraded} texts count as wrong because their grader failed. "
        "Intervals by clusters; p by flipping the signs of clusters, two-sided. P, V and M "
        "need no further call; the controls show what is re-solving (no thinkers), debiasing by "
        "answers (without reasoning), and more tokens (one long thought). n/a: not run, or no "
        "scores.",
    )


_HM = "HM@K1, mean of the deliberations"


def _all(question: Question) -> list[Text]:
    """All graded texts of a question, those of the controls included."""
    groups = [question.thinkers, *question.rounds, *question.controls.values()]
    return [text for group in groups for text in group]


def _both(
    measure: Measure, texts: Sequence[Sequence[Text]]
) -> tuple[list[float | None], list[float | None]]:
    return [measure(one) for one in texts], [measure(measures.kept(one)) for one in texts]


def _interval(values: Sequence[float | None], clusters: Sequence[str]) -> Cell:
    if None in values:
        return None
    return metrics.cluster_bootstrap(np.array(values, float), clusters)


def _range(questions: Sequence[Question]) -> str:
    """How many thinkers and deliberations there were, the fewest and the most."""
    found = []
    counts = {
        "thinkers each": [len(question.thinkers) for question in questions],
        "deliberations": [len(measures.last(question)) for question in questions],
        "rounds": [len(question.rounds) for question in questions],
    }
    for name, each in counts.items():
        low, high = min(each), max(each)
        found.append(f"{name}: {low}" if low == high else f"{name}: {low} to {high}")
    return "; ".join(found)


def _buckets(questions: Sequence[Question]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "thinkers' pass rate": f"{bucket.low:g} to {bucket.high:g}",
            "questions": bucket.questions,
            "M@K": bucket.thinkers,
            "HM@K1": bucket.heavy,
            "rescued": bucket.rescued,
            "not rescued": bucket.not_rescued,
            "kept": bucket.kept,
            "broken": bucket.broken,
        }
        for bucket in measures.buckets(questions)
    ]
    note = (
        "Rescued: the vote is wrong and at least half of the deliberations are right; broken: the "
        "other way round. A tied vote counts as right where half of the tied answers are."
    )
    return Table("By pass rate of the thinkers", rows, note)


def _cost(questions: Sequence[Question]) -> Table:
    def per_question(values: Sequence[float]) -> float:
        return float(np.mean(values))

    def written(texts: Sequence[Text]) -> int:
        return sum(text.tokens for text in texts)

    rows: list[dict[str, Cell]] = [
        {
            "part": "thinkers and deliberations",
            "tokens written": per_question(
                [written(q.thinkers) + sum(map(written, q.rounds)) for q in questions]
            ),
            "tokens in all": per_question([q.tokens for q in questions]),
            "seconds": per_question([q.seconds for q in questions]),
        }
    ]
    for name in NAMES:
        given = [q.controls[name] for q in questions if name in q.controls]
        tokens = per_question(list(map(written, given))) if given else None
        rows.append({"part": CONTROLS[name], "tokens written": tokens})
    return Table("Cost per question", rows, "Tokens as the model's provider counts them.")
