"""GUI units and search answers in their environments, below the judges."""

import functools
import json
import os
import pathlib
import threading

import pytest

pytest.importorskip("psycopg")

from jaxlab.evals.ajbench import judges, rows
from jaxlab.evals.ajbench.environments import environment, gui, screens, subdomains, workspace
from jaxlab.evals.ajbench.office import soffice
from jaxlab.evals.ajbench.sandbox.tools import Toolbox
from jaxlab.evals.ajbench.web import browser, snapshot
from tests.evals.ajbench import gui_trees, web_trees

RESULT = {"type": "vm_file", "path": "/home/user/Desktop/a.docx", "dest": "b.docx"}
SEVERAL = {"path": ["/home/user/a.txt", "/home/user/b.png"], "dest": ["a.txt", "b.png"]}


@pytest.fixture
def run(base, tmp_path):
    with workspace.run_folder(base) as folder:
        found = environment.Run(folder, tmp_path / "states")
        yield found
        found.close()


@pytest.fixture
def units(tmp_path):
    """Kind and label -> unit."""
    found = rows.read(gui_trees.make(tmp_path / "src")).units
    return {(unit.subdomain.removeprefix("GUI-"), unit.label): unit for unit in found}


def opened(run, unit, name="sample"):
    folder = run.folder / name
    folder.mkdir(mode=0o700)
    return subdomains.open_environment(environment.Place(unit, folder, run))


@pytest.mark.parametrize(
    ("evaluator", "results", "expected", "folders"),
    [
        ({"result": RESULT}, {"a.docx", "b.docx"}, set(), ("/home/user/Desktop",)),
        ({"result": [RESULT, RESULT]}, {"a.docx", "b.docx"}, set(), ("/home/user/Desktop",)),
        ({"result": SEVERAL}, {"a.txt", "b.png"}, set(), ("/home/user",)),
        (
            {"result": RESULT, "expected": {"path": "https://x/gold.docx", "dest": "g.docx"}},
            {"a.docx", "b.docx"},
            {"gold.docx", "g.docx"},
            ("/home/user/Desktop",),
        ),
        # One name on both sides is the result's.
        ({"result": {"dest": "x"}, "expected": {"dest": "x"}}, {"x"}, set(), ()),
        ({"result": "x"}, set(), set(), ()),
        ([], set(), set(), ()),
    ],
)
def test_files_that_a_definition_names(evaluator, results, expected, folders):
    found = gui.named({"evaluator": evaluator})
    assert found == gui.Named(frozenset(results), frozenset(expected), folders)


def test_a_judge_gets_the_results_and_nothing_that_tells_the_label(run, units):
    unit = units["Excel", True]
    folder = pathlib.Path(unit.meta["source"]).parent
    (folder / "gold_sales.xlsx").write_bytes((folder / "sales.xlsx").read_bytes())
    (folder / "runtime.log").write_text("score 1.0")
    (folder / "more").mkdir()
    (folder / "more" / "chart.pdf").write_bytes(b"%PDF")
    (folder / "more" / "link.xlsx").symlink_to(folder / "sales.xlsx")
    found = opened(run, unit)
    box = Toolbox(found.tools(read_only=True))
    tree = json.loads(box.call("directory_tree", {"path": ""}).text)
    assert [entry["name"] for entry in tree] == ["more", "sales.xlsx"]
    assert [entry["name"] for entry in tree[0]["children"]] == ["chart.pdf"]
    # Under the name that the agent knew, too.
    assert box.call("list_allowed_directories", {}).text == "/home/user"
    for path in ("sales.xlsx", "/home/user/sales.xlsx"):
        assert "sheet 'Sales'" in box.call("overview", {"path": path}).text
    step = box.call("VIEW_TRAJECTORY_STEP", {"step": "2"}).text
    assert "It is done." in step
    assert "reward" not in step
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    digest = found.digest()
    writing = Toolbox(found.tools(read_only=False))
    assert not writing.call("write_file", {"path": "sales.xlsx", "content": "x"}).failed
    assert found.digest() != digest
    found.close()
    # What was opened is a copy.
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_result_is_final_and_nothing_is_run_on_it(run, units):
    found = opened(run, units["Word", True])
    assert environment.calls_of(found, units["Word", True]) == ()
    found.close()


def test_without_a_result_the_calls_are_run_on_the_initial_files(run, tmp_path):
    """Calls as an agent with office tools makes them, also in the form of an action space."""
    path = {"path": "/home/user/sales.xlsx", "sheet": "Sales"}
    total = {**path, "cell": "B5", "value": "=SUM(B2:B4)"}
    shown = {**path, "cells": "B5", "format": '{"number_format": "0.00"}'}
    steps = [
        {"action": {"action_type": "set_cell", "parameters": total}},
        {"action": {"action_type": "format_cells", **shown}, "response": "Formatted."},
        {"action": "pyautogui.click(1, 2)"},
    ]
    gui_trees.make(tmp_path / "src", steps)
    unit = next(u for u in rows.read(tmp_path / "src", ["GUI-Excel"]).units if u.label)
    result = pathlib.Path(unit.meta["source"]).parent / "sales.xlsx"
    result.unlink()
    with pytest.raises(FileNotFoundError, match=r"no result file beside .*; no state: .*0a-1\.zip"):
        opened(run, unit, "none")
    initial = tmp_path / "states" / "office" / "0a-1"
    initial.mkdir(parents=True)
    gui_trees.excel(initial / "sales.xlsx", False)
    found = opened(run, unit)
    report = environment.replay(found, environment.calls_of(found, unit))
    assert report.calls == 3
    (failed,) = report.failed
    assert failed.startswith("action: no tool 'action'")  # there is no desktop
    box = Toolbox(found.tools(read_only=True))
    cell = {"path": "sales.xlsx", "sheet": "Sales", "cells": "B5"}
    assert "=SUM(B2:B4)" in box.call("read_cells", cell).text
    assert "0.00" in box.call("read_styles", cell).text
    found.close()
    # A state that is ready for this unit goes by its id.
    run.replay = "prebuilt_state"
    ready = tmp_path / "states" / "office" / unit.id
    ready.mkdir(parents=True)
    gui_trees.excel(ready / "sales.xlsx", True)
    found = opened(run, unit, "ready")
    assert "SUM" in Toolbox(found.tools(True)).call("read_cells", cell).text
    found.close()


def test_a_folder_that_the_programs_user_can_pass(run, units):
    """Programs of a GUI sample may run as nobody; its folder must let them through, no more."""
    found = opened(run, units["PPT", True])
    assert (run.folder / "sample").stat().st_mode & 0o777 == 0o711
    assert (run.folder / "sample" / "root").stat().st_mode & 0o777 == 0o700
    found.close()
    assert [path.name for path in (run.folder / "sample").iterdir()] == ["root"]


def search_unit(tmp_path, web=None):
    web_trees.make(tmp_path / "src", web)
    return rows.read(tmp_path / "src", ["Search-Wide"]).units[0]


def test_samples_share_the_pages(run, tmp_path):
    unit = search_unit(tmp_path, tmp_path / "states" / "web")
    first, second = opened(run, unit, "a"), opened(run, unit, "b")
    first.close()
    box = Toolbox(second.tools(read_only=True))
    assert "2850" in box.call("search", {"query": "danube km"}).text
    second.close()
    assert len(run._snapshots) == 1
    # Nothing is written beside the user's pages: the child's files are the run's.
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == ["web"]
    homes = [path.name for path in run.folder.iterdir() if path.name.startswith("web-")]
    assert len(homes) == 2
    run.close()
    assert len([path for path in run.folder.iterdir() if path.name.startswith("web-")]) == 1


def test_the_nearest_pages_are_taken(run, tmp_path):
    unit = search_unit(tmp_path)
    key = unit.task.partition("/")[2]
    with pytest.raises(FileNotFoundError, match=r"no pages: .*web/index\.jsonl is needed"):
        screens.open_search(environment.Place(unit, run.folder, run))
    for place in ("web", "web/Wide", f"web/Wide/{key}"):
        folder = tmp_path / "states" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "p.txt").write_text(f"pages of {place}")
        row = {"url": "https://x.example/", "file": "p.txt"}
        (folder / "index.jsonl").write_text(json.dumps(row))
        found = screens.open_search(environment.Place(unit, run.folder, run))
        page = {"url": "https://x.example/", "part": "1"}
        assert Toolbox(found.tools(True)).call("open", page).text.endswith(f"pages of {place}")


def test_the_live_web_is_no_environment_of_ours(run, tmp_path):
    unit = search_unit(tmp_path)
    run.web = "live"
    found = screens.open_search(environment.Place(unit, run.folder, run))
    assert found.tools(False) == []
    assert found.digest() == found.digest()
    found.close()


def test_pages_in_a_browser(run, tmp_path):
    try:
        browser.program()
    except FileNotFoundError as error:
        pytest.skip(f"{error}")
    unit = search_unit(tmp_path, tmp_path / "states" / "web")
    run.web = "browser"
    found = opened(run, unit)
    before = found.digest()
    box = Toolbox(found.tools(read_only=True))
    hit = box.call("search", {"query": "danube"}).text.splitlines()[1].strip()
    assert "'Danube'" in box.call("open", {"url": hit}).text
    assert "2850" in box.call("find_in_page", {"text": "long"}).text
    assert found.digest() == before
    found.close()
    assert [path.name for path in (run.folder / "sample").iterdir()] == ["own"]


def test_a_child_outlives_the_thread_that_started_it(tmp_path):
    """Tools run in threads that come and go; the kernel ends a child with its starter's thread."""
    found = snapshot.Snapshot(web_trees.make(tmp_path) / "web")
    thread = threading.Thread(target=found.read, args=("https://rivers.example/danube",))
    thread.start()
    thread.join()
    child = found._worker._child
    assert "Rivers of Europe" in found.read("https://rivers.example/").text
    assert found._worker._child is child
    found.close()


def test_a_child_has_no_keys_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    found = snapshot.Snapshot(web_trees.make(tmp_path) / "web")
    found.read("https://rivers.example/")
    assert (
        b"secret-key" not in pathlib.Path(f"/proc/{found._worker._child.pid}/environ").read_bytes()
    )
    found.close()


def test_what_is_missing_is_said_at_once(tmp_path):
    """Before the first sample, and with how many units."""
    gui_trees.make(tmp_path / "src")
    search_unit(tmp_path)
    for name in ("true", "false"):
        os.unlink(tmp_path / "src" / "GUI" / "Word" / "0a-1" / name / "report.docx")
    units = rows.read(tmp_path / "src").units
    options = judges.Options(states=str(tmp_path / "states"))
    missing = judges.missing(units, options)
    assert len(missing) == 2 + 4  # Word, Search
    assert missing[0].startswith("Search-Wide/")
    assert "no result file beside" in missing[-1]


def test_a_judge_of_pictures_alone_needs_libreoffice(tmp_path, monkeypatch):
    units = rows.read(gui_trees.make(tmp_path / "src")).units
    office = [unit for unit in units if unit.subdomain in ("GUI-Word", "GUI-Excel", "GUI-PPT")]
    monkeypatch.setenv(soffice.VARIABLE, "/nowhere/soffice")
    seen = functools.partial(judges.Options, observation="screenshot")
    lacking = judges.missing(office, seen())
    assert len(lacking) == len(office) > 0
    assert all("LibreOffice is not installed" in line for line in lacking)
    servers = {unit.subdomain: {"command": "desktop"} for unit in office}
    assert judges.missing(office, seen(servers=servers)) == []
    assert judges.missing(office, seen(observation="mixed")) == []
    monkeypatch.setenv(soffice.VARIABLE, __file__)
    assert judges.missing(office, seen()) == []
