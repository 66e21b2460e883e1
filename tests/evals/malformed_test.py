"""Rows, verdicts and replies that no one should write: none ends a run, each is accounted for.

pytest -m slow tests/evals/malformed_test.py        # 5,000 examples of each
"""

import json
import random
import typing
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxlab.evals.general365 import generate, grade
from jaxlab.evals.general365 import rows as general365
from jaxlab.grading import graders
from jaxlab.grading.graders import MathVerifier
from jaxlab.grading.math import grade as math_grade
from jaxlab.grading.math import rows as math_rows
from jaxlab.grading.rows import Row

EXAMPLES = pytest.mark.parametrize("count", [80, pytest.param(5000, marks=pytest.mark.slow)])
REASONS = set(typing.get_args(graders.Reason))


def _check(count, *strategies):
    """Run a property on so many examples; a decorator that calls at once."""

    def run(test):
        checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
        options = settings(max_examples=count, deadline=None, suppress_health_check=checks)
        options(given(*strategies)(test))()

    return run


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {"problem", "solution", "options", "final_answer", "unique_id", "subject"}
    | {name for names in general365.ALIASES.values() for name in names}
)
LINES = st.one_of(
    st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")),
    st.dictionaries(
        st.sampled_from(FIELDS), JSON | st.sampled_from(["number", "text", "2", "p"]), max_size=8
    ).map(lambda row: json.dumps(row).encode()),
)
GOOD = {"question": "q", "answer": "1", "answer_type": "number"}


@EXAMPLES
@pytest.mark.parametrize("read", [math_rows.read, general365.read], ids=["math", "general365"])
def test_rows(tmp_path, read, count):
    path = tmp_path / "rows.jsonl"

    @_check(count, st.lists(LINES, min_size=5, max_size=5), st.integers(0, 5))
    def _(lines, place):
        lines.insert(place, json.dumps({"id": "good", **GOOD}).encode())
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        panel = read(path, bad_rows="skip")
        assert len(panel.rows) + len(panel.rejected) == sum(bool(line.strip()) for line in lines)
        assert all(row.id and row.question and row.answer for row in panel.rows)
        panel.digest  # noqa: B018  lone surrogates must not stop it
        named = [int(bad.where.rpartition(":")[2]) for bad in panel.rejected]
        assert named == sorted(set(named))
        assert all(lines[number - 1].strip() for number in named)
        assert all(bad.cause for bad in panel.rejected)
        if named:
            with pytest.raises(ValueError) as error:  # noqa: PT011  the message is what is looked at
                read(path)
            first = panel.rejected[0]
            cure = "bad_rows=skip leaves such rows out"
            assert str(error.value) == f"{path}:{named[0]}: {first.cause}; {cure}"


SPACE = st.text(" \t\n", max_size=3)
FENCES = st.sampled_from([("", ""), ("```json\n", "\n```"), ("```\n", "\n```")])


@EXAMPLES
def test_verdicts_that_are_verdicts(count):
    @_check(count, st.booleans(), SPACE, SPACE, SPACE, FENCES)
    def _(value, around, before, after, fence):
        body = f'{{{before}"accuracy"{after}:{before}{json.dumps(value)}{after}}}'
        assert grade.parse_judge(f"{around}{fence[0]}{body}{fence[1]}{around}") is value


# What a reply may hold instead of the one object, or around it.
VERDICT = '{"accuracy": true}'
NO_VERDICTS = st.one_of(
    st.text(),
    JSON.filter(lambda value: value not in ({"accuracy": True}, {"accuracy": False})).map(
        json.dumps
    ),
    st.tuples(st.text(min_size=1), st.booleans())
    .filter(lambda pair: pair[0].strip())
    .map(lambda pair: pair[0] + VERDICT if pair[1] else VERDICT + pair[0]),
    st.integers(0, len(VERDICT) - 1).map(lambda end: VERDICT[:end]),
    st.tuples(
        st.integers(0, len(VERDICT) - 1), st.characters(exclude_characters=VERDICT + " \t\n\r")
    ).map(lambda pair: VERDICT[: pair[0]] + pair[1] + VERDICT[pair[0] + 1 :]),
    st.dictionaries(st.text(), st.booleans(), min_size=2).map(json.dumps),
)


@EXAMPLES
def test_verdicts_that_are_none(count):
    @_check(count, NO_VERDICTS)
    def _(reply):
        assert grade.parse_judge(reply) is None
        verdict = grade.judged(reply, "x")
        assert (verdict.correct, verdict.parsed, verdict.reason) == (False, "x", "no_verdict")


PIECES = [
    "\\boxed{",
    "{",
    "}",
    "####",
    "$",
    "\\frac",
    "\\text{",
    "\\sqrt",
    "9",
    "-",
    ".",
    ",",
    "%",
    "A",
]
PIECES += ["(", "]", "=", "\n", " ", "</think>", "answer is", "and", "½", "√", "٣", "\0"]
PIECES += ["\ud800", "\u202e"]
REPLIES = st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
ANSWERS = {
    "number": "1/3",
    "interval": "[0,3)",
    "text": "Tom",
    "single_choice": "A",
    "multiple_choice": "A, C",
}


@EXAMPLES
def test_replies(count):
    """As many replies as examples, each graded as a mathematical one and for every answer type."""
    rows = [
        Row(kind, "q", answer, kind, {"answer_type": kind, "float_round": None})
        for kind, answer in ANSWERS.items()
    ]
    with MathVerifier() as verifier:

        @_check(count // 10, st.lists(REPLIES, min_size=10, max_size=10))
        def _(replies):
            verdicts = math_grade.grade(verifier, ["1/3"] * 10, replies)
            for row in rows:
                verdicts += grade.rule(verifier, [row] * 10, replies)
            assert len(verdicts) == 10 * (1 + len(rows))
            for verdict in verdicts:
                assert verdict.reason in REASONS - {"truncated", "no_verdict"}
                assert verdict.correct is (verdict.reason == "match")


def _any(rng, strings, length):
    """A string made of `strings`, cut anywhere."""
    text = "".join(rng.choice(strings) for _ in range(rng.randrange(length)))
    return text[: rng.randrange(1 + len(text))]


@pytest.mark.parametrize("count", [48, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_run_of_them(tmp_path, monkeypatch, count):
    """Rows, replies and verdicts at once through the harness, under the cascade."""
    pytest.importorskip("inspect_ai")
    from jaxlab.evals import harness, results
    from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
    from tests.evals import scripted

    rng = random.Random(count)
    lines = [json.dumps(row) for row in generate.generate(count // 8, difficulty=1)]
    bad = [_any(rng, [*lines[0], *PIECES], 40).encode("utf-8", "replace") for _ in lines]
    bad = [b"{" + line.replace(b"\n", b"") for line in bad]
    mixed = rng.sample([line.encode() for line in lines] + bad, 2 * len(lines))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(mixed))

    def answer(prompt, seed):
        text = _any(random.Random(seed), PIECES, 12)
        return text.encode("utf-8", "replace").decode()

    def judge(prompt, seed):
        rng = random.Random(prompt)
        return rng.choice([VERDICT, _any(rng, [VERDICT, "{", "}", "true", "```", "\n"], 4)])

    judges = scripted.model(judge)
    get_model = harness.inspect_ai.model.get_model
    monkeypatch.setattr(
        harness.inspect_ai.model,
        "get_model",
        lambda name=None, **more: judges if name == "judge" else get_model(name, **more),
    )
    options = {"judge": "judge", "bad_rows": "skip"}
    run = Run(
        Subject(name="scripted"),
        Benchmark("general365", str(path), samples=2, options=options),
        Sampling(batch=64),
    )
    outcome = harness.evaluate(run, tmp_path, model=scripted.model(answer))
    assert outcome.failures == []
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["facts"]["rejected rows"]) == len(bad)
    graded = results.read(tmp_path / "samples.jsonl")
    assert {(r.id, r.sample) for r in graded} == {
        (json.loads(line)["id"], sample) for line in lines for sample in (1, 2)
    }
    assert len(graded) == 2 * len(lines)
    reasons = Counter(result.reason for result in graded)
    assert set(reasons) <= REASONS
    assert min(reasons["match"], reasons["no_verdict"]) > 0
    share = sum(not result.parsed for result in graded) / len(graded)
    assert outcome.scores["parse_failure_rate"] == pytest.approx(share)
