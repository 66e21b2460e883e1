import os
import signal
import subprocess
import sys

import pytest

from jaxlab.grading import answers, graders
from jaxlab.grading.answers import hash_answer
from jaxlab.grading.graders import MathVerifier, Verdict, quick_verdict


@pytest.fixture(scope="module")
def verifier():
    """Patient, since on a busy machine a worker may not be let run for seconds."""
    with MathVerifier(workers=2, timeout_s=60.0) as verifier:
        yield verifier


@pytest.fixture
def impatient():
    with MathVerifier(workers=2, timeout_s=4.0) as verifier:
        yield verifier


def _quick(gold, text):
    return quick_verdict(gold, answers.find(text) or "")


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        ("18", "9 * 2\n#### 18", True),
        ("18", "#### 18\n\nQuestion: and now?\n#### 7", True),  # the first mark counts
        ("18", "####18.", True),
        ("18", "#### $18.00", True),
        ("1080", "#### 1,080", True),
        ("1,080", "#### 1080", True),
        ("20", "#### 20%", True),
        ("-3", "#### -3", True),
        ("0.5", "#### .5", True),
        ("18", "#### 81", False),
        ("18", "#### -18", False),
        ("18", "\\boxed{18}", True),
        ("18", "First 3, then \\boxed{19}.", False),
        ("5", "#### 1. Add the two\nso \\boxed{5}", True),  # a heading, not an answer
        ("5", "#### Step 2\nso \\boxed{5}", True),
    ],
)
def test_plain_numbers_are_compared_without_workers(gold, text, correct):
    verdict = _quick(gold, text)
    assert verdict.correct is correct
    assert verdict.reason == ("match" if correct else "mismatch")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("18", "The answer is 36/2 km."),
        ("18", "#### 18 million"),
        ("12", "#### 1,2"),  # a pair
        ("0.72", "#### 72%"),
        ("0.333333", "#### 0.3333333"),
        ("1/2", "#### 0.5"),
        ("5", "\\boxed{4} or \\boxed{5}"),
        ("5", "\\boxed{x5}"),
        ("18", "#### ١٨"),
        ("5", "#### " + "9" * 65),
        ("5", ""),
    ],
)
def test_everything_else_is_left_to_the_workers(gold, text):
    assert _quick(gold, text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n#### 18 eggs\nb", "18 eggs"),
        ("#### so then\n#### 4\n#### 5", "4"),
        ("#### 2 parts\n#### 4", "4"),  # a plain number comes first
        ("#### Step 1: add", None),
        ("#### 1. Add\n\\boxed{3}", None),
        ("no mark 5", None),
    ],
)
def test_hash_answer(text, answer):
    assert hash_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        ("\\frac{1}{2}", "It is \\boxed{0.5}.", True),
        ("1/2", "#### 0.5", True),
        ("0.72", "#### 72%", True),
        ("12", "#### 12 minutes", True),
        ("18", "The answer is 18.", True),
        ("5", "\\boxed{4}. Hmm. So \\boxed{5}", True),
        ("4,5", "\\boxed{4} and \\boxed{5}", True),
        ("(1,2)", "\\boxed{[1,2]}", False),
        ("x^2-1", "\\boxed{(x-1)(x+1)}", True),
        ("3.14", "\\boxed{3.1416}", False),
    ],
)
def test_expressions(verifier, gold, text, correct):
    verdict = verifier.verify(gold, text)
    assert verdict.correct is correct
    assert verdict.reason == ("match" if correct else "mismatch")
    assert verdict.parsed


@pytest.mark.parametrize(
    ("gold", "text", "correct"),
    [
        # The prompt's own \\boxed{}, repeated, is no part of the answer.
        ("12", "I put it into \\boxed{}.\n\nThus \\boxed{12}.", True),
        ("12", "Thus \\boxed{12}, in \\boxed{ } as you wanted", True),
        ("12", "\\boxed{}", False),
        ("12", "\\boxed {12}", True),
        ("12345", "\\boxed{12\\,345}", True),
        ("12345", "\\boxed{n = 12{,}345}", True),
        ("1\\ 234\\ 567", "\\boxed{1234567}", True),
        ("12345", "\\boxed{12\\,34\\,5}", False),
        ("0.1234", "\\boxed{0.1\\,234}", False),  # a product
        ("2/3", "The answer is **2/3**.", True),
        ("14/3", "So we get 14/3.", True),
        ("14/3", "We get (14/3).\nThat is all.", True),
        ("5", "So it is 5. 123 were not counted, the answer is 5. 200 were.", True),
        ("16", "The answer is 2**2**2", True),
        ("-5/3", "The answer is \u22125/3.", True),
        ("-5/3", "The answer is 5/3.", False),
        ("(-\u221e,3)", "\\boxed{(-\\infty, 3)}", True),
        ("(-\\infty,3)", "\\boxed{(\u2212\u221e, 3)}", True),
        ("2\\sqrt{13}", "\\boxed{2\u221a13}", True),
        ("\\sqrt{x+1}", "\\boxed{\u221a(x+1)}", True),
        ("2\\sqrt{13}", "\\boxed{2\u221a1 3}", False),
    ],
)
def test_spellings(verifier, gold, text, correct):
    assert verifier.verify(gold, text).correct is correct


ANCHORED = [
    # Gold, text, whether it is right in a box alone, if stated, and anywhere.
    ("5", "Ages could be 3, 4 or 5. I cannot say.", (False, False, True)),
    ("5", "It is not 5", (False, False, False)),
    ("5", "the total is 7. Check step 5", (False, False, True)),
    ("5", "**Answer: 6**, since 6-1=5", (False, False, False)),
    ("6", "**Answer: 6**, since 6-1=5", (False, True, True)),
    ("5", "The answer is not 5.", (False, False, False)),
    ("5", "#### 5. Check the cases\nIt is even.", (False, False, True)),
    ("6", "The answer is 5. No wait, the answer is 6.", (False, True, True)),
    ("5", "The answer is 5. No wait,\nthe answer is 6.", (False, False, False)),
    ("12", "Final answer: 12 minutes\nChecked 5 times.", (False, True, True)),
    ("1/2", "So the answer is $\\frac{1}{2}$.", (False, True, True)),
    ("[0,3)", "The answer is [0,3).", (False, True, True)),
    ("5", "5.", (False, True, True)),
    ("[0,3)", "[0,3)", (False, True, True)),
    ("5", "The answer is 6, or rather \\boxed{5}", (True, True, True)),
    ("5", "\\boxed{6}\nThe answer is 5.", (False, False, False)),
    ("12", "\\boxed{\uff11\uff12}", (True, True, True)),
    ("\uff11\uff12", "\\boxed{12}", (True, True, True)),
    ("-82", "**\u221282**", (False, True, True)),
    ("[0,3)", "**[0, 3)**", (False, True, True)),
    ("3/4", "The answer is `3/4`.", (False, True, True)),
    ("5", "The answer is 5 or 6.", (False, False, False)),
    ("3/4", "The answer is 0.75 (or 3/4).", (False, True, True)),
    ("1/6", "The answer is 1/6 or about 17 %.", (False, True, True)),
    ("[78,156]", "The answer is [78, 156] (in minutes).", (False, True, True)),
    ("[0,3)", "The answer is [0,3] minutes.", (False, False, False)),
    ("[0,3)", "The answer is [0,3) minutes.", (False, True, True)),
    ("5", "The answer is $5$ or $6$.", (False, False, False)),
    ("5,6", "The answer is $5$ or $6$.", (False, True, True)),
    ("[0,3)", "\\boxed{\uff3b0\uff0c3\uff09}", (True, True, True)),
]


@pytest.mark.parametrize("anchor", ["boxed", "stated", "anywhere"])
def test_where_an_answer_may_stand(verifier, anchor):
    golds, texts, expected = zip(*ANCHORED, strict=True)
    verdicts = verifier.verify_batch(golds, texts, anchor=anchor)
    column = ("boxed", "stated", "anywhere").index(anchor)
    found = [verdict.correct for verdict in verdicts]
    pairs = list(zip(golds, texts, strict=True))
    assert dict(zip(pairs, found, strict=True)) == {
        pair: right[column] for pair, right in zip(pairs, expected, strict=True)
    }


def test_looking_for_an_anchor_takes_linear_time():
    texts = ["answer is" + " " * 10**6, "answer is " * 30_000, "**" * 300_000, "\n" * 10**6]
    texts += ["`" * 10**5, "5." + " " * 10**5, "1\\,000" * 10**5, ("\\boxed" + " " * 999) * 1000]
    texts += ["\u221a(" * 10**5, "\\[" * 10**5, "\\boxed{" * 10**5, "\\boxed{1} " * 10**5]
    texts += ["1\\;000" * 10**5, "answer is the" + " " * 10**6 + "the", "5 or " * 10**5]
    texts += ["\uff1a\u7b54\u6848" * 30_000, "**Answer" * 10**5, "not " * 10**5, "*a" * 10**5]
    for text in texts:  # minutes or hours for most, if the time were quadratic
        answers.find(answers.normalized(text), "anywhere")


def test_verdicts_do_not_depend_on_workers_or_order(verifier):
    pairs = [(f"{i}/7", f"\\boxed{{\\frac{{{i + i % 3 // 2}}}{{7}}}}") for i in range(1, 13)]
    order = [*range(11, -1, -2), *range(0, 12, 2)]
    with MathVerifier(workers=1) as alone:
        one = alone.verify_batch(*zip(*pairs, strict=True))
    both = verifier.verify_batch(*zip(*(pairs[i] for i in order), strict=True))
    assert both == [one[i] for i in order]
    assert [verdict.correct for verdict in one] == [i % 3 != 2 for i in range(1, 13)]


def test_reasons_without_an_answer(verifier):
    assert verifier.verify("5", "I do not know.") == Verdict(False, None, "no_answer")
    assert verifier.verify("", "\\boxed{x}").reason == "bad_gold"


def test_options(verifier):
    assert not verifier.verify("3.14", "\\boxed{3.1416}").correct
    with MathVerifier(float_rounding=2) as lax:
        assert lax.verify("3.14", "\\boxed{3.1416}").correct


HOSTILE = {
    "braces": "{" * 300_000,
    "boxes": "\\boxed{" * 100_000,
    "marks": "#" * 300_000,
    "digits": "#### " + "9" * 10**6,
    "power": "\\boxed{9**9**9**9}",
    "latex_power": "\\boxed{9^{9^{9^{9}}}}",
    "marked_power": "#### 9**9**9**9",
    "factorial": "\\boxed{100000000!}",
    "nested": "\\boxed{" + "\\frac{1}{" * 5000 + "}" * 5001,
    "null": "\0\0\\boxed{\0}\0",
    "surrogate": "\ud800 \\boxed{\ud800}",
    "unicode": "答案是 ⅷ \u202e٣ \U0001f9ee",
}


# As `latex_power` they end by the limit of time, and each costs all of it.
SLOW = {"power", "marked_power", "factorial"}


@pytest.mark.parametrize(
    "bombs",
    [HOSTILE.keys() - SLOW, pytest.param(SLOW, marks=pytest.mark.slow)],
    ids=["all", "slow"],
)
def test_hostile_text_ends_in_time_and_harms_nobody_else(impatient, bombs):
    bombs = {name: bomb for name, bomb in HOSTILE.items() if name in bombs}
    texts = [text for bomb in bombs.values() for text in (bomb, "\\boxed{\\frac{10}{2}}")]
    verdicts = impatient.verify_batch(["5"] * len(texts), texts)
    assert all(verdict.correct for verdict in verdicts[1::2])
    reasons = dict(zip(bombs, (verdict.reason for verdict in verdicts[::2]), strict=True))
    assert set(reasons.values()) <= {"mismatch", "no_answer", "timeout", "crash"}, reasons
    assert reasons.get("latex_power", "timeout") == "timeout"


def test_a_killed_worker_costs_its_own_item_alone():
    with MathVerifier(timeout_s=60.0) as verifier:
        assert verifier.verify("1/2", "\\boxed{0.5}").correct
        (worker,) = verifier._workers
        script = f"sleep 0.7; kill -9 {worker.pid}"
        with subprocess.Popen(["sh", "-c", script]):
            bomb = HOSTILE["latex_power"]
            verdicts = verifier.verify_batch(["5", "1/2"], [bomb, "\\boxed{0.5}"])
        assert [verdict.reason for verdict in verdicts] == ["crash", "match"]
        # One that dies while it rests costs nothing.
        (worker,) = verifier._workers
        os.kill(worker.pid, signal.SIGKILL)
        worker._process.wait()
        assert verifier.verify("1/2", "\\boxed{0.5}").reason == "match"


def test_workers_import_no_jax_though_the_main_module_does(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    # No `if __name__ == "__main__"` either: a notebook or a bare script must do.
    script = tmp_path / "main.py"
    script.write_text(
        "import jax\n"
        "from jaxlab.grading.graders import MathVerifier\n"
        "verifier = MathVerifier()\n"
        "assert verifier.verify('1/2', '\\\\boxed{0.5}').correct\n"
        "for pid in ('self', verifier._workers[0].pid):\n"
        "    print('jaxlib' in open(f'/proc/{pid}/maps').read())\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_an_orphan_ends_itself():
    """A worker whose parent is gone must not burn a core for ever."""
    worker = graders._Worker(timeout_s=0.2)
    try:
        worker.pipe.recv()
        worker.send((0, "5", HOSTILE["latex_power"][7:-1], None))
        assert worker._process.wait(timeout=30) != 0  # its own watchdog, nobody kills it here
    finally:
        worker.kill()


def test_equal_texts_need_no_workers():
    """And what holds nothing to compare is none, as in `equality`."""
    with MathVerifier() as verifier:
        assert verifier.verify("[0,3)", "\\boxed{[0,3)}") == Verdict(True, "[0,3)", "match")
        assert verifier.verify("Tom", "#### Tom").correct
        assert verifier._workers == []
    assert quick_verdict("$ .", "$ .") is None
    assert quick_verdict("9" * 300, "9" * 300) is None  # long ones are left to the workers
    assert quick_verdict("[0,3)", "[0,3]") is None


def test_missing_sympy_names_the_cure(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with MathVerifier() as verifier:
        assert verifier.verify("5", "#### 5").correct  # needs none
        with pytest.raises(ImportError, match=r"pip install jaxlab\[evals\]"):
            verifier.verify("1/2", "\\boxed{0.5}")


def test_workers_that_do_not_start_are_an_error(monkeypatch):
    monkeypatch.setattr(graders, "START_LIMIT_S", 0.0)
    with MathVerifier() as verifier, pytest.raises(RuntimeError, match="did not start"):
        verifier.verify("1/2", "\\boxed{0.5}")


@pytest.mark.parametrize("bad", [{"workers": 0}, {"timeout_s": 0.0}])
def test_bad_settings(bad):
    with pytest.raises(ValueError, match="workers >= 1 and timeout_s > 0"):
        MathVerifier(**bad)
