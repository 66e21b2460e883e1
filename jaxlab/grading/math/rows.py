"""Mathematical problems in the formats in which the usual sets come.

Minimal rows are {problem, answer}; the files around Qwen2.5-Math add id, solution, subject, level
and give some answers as floats (27.0); Minerva has its answer in the solution's last box; SAT rows
are {question, options, Answer}; GSM8K's answer is a worked solution with a last line "#### 72".
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlab.grading import answers, rows
from jaxlab.grading.rows import BadRows, Panel, Row

# Fields by which results are also reported.
GROUPS = ("subject", "level", "type", "problem_type")

_QUESTION = ("problem", "question")
_ANSWER = ("answer", "Answer", "final_answer", "expected_answer")
_ID = ("id", "unique_id", "problem_idx")
_GROUPED = re.compile(r"[-+$]*\d{1,3}(,\d{3})+(\.\d+)?\D*")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
# Some files carry a prompt inside of the problem; prompts are `prompts`' affair.
_INSTRUCTION = re.compile(
    r"\s*Please reason step by step, and put your final answer within \\boxed\{\}\.?\s*$"
)


def read(path: str | Path, bad_rows: BadRows = "error") -> Panel:
    """The problems of a file; errors as in `rows.read`."""
    return rows.read(path, parse, bad_rows)


def parse(row: dict[str, Any]) -> Row:
    """One problem; ValueError says what is wrong with the row."""
    question = _INSTRUCTION.sub("", rows.first_text(row, _QUESTION)).strip()
    if not question:
        raise ValueError("the problem is empty")
    if isinstance(row.get("options"), str):
        question = f"{question}\n{row['options'].strip()}"
    answer = _answer(row)
    identity = rows.row_id(row, _ID, question, answer)
    meta = {name: _group(row[name]) for name in GROUPS if row.get(name) is not None}
    return Row(identity, question, answer, cluster=identity, meta=meta)


def split_solution(text: str) -> tuple[str, str]:
    """A GSM8K solution without its last line, and the answer on that line, 1,072 as 1072.

    Raises:
        ValueError: there is no such line.
    """
    solution, mark, answer = text.rpartition("####")
    answer = answer.strip()
    if _GROUPED.fullmatch(answer):  # not a list or an interval
        answer = answer.replace(",", "")
    if not mark or not answer:
        raise ValueError("the answer has no final line '#### <number>'")
    return solution.rstrip(), answer


def without_calculator(solution: str) -> str:
    """A GSM8K solution without marks such as <<48/2=24>>."""
    return _CALCULATOR.sub("", solution).rstrip()


def last_box(text: str) -> str | None:
    r"""What the last \boxed{...} with balanced braces holds; None where there is none."""
    boxes = answers.boxes(text)
    return text[slice(*boxes[-1])] if boxes else None


def _answer(row: Mapping[str, Any]) -> str:
    name = next((name for name in _ANSWER if row.get(name) is not None), None)
    if name is None:
        boxed = last_box(row["solution"]) if isinstance(row.get("solution"), str) else None
        if not (boxed or "").strip():
            raise ValueError(f"no field {' or '.join(_ANSWER)}, nor a solution with \\boxed{{...}}")
        return str(boxed).strip()
    value = row[name]
    parts = value if isinstance(value, list) and value else [value]
    answer = ", ".join(_plain(part, name) for part in parts)
    return split_solution(answer)[1] if "####" in answer else answer


def _plain(value: Any, name: str) -> str:
    """A number or a string as the string that the grader reads."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON has no infinity, but 1e400 is read as one.
    if not isinstance(value, str) and not (number and math.isfinite(value)):
        raise ValueError(f"field {name!r} must be a string or a number, got {value!r:.60}")
    text = str(value).strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and text.count("$") == 2:
        text = text[1:-1].strip()  # the grader puts dollar signs around the reference
    if not text:
        raise ValueError(f"field {name!r} is empty")
    return text


def _group(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
