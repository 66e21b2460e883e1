import pytest

from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.math import grade, prompts, rows


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"problem": " p ", "answer": "\\frac12"}, "p", "\\frac12"),
        ({"problem": "p", "answer": 27.0}, "p", "27"),
        ({"problem": "p", "answer": 2.5}, "p", "2.5"),
        ({"problem": "p", "answer": 204}, "p", "204"),
        ({"problem": "p", "answer": "$x^2$"}, "p", "x^2"),
        ({"problem": "p", "final_answer": ["2", "3"]}, "p", "2, 3"),
        (
            {"problem": "p", "solution": "so \\boxed{1} or \\boxed{\\frac{1}{2}}."},
            "p",
            "\\frac{1}{2}",
        ),
        ({"question": "q", "options": "A) 1 B) 2", "Answer": "B"}, "q\nA) 1 B) 2", "B"),
        ({"question": "q", "answer": "6 * 12 = <<6*12=72>>72\n#### 1,072"}, "q", "1072"),
        ({"question": "q", "answer": "so\n#### -$1,072,000.5"}, "q", "-$1072000.5"),
        ({"question": "q", "answer": "so\n#### [84,146]"}, "q", "[84,146]"),
        ({"question": "q", "answer": "so\n#### A, C"}, "q", "A, C"),
        (
            {
                "problem": "p\nPlease reason step by step, and put your final answer within "
                "\\boxed{}.",
                "answer": "1",
            },
            "p",
            "1",
        ),
    ],
)
def test_formats(row, question, answer):
    parsed = rows.parse(row)
    assert (parsed.question, parsed.answer) == (question, answer)
    assert parsed.cluster == parsed.id
    assert rows.parse(dict(reversed(row.items()))) == parsed


def test_ids_and_groups():
    row = {"problem": "p", "answer": "1", "level": 3, "subject": "Algebra", "problem_type": ["a"]}
    assert rows.parse(row | {"unique_id": "test/1.json"}).id == "test/1.json"
    assert rows.parse(row | {"id": 60}).id == "60"
    assert len(rows.parse(row).id) == 12
    assert rows.parse(row).meta == {"level": "3", "subject": "Algebra", "problem_type": '["a"]'}


def test_last_box():
    assert rows.last_box("\\boxed{a{b}c} \\boxed{\\frac{1}{2}} end") == "\\frac{1}{2}"
    assert rows.last_box("\\boxed{open") is None
    assert rows.last_box("none") is None


def test_prompts_leave_braces_alone():
    assert prompts.prompt("what is {x}?", "bare") == "what is {x}?"
    assert prompts.prompt("{x}", "gsm8k") == "Question: {x}\nAnswer:\n"
    assert prompts.prompt("{x}", "boxed").endswith("\\boxed{}.")


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier() as verifier:
        yield verifier


# Rows, and references that are not equal to themselves.
@pytest.mark.parametrize(
    ("path", "count", "failures"),
    [
        ("gsm8k/test.jsonl", 1319, 0),
        ("math/min/aime24/test.jsonl", 30, 0),
        ("math/min/amc2023/test.jsonl", 40, 0),
        ("math/min/hmmt25_feb/test.jsonl", 30, 0),
        ("math/min/minervamath/test.jsonl", 272, 0),
        ("math/qwen25_math/aime24/test.jsonl", 30, 0),
        ("math/qwen25_math/amc23/test.jsonl", 40, 0),
        ("math/qwen25_math/sat_math/test.jsonl", 32, 0),
        pytest.param("math/min/math500/test.jsonl", 500, 0, marks=pytest.mark.slow),
    ],
)
def test_every_set_reads_and_grades_itself(real_data, verifier, path, count, failures):
    panel = rows.read(real_data(path))
    assert len(panel.rows) == count
    assert len(grade.self_test(verifier, panel)) == failures


def test_two_files_of_one_set_are_one_panel(real_data):
    """Minimal rows with the prompt inside, and rows whose answer stands in the solution's box."""
    minimal = rows.read(real_data("math/min/minervamath/test.jsonl"))
    full = rows.read(real_data("math/qwen25_math/minerva_math/test.jsonl"))
    assert minimal.digest == full.digest
