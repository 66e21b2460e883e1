"""The tables of the report: averages, published rows, controls."""

import json

import pytest

from jaxlab.evals.lary import report
from jaxlab.evals.tables import find


def record(encoder, track, name="a", **more):
    scores = more.pop("scores")
    plain = {"track": track, "encoder": encoder, "input": "both", "components": 0}
    return report.Record(name, plain | {"split": "official"} | more, scores)


RECORDS = [
    record("mine", "libero", scores={"micro": 0.5, "macro": 0.4}),
    record("mine", "human_1st", scores={"micro": 0.6}),
    record("mine", "robot_1st", scores={"micro": 0.7}),
    record("mine", "libero", input="source", scores={"micro": 0.1}),
    record("mine", "calvin", actions="absolute", scores={"mse": 0.3}),
    record("mine", "calvin", actions="relative", scores={"mse": 0.9}),
    record("other", "calvin", actions="absolute", scores={"mse": 0.2}),
]


def test_the_headline_has_both_averages_and_the_published_rows():
    rows = {row["model"]: row for row in find(report.tables(RECORDS), "Headline").rows}
    mine = rows["mine"]
    assert (mine["two sets of clips"], mine["three sets of labels"]) == ("65.00", "60.00")
    assert mine["libero"] == "50.00"
    # Relative actions and single frames are controls, whose scores stay out.
    assert mine["calvin"] == 0.3
    assert mine["four sets of chunks"] is None
    # The page's 75.39 and the text's 76.62, and the slip of UniVLA's average.
    published = rows["V-JEPA2"]
    assert (published["two sets of clips"], published["three sets of labels"]) == ("75.39", "76.62")
    assert rows["UniVLA"]["three sets of labels"] == "18.75"
    assert rows["DINOv3"]["four sets of chunks"] == pytest.approx(0.185)
    assert report.order(RECORDS, "calvin", "absolute") == ["other", "mine"]


def test_a_second_probe_of_an_encoder_has_a_row_of_its_own():
    again = [*RECORDS, record("mine", "libero", name="mine_before", scores={"micro": 0.9})]
    rows = {row["model"]: row for row in report.headline(again).rows}
    assert rows["mine"]["libero"] == "50.00"
    assert rows["mine, mine_before"]["libero"] == "90.00"


def test_the_panel_has_every_probe():
    rows = find(report.tables(RECORDS), "Panel").rows
    assert len(rows) == len(RECORDS)
    assert {
        (row["track"], row["actions"], row["sees"]) for row in rows if row["encoder"] == "mine"
    } == {
        ("libero", "class", "both"),
        ("libero", "class", "source"),
        ("human_1st", "class", "both"),
        ("robot_1st", "class", "both"),
        ("calvin", "absolute", "both"),
        ("calvin", "relative", "both"),
    }


def test_runs_are_read_and_a_damaged_one_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    about = {"track": "calvin", "encoder": None, "actions": "absolute"}
    content = {"about": about, "scores": {"mse": 1.0, "mse_low": 0.9, "mse_high": 1.1}}
    (tmp_path / "a/probe.json").write_text(json.dumps(content))
    found = report.read({"a": tmp_path / "a", "none": tmp_path / "b"})
    assert [one.encoder for one in found] == ["features of the files"]
    assert [path.name for path in report.write(tmp_path, found, "T")] == ["lary.md", "lary.json"]
    assert "| 1.000 | [0.900, 1.100] |" in (tmp_path / "lary.md").read_text()
    assert report.write(tmp_path, [], "T") == []
    (tmp_path / "a/probe.json").write_text("{")
    with pytest.raises(ValueError, match=r"a/probe.json: not a probe's scores"):
        report.read({"a": tmp_path / "a"})
