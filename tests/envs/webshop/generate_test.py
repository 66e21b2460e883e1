"""Made-up catalogues, the panel, and what scripted shoppers make of it."""

import pytest

from jaxlab.envs.webshop import ShopError, WebShop, generate, goals, score, shoppers


@pytest.fixture(scope="module")
def shop():
    return generate.shop()


def test_a_catalogue_is_a_function_of_size_and_seed():
    ten = generate.catalogue(10)
    assert generate.catalogue(4) == ten[:4]
    assert generate.catalogue(10, seed=1) != ten
    assert len({generate.product(i).asin for i in (*range(500), 36**8 - 1)}) == 501
    assert all(len(p.asin) == 10 and p.asin == p.asin.upper() for p in ten)
    for index in (-1, 36**8):
        with pytest.raises(ShopError, match="numbers go from 0"):
            generate.product(index)


def test_every_goal_is_met_by_its_product(shop):
    for product in shop.products:
        goal = goals.made(product, seed=3)
        assert score(product, goal.options, goal).reward == 1.0
        assert goal.price_limit > product.price
        assert all(phrase in goal.instruction for phrase in (*goal.attributes, *goal.options))


def test_the_panel_is_fixed_and_apart_from_training(shop, monkeypatch):
    panel = generate.panel(shop)
    assert len({goal.asin for goal in panel}) == 200
    trained = [generate.training(shop, i) for i in (*range(40), 800, 801)]
    assert not {goal.asin for goal in trained} & {goal.asin for goal in panel}
    assert trained[0].asin == trained[40].asin
    assert trained[0] != trained[40]
    with pytest.raises(ShopError, match="goal -1"):
        generate.training(shop, -1)
    with pytest.raises(ShopError, match="0 products are left"):
        generate.training(generate.shop(20), 0)
    assert len(generate.panel(generate.shop(20))) == 20
    monkeypatch.setattr(generate, "PANEL_DIGEST", "0")
    with pytest.raises(ShopError, match="another generator"):
        generate.panel(shop)


# Shopper -> goals of 200 that it meets, and its mean reward: the table of docs/webshop.md.
TABLE = {
    "random": (shoppers.chance(0), 0, 0.067),
    "first result": (shoppers.first_result, 18, 0.671),
    "attribute matcher": (shoppers.attribute_matcher, 138, 0.891),
    "oracle": (shoppers.oracle, 200, 1.0),
}


@pytest.mark.parametrize("name", TABLE)
def test_scripted_shoppers(shop, name):
    shopper, met, mean = TABLE[name]
    rewards = []
    for goal in generate.panel(shop):
        env = WebShop(shop, goal)
        seen = shopper(env, env.reset())
        assert seen.done
        rewards.append(seen.reward)
    assert rewards.count(1.0) == met
    assert sum(rewards) / len(rewards) == pytest.approx(mean, abs=5e-4)


def test_shoppers_in_a_shop_that_has_nothing_for_them(shop):
    goal = goals.made(generate.product(5000))
    env = WebShop(generate.shop(20), goal, max_steps=1)
    for shopper in (shoppers.first_result, shoppers.attribute_matcher):
        assert shopper(env, env.reset()).done
    assert shoppers.plan(env, goal) == ()
