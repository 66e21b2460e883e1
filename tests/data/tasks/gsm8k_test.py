import json
import re

import pytest

from jaxlab.data.tasks.gsm8k import Gsm8k

ROW = {
    "question": "A pen costs $3 {not} $4. What do 400 cost? ",
    "answer": "One costs $3.\n400 cost 400*3=$<<400*3=1200>>1,200.\n#### 1,200",
}


@pytest.fixture
def paths(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path, path


def test_example(paths):
    example = Gsm8k(*paths).example(0, "train")
    assert example.prompt == ("Question: A pen costs $3 {not} $4. What do 400 cost?\nAnswer:\n")
    assert example.target == "One costs $3.\n400 cost 400*3=$1,200.\n#### 1200"
    assert example.answer == "1200"


def test_options(paths):
    example = Gsm8k(*paths, prompt="{question}", calculator=True).example(0, "test")
    assert example.prompt == ROW["question"].strip()
    assert "$<<400*3=1200>>1,200." in example.target


def test_braces_of_a_prompt_mean_themselves(paths):
    template = "{question} {question} Put \\frac{{a}}{b} of {0} {x!r} into \\boxed{}."
    example = Gsm8k(*paths, prompt=template).example(0, "train")
    question = ROW["question"].strip()
    assert example.prompt == template.replace("{question}", question)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Solve it.", "has no {question}"),
        ("{Question}", "has no {question}"),
        ("{ question }", "has no {question}"),
        ("{question:>9}", "has no {question}"),
        ("", "has no {question}"),
        ("{{question}}", "has {{question}}: write {question}"),
        ("{question} \\boxed{{}}", "has {{}}: write {}"),
        (None, "a text with {question} is expected, not None"),
        (3, "a text with {question} is expected, not 3"),
    ],
)
def test_a_prompt_without_a_question_is_refused(paths, prompt, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Gsm8k(*paths, prompt=prompt)


def test_grade(paths):
    with Gsm8k(*paths) as task:
        example = task.example(0, "test")
        texts = [example.target, "So $1,200.\n#### $1,200.00", "#### 1,201", "no idea", ""]
        grades = task.grade_batch([example] * 5, texts)
        assert [grade.reward for grade in grades] == [1.0, 1.0, 0.0, 0.0, 0.0]
        assert task.grade(example, "It is \\boxed{1200}").reward == 1.0
        # As the benchmark grades: what was thought before is no answer.
        thought = "<think>\n#### 7\nNo.</think>\n#### 1200"
        assert task.grade(example, thought).reward == 1.0


def test_a_row_without_an_answer_line_is_named(tmp_path, paths):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"answer": "12"}) + "\n")
    with pytest.raises(ValueError, match=r"bad.jsonl:2: the answer has no final line '####"):
        Gsm8k(paths[0], bad)
