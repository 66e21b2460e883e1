import dataclasses
import json
import random
import re
import subprocess
import sys

import pytest

from jaxlab.evals.general365 import generate, metrics, rows
from jaxlab.evals.general365.families import (
    FAMILIES,
    chance,
    constraints,
    enumeration,
    implicit,
    recursion,
    semantics,
    space_time,
    strategy,
)
from jaxlab.evals.general365.families.skins import SKINS
from jaxlab.evals.results import Result
from jaxlab.evals.tables import find

ROWS = list(generate.generate(64, difficulty=2, seed=0))


def test_every_category_has_two_families_and_every_answer_type_occurs():
    leading = [family.categories[0] for family in FAMILIES]
    assert all(leading.count(category) >= 2 for category in rows.CATEGORIES)
    assert {label for family in FAMILIES for label in family.categories} == set(rows.CATEGORIES)
    assert {row["answer_type"] for row in ROWS} == set(rows.ANSWER_TYPES)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_rows_are_a_pure_function_and_read_back(tmp_path):
    assert list(generate.generate(64, 2, 0)) == ROWS
    assert list(generate.generate(16, 2, 0)) == ROWS[:64]  # more seeds change no earlier one
    assert list(generate.generate(16, 2, 1)) != ROWS[:64]
    assert generate.write(tmp_path / "rows.jsonl", 16) == 64
    panel = rows.read(tmp_path / "rows.jsonl")
    assert [row.id for row in panel.rows] == [row["id"] for row in ROWS[:64]]
    assert len({row.cluster for row in panel.rows}) == 16


@pytest.mark.parametrize("difficulty", [1, 3, pytest.param(6, marks=pytest.mark.slow)])
def test_variants_are_what_they_say(difficulty):
    for family in _fours(generate.generate(32, difficulty)):
        seed, reskin, changed, distractor = family
        assert [row["variant"] for row in family] == list(generate.VARIANTS)
        assert changed["answer"] != seed["answer"]
        assert distractor["answer"] == seed["answer"]
        assert len(distractor["question"]) > len(seed["question"])
        assert len({row["question"] for row in family}) == 4
        if seed["answer_type"] != "text":
            assert reskin["answer"] == seed["answer"]
        # The numbers of a reskinned problem are the seed's.
        assert re.findall(r"\d+", reskin["question"]) == re.findall(r"\d+", seed["question"])


def test_no_problem_comes_twice_under_any_names():
    """Far more than one family has at difficulty 1: others take its turns."""
    stream = list(generate.generate(400, difficulty=1))
    assert len({row["question"] for row in stream}) == len(stream) == 1600
    names = {name for skin in SKINS for name in (*skin.people, skin.place, f"{skin.thing}s")}
    names |= {skin.thing for skin in SKINS}
    pattern = re.compile(rf"\b({'|'.join(sorted(names, key=len, reverse=True))})\b")
    seeds = [pattern.sub("_", row["question"]) for row in stream if row["variant"] == "seed"]
    # Seats of two orders of the same people read alike without names.
    numbers = [text for text in seeds if " sits " not in text and " says: " not in text]
    assert len(set(numbers)) == len(numbers) > 300
    first = [row["id"].partition("-")[0] for row in stream[: 4 * 180 : 4]]
    assert all(first.count(family.name) >= 11 for family in FAMILIES)


def test_problems_that_run_out_are_an_error(monkeypatch):
    monkeypatch.setattr(generate, "FAMILIES", (FAMILIES[10],))  # three who lie or do not
    with pytest.raises(ValueError, match=r"difficulty 1 has \d+ seed problems and not 400: ask"):
        list(generate.generate(400, difficulty=1))


def test_the_hardest_problems_end():
    """Each family searches exhaustively; at no difficulty may that take memory or hours."""
    assert len(list(generate.generate(len(FAMILIES), generate.HARDEST))) == 4 * len(FAMILIES)


def test_one_of_a_thing_is_in_the_singular():
    skin, texts = SKINS[0], []
    for family, problem in [
        (space_time.FAMILIES[0], space_time.Walk(0, ((1, "left"), (2, "right")), (0, 1, 2, 3))),
        (enumeration.FAMILIES[1], enumeration.Purse(6, (2, 6), 1)),
        (chance.FAMILIES[0], chance.Stairs(1, 3, 1, 3)),
        (chance.FAMILIES[0], chance.Stairs(1, 3, 2, 3)),
        (chance.FAMILIES[1], chance.Urn(2, 2, 2, 1)),
    ]:
        texts.append(" ".join(family.tell(problem, skin)))
    assert "After 1 step straight ahead" in texts[0]
    assert "After 2 steps straight ahead" in texts[0]
    assert "with at most 1 coin." in texts[1]
    assert "of which 1 says up and 2 say down" in texts[2]
    assert "of which 2 say up and 1 says down" in texts[3]
    assert "at least 1 is red" in texts[4]


def test_no_kind_of_piece_is_named_twice():
    """There is one of each kind: of a kind that is named twice there might be one or two."""
    family = strategy.FAMILIES[1]
    for i in range(300):
        pieces = family.draw(random.Random(i), 10).pieces
        assert len(set(pieces)) == len(pieces) == 13


def _fours(stream):
    items = list(stream)
    return [items[i : i + 4] for i in range(0, len(items), 4)]


# One problem of each family worked by hand: parameters -> answer.
BY_HAND = {
    # Person 2 in the last of three seats, 0 left of 1: so 0, 1, 2.
    "seating": (
        constraints.Seating(3, (constraints.Clue("left", 0, 1), constraints.Clue("at", 2, 2)), 1),
        SKINS[0].people[1],
    ),
    # First = last and digit sum 6: 141, 222, 303; of these 141 = 35 * 4 + 1 = 20 * 7 + 1 alone.
    "lock": (constraints.Lock(3, 6, 0, ((4, 1), (7, 1))), "141"),
    # A 2 x 2 grid has 6 ways, 4 of them through the centre.
    "paths": (enumeration.Town(2, 2, frozenset({(1, 1)})), "2"),
    # 6 = 2+2+2 = 3+3, and with at most two coins only 3+3.
    "coins": (enumeration.Purse(6, (2, 3), 2), "1"),
    # Facing north, right, around: west; options in the order west, north, east, south.
    "walk": (space_time.Walk(0, ((1, "right"), (2, "around")), (3, 0, 1, 2)), "A"),
    "watches": (
        (space_time.Visit(20, 60, 0), space_time.Visit(40, 90, 10)),
        "[30,60]",
    ),
    # Josephus with 41 and 3: 31; with the twelfth as number 1, 31 + 11 - 41 = 1.
    "circle": (recursion.Circle(41, 3, 12), "1"),
    # 2, then 3 * 2 + 2 = 8, then 3 * 8 + 1 * 2 + 2 = 28.
    "boxes": (recursion.Boxes(3, 3, 1, 2), "28"),
    # + multiplies, - adds, x subtracts: 2 + 3 - 4 = (2 * 3) + 4.
    "signs": (semantics.Note(("multiply", "add", "subtract"), (2, 3, 4), (0, 1)), "10"),
    # red is called blue above, what is blue is called red below.
    "colours": (semantics.Valleys((1, 0), (1, 0), 0), "red"),
    # A: B lies. B: A lies. C: A and B are of one kind. One of A and B is honest, and either may be.
    "truth": (
        (
            implicit.Claim("liar", 1, 2),
            implicit.Claim("liar", 0, 2),
            implicit.Claim("same", 0, 1),
        ),
        None,
    ),
    # Cheryl's birthday: May 15, 16, 19, June 17, 18, July 14, 16, August 14, 15, 17: July 16.
    "feast": (
        ((0, 15), (0, 16), (0, 19), (1, 17), (1, 18), (2, 14), (2, 16), (3, 14), (3, 15), (3, 17)),
        "16",
    ),
    # Taking 1 or 2: multiples of 3 are lost; from 10 take 1.
    "stones": (strategy.Game(10, (1, 2)), "1"),
    "load": (strategy.Load(5, ((2, 3), (3, 4), (4, 5))), "7"),
    # Fair: 1 of 3.
    "stairs": (chance.Stairs(1, 3, 2, 4), "1/3"),
    # Both red of 2 red and 2 blue: 1/6.
    "urn": (chance.Urn(2, 2, 2, 2), "1/6"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_both_routes_on_a_problem_worked_by_hand(family):
    problem, answer = BY_HAND[family.name]
    assert family.solve(problem, SKINS[0]) == answer
    assert family.search(problem, SKINS[0]) == answer


def test_two_routes_that_disagree_are_an_error():
    broken = dataclasses.replace(FAMILIES[2], search=lambda problem, skin: "0")
    problem, _ = BY_HAND["paths"]
    with pytest.raises(RuntimeError, match="paths: 2 by method, 0 by search"):
        generate._proved(broken, problem, SKINS[0])


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (1, 11)])
def test_counts_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="are needed"):
        list(generate.generate(*arguments))


def test_the_command(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-m",
        "jaxlab.evals.general365",
        f"--out={out}",
        "--seeds=3",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"wrote 12 rows to {out}\n"
    assert [json.loads(line) for line in out.read_text().splitlines()] == ROWS[:12]
    done = subprocess.run([*command[:-1], "--seeds=0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "seeds >= 1" in done.stderr


def _graded(skill):
    """Results of a scripted solver: row -> right or not."""
    parse = rows.Parser()
    return [
        Result(
            row.id,
            1,
            skill(raw, row),
            None,
            "match",
            "rule",
            row.cluster,
            row.meta,
            output_tokens=i,
        )
        for i, (raw, row) in enumerate((raw, parse(raw)) for raw in ROWS)
    ]


def test_a_perfect_solver_scores_one_everywhere():
    tables = metrics.tables(_graded(lambda raw, row: True))
    for title in ("Scores", "By category", "By answer type", "By variant"):
        assert all(row["accuracy"].mean == 1.0 for row in find(tables, title).rows)
    (robust,) = find(tables, "Seeds and variants").rows
    assert (robust["gap"].mean, robust["all of 4"].mean, robust["worst of 4"].mean) == (0, 1, 1)
    assert find(tables, "Scores").rows[0]["output tokens"] == (len(ROWS) - 1) / 2


def test_a_memoriser_has_the_gap_of_its_closed_form():
    """It answers each seed, and gives the seed's answer to every variant."""
    known = {raw["seed_id"]: raw["answer"] for raw in ROWS if raw["variant"] == "seed"}
    results = _graded(lambda raw, row: raw["answer"] == known[raw["seed_id"]])
    # Families whose answer is a name fail the reskin too; every changed constraint fails.
    named = [
        raw for raw in ROWS if raw["variant"] == "reskin" and raw["answer"] != known[raw["seed_id"]]
    ]
    families = len(known)
    variants = (2 * families - len(named)) / (3 * families)
    tables = metrics.tables(results)
    (robust,) = find(tables, "Seeds and variants").rows
    assert robust["seeds"].mean == 1.0
    assert robust["variants"].mean == pytest.approx(variants)
    assert robust["gap"].mean == pytest.approx(1 - variants)
    assert robust["all of 4"].mean == robust["worst of 4"].mean == 0.0
    assert find(tables, "Scores").rows[0]["accuracy"].mean == pytest.approx((1 + 3 * variants) / 4)
    by_variant = {row["variant"]: row["accuracy"].mean for row in find(tables, "By variant").rows}
    assert (by_variant["seed"], by_variant["constraint"], by_variant["distractor"]) == (1, 0, 1)


def test_a_solver_of_one_category_scores_by_labels():
    category = rows.CATEGORIES[5]
    results = _graded(lambda raw, row: category in raw["category"])
    table = find(metrics.tables(results), "By category")
    for row in table.rows:
        labelled = [raw for raw in ROWS if row["category"] in raw["category"]]
        expected = sum(category in raw["category"] for raw in labelled) / len(labelled)
        assert row["rows"] == len(labelled)
        assert row["accuracy"].mean == pytest.approx(expected)
    assert [row["category"] for row in table.rows] == list(rows.CATEGORIES)


def test_without_seeds_and_categories_there_are_no_such_tables():
    results = [Result("a", 1, True, None, "match", "rule", "a", {"answer_type": "text"})]
    assert [table.title for table in metrics.tables(results)] == ["Scores", "By answer type"]
