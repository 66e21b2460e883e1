"""The references of the public sets: each equals itself however it is written, and no neighbour."""

import re

import pytest

from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.math import grade, rows

SETS = [
    "math/min/aime24",
    "math/min/amc2023",
    "math/min/hmmt25_feb",
    "math/min/math500",
    "math/min/minervamath",
    "math/qwen25_math/aime24",
    "math/qwen25_math/amc23",
    "math/qwen25_math/minerva_math",
    "math/qwen25_math/sat_math",
]
FORMS = ["\\boxed{%s}", "%s", "The answer is %s.", "The answer is $%s$."]

# References that are no answers, by set and id; they equal their own text and nothing else.
UNSOUND = {
    "math/min/minervamath": {
        "eba1db467250": "two formulae with a dollar sign left between them",
    },
    "math/qwen25_math/minerva_math": {
        "eba1db467250": "two formulae with a dollar sign left between them",
    },
}


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_s=60.0) as verifier:
        yield verifier


def _neighbours(gold):
    """Answers that are nearly the reference: another sign, another digit, a member more or less."""
    found = [gold.lstrip()[1:] if gold.lstrip().startswith("-") else f"-{gold}"]
    if gold.strip("-0") == "":
        found = []  # nought has no sign
    digits = list(re.finditer(r"\d", gold))
    for digit in digits[:1] + digits[-1:]:
        other = str(int(digit[0]) % 9 + 1)
        found.append(gold[: digit.start()] + other + gold[digit.end() :])
    if not gold.startswith("\\{"):
        found.append(f"{gold}, 7")
    if re.search(r",(?!\\?!?\s?\d{3})", gold) and gold[-1] not in ")]}":
        found.append(gold.rpartition(",")[0])
    return found


def _wrong(verifier, golds):
    """The cases that are graded other than they should be."""
    cases = [(gold, form % gold, True) for gold in golds for form in FORMS]
    cases += [
        (gold, form % other, False)
        for gold in golds
        for other in _neighbours(gold)
        for form in FORMS[::2]
    ]
    verdicts = grade.grade(verifier, [case[0] for case in cases], [case[1] for case in cases])
    pairs = zip(cases, verdicts, strict=True)
    return [(*case, verdict.reason) for case, verdict in pairs if verdict.correct is not case[2]]


@pytest.mark.parametrize("name", SETS)
def test_references_equal_themselves_and_no_neighbour(real_data, verifier, name):
    """A tenth of the answers that are no plain numbers, which the slow test checks in full."""
    panel = rows.read(real_data(f"{name}/test.jsonl"))
    golds = list(dict.fromkeys(row.answer for row in panel.rows))
    rich = [gold for gold in golds if not gold.lstrip("-").isdigit()]
    assert _wrong(verifier, rich[::10] + golds[:3]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETS, "gsm8k"])
def test_all_references(real_data, verifier, name):
    panel = rows.read(real_data(f"{name}/test.jsonl"))
    assert _wrong(verifier, list(dict.fromkeys(row.answer for row in panel.rows))) == []


def test_unsound_references_are_those_of_the_list(real_data):
    """A dollar sign, or a brace without its other half, in the midst of an answer."""
    for name in SETS:
        panel = rows.read(real_data(f"{name}/test.jsonl"))
        found = {row.id for row in panel.rows if not _sound(row.answer)}
        assert found == set(UNSOUND.get(name, {})), name


def _sound(gold):
    plain = gold.replace("\\$", "").replace("\\{", "").replace("\\}", "")
    return "$" not in plain and plain.count("{") == plain.count("}")
