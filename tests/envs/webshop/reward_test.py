"""Every branch of the reward, worked by hand."""

import dataclasses

import pytest

from jaxlab.envs.webshop import Goal, Product, score
from jaxlab.envs.webshop.reward import same

# Ten words.
TITLE = "acme red cotton polo shirt deluxe long sleeve slim fit"
PRODUCT = Product(
    asin="B000000001",
    query="polo shirt",
    product_category="Clothing › Men › Shirts › Polos",
    title=TITLE,
    price=20.0,
    price_tag="$20.0",
    description="Made of Organic Cotton.",
    bullets=("Machine Wash", "no iron"),
    options={"color": ("red", "navy blue"), "size": ("small", "x-large")},
    attributes=("moisture wicking",),
)
GOAL = Goal(
    instruction="find me a polo shirt",
    asin="B000000001",
    query="polo shirt",
    product_category="Clothing › Men › Shirts › Polos",
    title=TITLE,
    attributes=("moisture wicking", "machine wash"),
    options=("navy blue", "x-large"),
    price_limit=30.0,
)


def bought(options=("navy blue", "x-large"), goal=None, **product):
    return score(dataclasses.replace(PRODUCT, **product), options, goal or GOAL)


def test_all_of_it_is_worth_one():
    found = bought()
    assert dataclasses.astuple(found) == (1.0, 1.0, True, True, 1.0, 2, 2, True)


# (query, category, title) -> query equal, two levels shared, share of the title, r_type.
OTHER = "gadget"
NO_LEVEL = "Toys › Games"
BRANCHES = {
    "query": ("polo shirt", NO_LEVEL, "acme red thing", True, False, 0.2, 1.0),
    "category": (OTHER, "Clothing › Men › Hats", "acme red thing", False, True, 0.2, 1.0),
    "levels in another order": (OTHER, "Polos›Men", "acme red thing", False, True, 0.2, 1.0),
    "title": (OTHER, "Clothing › Toys", "acme red cotton thing", False, False, 0.3, 1.0),
    "no match": (OTHER, "Clothing › Toys", "acme red thing", False, False, 0.2, 0.5),
    "one word of ten": (OTHER, NO_LEVEL, "acme thing", False, False, 0.1, 0.5),
    "no word": (OTHER, NO_LEVEL, "thing", False, False, 0.0, 0.0),
    "no word, but the query": ("polo shirt", NO_LEVEL, "thing", True, False, 0.0, 0.0),
}


@pytest.mark.parametrize("case", BRANCHES.values(), ids=list(BRANCHES))
def test_branches_of_the_type(case):
    query, category, title, same_query, same_category, share, kind = case
    found = bought(query=query, product_category=category, title=title)
    assert (found.query, found.category) == (same_query, same_category)
    assert found.title == pytest.approx(share)
    assert (found.type, found.reward) == (kind, kind)


def test_less_than_a_tenth_of_the_title_outweighs_an_equal_query():
    goal = dataclasses.replace(GOAL, title=f"{TITLE} now")
    found = bought(goal=goal, title="acme thing")
    assert found.title == pytest.approx(1 / 11)
    assert found.query
    assert found.reward == pytest.approx(0.1)


def test_a_title_without_words_shares_two_tenths():
    goal = dataclasses.replace(GOAL, title="---")
    assert bought(goal=goal).reward == 1.0
    found = bought(goal=goal, query=OTHER, product_category=NO_LEVEL)
    assert (found.title, found.type) == (0.2, 0.5)


def test_words_that_a_goal_repeats_count_in_its_length_alone():
    goal = dataclasses.replace(GOAL, title="acme acme red polo")
    assert bought(goal=goal, title="acme polo").title == 0.5


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("moisture wicking", 1),  # an attribute
        ("wicking moisture", 1),  # in any order
        ("machine wash", 1),  # in a feature
        ("organic cotton", 1),  # in the description
        ("slim fit", 1),  # in the title
        ("Slim Fit", 0),  # what is searched for is not put into lower case
        ("wash no iron", 1),  # features are joined by a space
        ("hand wash", 0),
    ],
)
def test_attributes(wanted, met):
    goal = dataclasses.replace(GOAL, attributes=(wanted,), options=())
    found = bought((), goal)
    assert found.attributes == met
    assert found.reward == (met + 1) / 2


@pytest.mark.parametrize(
    ("chosen", "met"),
    [
        ((), 0),
        (("navy blue",), 1),
        (("navy blue", "x-large"), 2),
        (("blue", "x-large"), 2),  # all words of the shorter are in the longer
        (("red", "small"), 0),
        (("large",), 1),  # of "x-large", whose hyphen parts words
    ],
)
def test_options(chosen, met):
    found = bought(chosen)
    assert found.options == met
    assert found.reward == pytest.approx((2 + met + 1) / 5)


def test_one_choice_may_meet_two_options():
    goal = dataclasses.replace(GOAL, options=("navy blue", "blue"))
    assert bought(("navy blue",), goal).options == 2


@pytest.mark.parametrize(("price", "within"), [(29.99, True), (30.0, True), (30.01, False)])
def test_price(price, within):
    found = bought(price=price)
    assert found.price is within
    assert found.reward == pytest.approx(1.0 if within else 0.8)


def test_a_goal_of_nothing_but_a_price():
    goal = dataclasses.replace(GOAL, attributes=(), options=())
    assert bought((), goal).reward == 1.0
    assert bought((), goal, price=31.0).reward == 0.0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("", "", False),
        ("", "red", False),
        ("red", "Red!", True),
        ("naïve", "nave", True),  # characters 128 to 255 are dropped
        ("abcdefg", "abcdefh", True),  # 2 * 6 / 14 = 85.7, rounded to 86
        ("abcdef", "abcdeg", False),  # 2 * 5 / 12 = 83.3
        # 2 * 23 / 54 = 85.2, rounded to 85, as thefuzz does.
        ("abcdefghijklmnopqrstuvw0000", "abcdefghijklmnopqrstuvw1111", False),
        # 2 * 17 / 40 = 85 exactly: more than 85 is asked for.
        ("abcdefghijklmnopqrst", "abcdefghijklmnopqxyz", False),
    ],
)
def test_likeness(one, other, alike):
    assert same(one, other) is alike
