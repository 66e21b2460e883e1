import json
import pathlib

import pytest

from jaxlab.agents import heavy_files, heavy_prompts

SKILL = pathlib.Path(__file__).parents[2] / "skills" / "heavy" / "SKILL.md"


def test_the_skill_file_is_in_step():
    made = heavy_prompts.skill()
    assert SKILL.read_text(encoding="utf-8") == made, (
        "write it again: python -m jaxlab.heavy --skill > skills/heavy/SKILL.md"
    )
    # What deliberators read here, agents read there.
    prompt = heavy_prompts.Plain().deliberation("q", [])
    for rule in heavy_prompts.RULES:
        assert rule in made
        assert rule in prompt
    head = made.split("---")[1]
    assert head.startswith("\nname: heavy\ndescription: ")
    assert head.count("\n") == 3


def test_saved_texts(tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"id": "7", "prompt": "What?", "completion": "one", "stop": "max_tokens"},
        {"id": "7", "prompt": "What?", "completion": "two", "output_tokens": 5, "stop": "stop"},
        {"id": "8", "prompt": "Who?", "completion": "three"},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)))
    saved = heavy_files.read(path, "7")
    assert (saved.question, saved.thinkers) == ("What?", ["one", "two"])
    assert [(one.finished, one.tokens) for one in saved.thinkers] == [(False, None), (True, 5)]
    with pytest.raises(ValueError, match=r"rows of 2 questions \(7, 8, ...\): name one by --id"):
        heavy_files.read(path)
    with pytest.raises(ValueError, match="no row has the id '9'; the ids are 7, 8"):
        heavy_files.read(path, "9")
    array = tmp_path / "texts.json"
    array.write_text('["a", {"text": "b"}, "<think> and"]')
    saved = heavy_files.read(array)
    assert saved == (None, ["a", "b", "<think> and"])
    assert [one.finished for one in saved.thinkers] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text', r"a.jsonl:2: malformed JSON"),
        ("a.jsonl", '{"text": 3}', "a.jsonl:1: no field text or completion .* it has text"),
        ("a.jsonl", '{"answer": "3"}', "a.jsonl:1: no field text or .*it has answer"),
        ("a.jsonl", '["a"]', "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", "", "a.jsonl: no row"),
        ("a.json", "{}", "a.json: expected an array of texts, got dict"),
        ("a.json", "[3]", r"a.json\[0\]: expected an object or a text, got int"),
        ("a.json", '["\\ud83d"]', "lone surrogate"),
        ("a.json", "[", "a.json: malformed JSON"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        heavy_files.read(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        heavy_files.read(tmp_path / "none.jsonl")
