import collections
import random

import pytest

from jaxlab.envs import household
from jaxlab.envs.household import catalogue, generate, rooms, setting
from jaxlab.envs.household.setting import Sizes
from jaxlab.envs.protocol import Batch

SMALL = Sizes(receptacles=12, things=10, copies=2)


@pytest.fixture(scope="module")
def panel():
    return generate.panel("made_up")


def test_the_panel_has_every_family_seen_and_unseen(panel):
    assert len({game.id for game in panel}) == generate.PANEL == 240
    counts = collections.Counter((game.family, "unseen" in game.id) for game in panel)
    assert counts == {(f, u): 20 for f in household.FAMILIES for u in (False, True)}


def test_the_panel_in_the_rooms_of_alfworld_is_this_one(real_data, monkeypatch):
    monkeypatch.setenv(rooms.LAYOUTS, str(real_data("alfworld/layouts")))
    generate.inventory.cache_clear(), generate.panel.cache_clear()
    try:
        panel = generate.panel("alfworld")
    finally:
        generate.inventory.cache_clear(), generate.panel.cache_clear()
    assert panel[3].task == "heat some egg and put it in sinkbasin."
    assert panel[3].id == "pick_heat_then_place_in_recep-Egg-None-SinkBasin-29/trial_seen_3"


def test_another_panel_is_refused(monkeypatch):
    monkeypatch.setitem(generate.PANEL_DIGESTS, "made_up", "0" * 64)
    monkeypatch.setattr(generate, "PANEL", 12)
    with pytest.raises(household.GameError, match="panel of made_up rooms has the digest"):
        generate.panel.__wrapped__("made_up")


def test_the_oracle_wins_and_chance_does_not(panel):
    games = panel[::8]
    batch = Batch([household.load(game) for game in games])
    batch.reset()
    won = 0.0
    for turn in range(max(len(game.walkthrough) for game in games)):
        plans = [game.walkthrough for game in games]
        steps = batch.step([plan[turn] if turn < len(plan) else None for plan in plans])
        won += sum(step.reward for step in steps if step)
    assert won == len(games)
    assert not batch.live

    rng = random.Random(0)
    seen, lucky = batch.reset(), 0.0
    while batch.live:
        acts = [None if step.done else rng.choice(step.admissible) for step in seen]
        seen = [new or old for new, old in zip(batch.step(acts), seen, strict=True)]
        lucky += sum(step.reward for i, step in enumerate(seen) if acts[i] is not None)
    assert lucky < 0.2 * len(games)
    assert batch.counts["died"] == 0


def test_tasks_say_what_the_goal_asks_for(panel):
    by_family = {game.family: game for game in panel[:6]}
    for family, game in by_family.items():
        _, thing, none, place, _ = game.id.split("/")[0].removeprefix(family).split("-")
        words = {"o": thing.lower(), "r": place.lower(), "l": "desklamp"}
        assert game.task in {t.format(**words) for t in setting.TEMPLATES[family]}
        goals = game.world().ways
        heads = {fact[0] for yes, _ in goals for fact in yes}
        assert (
            heads
            == {
                "pick_and_place_simple": {"inreceptacle"},
                "look_at_obj_in_light": {"istoggled", "atlocation", "holds"},
                "pick_clean_then_place_in_recep": {"inreceptacle", "isclean"},
                "pick_heat_then_place_in_recep": {"inreceptacle", "ishot"},
                "pick_cool_then_place_in_recep": {"inreceptacle", "iscool"},
                "pick_two_obj_and_place": {"inreceptacle"},
            }[family]
        )
        assert none == "None"


def test_unseen_rooms_are_never_trained_in():
    number = {
        split: {
            int(generate.game(split, i, rooms.made_up(), SMALL).id.split("/")[0].split("-")[-1])
            for i in range(18)
        }
        for split in ("train", "seen", "unseen")
    }
    assert all(n % 100 > 6 for n in number["train"] | number["seen"])
    assert all(n % 100 <= 6 for n in number["unseen"])


def test_a_game_is_a_function_of_split_and_index():
    one, two = (generate.game("train", 7, rooms.made_up(), SMALL) for _ in range(2))
    assert one == two
    others = {generate.game(s, 7, rooms.made_up(), SMALL).digest for s in ("seen", "train")}
    assert len(others) == 2
    with pytest.raises(ValueError, match="splits are train, seen, unseen"):
        generate.game("test", 0, rooms.made_up())
    with pytest.raises(household.GameError, match="none of 0 rooms of the split 'train' can hold"):
        generate.game("train", 0, [])


def test_sizes_bound_a_room_and_keep_what_it_is_for():
    for room in rooms.made_up():
        small = rooms.smaller(room, 6, 5)
        assert len(small.receptacles) == 6
        assert len([t for t in small.things if t != catalogue.LAMP]) == 5
        kinds = {rooms.type_of(name) for name, _ in small.receptacles}
        if room.kind == "kitchen":
            assert kinds >= {"Fridge", "Microwave", "SinkBasin"}


def test_with_a_habit_things_lie_where_they_lie_in_other_games_of_the_room():
    room = rooms.made_up()[9]

    def places(habit):
        found = collections.defaultdict(collections.Counter)
        for seed in range(16):
            made = setting.setting(
                "pick_and_place_simple", room, Sizes(copies=1, habit=habit), random.Random(seed)
            )
            for line in made.problem.splitlines():
                if "(inReceptacle " in line and "?" not in line:
                    thing, place = line.strip(" ()").split()[1:]
                    found[thing.split("_bar_")[0]][place] += 1
        return {t: c.most_common(1)[0][1] / c.total() for t, c in found.items() if c.total() > 12}

    wide = {t for t, k in places(0.0).items() if k < 0.5}
    assert wide
    # Less than 1 where the thing is the task's, which never lies at its goal.
    assert all(places(1.0)[thing] > 0.7 for thing in wide)


@pytest.mark.parametrize(
    ("objects", "places", "cause"),
    [
        ("[", "{}", "no inventory of a room"),
        ('["Mug"]', '{"Cabinet|+1": [0, 1]}', "no inventory of a room"),
        ('{"Mug": 1}', "{}", "it is no list of types"),
        ('["Mug"]', None, "no inventory of a room"),
    ],
)
def test_bad_inventories_are_named(tmp_path, objects, places, cause):
    (tmp_path / "FloorPlan1-objects.json").write_text(objects)
    if places is not None:
        (tmp_path / "FloorPlan1-openable.json").write_text(places)
    with pytest.raises(household.GameError, match=f"FloorPlan1-objects.json: .*{cause}"):
        rooms.read(tmp_path)


def test_a_folder_without_inventories_is_named(tmp_path, monkeypatch):
    with pytest.raises(household.GameError, match="has no FloorPlanN-objects"):
        rooms.read(tmp_path)
    monkeypatch.delenv(rooms.LAYOUTS, raising=False)
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"jaxlab\[agents\].*JAXLAB_ALFWORLD_LAYOUTS"):
        rooms.find()
