import json
import os
import struct
import time
import tracemalloc
import zipfile

import pytest

pytest.importorskip("psycopg")

from jaxlab.evals.ajbench import rows
from jaxlab.evals.ajbench.environments import environment, states, stores, subdomains, workspace
from jaxlab.evals.ajbench.sandbox import file_tools, files
from jaxlab.evals.ajbench.sandbox.limits import Limits
from jaxlab.evals.ajbench.sandbox.tools import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    STRINGS,
    Tool,
    Toolbox,
    fits,
)
from jaxlab.evals.ajbench.types import Call, Step, Unit
from tests.evals.ajbench import layout


@pytest.fixture
def run(base, tmp_path, request):
    layout.write(tmp_path)
    with workspace.run_folder(base) as folder:
        yield environment.Run(folder, tmp_path / "states")


def _units(tmp_path, subdomain):
    found = rows.read(tmp_path / "src", [subdomain]).units
    return {unit.label: unit for unit in found}


def _replayed(run, unit, name):
    folder = run.folder / name
    folder.mkdir()
    found = subdomains.open_environment(environment.Place(unit, folder, run))
    return found, environment.replay(found, unit.calls)


def test_recorded_file_calls_are_replayed(run, tmp_path):
    units = _units(tmp_path, "DS-FileSystem")
    right, report = _replayed(run, units[True], "right")
    assert (report.calls, report.diverged, report.left_out) == (7, 0, ())
    (outside,) = report.failed
    assert outside.startswith("read_text_file: '/etc/passwd' is outside")
    box = Toolbox(right.tools(read_only=True))
    # Under the name that the trajectory knew, and relative to the root.
    for path in (f"{layout.INSIDE}/archive/notes.md", "archive/notes.md"):
        assert box.call("read_file", {"path": path}).text == "draft one\n  final two\nlast\n"
    assert box.call("list_allowed_directories", {}).text == layout.INSIDE
    assert "write_file" not in box.tools
    wrong, _ = _replayed(run, units[False], "wrong")
    assert wrong.digest() != right.digest()
    wrong.close()
    right.close()
    assert (tmp_path / "states/filesystem/papers/notes.txt").exists()


def test_recorded_statements_are_replayed_on_postgres(run, server, tmp_path):
    run._server = server
    units = _units(tmp_path, "DS-Postgres")
    right, report = _replayed(run, units[True], "right")
    assert (report.calls, len(report.failed), report.diverged) == (8, 1, 0)
    assert report.left_out == ("analyze_db_health",)
    wrong, report = _replayed(run, units[False], "wrong")
    assert report.diverged == 0
    for store, price in ((right, 8), (wrong, 4)):
        box = Toolbox(store.tools(read_only=True))
        reply = box.call("execute_sql", {"sql": "SELECT price FROM items WHERE kind = 'tea'"})
        assert json.loads(reply.text) == [{"price": price}]
    assert right.digest() != wrong.digest()
    right.close()
    wrong.close()


def test_a_dump_that_is_not_restored_is_no_state(run, server, tmp_path):
    run._server = server
    dump = tmp_path / "states/postgres/shop.sql"
    dump.write_text(dump.read_text() + "GRANT SELECT ON items TO clerk;\n")
    for name, unit in _units(tmp_path, "DS-Postgres").items():
        with pytest.raises(ValueError, match=r'shop\.sql is not restored.*role "clerk" does not'):
            _replayed(run, unit, str(name))


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (["SELECT 1"], "state"),
        (["GRANT CONNECT ON DATABASE shop TO x; GRANT TEMP on database Shop TO y"], "shop"),
        (["ALTER ROLE x IN DATABASE shop SET a.b = 1"], "shop"),
        (['alter database "My Shop" SET a.b = 1', "COMMENT ON DATABASE other IS ''"], "My Shop"),
    ],
)
def test_a_database_has_the_name_that_a_trajectory_knows(statements, name):
    calls = tuple(Call("execute_sql", {"sql": statement}) for statement in statements)
    unit = Unit("u", "DS-Postgres", "t", "i", True, steps=(Step("", calls),))
    assert stores._database(unit) == name


def test_recorded_statements_are_replayed_on_sqlite(run, tmp_path):
    units = _units(tmp_path, "DS-SQLite")
    right, report = _replayed(run, units[True], "right")
    assert (report.calls, report.diverged) == (2, 1)
    wrong, _ = _replayed(run, units[False], "wrong")
    for store, row in ((right, 3), (wrong, 4)):
        reply = Toolbox(store.tools(True)).call("execute_sql", {"sql": "SELECT id FROM ledger"})
        assert json.loads(reply.text)[-1] == {"id": row}
        store.close()


def test_a_state_that_is_ready(run, tmp_path):
    unit = _units(tmp_path, "DS-FileSystem")[True]
    run.replay = "prebuilt_state"
    with pytest.raises(FileNotFoundError, match=r"success/agent_run1\.zip is needed"):
        _replayed(run, unit, "a")
    place = tmp_path / "states/filesystem" / unit.id
    place.mkdir(parents=True)
    (place / "ready.txt").write_text("x")
    store, _ = _replayed(run, unit, "b")
    box = Toolbox(store.tools(True))
    assert box.call("list_directory", {"path": ""}).text.endswith("[FILE] ready.txt")
    store.close()


def test_no_environment_names_those_that_there_are(run):
    unit = Unit("u", "GUI-Holograms", "t", "i", True)
    with pytest.raises(ValueError, match="no environment for GUI-Holograms: there are Search-W"):
        subdomains.open_environment(environment.Place(unit, run.folder, run))


def test_states_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give the folder with postgres/shop.sql"):
        states.find(None, "postgres", "shop")
    with pytest.raises(FileNotFoundError, match=r"shop.backup or .*shop.sql is needed"):
        states.find(tmp_path, "postgres", "shop")
    for key in ("../x", "/etc"):
        with pytest.raises(FileNotFoundError, match="no name of a state"):
            states.find(tmp_path, "filesystem", key)


KEYED = ["security/audit.sql", "security__audit.db", "audit.sql", "security.sql"]


@pytest.mark.parametrize(
    ("folder", "there", "alone", "defined"),
    [
        ("security/audit", KEYED, 0, 0),
        ("security/audit", KEYED[1:], 3, 3),
        ("security__audit", KEYED, 1, 1),
        ("security__audit", [KEYED[0], KEYED[3]], 0, 0),
        ("audit", KEYED, 2, 2),
        ("audit", [KEYED[2], KEYED[3]], 1 + 1, 1 + 1),
    ],
)
def test_a_state_of_the_task_goes_before_that_of_its_category(
    tmp_path, folder, there, alone, defined
):
    """With definitions of tasks and without them alike."""
    home = tmp_path / "src/DS/sqlite" / folder / "success/r"
    home.mkdir(parents=True)
    (home / "messages.json").write_text(json.dumps(layout.messages("i", [])))
    tasks = tmp_path / "tasks/standard/security/audit"
    tasks.mkdir(parents=True)
    (tasks / "description.md").write_text("Audit.")
    (tasks / "meta.json").write_text('{"task_id": "audit", "category_id": "security"}')
    for name in there:
        path = tmp_path / "states/sqlite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run = environment.Run(tmp_path, tmp_path / "states")
    for definitions, wanted in ((None, alone), (tmp_path / "tasks", defined)):
        (unit,) = rows.read(tmp_path / "src", tasks=definitions).units
        found = environment.Place(unit, tmp_path, run).state("sqlite")
        assert found == tmp_path / "states/sqlite" / KEYED[wanted]


def test_a_folder_of_the_tasks_name_is_one_within_the_state(tmp_path):
    (tmp_path / "filesystem/papers/sorted").mkdir(parents=True)
    assert states.find(tmp_path, "filesystem", "papers/sorted", "papers").name == "papers"
    (tmp_path / "filesystem/papers/sorted.zip").touch()
    assert states.find(tmp_path, "filesystem", "papers/sorted", "papers").name == "sorted.zip"


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_archives(tmp_path):
    _zip(tmp_path / "papers.zip", {"papers/a.txt": "a", "papers/b/c.txt": "c", "__MACOSX/x": ""})
    states.tree(tmp_path / "papers.zip", tmp_path / "wrapped")
    assert sorted(os.listdir(tmp_path / "wrapped")) == ["a.txt", "b"]
    _zip(tmp_path / "flat.zip", {"a.txt": "a", "papers/b.txt": "b"})
    states.tree(tmp_path / "flat.zip", tmp_path / "flat")
    assert sorted(os.listdir(tmp_path / "flat")) == ["a.txt", "papers"]


def test_files_keep_their_times(tmp_path):
    """A task of the benchmark sorts files by them."""
    (tmp_path / "folder" / "d").mkdir(parents=True)
    (tmp_path / "folder" / "d" / "a.txt").write_text("a")
    os.utime(tmp_path / "folder" / "d" / "a.txt", (981173106, 981173106))
    # Info-ZIP's field: that a time follows, and the time.
    members = {"a.txt": b"", "b.txt": struct.pack("<HHBi", 0x5455, 5, 1, 981173106)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, extra in members.items():
            info = zipfile.ZipInfo(f"d/{name}", (2001, 2, 3, 5 if extra else 4, 5, 6))
            info.extra = extra
            archive.writestr(info, "a")
    for source in ("folder", "x.zip"):
        states.tree(tmp_path / source, tmp_path / f"of_{source}")
        tree = files.Tree(tmp_path / f"of_{source}")
        box = Toolbox(file_tools.reading_files(tree))
        for path, _ in list(tree.walk("d")):
            info = json.loads(box.call("get_file_info", {"path": path}).text)
            assert info["modified"] == "2001-02-03T04:05:06+00:00"
        tree.close()


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/ajb-out.txt", "a/../../out.txt"])
def test_archives_that_lead_out(tmp_path, name):
    (tmp_path / "in").mkdir()
    _zip(tmp_path / "in" / "x.zip", {name: "pwned"})
    with pytest.raises(ValueError, match="leads out"):
        states.tree(tmp_path / "in" / "x.zip", tmp_path / "in" / "t")
    assert not (tmp_path / "out.txt").exists()


def test_archives_that_are_broken_or_too_large(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"x.zip: "):
        states.tree(tmp_path / "x.zip", tmp_path / "t")
    _zip(tmp_path / "deep.zip", {"/".join("a" * 1500): ""})
    with pytest.raises(ValueError, match="more than 100 folders in each other"):
        states.tree(tmp_path / "deep.zip", tmp_path / "t")
    monkeypatch.setattr(states, "LARGEST_BYTES", 10)
    _zip(tmp_path / "y.zip", {"a": "x" * 11})
    with pytest.raises(ValueError, match="more than 10 bytes"):
        states.tree(tmp_path / "y.zip", tmp_path / "t")


def test_a_link_in_an_archive_is_left_out(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "a")
    states.tree(tmp_path / "x.zip", tmp_path / "t")
    assert os.listdir(tmp_path / "t") == ["a.txt"]


def test_the_name_of_the_root_is_inferred():
    entries = ["papers", "notes.txt"]
    paths = ["/w/x/notes.txt", "/w/x/papers/a", "/w/x", "/etc/passwd", "/y/papers"]
    assert states.names_of_root(paths, entries) == ["/w/x", "/y"]
    assert states.names_of_root(["/etc/passwd"], entries) == []


@pytest.fixture
def box(tmp_path):
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "a.txt").write_text("1\n2\n3\n4\n")
    (root / "d" / "b.txt").write_text("b" * 9)
    tree = files.Tree(root, ("/data", "/"))
    yield Toolbox([*file_tools.reading_files(tree), *file_tools.writing_files(tree)])
    tree.close()


def test_a_file_is_moved_over_another(box, tmp_path):
    """As the recorded server does it, whatever it says of itself."""
    assert not box.call("move_file", {"source": "a.txt", "destination": "d/b.txt"}).failed
    assert (tmp_path / "root/d/b.txt").read_text() == "1\n2\n3\n4\n"
    assert not (tmp_path / "root/a.txt").exists()
    assert box.call("create_directory", {"path": "e"}).text == "made e"
    assert box.call("move_file", {"source": "e", "destination": "d"}).failed


def test_files_that_are_larger_than_what_is_read(tmp_path):
    tree = files.Tree(tmp_path, limits=Limits(write_bytes=10))
    box = Toolbox([*file_tools.reading_files(tree), *file_tools.writing_files(tree)])
    (tmp_path / "log").write_text("first\nmiddle\nlast\n")
    assert box.call("read_file", {"path": "log", "tail": 1}).text == "last"
    edit = {"path": "log", "edits": [{"oldText": "first", "newText": "1st"}]}
    assert box.call("edit_file", edit).text == "18 bytes are more than 10"
    assert (tmp_path / "log").read_text() == "first\nmiddle\nlast\n"
    tree.close()


def test_a_search_says_that_it_has_not_looked_at_all(tmp_path):
    for name in ("a/1", "a/2", "b/wanted"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    tree = files.Tree(tmp_path, limits=Limits(entries=4))
    box = Toolbox(file_tools.reading_files(tree))
    search = {"path": "", "pattern": "wanted"}
    assert box.call("search_files", search).text.startswith("... only the first 4 were looked at")
    assert box.call("search_files", search | {"path": "b"}).text == "b/wanted"
    tree.close()


def test_the_fourteen_names(box):
    assert set(box.tools) == {
        "read_file",
        "read_text_file",
        "read_media_file",
        "read_multiple_files",
        "write_file",
        "edit_file",
        "create_directory",
        "list_directory",
        "list_directory_with_sizes",
        "directory_tree",
        "move_file",
        "search_files",
        "get_file_info",
        "list_allowed_directories",
    }


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("read_text_file", {"path": "a.txt", "head": 2}, "1\n2"),
        ("read_text_file", {"path": "a.txt", "tail": 1}, "4"),
        ("read_text_file", {"path": "a.txt", "head": 0}, ""),
        ("read_text_file", {"path": "a.txt", "head": None, "encoding": "utf8"}, "1\n2\n3\n4\n"),
        ("list_directory_with_sizes", {"path": "", "sortBy": "size"}, "1 files, 8 bytes"),
        ("directory_tree", {"path": "d"}, '"name": "b.txt"'),
        ("directory_tree", {"path": "", "excludePatterns": ["d"]}, '"name": "a.txt"'),
        ("search_files", {"path": "", "pattern": "**/*.txt"}, "a.txt\nd/b.txt"),
        (
            "search_files",
            {"path": "/data", "pattern": "*.txt", "excludePatterns": ["d/*"]},
            "a.txt",
        ),
        ("get_file_info", {"path": "d/b.txt"}, '"size": 9'),
        ("read_media_file", {"path": "d/b.txt"}, "YmJiYmJiYmJi"),
        ("read_multiple_files", {"paths": ["a.txt", "none"]}, "none:\nerror: "),
    ],
)
def test_arguments_of_the_recorded_server(box, name, arguments, text):
    reply = box.call(name, arguments)
    assert not reply.failed, reply.text
    assert text in reply.text
    if "excludePatterns" in arguments:
        assert "b.txt" not in reply.text


@pytest.mark.parametrize(
    ("name", "arguments", "cause"),
    [
        ("read_text_file", {"path": "a.txt", "head": 1, "tail": 1}, "not both"),
        ("read_text_file", {"path": "a.txt", "head": "1"}, "head of read_text_file must be an int"),
        ("read_text_file", {"path": "a.txt", "head": True}, "must be an integer"),
        ("read_text_file", {}, "read_text_file needs path"),
        ("read_multiple_files", {"paths": "a.txt"}, "must be a list, each a string"),
        ("edit_file", {"path": "a.txt", "edits": [{"oldText": "1"}]}, "object with oldText, newT"),
        ("edit_file", {"path": "a.txt", "edits": [{"oldText": "9", "newText": ""}]}, "not occur"),
        ("read_file", ["a.txt"], "must be an object"),
    ],
)
def test_arguments_that_do_not_fit(box, name, arguments, cause):
    reply = box.call(name, arguments)
    assert reply.failed
    assert cause in reply.text


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        ("a b a", "a", "c", "c b a"),
        ("x\n", "x", "$&", "$&\n"),
        ("  if a:\n    b\n", "if a:\n  b", "if c:\n  d\n  e", "  if c:\n    d\n    e\n"),
        ("a\nb", "a\r\nb", "c", "c"),
    ],
)
def test_edits(text, old, new, result):
    assert file_tools.replaced(text, old, new) == result


def test_an_edit_that_is_only_shown(box):
    edits = [{"oldText": "2", "newText": "two"}, {"oldText": "two\n3", "newText": "five"}]
    shown = box.call("edit_file", {"path": "a.txt", "edits": edits, "dryRun": True})
    assert "+five" in shown.text
    assert box.call("read_file", {"path": "a.txt"}).text == "1\n2\n3\n4\n"
    assert box.call("edit_file", {"path": "a.txt", "edits": edits}).text == shown.text
    assert box.call("read_file", {"path": "a.txt"}).text == "1\nfive\n4\n"


def test_an_edit_is_shown_as_one_hunk(box):
    box.call("write_file", {"path": "n.txt", "content": "".join(f"{i}\n" for i in range(1, 13))})
    edits = [{"oldText": "5\n", "newText": "five\n"}, {"oldText": "7\n", "newText": ""}]
    assert box.call("edit_file", {"path": "n.txt", "edits": edits}).text.split("\n") == [
        "--- n.txt",
        "+++ n.txt",
        "@@ -2,9 +2,8 @@",
        *(" 2", " 3", " 4"),
        *("-5", "-6", "-7"),
        *("+five", "+6"),
        *(" 8", " 9", " 10"),
    ]
    same = [{"oldText": "8", "newText": "8"}]
    assert box.call("edit_file", {"path": "n.txt", "edits": same}).text == ""


@pytest.mark.parametrize("old", ["present", "absent"])
def test_an_edit_of_a_long_file_takes_no_time(box, old):
    """Line by line it took the square of their number, and a shortest difference does so too."""
    lines = [f"{i * 7919 % 211}" for i in range(20_000)]
    text = "\n".join(lines)
    assert not box.call("write_file", {"path": "long.txt", "content": text}).failed
    absent = "\n".join([*(f" {line}" for line in lines[:10_000]), "q"])
    wanted = text if old == "present" else absent
    new = "\n".join(f"{(3 * i * i + i) % 211}" for i in range(20_000))
    start = time.process_time()
    edits = [{"oldText": wanted, "newText": new}]
    assert box.call("edit_file", {"path": "long.txt", "edits": edits}).failed is (old == "absent")
    assert time.process_time() - start < 2


def test_many_paths_of_one_call_take_no_memory(box):
    box.call("write_file", {"path": "large.txt", "content": "x" * (4 << 20)})
    tracemalloc.start()
    reply = box.call("read_multiple_files", {"paths": ["large.txt"] * 40})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reply.text.startswith("large.txt:\nxxx")
    assert peak < 40 << 20
    for name, key in (("search_files", "excludePatterns"), ("directory_tree", "excludePatterns")):
        refused = box.call(name, {"path": "", "pattern": "x", key: ["*"] * 10_000})
        assert "10000 patterns are more than 20" in refused.text
    edits = [{"oldText": "x", "newText": "x"}] * 10_000
    refused = box.call("edit_file", {"path": "large.txt", "edits": edits})
    assert "10000 edits are more than 1000" in refused.text


def test_a_replay_without_end_is_no_state(box):
    class Slow:
        def tools(self, read_only):
            return [Tool("sleep", "d", {}, lambda: time.sleep(0.05) or "done")]

    calls = [Call("sleep", {})] * 1000
    with pytest.raises(environment.TooLong, match=r"the first \d calls .* took more than 0.1 s"):
        environment.replay(Slow(), calls, Limits(replay_seconds=0.1))
    assert environment.replay(Slow(), calls[:2], Limits(replay_seconds=60)).calls == 2


def test_schemas():
    assert fits(["a"], STRINGS)
    assert not fits([1], STRINGS)
    assert fits(1, NUMBER)
    assert fits(1.5, NUMBER)
    assert not fits(1.0, INTEGER)
    assert not fits(True, NUMBER)
    assert fits(True, BOOLEAN)
    tool = Tool("t", "d", {"a": "A", "n": "N"}, lambda a, n=1: a * n, {"n": INTEGER}, ("n",))
    assert tool.schema() == {
        "type": "object",
        "properties": {
            "a": {"type": "string", "description": "A"},
            "n": {"type": "integer", "description": "N"},
        },
        "required": ["a"],
    }
    assert Toolbox([tool]).call("t", {"a": "x", "n": 3}).text == "xxx"


def test_a_replay_of_odd_calls_ends():
    class Empty:
        def tools(self, read_only):
            return []

    calls = [Call("", None), Call("x", {"a": 1}, "ok"), Call("x", {}, "Error: no")]
    report = environment.replay(Empty(), calls)
    assert (report.calls, len(report.failed), report.diverged) == (3, 3, 1)
