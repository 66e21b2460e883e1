"""The options of General365."""

from dataclasses import dataclass, field
from typing import Literal

from jaxlab.evals.general365.grade import Grader
from jaxlab.evals.general365.prompts import Style
from jaxlab.grading.answers import Anchor
from jaxlab.grading.rows import BadRows, Ids

# As many as a float has.
MOST_PLACES = 15


@dataclass(frozen=True, kw_only=True)
class Grading:
    """How answers are graded.

    Attributes:
        grader: "cascade" (the rule, then the judge), "judge", or "rule" without a judge.
        judge: model that judges; inspect_ai's model role "grader" goes before it.
        judge_votes: replies of the judge, of which most decide; one is drawn greedily, several at
            the model's own temperature.
        float_round: decimal places for numbers: "field" (the row's), "off", or a number.
        anchor: where the rule finds an answer, see `grade.rule`.
        truncated: whether a completion that was cut off counts as wrong or is graded.
    """

    grader: Grader = "cascade"
    judge: str | None = None
    judge_votes: int = 1
    float_round: Literal["field", "off"] | int = "field"
    anchor: Anchor = "stated"
    truncated: Literal["wrong", "graded"] = "graded"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.judge_votes < 1:
            raise ValueError(f"judge_votes must be at least 1, not {self.judge_votes}")
        if isinstance(self.float_round, int) and not 0 <= self.float_round <= MOST_PLACES:
            raise ValueError(
                f"float_round must be field, off or from 0 to {MOST_PLACES}, not {self.float_round}"
            )


@dataclass(frozen=True, kw_only=True)
class Options(Grading):
    """The options of `general365`.

    Attributes:
        prompt: how a problem is put, see `prompts.TEMPLATES`.
        fields: our name of a field -> its name in the file.
        id_pattern: expression that finds seed and variant in an id, see `rows.Parser`.
        subset: part of the rows, see `rows.subset`.
        ids: only the rows of these ids; all if there are none.
        bad_rows: whether a malformed row ends the run or is left out, see `rows.read`.
    """

    prompt: Style = "bare"
    fields: dict[str, str | None] | None = field(default_factory=dict)
    id_pattern: str | None = None
    subset: str = "all"
    ids: Ids = ()
    bad_rows: BadRows = "error"
