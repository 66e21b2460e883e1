import json
import math
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxlab.evals.ajbench import definitions, rows, trajectories
from jaxlab.evals.ajbench.types import SUBDOMAINS, Call

OPENAI = [
    {"role": "system", "content": "You have tools."},
    {"role": "user", "content": [{"type": "text", "text": "Count the pages."}]},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "list_directory", "arguments": '{"path": "/work"}'},
            },
            {"id": "c2", "function": {"name": "read_file", "arguments": "{broken"}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "[FILE] a.html"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "error"}]},
    {"role": "assistant", "content": "Done."},
]
SDK = [
    {"role": "user", "content": "Count the pages."},
    {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {
        "type": "function_call",
        "call_id": "c1",
        "name": "list_directory",
        "arguments": '{"path": "/work"}',
    },
    {
        "type": "function_call_output",
        "call_id": "c1",
        "output": {"type": "text", "text": "[FILE] a.html"},
    },
    {"role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
]


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def tree(tmp_path):
    """All seven sub-domains as the official repository lays them out."""
    deep = [
        {"query": "q1", "single_row": {"city": "Rome"}, "response": "long", "label": 1},
        {"query": "q1", "single_row": {"city": "Oslo"}, "response": "long", "label": 0},
    ]
    save(tmp_path / "Search/deep_llm_judge_single_row.json", deep)
    wide = [{"id": 7, "question": "q2", "row": "a|b", "answer": "x", "ground_truth": "true"}]
    lines = "".join(json.dumps(row) + "\n" for row in wide)
    save(tmp_path / "Search/wide_llm_judge_single_row.jsonl", lines)
    ds = tmp_path / "DS"
    save(ds / "filesystem/papers/papers_counting/success/gpt_run1/messages.json", OPENAI)
    save(ds / "filesystem/papers/papers_counting/fail/gpt_run2/messages.json", SDK)
    save(ds / "postgres/chinook__update_employee_info/fail/m_run1/messages.json", {"messages": SDK})
    for kind in ("PPT", "Word", "Excel"):
        home = tmp_path / "GUI" / kind / "0a-1"
        save(home / "0a-1.json", {"id": "0a-1", "instruction": f"Fix the {kind}."})
        for label in ("true", "false"):
            line = {"step_num": 1, "action": "pyautogui.click(1, 2)", "response": "I click."}
            line |= {"reward": 1, "done": False, "screenshot_file": "step_1.png"}
            save(home / label / "traj.jsonl", json.dumps(line) + "\n\n")
    return tmp_path


def test_all_seven_subdomains(tree):
    units = rows.read(tree).units
    counts = {name: [unit.label for unit in units if unit.subdomain == name] for name in SUBDOMAINS}
    assert {name: sorted(labels) for name, labels in counts.items()} == {
        "Search-Wide": [True],
        "Search-Deep": [False, True],
        "DS-FileSystem": [False, True],
        "DS-Postgres": [False],
        "GUI-PPT": [False, True],
        "GUI-Word": [False, True],
        "GUI-Excel": [False, True],
    }
    assert len({unit.id for unit in units}) == len(units) == 12


def test_search_rows_share_the_cluster_of_their_query(tree):
    rome, oslo = rows.read(tree, ["Search-Deep"]).units
    assert rome.task == oslo.task
    assert (rome.item, rome.response, rome.instruction) == ('{"city": "Rome"}', "long", "q1")


def test_a_map_goes_before_the_aliases(tree):
    row = {"query": "q", "cell": "c", "single_row": "wrong one", "label": 0}
    save(tree / "Search/wide_llm_judge_single_row.jsonl", json.dumps(row))
    (unit,) = rows.read(tree, ["Search-Wide"], fields={"item": "cell"}).units
    assert unit.item == "c"
    with pytest.raises(ValueError, match="no field 'cell': the fields are"):
        rows.read(tree, fields={"cell": "item"})


@pytest.mark.parametrize("messages", [OPENAI, SDK])
def test_both_message_styles(messages):
    instruction, steps = trajectories.from_messages(messages)
    assert instruction == "Count the pages."
    assert [step.text for step in steps] == ["I look.", "Done."]
    assert steps[0].calls[0] == Call("list_directory", {"path": "/work"}, "[FILE] a.html")


def test_arguments_that_do_not_parse_are_kept_as_none():
    _, steps = trajectories.from_messages(OPENAI)
    assert steps[0].calls[1] == Call("read_file", None, "error")


def _of_mcpmark(text, failed=False):
    """An item as MCPMark writes it in the second style, around the answer of an MCP server."""
    part = {"type": "text", "text": text, "annotations": None, "meta": None}
    answer = {"meta": None, "content": [part], "structuredContent": {"content": text}}
    said = json.dumps(answer | {"isError": failed})
    output = json.dumps({"type": "text", "text": said, "annotations": None, "meta": None})
    return {"call_id": "c", "output": output, "type": "function_call_output"}


def test_results_are_read_out_of_their_wrappings():
    call = {"arguments": "{}", "call_id": "c", "name": "f", "type": "function_call", "id": "i"}
    inner = '{"type": "text", "text": "of a file"}'
    outputs = [
        _of_mcpmark("Allowed directories:\n/app/x"),
        _of_mcpmark("ENOENT: no such file", failed=True),
        _of_mcpmark("error: none", failed=True),
        _of_mcpmark(inner),
    ]
    items = [item for output in outputs for item in (call, output)]
    # The other style holds the server's answer itself.
    wrapped = {"role": "tool", "tool_call_id": "d", "content": json.loads(outputs[1]["output"])}
    made = {"id": "d", "function": {"name": "f", "arguments": "{}"}}
    _, steps = trajectories.from_messages(
        [*items, {"role": "assistant", "content": None, "tool_calls": [made]}, wrapped]
    )
    assert [call.result for step in steps for call in step.calls] == [
        "Allowed directories:\n/app/x",
        "Error: ENOENT: no such file",
        "error: none",
        inner,
        "Error: ENOENT: no such file",
    ]


def test_turns_of_the_second_style_end_with_their_answers():
    """An agent that says nothing leaves no message between them."""
    calls = [{"type": "function_call", "call_id": f"c{i}", "name": "f"} for i in range(4)]
    outs = [{"type": "function_call_output", "call_id": f"c{i}", "output": ""} for i in range(4)]
    look = {"role": "assistant", "content": "I look."}
    items = [look, *calls[:2], *outs[:2], calls[2], outs[2], look, calls[3], outs[3]]
    _, steps = trajectories.from_messages(items)
    assert [(step.text, len(step.calls)) for step in steps] == [
        ("I look.", 2),
        ("", 1),
        ("I look.", 1),
    ]


@pytest.mark.parametrize("identity", ["call_0", "", None])
def test_calls_of_one_id_have_results_of_their_own(identity):
    call = {"id": identity, "function": {"name": "f", "arguments": None}}
    answers = [{"role": "tool", "tool_call_id": identity, "content": text} for text in "abc"]
    two = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    one = {"role": "assistant", "content": None, "tool_calls": [call]}
    _, steps = trajectories.from_messages([two, *answers[:2], one, answers[2], one])
    assert [[call.result for call in step.calls] for step in steps] == [["a", "b"], ["c"], [None]]


def test_a_recorded_reward_does_not_reach_the_judge(tree):
    unit = rows.read(tree, ["GUI-Word"]).units[0]
    assert "reward" not in trajectories.render(unit.steps)
    assert unit.steps[0].calls[0].arguments == {"code": "pyautogui.click(1, 2)"}
    assert unit.instruction == "Fix the Word."


def test_instructions_come_from_the_definitions(tree, real_data):
    folder = real_data("ajbench/mcpmark_tasks")
    units = {unit.task: unit for unit in rows.read(tree, tasks=folder).units}
    paper = units["DS-FileSystem/papers/papers_counting"]
    assert paper.instruction.startswith("# File Context Task: Count HTML Files")
    employee = units["DS-Postgres/chinook__update_employee_info"]
    assert employee.meta["category"] == "chinook"
    assert "Andrew Adams" in employee.instruction


def test_all_published_definitions(real_data):
    folder = real_data("ajbench/mcpmark_tasks")
    found = definitions.read_all(folder)
    full = {key: value for key, value in found.items() if key.count("/") == 2}
    assert len(full) == len(list(folder.rglob("meta.json")))
    assert all(value.instruction.strip() and value.difficulty for value in full.values())
    counts = json.loads(real_data("ajbench/category_counts.json").read_text())
    categories = {value.category for value in full.values()}
    # Of two databases in the benchmark the definitions at hand have no task.
    assert {*counts["filesystem"], *counts["postgres"]} - categories == {"security", "vectors"}


def test_the_panel_changes_with_the_trajectory(tree):
    before = rows.read(tree).panel()
    path = tree / "DS/filesystem/papers/papers_counting/success/gpt_run1/messages.json"
    save(path, [*OPENAI[:-1], {"role": "assistant", "content": "Not done."}])
    after = rows.read(tree).panel()
    assert before.digest != after.digest
    assert {row.answer for row in after.rows} == {"0", "1"}
    assert after.rows[0].meta["ability"] == "information acquisition"


def test_files_that_were_written_on_windows(tree):
    """With byte order marks, lines that end in CR LF, and accents."""
    before = rows.read(tree).panel()
    for path in [path for path in tree.rglob("*.json*") if path.is_file()]:
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert rows.read(tree).panel() == before
    home = tree / "definitions/easy/papers/papers_counting"
    meta = json.dumps({"task_id": "papers_counting", "category_id": "papers"})
    save(home / "meta.json", "\ufeff" + meta)
    save(home / "description.md", "\ufeffCompte les pages vides \u00e0 la fin.")
    (found, *_) = rows.read(tree, ["DS-FileSystem"], tasks=home.parents[2]).units
    assert found.instruction == "Compte les pages vides \u00e0 la fin."
    labels = _apart(tree, wide_dot_json='\ufeff{"r0": 1, "r1": 0}')
    assert len(rows.read(labels, ["Search-Wide"]).units) == 2


def test_nothing_there_says_what_is_needed(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder src/data"):
        rows.read(tmp_path)


def test_an_absent_subdomain_names_those_that_are_there(tree):
    with pytest.raises(ValueError, match=r"no sub-domain 'DS-Mongo'.*it has Search-Wide"):
        rows.read(tree, ["DS-Mongo"])


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("DS/postgres/t/maybe/r/messages.json", SDK, "success or fail"),
        ("DS/postgres/t/fail/r/messages.json", "[", "Expecting value"),
        ("DS/postgres/t/fail/r/messages.json", [3], "message 0 is no object"),
        ("DS/postgres/t/fail/r/messages.json", [], "not empty"),
        ("GUI/PPT/t/true/traj.jsonl", "{}", "an object with an action"),
        ("GUI/PPT/t/true/traj.jsonl", '{"action": "x"}', "no JSON file with an instruction"),
        ("GUI/PPT/t/1/traj.jsonl", '{"action": "x"}', "true or false"),
    ],
)
def test_bad_units_are_named_or_counted(tree, name, content, cause):
    save(tree / name, content)
    with pytest.raises(ValueError, match=cause) as error:
        rows.read(tree)
    assert pathlib.Path(name).name in str(error.value)
    kept = rows.read(tree, bad_rows="skip")
    assert (len(kept.units), len(kept.rejected)) == (12, 1)


@pytest.mark.parametrize(
    ("label", "right"),
    [(1, True), (0, False), (1.0, True), (0.0, False), (True, True), ("1", True), ("fail", False)],
)
def test_labels(tree, label, right):
    """Also as a table writes a column of them in which some are missing."""
    save(
        tree / "Search/wide_llm_judge_single_row.jsonl",
        json.dumps({"query": "q", "item": "c", "label": label}),
    )
    (unit,) = rows.read(tree, ["Search-Wide"]).units
    assert unit.label is right


def _apart(tree, **files):
    """A repository whose Search rows have no labels, which stand beside them."""
    home = tree / "repository"
    for name, number in (("wide", 2), ("deep", 1)):
        content = [{"id": f"r{i}", "query": "q", "item": f"c{i}"} for i in range(number)]
        save(home / f"src/data/Search/{name}_llm_judge_single_row.json", content)
    for name, content in files.items():
        path = name.replace("__", "/").replace("_dot_", ".")
        save(home / "tasks/agent_as_a_judge/ground_truth" / path, content)
    return home / "src/data"


@pytest.mark.parametrize(
    "files",
    [
        {"wide_dot_json": {"r0": 1, "r1": 0}, "deep_dot_json": {"r0": 0}},
        {"Wide__a_dot_jsonl": '{"id": "r0", "label": 1}\n{"id": "r1", "label": 0.0}\n'}
        | {"Deep__b_dot_json": [{"row_id": "r0", "gt": "0"}], "filesystem_dot_json": "no labels"},
    ],
)
def test_labels_that_stand_apart(tree, files):
    source = _apart(tree, **files)
    found = {unit.id: unit.label for unit in rows.read(source).units}
    assert found == {"Search-Wide/r0": True, "Search-Wide/r1": False, "Search-Deep/r0": False}
    # Elsewhere, if the user says so; and a row's own goes first.
    own = {"id": "r0", "query": "q", "item": "c", "label": 1}
    save(source / "Search/deep_llm_judge_single_row.json", [own])
    place = source.parents[1] / "tasks/agent_as_a_judge/ground_truth"
    place.rename(tree / "elsewhere")
    with pytest.raises(ValueError, match=r"field label .* must be 0 or 1, got None"):
        rows.read(source, ["Search-Wide"])
    units = rows.read(source, labels=tree / "elsewhere").units
    assert [unit.label for unit in units if unit.subdomain == "Search-Deep"] == [True]


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"wide_dot_json": {"r0": 1}}, "it has no label, and .*ground_truth none of the id r1"),
        ({"wide_dot_json": {"r0": 1, "r1": 2}}, r"wide.json: field label .* must be 0 or 1, got 2"),
        ({"a_dot_json": {"r0": 1}, "b_dot_json": {"r0": 0}}, "b.json: the id 'r0' has two labels"),
        ({"wide_dot_json": [1]}, "wide.json: expected an object of id -> label, or rows"),
        ({"wide_dot_jsonl": "{broken"}, "wide.jsonl: "),
    ],
)
def test_labels_apart_that_are_wrong(tree, files, cause):
    with pytest.raises(ValueError, match=cause):
        rows.read(_apart(tree, **files), ["Search-Wide"])
    with pytest.raises(FileNotFoundError, match="no such file or folder of labels"):
        rows.read(tree, labels=tree / "nowhere")


@pytest.mark.parametrize("label", [2, 0.5, None, "yes", [1], {}, math.nan])
def test_bad_labels(tree, label):
    row = {"query": "q", "item": "c", "label": label}
    save(tree / "Search/wide_llm_judge_single_row.jsonl", json.dumps(row))
    with pytest.raises(ValueError, match="must be 0 or 1"):
        rows.read(tree)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "call_id",
                ]
            ),
            inner | st.sampled_from(["assistant", "tool", "function_call"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(JSON, max_size=4))
def test_malformed_messages_end_in_a_value_error_or_are_read(messages):
    try:
        _, steps = trajectories.from_messages(messages)
    except ValueError:
        return
    assert isinstance(trajectories.render(steps), str)
