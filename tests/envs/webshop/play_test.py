"""Pages, actions and search, by hand and at random."""

import dataclasses
import random
import re
import sys

import pytest

from jaxlab.envs.protocol import Batch
from jaxlab.envs.webshop import SEARCH, Product, Shop, ShopError, WebShop, goals
from jaxlab.envs.webshop.play import parse
from jaxlab.envs.webshop.reward import same
from jaxlab.envs.webshop.search import Index


def product(i, title, **more):
    return Product(f"B{i:09}", "lamp", "Home › Lamps", title, 10.0 + i, f"${10.0 + i}", **more)


LAMPS = [product(i, f"plain lamp {'bright ' * (i % 3)}") for i in range(23)]
FULL = product(
    90,
    "golden chandelier",
    description="It shines.",
    bullets=("five arms", "no bulbs"),
    options={"color": ("gold", "buy now"), "trim": ("gold", "description")},
    attributes=("easy install",),
    rating="4.5",
    reviews=("nice",),
)


@pytest.fixture(scope="module")
def shop():
    return Shop([*LAMPS, FULL])


@pytest.fixture
def env(shop):
    env = WebShop(shop, goals.made(FULL))
    env.reset()
    return env


def test_the_pages_of_a_trip(shop):
    goal = dataclasses.replace(goals.made(FULL), instruction="buy it")
    env = WebShop(shop, goal)
    assert env.reset().text == "WebShop [SEP] Instruction: [SEP] buy it [SEP] Search"
    assert env.reset().admissible == (SEARCH,)
    seen = env.step("search[chandelier]")
    head = "Instruction: [SEP] buy it [SEP] Back to Search [SEP] "
    assert seen.text == (
        head + "Page 1 (Total results: 1) [SEP] B000000090 [SEP] golden chandelier [SEP] $100.0"
    )
    assert seen.admissible == (SEARCH, "click[back to search]", "click[b000000090]")
    seen = env.step("click[B000000090]")
    assert seen.text == (
        head + "< Prev [SEP] color [SEP] gold [SEP] buy now [SEP] trim [SEP] gold [SEP] description"
        " [SEP] golden chandelier [SEP] Price: $100.0 [SEP] Rating: 4.5 [SEP] Description [SEP] "
        "Features [SEP] Reviews [SEP] Buy Now"
    )
    assert env.step("click[features]").text == head + "< Prev [SEP] five arms [SEP] no bulbs"
    assert env.step("click[< prev]").text == seen.text
    assert env.step("click[reviews]").text == head + "< Prev [SEP] nice"
    env.step("click[< prev]")
    # A button goes before an option of the same name.
    assert env.step("click[description]").text == head + "< Prev [SEP] It shines."
    env.step("click[< prev]")
    env.step("click[gold]")
    seen = env.step("click[buy now]")
    assert seen.done
    assert seen.reward == env.score.reward
    # Two options have this value: the last one is chosen.
    assert "Purchased [SEP] B000000090 [SEP] trim: gold [SEP] Your score" in seen.text
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("search[x]")


def test_pages_of_ten_and_none_beyond_the_last(env):
    first = env.step("search[lamp]")
    assert "Page 1 (Total results: 23) [SEP] Next > [SEP]" in first.text
    assert "click[< prev]" not in first.admissible
    assert len(first.admissible) == 3 + 10
    assert env.step("click[< prev]") == first
    second = env.step("click[next >]")
    third = env.step("click[Next >]")
    assert len(third.admissible) == 3 + 3
    assert "click[next >]" not in third.admissible
    assert env.step("click[next >]") == third
    assert env.step("click[< prev]") == second
    asins = [a for page in (first, second, third) for a in page.admissible if a[6] == "b"]
    assert len({a for a in asins if a != "click[back to search]"}) == 23
    # From a product back to the page it was on; a search begins on the first.
    env.step(second.admissible[-1])
    assert env.step("click[< prev]") == second
    assert env.step("search[lamp]") == first
    assert "Search" in env.step("click[back to search]").text


def test_ten_results_are_one_page():
    env = WebShop(Shop(LAMPS[:10]), goals.made(FULL))
    env.reset()
    seen = env.step("search[lamp]")
    assert len(seen.admissible) == 2 + 10
    assert "Next" not in seen.text


NOTHING = ["", "search[]", "search[ ]", "search", "click[]", "click[b000000001]", "buy now"]
NOTHING += ["click[search]", "Search[lamp]", "think[lamp]", "[lamp]", "click[next >", "\ud800["]


@pytest.mark.parametrize("action", NOTHING)
def test_what_is_no_action_shows_the_same_page(env, action):
    before = env.reset()
    assert env.step(action) == before


def test_a_search_without_results(env):
    seen = env.step("search[??? zebra]")
    assert "Page 1 (Total results: 0)" in seen.text
    assert seen.admissible == (SEARCH, "click[back to search]")


def test_a_product_left_is_a_product_without_choices(env):
    env.step("search[chandelier]")
    env.step("click[b000000090]")
    env.step("click[gold]")
    env.step("click[< prev]")
    env.step("click[b000000090]")
    env.step("click[buy now]")
    assert env.score.options == 0


def test_the_last_step_ends_without_reward(shop):
    env = WebShop(shop, goals.made(FULL), max_steps=2)
    env.reset()
    assert not env.step("search[lamp]").done
    seen = env.step("search[lamp]")
    assert (seen.done, seen.reward) == (True, 0.0)
    endless = WebShop(shop, goals.made(FULL), max_steps=None)
    endless.reset()
    assert not any(endless.step("search[lamp]").done for _ in range(40))


@pytest.mark.parametrize(
    ("action", "parts"),
    [
        (" search[ Red Lamp ] ", ("search", "red lamp")),
        ("click[size [US] 5] now", ("click", "size [us] 5")),
        ("click[a", ("", "")),
        ("click]a[", ("", "")),
        ("click", ("", "")),
    ],
)
def test_parse(action, parts):
    assert parse(action) == parts


def test_five_thousand_actions_at_random(shop):
    """Whatever is written: a text, a reward from 0 to 1, an end in time, and no error."""
    rng = random.Random(0)
    batch = Batch([WebShop(shop, goals.made(FULL, seed)) for seed in range(8)])
    seen, steps, ends, rewards = batch.reset(), 0, 0, []
    counts = [0] * 8
    pieces = ["search[", "click[", "]", "lamp", "buy now", "\x00", "é", "[", "b000000090", " "]
    while steps < 5000:
        actions = []
        for step in seen:
            if rng.random() < 0.6:
                action = rng.choice(step.admissible)
                if action == SEARCH:
                    action = f"search[{rng.choice(['lamp', 'golden', 'bright plain', ''])}]"
            else:
                action = "".join(rng.choices(pieces, k=rng.randint(0, 6)))
            actions.append(action)
        after = batch.step(actions)
        for i, (old, action, new) in enumerate(zip(seen, actions, after, strict=True)):
            steps, counts[i] = steps + 1, counts[i] + 1
            assert new.error is None
            assert new.text
            assert 0 <= new.reward <= 1
            assert new.done or new.admissible
            assert counts[i] <= 15
            name, argument = parse(action)
            if not new.done and name != "search" and f"{name}[{argument}]" not in old.admissible:
                assert (new.text, new.admissible) == (old.text, old.admissible)
            if new.done:
                ends, counts[i] = ends + 1, 0
                rewards.append(new.reward)
                after[i] = batch.restart(i)
        seen = after
    assert batch.counts["died"] == 0
    assert ends > 300
    assert len(set(rewards)) > 2


def test_search_is_rank_bm25_to_the_last_bit():
    from rank_bm25 import BM25Okapi

    rng = random.Random(1)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(0, 9))) for _ in range(60)]
    texts += ["rare a", "A, a; a!"]
    index = Index(texts)
    peer = BM25Okapi([re.findall("[a-z]+", text.lower()) for text in texts])
    for query in ("a b", "rare", "h h g", "none a", "f"):
        ours, theirs = index.scores(query), peer.get_scores(query.split())
        assert ours.tolist() == theirs.tolist()
        found = index.search(query, 10)
        has = [i for i, t in enumerate(texts) if set(query.split()) & set(peer.doc_freqs[i])]
        assert list(found) == sorted(has, key=lambda i: (-theirs[i], i))[:10]
    assert index.search("none", 10) == ()
    assert index.search("", 10) == ()


def test_a_shop_without_products_or_with_one_twice():
    with pytest.raises(ShopError, match="at least one product"):
        Shop([])
    with pytest.raises(ShopError, match="two products have the number B000000001"):
        Shop([LAMPS[1], LAMPS[2], LAMPS[1]])
    with pytest.raises(ValueError, match="no text with words"):
        Index(["?", ""])


@pytest.mark.parametrize("module", ["rank_bm25", "rapidfuzz"])
def test_a_missing_package_is_named(shop, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"jaxlab\[webshop\]"):
        Shop(LAMPS) if module == "rank_bm25" else same.__wrapped__("a", "b")
