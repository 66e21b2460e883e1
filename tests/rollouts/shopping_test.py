"""WebShop's goals as tasks of a trainer."""

import json

import pytest

from jaxlab import config as config_lib
from jaxlab import train
from jaxlab.envs.webshop import ShopError, generate
from jaxlab.rollouts import worlds
from jaxlab.rollouts.shopping import Shopping
from tests.envs.webshop.files_test import HUMAN, ROW


def test_made_up_goals_of_training_are_not_the_panels():
    source = worlds.source(Shopping(products=300, panel=3, max_steps=2))
    shop = generate.shop(300)
    assert [goal for _, goal in source.panel] == list(generate.panel(shop)[:3])
    assert {source.train(i).asin for i in range(100)}.isdisjoint(
        goal.asin for goal in generate.panel(shop)
    )
    goal = source.train(7)
    assert (goal.task, goal.family) == (goal.instruction, goal.product_category.split(" ›")[0])
    assert goal == worlds.source(Shopping(products=300)).train(7)
    env = source.load(goal)
    env.reset()
    assert env.step(f"search[{goal.query}]").text.startswith(f"Instruction: [SEP] {goal.task}")
    assert env.step("search[x]").done
    assert source.digest() == generate.digest_of(shop, generate.panel(shop)[:3])


def test_goals_of_files_behind_the_test_set_are_trained_on(tmp_path):
    def write(count):
        rows = [{**ROW, "asin": f"B{i}"} for i in range(count)]
        human = {row["asin"]: [HUMAN] for row in rows}
        contents = {"items_shuffle": rows, "items_ins_v2": {}, "items_human_ins": human}
        for name, content in contents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))

    write(503)
    source = worlds.source(Shopping(path=str(tmp_path)))
    tested = {goal.id for _, goal in source.panel}
    assert (source.count, len(tested)) == (3, 200)
    assert not tested & {source.train(i).id for i in range(3)}
    write(500)
    with pytest.raises(ShopError, match="has 500 goals; training has those behind the 500"):
        worlds.source(Shopping(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("section", "key", "value", "cause"),
    [
        ("rollout", "words", "terse", "rollout.words: a search takes any words"),
        ("rollout", "actions", "choice", "rollout.actions: a search takes any words"),
        ("data", "panel", 0, "panel must be at least 1, not 0"),
        ("data", "name", "webshp", "did you mean 'webshop'"),
        ("data", "rooms", "made_up", "rooms is not a known key"),
    ],
)
def test_what_a_shop_has_not_is_refused(config, section, key, value, cause):
    tiny = config("skill1_webshop", "tiny")
    tiny[section][key] = value
    with pytest.raises(config_lib.ConfigError, match=cause):
        train.check(tiny, "skill1_webshop")
