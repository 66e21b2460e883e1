"""WebShop's own files, in the layout of its repository, and what is wrong with others."""

import json

import pytest

from jaxlab.envs.webshop import ShopError, files, goals

ROW = {
    "asin": "b01abc",
    "category": "fashion",
    "query": " Polo Shirt ",
    "product_category": "Clothing › Men › Polos",
    "name": "A Polo",
    "full_description": "Long.",
    "small_description": ["soft", "warm"],
    "pricing": "$1,012.50",
    "customization_options": {
        "Color": [{"value": " Red/Blue ", "image": None}, {"value": "GREEN"}],
        "Size": None,
    },
    "images": ["x"],
}
HUMAN = {
    "instruction": "i want a polo.",
    "instruction_attributes": ["long sleeve"],
    "instruction_options": ["red | blue"],
}


@pytest.fixture
def folder(tmp_path):
    def write(rows=None, told=None, human=None, cut=None):
        rows = [ROW] if rows is None else rows
        told = {"b01abc": {"attributes": ["soft"]}} if told is None else told
        contents = {"items_shuffle_1000.json": rows, "items_ins_v2_1000.json": told}
        if human is not None:
            contents["items_human_ins.json"] = human
        for name, content in contents.items():
            text = json.dumps(content)
            (tmp_path / name).write_text(text[: len(text) // 2] if name == cut else text)
        return tmp_path

    return write


def test_products_as_webshop_reads_them(folder):
    ranged = {**ROW, "asin": "B02", "pricing": "$5.00$9.00", "small_description": "one"}
    free = {**ROW, "asin": "B03", "pricing": "", "customization_options": {}}
    rows = [ROW, ranged, free, {**ROW, "asin": "nan"}, {**ROW, "asin": "B" * 11}, ROW]
    found = files.read(folder(rows, human={}))
    first, second, third = found.products
    assert (first.asin, first.query, first.attributes) == ("B01ABC", "polo shirt", ("soft",))
    assert (first.price, first.price_tag) == (1012.5, "$1012.5")
    assert first.options == {"color": ("red | blue", "green")}
    assert 5 <= second.price <= 9
    assert second == files.read(folder(rows)).products[1]
    assert (second.price_tag, second.bullets) == ("$5.0 to $9.0", ("one",))
    assert (second.attributes, third.price, third.options) == (("DUMMY_ATTR",), 100.0, {})
    assert found.left_out == {
        "products without a number of at most ten letters": 2,
        "products that are there twice": 1,
    }
    assert found.goals == ()
    assert len(files.read(folder(rows), most=1).products) == 1


def test_goals_of_people(folder):
    cheap = {**ROW, "pricing": "$15.00"}
    none = {**HUMAN, "instruction_attributes": []}
    by_name = {**HUMAN, "instruction_options": {"color": "green"}}
    found = files.read(folder([cheap], human={"b01abc": [HUMAN, none, by_name], "b99": [HUMAN]}))
    assert found.left_out == {"goals without attributes": 1}
    one, two = sorted(found.goals, key=lambda goal: goal.id)
    assert (one.id, two.id, one.asin) == ("B01ABC-0", "B01ABC-2", "B01ABC")
    assert (one.options, two.options) == (("red | blue",), ("green",))
    assert one.price_limit in (30.0, 40.0, 50.0)
    assert one.instruction == f"i want a polo, and price lower than {one.price_limit:.2f} dollars"
    assert (one.query, one.title) == ("polo shirt", "A Polo")
    # Dearer than every limit: there is none.
    dear = files.read(folder([ROW], human={"b01abc": [HUMAN]})).goals[0]
    assert (dear.price_limit, dear.instruction) == (goals.NO_LIMIT, "i want a polo")


def test_synthetic_goals_are_of_every_combination(folder):
    row = {**ROW, "customization_options": {"b": [{"value": "1"}, {"value": "2"}], "a": []}}
    told = {"b01abc": {"instruction": "Find it", "instruction_attributes": ["soft"]}}
    assert files.read(folder([row], told)).goals == ()
    row["customization_options"]["a"] = [{"value": "x"}]
    found = files.read(folder([row], told)).goals
    assert sorted(goal.instruction for goal in found) == [
        "Find it with a: x, and b: 1",
        "Find it with a: x, and b: 2",
    ]


def without(name):
    return {key: value for key, value in ROW.items() if key != name}


WRONG = {
    "no list": ({"rows": {}}, r"items_shuffle_1000\.json: holds a dict, not a list"),
    "no rows": ({"rows": []}, r"items_shuffle_1000\.json: has no products"),
    "row": ({"rows": [ROW, 7]}, r"items_shuffle_1000\.json: row 1: is 7, no object"),
    "column": ({"rows": [without("name")]}, r"row 0 \(b01abc\): field 'name' is missing; it has"),
    "type": ({"rows": [{**ROW, "query": None}]}, r"field 'query' is None, no str"),
    "price": ({"rows": [{**ROW, "pricing": "cheap"}]}, r"'pricing' is 'cheap', no price such as"),
    "prices": ({"rows": [{**ROW, "pricing": "$1.2.3"}]}, r"'pricing' is '\$1\.2\.3', no price"),
    "number": ({"rows": [{**ROW, "pricing": 7}]}, r"'pricing' is 7, no price"),
    "options": ({"rows": [{**ROW, "customization_options": ["a"]}]}, r"'customization_options' is"),
    "option": ({"rows": [{**ROW, "customization_options": {"a": "b"}}]}, r"option 'a' is 'b'"),
    "value": ({"rows": [{**ROW, "customization_options": {"a": [{}]}}]}, r"'value' is missing"),
    "told": ({"told": []}, r"items_ins_v2_1000\.json: holds a list, not a dict"),
    "phrases": ({"told": {"b01abc": {"attributes": "soft"}}}, r"'attributes' is 'soft', no list"),
    "human": ({"human": {"b01abc": [{}]}}, r"items_human_ins\.json: b01abc: row 0: field 'instr"),
    "humans": ({"human": {"b01abc": 3}}, r"items_human_ins\.json: b01abc: is no list"),
    "cut": ({"cut": "items_shuffle_1000.json"}, r"shuffle_1000\.json: is no JSON .* cut short"),
    "cut human": ({"human": {"b": []}, "cut": "items_human_ins.json"}, r"human_ins\.json: is no J"),
}


@pytest.mark.parametrize(("content", "cause"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_is_named_with_file_and_row(folder, content, cause):
    with pytest.raises(ShopError, match=cause) as error:
        files.read(folder(**content))
    assert "\n" not in str(error.value)


def test_files_that_are_missing_or_there_twice(folder, tmp_path):
    with pytest.raises(ShopError, match=r"needs one file items_shuffle\*\.json, has none"):
        files.read(tmp_path)
    (folder() / "items_shuffle.json").write_text("[]")
    with pytest.raises(ShopError, match=r"has items_shuffle\.json, items_shuffle_1000\.json"):
        files.read(tmp_path)
    (tmp_path / "items_shuffle.json").unlink()
    for name in ("items_human_ins.json", "items_human_ins_2.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ShopError, match=r"has items_human_ins\.json, items_human_ins_2\.json"):
        files.read(tmp_path)


def test_instructions_of_people_give_openings(real_data, tmp_path):
    path = real_data("webshop/human_goals.json")
    assert len(goals.sentences(path)) == 12_087
    found = goals.openings(path)
    assert found[0] == "i am looking for"
    assert found.count("i need") == 1292
    for content, cause in (
        ("[", "cut short"),
        ("{}", "no list"),
        ('["a", 3]', "row 1 is 3"),
        ('["a b"]', "no 5 instructions begin alike"),
    ):
        (tmp_path / "goals.json").write_text(content)
        with pytest.raises(ShopError, match=cause):
            goals.openings(tmp_path / "goals.json")
