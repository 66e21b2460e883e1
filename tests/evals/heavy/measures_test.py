import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from jaxlab.evals.heavy import measures, report
from jaxlab.evals.heavy.measures import Question, Text, vote


def texts(spec, **more):
    """Texts from a word: small letters are wrong answers, capitals right ones, '-' is no answer."""
    return [
        Text(letter.isupper(), None if letter == "-" else letter, length=10, tokens=5, **more)
        for letter in spec
    ]


@pytest.mark.parametrize(
    ("spec", "mean", "any_right", "mean_ties", "released"),
    [
        ("AAb", 2 / 3, 1, 1, 1),
        ("Abb", 1 / 3, 1, 0, 0),
        ("AAbb", 1 / 2, 1, 1 / 2, 1),  # of groups as long as each other the first
        ("Abc", 1 / 3, 1, 1 / 3, 1),
        ("A--", 1 / 3, 1, 1, 0),  # texts without an answer are a group there, and none here
        ("---", 0, 0, 0, 0),
        ("abc", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_measures_worked_by_hand(spec, mean, any_right, mean_ties, released):
    given = texts(spec)
    assert measures.mean(given) == pytest.approx(mean)
    assert measures.any_right(given) == any_right
    assert vote(given) == pytest.approx(mean_ties)
    assert vote(given, "released") == pytest.approx(released)


def test_the_released_rule_takes_the_group_of_longest_texts():
    short, long = Text(True, "A", length=10), Text(False, "b", length=11)
    assert vote([short, long], "released") == 0
    assert vote([long, short], "released") == 0
    assert vote([short, short, long], "released") == 1
    assert vote([short, long]) == 0.5
    # Answers without a box are one group, whatever they are.
    loose = [Text(False, answer, boxed=False) for answer in "bc"]
    assert (vote([short, *loose], "released"), vote([short, *loose])) == (0, pytest.approx(1 / 3))


def test_filtered_leaves_out_the_unfinished_and_the_repetitive():
    given = [*texts("A"), *texts("b", finished=False), *texts("b", repetitive=True)]
    assert (vote(given), vote(measures.kept(given))) == (0, 1)
    assert (measures.mean(given), measures.mean(measures.kept(given))) == (pytest.approx(1 / 3), 1)


def test_best_of_n():
    def scored(*pairs):
        return [Text(right, "x", score=score) for right, score in pairs]

    assert measures.best_of_n(scored((True, -0.5), (False, -0.7))) == 1
    assert measures.best_of_n(scored((True, -0.5), (False, -0.5), (False, -2.0))) == 0.5
    assert measures.best_of_n(scored((True, -0.5), (False, None))) is None
    assert measures.best_of_n(scored((True, math.nan))) is None
    assert measures.best_of_n([]) == 0


@pytest.mark.parametrize("count", [1, 4, 5])
def test_thinkers_that_are_right_with_probability_p_give_the_closed_forms(count):
    """Over all outcomes: M = p, P = 1 - (1 - p)^K, V = P(more than half) + P(half) / 2."""
    p = Fraction(3, 10)
    expected = {"M": Fraction(0), "P": Fraction(0), "V": Fraction(0)}
    for outcome in itertools.product("Ab", repeat=count):
        weight = math.prod(p if letter == "A" else 1 - p for letter in outcome)
        given = texts(outcome)
        expected["M"] += weight * Fraction(measures.mean(given)).limit_denominator(100)
        expected["P"] += weight * Fraction(measures.any_right(given))
        expected["V"] += weight * Fraction(vote(given))
    closed = sum(
        math.comb(count, right)
        * p**right
        * (1 - p) ** (count - right)
        * (Fraction(1, 2) if 2 * right == count else int(2 * right > count))
        for right in range(count + 1)
    )
    assert expected == {"M": p, "P": 1 - (1 - p) ** count, "V": closed}


def question(number, thinkers, *rounds, **controls):
    return Question(
        f"q{number}",
        f"c{number}",
        texts(thinkers),
        [texts(one) for one in rounds],
        {name: texts(spec) for name, spec in controls.items()},
        tokens=100,
        seconds=2.0,
    )


def test_buckets_worked_by_hand():
    found = measures.buckets(
        [
            question(0, "bbbb", "Cc"),  # rate 0: rescued, since half is enough
            question(1, "Abbb", "bbbA"),  # .25 is of the second: not rescued
            question(2, "AAbc", "AA"),  # .5: of the third, vote right, kept
            question(3, "AAAA", "bb"),  # 1 is of the last: broken
            question(4, "AAAb"),  # without a deliberation it is broken too
        ]
    )
    assert [bucket.questions for bucket in found] == [1, 1, 1, 2]
    outcomes = [(b.rescued, b.not_rescued, b.kept, b.broken) for b in found]
    assert outcomes == [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2)]
    assert [bucket.heavy for bucket in found] == [0.5, 0.25, 1.0, 0.0]
    assert [bucket.thinkers for bucket in found] == [0.0, 0.25, 0.5, 0.875]


CONTROLS = {"answers_only": "AA", "no_thinkers": "Ab", "long_thought": "b"}


def test_the_table_has_every_measure_its_controls_and_paired_tests():
    asked = [question(i, "Abbc", "bb", "AA", **CONTROLS) for i in range(6)]
    table, _, cost = report.tables(asked)
    rows = {row["measure"].partition(",")[0]: row for row in table.rows}
    raw = {name: row["raw"].mean for name, row in rows.items() if row["raw"] is not None}
    assert raw["M@K"] == 0.25
    assert raw["V@K"] == 0
    assert raw["P@K"] == 1
    assert raw["HM@K1 after round 1"] == 0
    assert raw["HM@K1"] == 1
    assert raw["HP@K1"] == 1
    assert raw["control: the thinkers' answers without their reasoning"] == 1
    assert raw["control: no thinkers"] == 0.5
    assert raw["control: one long thought"] == 0
    assert rows["best of K by score"]["raw"] is None
    vote_row = table.rows[1]
    assert vote_row["HM minus it"].mean == 1
    assert (vote_row["HM better"], vote_row["HM worse"]) == (6, 0)
    assert vote_row["p"] == pytest.approx(2 / 2**6)  # the two extreme flips of 2^6
    # Of eleven rows HM itself and the one without scores have no test.
    assert sum("p (Holm)" in row for row in table.rows) == len(table.rows) - 2
    assert vote_row["p (Holm)"] >= vote_row["p"]
    assert cost.rows[0]["tokens written"] == (4 + 4) * 5
    assert (cost.rows[0]["tokens in all"], cost.rows[0]["seconds"]) == (100, 2.0)
    assert [row["tokens written"] for row in cost.rows[1:]] == [10, 10, 5]
    assert all(table.markdown() for table in report.tables(asked))


def test_controls_that_were_not_run_keep_their_rows(tmp_path):
    asked = [question(i, "Ab", "A") for i in range(3)]
    table = report.tables(asked)[0]
    assert [row["raw"] for row in table.rows if row["measure"].startswith("control")] == [None] * 3
    assert sum("n/a" in line for line in table.markdown()) >= 4
    for path in report.write(tmp_path, asked, "title"):
        assert "control: no thinkers" in path.read_text()
    with pytest.raises(ValueError, match="no question"):
        report.tables([])
    # Questions of which no thinker and no deliberation is left are wrong, not absent.
    hollow = [question(0, "", *[]), question(1, "AA", "A")]
    rows = report.tables(hollow)[0].rows
    assert np.isclose(rows[0]["raw"].mean, 0.5)
