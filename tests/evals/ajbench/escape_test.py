"""Attempts to reach beyond a sample through its tools, none of which may succeed."""

import base64
import fcntl
import os
import pathlib
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from jaxlab.evals.ajbench.databases import postgres_server, sqlite
from jaxlab.evals.ajbench.databases.sql_tools import querying_sqlite
from jaxlab.evals.ajbench.environments import stores, workspace
from jaxlab.evals.ajbench.office import soffice
from jaxlab.evals.ajbench.sandbox import files
from jaxlab.evals.ajbench.sandbox.file_tools import reading_files, writing_files
from jaxlab.evals.ajbench.sandbox.limits import Limits, ToolError
from jaxlab.evals.ajbench.sandbox.tools import Tool, Toolbox

SECRET = "the label is 1"
SECRETS = (SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("="))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A sample's folder with every kind of trap in it, and a secret beside it."""
    base = tmp_path_factory.mktemp("base")
    (base / "secret.txt").write_text(SECRET)
    (base / "outside").mkdir()
    (base / "outside" / "secret.txt").write_text(SECRET)
    root = base / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "x.txt").write_text("inside")
    (root / "link").symlink_to(base / "secret.txt")
    (root / "up").symlink_to("..")
    (root / "a" / "away").symlink_to(base / "outside")
    (root / "a" / "slash").symlink_to("/")
    os.mkfifo(root / "pipe")
    return base


@pytest.fixture(scope="module")
def box(place):
    tree = files.Tree(place / "root", names=("/", "/data/work"))
    yield Toolbox([*reading_files(tree), *writing_files(tree)])
    tree.close()


@pytest.fixture(scope="module")
def outside(place):
    """State of everything but the sample's folder, which is not walked: the tools fill it."""

    def state():
        beside = [entry for entry in place.iterdir() if entry != place / "root"]
        found = [path for entry in beside for path in (entry, *entry.rglob("*"))]
        return sorted((str(p), p.read_bytes() if p.is_file() else b"") for p in found)

    return state


PIECES = [
    "..",
    ".",
    "",
    "a",
    "b",
    "up",
    "link",
    "away",
    "slash",
    "root",
    "secret.txt",
    "outside",
    "x.txt",
    "etc",
    "passwd",
    "proc",
    "self",
    "environ",
    "data",
    "work",
    "~",
    "%2e%2e",
    "..\\..",
]
PATHS = st.builds(
    lambda lead, parts: lead + "/".join(parts),
    st.sampled_from(["", "/", "//", "./", "/data/work/", "/data/work/../", "file://"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=7),
)


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(PATHS, st.sampled_from(PIECES), st.integers(0, 11))
def test_five_hundred_paths(place, box, outside, path, other, which):
    before = outside()
    for path_ in (path, f"{place}/{path}", f"{path}/{place}/secret.txt"):
        calls = [
            ("read_file", {"path": path_}),
            ("list_directory", {"path": path_}),
            ("directory_tree", {"path": path_}),
            ("search_files", {"path": path_, "pattern": "*"}),
            ("get_file_info", {"path": path_}),
            ("write_file", {"path": path_, "content": "pwned"}),
            ("create_directory", {"path": path_}),
            ("move_file", {"source": path_, "destination": f"../{other}"}),
            ("read_text_file", {"path": path_, "head": 3}),
            ("read_multiple_files", {"paths": [path_, f"../{other}"]}),
            ("read_media_file", {"path": path_}),
            ("edit_file", {"path": path_, "edits": [{"oldText": "", "newText": "pwned"}]}),
        ]
        reply = box.call(*calls[which])
        assert not any(text in reply.text for text in (*SECRETS, "root:x:0"))
    assert outside() == before


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("../secret.txt", "leads out"),
        ("a/../../secret.txt", "leads out"),
        ("up/secret.txt", "Not a directory"),
        ("link", "leads through a link"),
        ("a/away/secret.txt", "Not a directory"),
        ("a/slash/etc/passwd", "Not a directory"),
        ("/nowhere/passwd", "No such file"),
        ("pipe", "no file"),
        ("a/x.txt\0", "NUL"),
        ("\ud800", "Unicode"),
        ("x" * 5000, "4096"),
    ],
)
def test_refusals_say_why(box, path, cause):
    reply = box.call("read_file", {"path": path})
    assert reply.failed
    assert cause in reply.text


@pytest.mark.parametrize("tool", ["create_directory", "read_file", "list_directory"])
def test_a_name_that_the_system_refuses(box, tool):
    assert box.call(tool, {"path": "n" * 300}).failed


def test_a_folder_that_turns_into_a_link_and_back(tmp_path):
    """The race between check and use: a reader never comes out where the link leads."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text(SECRET)
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "x").write_text("inside")
    (root / "trap").symlink_to(tmp_path / "outside")
    tree, stop, seen = files.Tree(root), threading.Event(), set()

    def flip():
        while not stop.is_set():
            os.rename(root / "real", root / "spare")
            os.rename(root / "trap", root / "real")
            os.rename(root / "real", root / "trap")
            os.rename(root / "spare", root / "real")

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            try:
                seen.add(tree.read("real/x"))
            except ToolError:
                seen.add(None)
    finally:
        stop.set()
        thread.join()
    assert seen == {b"inside", None}


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "d.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE t (a, b); CREATE INDEX i ON t (a); INSERT INTO t VALUES (1, 'x'), (2, 'y');"
    )
    connection.commit()
    connection.close()
    (tmp_path / "other.sqlite").write_bytes(path.read_bytes())
    return path


HOSTILE = [
    "INSERT INTO t VALUES (3, 'z')",
    "UPDATE t SET a = 0",
    "DELETE FROM t",
    "DROP TABLE t",
    "CREATE TABLE u (a)",
    "CREATE TEMP TABLE u (a)",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT 1, 2 FROM x",
    "REPLACE INTO t VALUES (1, 1)",
    "ATTACH 'other.sqlite' AS o",
    "ATTACH ':memory:' AS o",
    "VACUUM",
    "VACUUM INTO 'stolen.sqlite'",
    "PRAGMA query_only = off",
    "PRAGMA writable_schema = on",
    "PRAGMA journal_mode = wal",
    "PRAGMA temp_store_directory = '/'",
    "SELECT load_extension('x')",
    "SELECT writefile('x', 'y')",
    "SELECT readfile('/etc/passwd')",
    "SELECT zeroblob(1000000000)",
    "SELECT 1; DELETE FROM t",
    "BEGIN IMMEDIATE",
    "CREATE VIRTUAL TABLE v USING fts5(a)",
    "REINDEX",
    "SELECT hex(printf('%4000000d', 1))",
]


@pytest.mark.parametrize("sql", [form(sql) for sql in HOSTILE for form in (str, str.lower)])
def test_a_judge_cannot_write_or_leave(database, sql):
    before, names = sqlite.digest(database), set(os.listdir(database.parent))
    raw = database.read_bytes()
    connection = sqlite.Database(database)
    for text in (sql, f"/* */ {sql}", f" {sql} ;"):
        assert Toolbox(querying_sqlite(connection)).call("execute_sql", {"sql": text}).failed
    connection.close()
    assert (sqlite.digest(database), database.read_bytes()) == (before, raw)
    assert set(os.listdir(database.parent)) == names


@pytest.mark.parametrize("sql", HOSTILE[8:20])
def test_replay_cannot_leave_either(database, sql):
    names = set(os.listdir(database.parent))
    connection = sqlite.Database(database, read_only=False)
    with pytest.raises(ToolError):
        connection.query(sql)
    connection.close()
    assert set(os.listdir(database.parent)) == names


def test_reading_and_replay_do_work(database):
    writer = sqlite.Database(database, read_only=False)
    for sql in ("BEGIN", "UPDATE t SET b = 'a;b' WHERE a = 1;", "COMMIT"):
        writer.query(sql)
    writer.close()
    reader = sqlite.Database(database)
    assert reader.query("SELECT b FROM t ORDER BY a") == '[{"b": "a;b"}, {"b": "y"}]'
    assert '"name": "a"' in reader.query("PRAGMA table_info(t)")
    reader.close()


ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c"
# Within one function SQLite asks nobody whether to go on; this one takes minutes.
LONG = "SELECT instr(printf('%.*c', 3000000, 'a'), printf('%.*c', 1000000, 'a') || 'b')"


@pytest.mark.parametrize(("statement", "seconds"), [(ENDLESS, 5), (LONG, 20)])
def test_a_query_without_end_is_ended(database, statement, seconds):
    reader = sqlite.Database(database, limits=Limits(seconds=0.2))
    start = time.monotonic()
    with pytest.raises(ToolError, match="sqlite: took more than"):
        reader.query(statement)
    assert time.monotonic() - start < seconds
    assert reader.query("SELECT 1 AS one") == '[{"one": 1}]'
    reader.close()


def test_a_sample_ends_in_the_middle_of_a_statement(database):
    store = stores.SQLite(database, Limits(seconds=300))
    box, said = Toolbox(store.tools(read_only=True)), []
    thread = threading.Thread(target=lambda: said.append(box.call("execute_sql", {"sql": LONG})))
    thread.start()
    time.sleep(1)
    start = time.monotonic()
    before = store.digest()
    store.close()
    thread.join(60)
    assert time.monotonic() - start < 60
    assert said[0].failed
    assert said[0].text == "sqlite: the sample has ended"
    assert before == sqlite.digest(database)


def test_a_trajectory_does_not_fill_the_disk(database):
    writer = sqlite.Database(database, False, Limits(seconds=20, database_bytes=1 << 20))
    many = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r LIMIT 300)"
    size = database.stat().st_size
    for name in ("big", "more", "most"):
        with pytest.raises(ToolError, match="full"):
            writer.query(f"CREATE TABLE {name} AS {many} SELECT printf('%.*c', 100000, 'x') FROM r")
        # Nor with another process, for which the file is large already.
        writer._worker._end()
        writer.query(f"CREATE TABLE {name} AS SELECT printf('%.*c', 400000, 'x') AS x")
        if name == "more":
            break
    assert database.stat().st_size < size + (1 << 20) + 8192
    writer.close()


def test_what_a_trajectory_leaves_open_was_never_done(database):
    """Also where its process had to be ended, and the file was half written by then."""
    store = stores.SQLite(database, Limits(seconds=0.5))
    before = store.digest()
    writing, reading = Toolbox(store.tools(read_only=False)), Toolbox(store.tools(read_only=True))
    many = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r LIMIT 8)"
    for last in ("SELECT 1", LONG):
        for sql in ("BEGIN", f"INSERT INTO t {many} SELECT i, printf('%.*c', 900000, 'x') FROM r"):
            assert not writing.call("execute_sql", {"sql": sql}).failed
        assert writing.call("execute_sql", {"sql": last}).failed is (last == LONG)
        assert store.digest() == before
        store.tools(read_only=True)
        assert (
            reading.call("execute_sql", {"sql": "SELECT count(*) AS n FROM t"}).text == '[{"n": 2}]'
        )
    store.close()


def test_results_are_cut(database):
    reader = sqlite.Database(database, limits=Limits(entries=3))
    rows = reader.query("SELECT x.a FROM t x, t y, t z")
    assert rows.count('"a"') == 3
    assert "left out" in rows
    reader.close()


@pytest.fixture
def strict_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_programs_of_another_user_reach_a_run_under_any_umask(tmp_path, strict_umask):
    with workspace.run_folder(tmp_path / "base") as folder:
        for path in (folder, folder.parent):
            assert path.stat().st_mode & 0o777 == 0o711
        settings = soffice._profile(folder) / "user" / "registrymodifications.xcu"
        assert settings.stat().st_mode & 0o777 == 0o644


def test_a_killed_run_leaves_nothing_after_the_next(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from jaxlab.evals.ajbench.environments import workspace\n"
        "with workspace.run_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'x').write_text('y'); print(folder, flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    folder = pathlib.Path(child.stdout.readline().strip())
    with workspace.run_folder(tmp_path):
        assert (folder / "x").exists()  # it lives, so its folder stays
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert folder.exists()
    with workspace.run_folder(tmp_path) as mine:
        assert not folder.exists()
        assert mine.exists()
    assert list(tmp_path.iterdir()) == []


def _deep(folder, depth, name="a"):
    """Folders in each other, with a file in the last: what no tool makes, but a program may."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    file = os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.close(file)
    os.close(here)


def test_no_tool_makes_a_tree_too_deep_or_a_path_too_long(tmp_path):
    tree = files.Tree(tmp_path)
    box = Toolbox([*reading_files(tree), *writing_files(tree)])
    cause = "may have 100 names and 3000 bytes"
    half, long = "/".join("a" * 60), "n" * 200
    for path in ("/".join("a" * 1500), "/".join("a" * 101), "/".join([long] * 16)):
        assert cause in box.call("create_directory", {"path": path}).text
        assert cause in box.call("write_file", {"path": path, "content": ""}).text
    assert list(tmp_path.iterdir()) == []
    for path in (half, f"c/{half}", "/".join([long] * 14), "m" * 200):
        assert not box.call("create_directory", {"path": path}).failed
    # Two that are not too deep make one that is, and so with long ones.
    for source, target in (("c", f"{half}/c"), ("a", f"c/{half}/a"), (long, f"{'m' * 200}/{long}")):
        reply = box.call("move_file", {"source": source, "destination": target})
        assert reply.failed
        assert cause in reply.text
    assert box.call("move_file", {"source": "a/a", "destination": "d"}).text == "moved a/a to d"
    tree.close()


def test_a_name_that_the_system_refuses_is_refused_by_every_tool(tmp_path):
    (tmp_path / "notes.txt").write_text("here")
    tree = files.Tree(tmp_path)
    box = Toolbox([*reading_files(tree), *writing_files(tree)])
    for tool in box.tools.values():
        for key in {"path", "source", "destination"} & tool.parameters.keys():
            needed = [name for name in tool.parameters if name not in tool.optional]
            given = dict.fromkeys(needed, "notes.txt") | {"edits": [], "destination": "new.txt"}
            given[key] = "n" * 300
            assert "File name too long" in box.call(tool.name, given).text, (tool.name, key)
    tree.close()


def test_a_tree_that_is_too_deep_is_hashed_and_removed(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    tree = files.Tree(root)
    _deep(root, 1050)
    first = tree.digest()
    _deep(root, 5, "b")
    second = tree.digest()
    assert first != second == tree.digest()
    # A judge is told, and nothing is raised.
    box = Toolbox(reading_files(tree))
    for tool in ("directory_tree", "search_files"):
        box.call(tool, {"path": "", "pattern": "*"})
    tree.close()
    assert files.remove(root)
    assert list(tmp_path.iterdir()) == []
    assert files.remove(root)


def test_what_is_removed_does_not_lead_out(place, tmp_path):
    files.copy(place / "root", tmp_path / "root")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("stays")
    (tmp_path / "root" / "a" / "away").symlink_to(tmp_path / "out")
    (tmp_path / "root" / "top").symlink_to(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert files.remove(tmp_path / "root")
    assert not files.remove(tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "out"]
    assert os.listdir(tmp_path / "out") == ["x"]


def test_a_sweep_survives_what_it_finds(tmp_path, caplog, monkeypatch):
    """A deep tree goes; what cannot be undone stays and is named; the next run begins."""

    def endless(folder):
        raise TimeoutError(folder)

    monkeypatch.setattr(postgres_server, "end_all", endless)
    for name in ("deep", "bad", "worse"):
        (tmp_path / f"run-{name}.lock").touch()
        (tmp_path / f"run-{name}").mkdir()
    _deep(tmp_path / "run-deep", 1050)
    for name in ("bad", "worse"):
        (tmp_path / f"run-{name}" / "pg-1" / "data").mkdir(parents=True)
    (tmp_path / "run-folder.lock").mkdir()
    (tmp_path / "run-link.lock").symlink_to("/etc/passwd")
    with workspace.run_folder(tmp_path):
        pass
    left = {"run-bad", "run-bad.lock", "run-worse", "run-worse.lock"}
    assert set(os.listdir(tmp_path)) == left | {"run-folder.lock", "run-link.lock"}
    assert "TimeoutError" in caplog.text


def test_a_tool_that_is_under_way_does_not_reach_the_next_sample(tmp_path):
    """It holds the number of a descriptor that is the next sample's by now."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = stores.FileSystem(tmp_path / "a")
    box, stop, said = Toolbox(first.tools(read_only=False)), threading.Event(), set()

    def write():
        while not stop.is_set():
            for name, arguments in (
                ("write_file", {"path": "leak.txt", "content": "of a"}),
                ("create_directory", {"path": "leak"}),
                ("get_file_info", {"path": ""}),
                ("list_directory", {"path": ""}),
            ):
                said.add(box.call(name, arguments).text)

    thread = threading.Thread(target=write)
    thread.start()
    others = []
    try:
        time.sleep(0.2)
        first.close()
        for _ in range(20):
            others.append(stores.FileSystem(tmp_path / "b"))
            time.sleep(0.02)
    finally:
        stop.set()
        thread.join()
    assert list((tmp_path / "b").iterdir()) == []
    assert "the sample has ended" in said
    for tree in (first, *others):
        tree.close()
    # Twice is once, and closes nobody else's.
    descriptor = os.dup(0)
    first.close()
    os.close(descriptor)
    with pytest.raises(ToolError, match="the sample has ended"):
        first.digest()


def test_a_machine_without_descriptors_is_no_refusal(tmp_path):
    """What comes from other samples must not look like a property of a path."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("inside")
    tree = files.Tree(tmp_path)
    box = Toolbox(reading_files(tree))
    free = os.dup(0)
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            box.call("read_file", {"path": "a/x.txt"})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert box.call("read_file", {"path": "a/x.txt"}).text == "inside"
    tree.close()


def test_a_run_without_its_lock_file_goes_when_it_is_old(tmp_path, monkeypatch):
    """What cleans /tmp takes files one by one; a run that lives, or is of today, stays."""
    for name in ("run-old", "run-new", "run-locked", "other-old"):
        (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / "run-link").symlink_to(tmp_path / "run-new")
    yesterday = time.time() - 25 * 3600
    with workspace.run_folder(tmp_path) as mine:
        mine.with_suffix(".lock").unlink()
        lock = os.open(tmp_path / "run-locked.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in (tmp_path / "run-old", tmp_path / "run-locked", tmp_path / "other-old", mine):
            os.utime(folder, (yesterday, yesterday))
        assert workspace.sweep(tmp_path) == [tmp_path / "run-old"]
        left = {"run-new", "run-locked", "run-locked.lock", "other-old", "run-link", mine.name}
        assert set(os.listdir(tmp_path)) == left
        os.utime(mine, (yesterday, yesterday))
        # Somebody else's is left alone.
        owner = os.stat(mine).st_uid + 1
        os.utime(tmp_path / "run-new", (yesterday, yesterday))
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: owner)
            assert workspace.sweep(tmp_path) == []
        os.close(lock)
        assert set(workspace.sweep(tmp_path)) == {tmp_path / "run-new", tmp_path / "run-locked"}
    assert set(os.listdir(tmp_path)) == {"other-old", "run-link"}


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_tool_that_needs_too_much_says_so(error):
    def run():
        raise error

    reply = Toolbox([Tool("t", "d", {}, run)]).call("t", {})
    assert reply.failed
    assert error.__name__ in reply.text


def test_a_copy_is_not_too_deep(tmp_path):
    (tmp_path / "source").mkdir()
    _deep(tmp_path / "source", 150)
    with pytest.raises(ValueError, match="more than 100 folders in each other"):
        files.copy(tmp_path / "source", tmp_path / "copy")
    assert files.remove(tmp_path / "source")


def test_a_copy_takes_no_links(place, tmp_path):
    left_out = files.copy(place / "root", tmp_path / "copy")
    assert {"link", "pipe", "a/away"} <= set(left_out)
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
