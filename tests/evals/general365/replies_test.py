"""Replies that give their answer in an unusual form, and hostile ones that only seem to."""

import pytest

from jaxlab.evals.general365 import grade
from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.rows import Row

# Answer type, reference, replies that give it.
RIGHT = [
    (
        "number",
        "0.33",
        [
            "The answer is about 0.33.",
            "The answer is approximately 0.33",
            "Answer: roughly 0.33",
            "The answer is \u2248 0.33",
            "\\boxed{\\approx 0.33}",
            "### Final Answer\n0.33",
            "### Final Answer: 0.33",
            "### Final Answer\n\n**0.33**",
            "## Answer\n$0.33$",
            "**Final Answer**\n0.33",
            "### Final Answer 0.33",
            "\u7b54\u6848\uff1a0.33",
            "\u6700\u7ec8\u7b54\u6848\uff1a0.33",
            "\u7b54\u6848\u662f0.33",
            "\u7b54\u6848\u4e3a \uff10.\uff13\uff13\u3002",
            "**\u7b54\u6848**\uff1a0.33",
            "\u56e0\u6b64\uff0c\u7b54\u6848\u662f\uff1a0.33",
            "\u6700\u7d42\u7b54\u6848\uff1a0.33",
            "### \u6700\u7ec8\u7b54\u6848\n0.33",
            "\u7b54\uff1a0.33",
        ],
    ),
    (
        "number",
        "-5",
        [
            "The answer is negative 5.",
            "Answer: minus 5",
            "The answer is \u22125.",
            "\u7b54\u6848\uff1a\u22125",
            "\u7b54\u6848\uff1a\u8d1f5",
            "-5",
            "The answer is \uff0d5",
            "### Final Answer\n- 5",
        ],
    ),
    (
        "number",
        "12",
        [
            "\u7b54\u6848\uff1a12",
            "\u7b54\u6848\uff1a\uff11\uff12",
            "\u7b54\u6848: 12",
            "\u6700\u7ec8\u7b54\u6848\u662f 12\u3002",
            "\u7b54\u6848\u4e3a12",
            "\u6240\u4ee5\u7b54\u6848\u662f $12$",
            "\u3010\u7b54\u6848\u301112",
            "\u6b63\u786e\u7b54\u6848\uff1a12",
            "\u6700\u7ec8\u7b54\u6848\uff1a\\boxed{12}",
            "\u7b54\u6848\uff1a12\u5206\u949f",
            "The final answer is 12 minutes.",
            "The answer is twelve.",
            "The answer would be 12",
            "Final Answer:\n\n12",
            "**Final answer:** 12",
        ],
    ),
    (
        "interval",
        "[3,7)",
        [
            "x \u2208 [3, 7)",
            "The answer is x \u2208 [3, 7).",
            "\\boxed{x \\in [3,7)}",
            "\u7b54\u6848\uff1a[3,7)",
            "\u7b54\u6848\uff1a\uff3b3\uff0c7\uff09",
            "The answer is 3 \u2264 x < 7.",
            "### Final Answer\n[3, 7)",
            "$x \\in [3, 7)$",
            "t \u2208 [3,7)",
            "\u7b54\u6848\uff1a$[3, 7)$",
            "The answer is [3, 7[.",
        ],
    ),
    (
        "single_choice",
        "B",
        [
            "\u7b54\u6848\uff1aB",
            "\u7b54\u6848\u662fB\u3002",
            "\u6700\u7ec8\u7b54\u6848\uff1a\uff22",
            "### Final Answer\nB",
            "### Final Answer\n**B**",
            "### Final Answer: (B)",
            "**Answer:** B",
            "\u7b54\u6848\uff1a\u9009B",
            "The correct answer is B.",
        ],
    ),
    (
        "multiple_choice",
        "A, C",
        [
            "\u7b54\u6848\uff1aA\u3001C",
            "\u7b54\u6848\uff1aAC",
            "### Final Answer\nA, C",
            "Answer: A and C",
            "\u7b54\u6848\uff1aA\uff0cC",
        ],
    ),
    (
        "text",
        "Tom",
        [
            "\u7b54\u6848\uff1aTom",
            "### Final Answer\nTom",
            "**Answer**: Tom",
            "Final Answer: **Tom**",
            "The answer is Tom.",
        ],
    ),
]

# Answer type, reference, replies that do not, whatever they mention.
HOSTILE = [
    (
        "number",
        "5",
        [
            "It is not 5",
            "the total is 7. Check step 5",
            "The answer is not 5.",
            "The answer isn't 5.",
            "The answer is 5 or 6.",
            "The answer is either 5 or 6",
            "The answer is 5? No, it is 6.",
            "The answer is 5, but that is wrong.",
            "The answer is 5 is what they say, wrongly; incorrect.",
            "The answer is 5. Wait, the answer is 6.",
            "The answer is 5 more than 7",
            "The answer is 5 times 3",
            "The answer is 5 less than 20.",
            "The answer is 5x",
            "The answer is 5\\pi",
            "The answer is 5^2",
            "The answer is 5!",
            "The answer is 5 million",
            "The answer is 5e3",
            "The answer is -5",
            "The answer is minus 5",
            "The answer is negative 5",
            "The answer is 5.5",
            "The answer is 5/6",
            "The answer is 55",
            "The answer is 5,000",
            "The answer is 5, 6",
            "The answer is (5, 6)",
            "The answer is [5, 6]",
            "The answer is 5 and 6",
            "The answer is 5 plus 1",
            "The answer is 5 + 1",
            "The answer is 5 hours 30 minutes",
            "The answer is 5:30",
            "The answer is maybe 5 or so, unless it is 6",
            "Step 5: the answer is unknown",
            "5 is a number I like. So I cannot say",
            "\\boxed{6}\nThe answer is 5.",
            "The answer is 5\n\\boxed{6}",
            "\\boxed{5}. Wait, no: \\boxed{6}",
            "\\boxed{5}, \\boxed{6}",
            "\\boxed{5} or \\boxed{6}",
            "\\boxed{5 \\text{ or } 6}",
            "not \\boxed{5}",
            "\\boxed{\\text{not }5}",
            "\\boxed{x \\ne 5}",
            "\\boxed{x>5}",
            "\\boxed{5x}",
            "\\boxed{}",
            "<think>\\boxed{5}</think>I give up",
            "<think>The answer is 5</think>",
            "5</think>6",
            "\u7b54\u6848\uff1a6",
            "\u7b54\u6848\u4e0d\u662f5",
            "\u7b54\u6848\uff1a5\u6216\u80056",
            "\u7b54\u6848\uff1a15",
            "\u7b54\u6848\uff1a\uff0d5",
            "\u7b54\u6848\uff1a5/2",
            "\u7b54\u6848\u53ef\u80fd\u662f5\u62166",
            "### Final Answer\n6\n\nChecked in 5 steps",
            "### Final Answer\nI do not know; 5 perhaps",
            "### Step 5\n### Final Answer",
            "#### 5 things to do\nnothing",
            "Answer: none of the 5",
            "Answer: see step 5",
            "The answers are 5 and 7",
            "Reference answer: 5. My answer: 6",
            "The answer is less than 5",
            "The answer is at most 5",
            "The answer is greater than 5",
            "The answer is between 5 and 6",
            "The answer is 5 to 6",
            "The answer is 5-6",
            "The answer is 5\u20136",
            "The answer is anything but 5",
            "the answer is 5 if x is even, otherwise 6",
            "The answer is not 5 but 6",
            "5 or 6",
            "5, 6",
            "5?",
            "The answer is \\text{5 or 6}",
            "The answer is 5 (incorrect)",
            "The answer is 5%, no, 7%",
            "The answer is 0.5",
            "The answer is 5 * 2",
        ],
    ),
    (
        "number",
        "0.33",
        [
            "The answer is about 0.34",
            "The answer is about -0.33",
            "The answer is about 33",
            "The answer is about 3.3",
            "The answer is not about 0.33",
            "### Final Answer\nabout 0.3",
        ],
    ),
    (
        "interval",
        "[3,7)",
        [
            "x \u2208 (3, 7)",
            "x \u2208 [3, 7]",
            "x \u2208 [3, 8)",
            "x \u2208 [-3, 7)",
            "x \u2209 [3, 7)",
            "The answer is [3,7] or [3,7)",
            "The answer is 3 < x < 7",
            "The answer is 3 \u2264 x \u2264 7",
            "somewhere in [3,7) or (1,2)",
            "The answer is not [3,7)",
            "[3,7) \u222a [8,9)",
            "The answer is [3,7), [8,9)",
            "\u7b54\u6848\uff1a[3,7]",
            "The answer is 3",
            "The answer is x \u2265 3",
            "The answer is (3,7]",
            "\\boxed{[7,3)}",
        ],
    ),
    (
        "single_choice",
        "B",
        [
            "The answer is not B",
            "The answer is A",
            "The answer is A or B",
            "The answer is B or C",
            "The answer is A, B",
            "\u7b54\u6848\uff1aA",
            "\u7b54\u6848\u4e0d\u662fB",
            "\u7b54\u6848\uff1aA\u6216B",
            "### Final Answer\nA\n\nB was close",
            "### Final Answer\nA, since B is wrong",
            "The answer is anything but B",
            "The answer isn't B",
            "A is wrong.\nIt may be B",
            "\\boxed{\\text{not B}}",
            "\\boxed{A}\nThe answer is B",
            "\\boxed{A \\text{ or } B}",
            "\\boxed{A}, \\boxed{B}",
            "B is wrong",
            "Neither A nor B",
            "The answer is unlikely B",
            "The answer is b, or C",
            "The answer is neither B nor C",
            "The answer is A and B",
        ],
    ),
    (
        "multiple_choice",
        "A, C",
        [
            "The answer is A",
            "The answer is C",
            "The answer is A, B, C",
            "The answer is A or C",
            "\\boxed{A, B}",
            "\u7b54\u6848\uff1aA\u6216C",
            "\u7b54\u6848\uff1aA",
            "### Final Answer\nA, D",
            "The answer is not A, C",
            "All but A and C",
            "\\boxed{A} or \\boxed{D}",
        ],
    ),
    (
        "text",
        "Tom",
        [
            "The answer is not Tom",
            "The answer is Tomson",
            "The answer is Tom or Ann",
            "The answer is Ann, not Tom",
            "Tom did not do it",
            "\u7b54\u6848\uff1aAnn",
            "### Final Answer\nAnn\nTom",
            "\\boxed{Ann}\nThe answer is Tom",
            "Tom? No, Ann.",
            "The answer is Tom's brother",
            "The answer is anybody but Tom",
        ],
    ),
]


# Statements that are suppositions, denials or somebody else's; words that change a number.
HOSTILE += [
    (
        "number",
        "6",
        [
            "I doubt the answer is 6.",
            "Suppose the answer is 6.",
            "If the answer is 6, then we fail.",
            "The wrong answer is 6.",
            "I do not think that the answer is 6",
            "I don't believe the final answer is 6.",
            "It is false that the answer is 6",
            "The answer is 6? 7!",
            "My earlier answer is 6, which I retract.",
            "The naive answer is 6.",
            "Nobody knows whether the answer is 6.",
            "Unless the answer is 6, we are done.",
            "The answer is 6 factorial",
            "The answer is 6 squared",
            "The answer is 6 dozen",
            "The answer is 6 because I was wrong, it is 7.",
            "The answer cannot be 6.",
            "### Answer\n\nIt is not true that there are 6.",
        ],
    ),
    (
        "single_choice",
        "B",
        [
            "If the answer is B then no",
            "I do not think the answer is B",
            "Suppose the answer is B.",
            "The answer is A because B is wrong.",
        ],
    ),
    (
        "multiple_choice",
        "A, C",
        ["I don't think the answer is A, C", "The answer is A since C is wrong"],
    ),
    ("text", "Tom", ["I don't think the answer is Tom", "Tom?", "The answer is Tom?"]),
]
RIGHT += [
    (
        "number",
        "36",
        [
            "The answer is 6 squared.",
            "The answer is 3 dozen eggs.",
            "The final result is 36.",
            "Final answer \u2192 36",
            "### Final Answer\n\nThe total is 36.",
            "**Answer:** Tom pays $36.",
            "The answer is as follows: 36",
            "The answer is 36 because 35 is not even.",
            "The answer is 36, since x cannot be negative or zero.",
            "The answer is 36. No other solution exists.",
            "The answer is 36. Let me know if you need more.",
            "I don't think the answer is 35. The answer is 36.",
            "\u7b54\u6848\u7ea6\u4e3a36",
            "\u7b54\u6848\uff1a36\u5143",
            "\u6700\u7ec8\u7ed3\u679c\u662f36",
        ],
    ),
    ("number", "-7", ["minus 7", "The answer is negative seven."]),
    ("interval", "[2,5)", ["{x | 2 \u2264 x < 5}", "Answer: the interval [2, 5)"]),
    ("single_choice", "D", ["The answer is D because A contradicts the rule.", "Option D"]),
    ("multiple_choice", "B, D", ["Options B and D", "The answer is B and D because A is wrong."]),
]


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_s=60.0) as verifier:
        yield verifier


def _accepted(verifier, kind, gold, replies, anchor="stated"):
    row = Row("r", "q", gold, "r", {"answer_type": kind, "float_round": None})
    verdicts = grade.rule(verifier, [row] * len(replies), replies, anchor=anchor)
    pairs = zip(replies, verdicts, strict=True)
    return [reply for reply, verdict in pairs if verdict.correct]


@pytest.mark.parametrize(("kind", "gold", "replies"), RIGHT, ids=[c[1] for c in RIGHT])
def test_answers_that_are_found(verifier, kind, gold, replies):
    assert _accepted(verifier, kind, gold, replies) == replies


@pytest.mark.parametrize(("kind", "gold", "replies"), HOSTILE, ids=[c[1] for c in HOSTILE])
def test_no_hostile_reply_is_accepted(verifier, kind, gold, replies):
    assert _accepted(verifier, kind, gold, replies) == []


def test_there_are_enough_hostile_replies():
    replies = [reply for _, _, replies in HOSTILE for reply in replies]
    assert len(set(replies)) >= 105
