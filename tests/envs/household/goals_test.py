import itertools
import random

import pytest

from jaxlab.envs.household import goals, pddl

OBJECTS = {"m1": "object", "m2": "object", "lamp": "object", "s1": "receptacle", "s2": "receptacle"}
OBJECTS |= {"agent1": "agent", "l1": "location", "mugtype": "otype", "shelftype": "rtype"}
SETTLED = {
    ("pickupable", "m1"),
    ("pickupable", "m2"),
    ("objecttype", "m1", "mugtype"),
    ("objecttype", "m2", "mugtype"),
    ("receptacletype", "s1", "shelftype"),
    ("receptacletype", "s2", "shelftype"),
    ("toggleable", "lamp"),
    ("inreceptacle", "lamp", "s1"),
}
# Every fact that these goals speak of and that can change.
FACTS = [("inreceptacle", m, s) for m, s in itertools.product(("m1", "m2"), ("s1", "s2"))]
FACTS += [("ishot", "m1"), ("ishot", "m2"), ("istoggled", "lamp"), ("holds", "agent1", "m1")]


def true(tree, bound, facts):
    """The formula's truth by trying all values: what `ways` must agree with."""
    head, rest = tree[0], tree[1:]
    if head == "and":
        return all(true(part, bound, facts) for part in rest)
    if head == "or":
        return any(true(part, bound, facts) for part in rest)
    if head == "not":
        return not true(rest[0], bound, facts)
    if head in ("exists", "forall"):
        names = pddl.typed(rest[0])
        values = [[o for o, t in OBJECTS.items() if t == kind] for kind in names.values()]
        found = [
            true(rest[1], {**bound, **dict(zip(names, chosen, strict=True))}, facts)
            for chosen in itertools.product(*values)
        ]
        return any(found) if head == "exists" else all(found)
    atom = tuple(bound.get(word, word) for word in tree)
    return atom[1] == atom[2] if head == "=" else atom in facts


@pytest.mark.parametrize(
    "text",
    [
        """(exists (?r - receptacle) (exists (?o - object) (and (inReceptacle ?o ?r)
            (objectType ?o MugType) (receptacleType ?r ShelfType) (isHot ?o))))""",
        """(exists (?r - receptacle) (exists (?a - object) (and (objectType ?a MugType)
            (inReceptacle ?a ?r) (exists (?b - object) (and (not (= ?a ?b))
            (objectType ?b MugType) (inReceptacle ?b ?r))))))""",
        """(and (exists (?t - object ?r - receptacle) (and (toggleable ?t) (isToggled ?t)
            (inReceptacle ?t ?r))) (exists (?o - object ?a - agent) (and
            (objectType ?o MugType) (holds ?a ?o))))""",
        "(forall (?r - receptacle) (exists (?o - object) (inReceptacle ?o ?r)))",
        "(or (isHot m1) (and (not (isToggled lamp)) (inReceptacle m2 s2)))",
        "(and (forall (?o - object) (not (isHot ?o))) (not (pickupable lamp)))",
        "(exists (?o - object) (not (objectType ?o MugType)))",
        "(forall (?o - object) (and (objectType ?o MugType) (isHot ?o)))",
        "(and (isHot lamp) (= m1 m2))",
        "(and)",
    ],
)
def test_ways_agree_with_trying_all_values(text):
    goal = pddl.parse(text)
    ways = goals.ways(goal, OBJECTS, frozenset(SETTLED))
    rng = random.Random(0)
    outcomes = set()
    for _ in range(200):
        facts = SETTLED | {fact for fact in FACTS if rng.random() < 0.4}
        reached = any(yes <= facts and not no & facts for yes, no in ways)
        assert reached == true(goal, {}, facts)
        outcomes.add(reached)
    # Two are always true, two never.
    settled = ("(and)", "m1 m2", "not (objectType", "(forall (?o - object) (and")
    assert outcomes == {True, False} or any(part in text for part in settled)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("(exists (?o) (not (and (isHot ?o) (isClean ?o))))", "negates more than a single fact"),
        ("(isHot ?o)", "variable [?]o is not bound"),
        ("(exists (?o - object))", "exists with 1 parts"),
        ("(imply (isHot m1) (isHot m2))", "is no fact"),
        ("isHot", "no formula"),
        ("(not (isHot m1) (isHot m2))", "negates 2 formulas"),
        ("(=)", "compares no two things"),
    ],
)
def test_other_formulas_are_refused(text, cause):
    types = {**OBJECTS, "x": "object"}
    with pytest.raises(pddl.GameError, match=cause):
        goals.ways(pddl.parse(text), types, frozenset({("isclean", "x")}))


def test_too_many_ways_are_refused():
    types = {f"o{i}": "object" for i in range(300)}
    facts = frozenset(("pickupable", name) for name in types)
    goal = pddl.parse("(exists (?a ?b - object) (and (isHot ?a) (isCool ?b)))")
    with pytest.raises(pddl.GameError, match="more than 50000 ways"):
        goals.ways(goal, types, facts)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("(define (a) (b)", "1 parentheses are not closed: the text is cut off"),
        ("(define))", "a closing parenthesis has no opening one"),
        ("(a) (b)", "2 expressions"),
        ("", "0 expressions"),
        ("(problem)", r"begin with \(define"),
        ("(define (:objects a - b))", "section :init is missing"),
        ("(define (:objects a - ) (:init (x a)) (:goal (x a)))", "ends with a dash"),
        ("(define (:objects a - b) (:init (x z)) (:goal (x a)))", "no 'z'"),
        ("(define (:objects a - b) (:init ((x) a)) (:goal (x a)))", "is no fact"),
        ("(define (:objects a - b) (:init (x a)) (:goal (x a) (x a)))", "2 formulas"),
        ("(define x (:objects a - b))", "a section is 'x'"),
    ],
)
def test_malformed_problems_say_what_is_wrong(text, cause):
    with pytest.raises(pddl.GameError, match=cause):
        pddl.problem(text)


def test_comments_and_case_do_not_matter():
    found = pddl.problem(
        "(DEFINE (:objects Mug_1 - Object free) ; (:init\n (:init (= (cost) 0) (isHot MUG_1))"
        " (:goal (isHot mug_1)))"
    )
    assert found.types == {"mug_1": "object", "free": "object"}
    assert found.facts == (("ishot", "mug_1"),)
