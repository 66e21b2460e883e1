import pytest

from jaxlab.evals.general365 import rows
from jaxlab.evals.general365.rows import Parser
from jaxlab.grading.rows import Panel

ROW = {"id": "7", "question": "q", "answer": "12", "answer_type": "number", "float_round": "0"}


def test_the_public_schema(real_data):
    panel = rows.read(real_data("general365/schema_example.jsonl"))
    assert [row.meta["answer_type"] for row in panel.rows][:3] == ["number", "number", "interval"]
    assert [row.meta["float_round"] for row in panel.rows] == [None, 2, None, None, None, None]
    assert not any("seed_id" in row.meta or "categories" in row.meta for row in panel.rows)
    assert all(row.cluster == row.id for row in panel.rows)


def test_optional_fields_and_their_other_names():
    row = Parser()(ROW | {"tags": "a; b, a", "group": 3, "is_variant": True})
    assert row.meta["categories"] == ["a", "b"]
    assert (row.meta["seed_id"], row.meta["variant"], row.cluster) == ("3", "variant", "3")
    row = Parser()(ROW | {"category": ["a"], "seed_id": "x", "variant": "0"})
    assert (row.meta["categories"], row.meta["variant"]) == (["a"], "seed")
    assert Parser()(ROW | {"answer": 12.0}).answer == "12"
    assert Parser()(ROW | {"answer": 2.5}).answer == "2.5"


def test_field_map_goes_before_the_usual_names():
    parse = Parser({"answer": "gold", "seed_id": "family"})
    row = parse(ROW | {"gold": "13", "family": "f"})
    assert (row.answer, row.cluster) == ("13", "f")


def test_id_pattern():
    parse = Parser(id_pattern=r"(?P<seed>\d+)(?:-v(?P<variant>\d))?")
    assert parse(ROW).meta["variant"] == "seed"
    row = parse(ROW | {"id": "7-v2"})
    assert (row.cluster, row.meta["variant"]) == ("7", "2")
    with pytest.raises(ValueError, match="does not match id_pattern"):
        parse(ROW | {"id": "x"})


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"fields": {"anser": "a"}}, "fields.anser is not a known key; did you mean 'answer'"),
        ({"id_pattern": "("}, "id_pattern"),
        ({"id_pattern": "x"}, "has no group"),
    ],
)
def test_bad_options(options, cause):
    with pytest.raises(ValueError, match=cause):
        Parser(**options)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"answer_type": "essay"}, "answer_type 'essay' is none of number"),
        ({"answer_type": None}, "no field answer_type"),
        ({"float_round": "two"}, "float_round must be a number"),
        ({"float_round": "99"}, "float_round must be a number"),
        ({"category": [1]}, "categories must be"),
        ({"answer": float("inf")}, "field 'answer' must be a string"),
    ],
)
def test_bad_rows(change, cause):
    with pytest.raises(ValueError, match=cause):
        Parser()(ROW | change)


def test_fields_that_the_config_leaves_out_have_their_usual_names(tmp_path):
    pytest.importorskip("inspect_ai")
    from jaxlab.evals import harness
    from jaxlab.evals.settings import Benchmark, Run, Subject

    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "question": "q", "key": "3", "answer_type": "number"}\n')
    options = {"grader": "rule", "fields": {"answer": "key", "question": None}}
    run = Run(Subject(name="m"), Benchmark("general365", str(path), options=options))
    (sample,) = harness.prepare(run, tmp_path, regrade=False).dataset
    assert (sample.input, sample.target) == ("q", "3")


def test_parts_of_the_rows():
    kinds = ["number", "text", "number"]
    found = [
        Parser()(ROW | {"id": i, "answer_type": kind, "category": f"c{i % 2}", "is_variant": i > 0})
        for i, kind in enumerate(kinds)
    ]
    panel = Panel(tuple(found))
    for name, ids in [
        ("all", "012"),
        ("seed", "0"),
        ("variant", "12"),
        ("number", "02"),
        ("c1", "1"),
    ]:
        assert "".join(row.id for row in rows.subset(panel, name).rows) == ids
    with pytest.raises(ValueError, match=r"subset: no row is of 'interval'; there are all, .*c0"):
        rows.subset(panel, "interval")
    # Rows that do not tell seeds from variants are neither.
    with pytest.raises(ValueError, match="no row is of 'seed'"):
        rows.subset(Panel((Parser()(ROW),)), "seed")
