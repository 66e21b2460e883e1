"""Does the grader agree with the references of a set? A table of what it says.

    python -m jaxlab.evals.math.self_test aime24/test.jsonl math500/test.jsonl ...

Each reference is written as a model may write it, and graded: it is to be right. Then each problem
is given the next problem's reference: where the two differ, it is to be wrong. What is rejected, no
model can be right on in that form; what is accepted of another problem may be a point that no model
deserves. Forms in which a set's references are not found show what a prompt should ask for.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jaxlab.evals.tables import Table
from jaxlab.grading.graders import MathVerifier, Verdict
from jaxlab.grading.math import rows
from jaxlab.grading.rows import BadRows, Panel, Row

# How a reference is written, by the column's title.
FORMS = {
    "in a box": "\\boxed{{{}}}",
    "between $": "The final answer is ${}$.",
    "bare": "The final answer is {}.",
}
OTHER = "of another problem"


@dataclass(frozen=True)
class Disagreement:
    """A verdict that is not the one that was due.

    Attributes:
        row: the problem.
        form: a key of `FORMS`, or `OTHER`.
        text: what was graded.
        verdict: of the grader.
    """

    row: Row
    form: str
    text: str
    verdict: Verdict


def disagreements(verifier: MathVerifier, panel: Panel) -> tuple[list[Disagreement], int]:
    """All of a set, and how many problems have another answer than the next one."""
    cases = [
        (row, form, template.format(row.answer), True)
        for form, template in FORMS.items()
        for row in panel.rows
    ]
    following = zip(panel.rows, [*panel.rows[1:], panel.rows[0]], strict=True)
    others = [
        (row, OTHER, FORMS["in a box"].format(other.answer), False)
        for row, other in following
        if row.answer != other.answer
    ]
    cases += others
    verdicts = verifier.verify_batch(
        [case[0].answer for case in cases], [case[2] for case in cases]
    )
    found = [
        Disagreement(row, form, text, verdict)
        for (row, form, text, due), verdict in zip(cases, verdicts, strict=True)
        if verdict.correct is not due
    ]
    return found, len(others)


def tables(panels: dict[str, Panel], verifier: MathVerifier) -> list[Table]:
    """Agreements of each set, and the disagreements one by one."""
    summary, single = [], []
    for name, panel in panels.items():
        found, others = disagreements(verifier, panel)
        count = len(panel.rows)
        row: dict = {"set": name, "problems": count}
        for form in FORMS:
            row[form] = f"{count - sum(case.form == form for case in found)} / {count}"
        row[OTHER] = f"{others - sum(case.form == OTHER for case in found)} / {others}"
        summary.append(row)
        single += [
            {
                "set": name,
                "problem": case.row.id,
                "reference": f"`{case.row.answer[:60]}`",
                "written": case.form,
                "graded": f"`{case.text.strip()[:60]}`",
                "verdict": "right" if case.verdict.correct else case.verdict.reason,
            }
            for case in found
            if case.form != "bare"
        ]
    note = (
        "References accepted, by the way they are written; in the last column the next problem's "
        "references rejected, where they differ."
    )
    return [Table("Agreements", summary, note), Table("Disagreements", single)]


def _name(path: Path, paths: Sequence[Path]) -> str:
    """The shortest end of a path's folders that tells it from the others."""
    for depth in range(1, len(path.parts)):
        name = "/".join(path.parts[-1 - depth : -1]) or path.stem
        if sum("/".join(other.parts[-1 - depth : -1]) == name for other in paths) == 1:
            return name
    return str(path)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Compare a grader with the references of sets.")
    parser.add_argument("paths", nargs="+", type=Path, help=".jsonl or .json files of problems")
    parser.add_argument(
        "--bad_rows",
        choices=get_args(BadRows),
        default="error",
        help="whether a malformed row is an error or is left out",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of the grader")
    arguments = parser.parse_args()
    try:
        panels = {
            _name(path, arguments.paths): rows.read(path, arguments.bad_rows)
            for path in arguments.paths
        }
    except (ValueError, OSError) as error:
        parser.error(str(error).replace("bad_rows=skip", "--bad_rows=skip"))
    for name, panel in panels.items():
        for rejected in panel.rejected:
            print(f"{name}: left out {rejected.where}: {rejected.cause}", file=sys.stderr)
    with MathVerifier(arguments.workers) as verifier:
        for table in tables(panels, verifier):
            if table.rows:
                print("\n".join(table.markdown()))


if __name__ == "__main__":
    main()
