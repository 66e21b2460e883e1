import json
import sqlite3

import pytest

pytest.importorskip("psycopg")

from jaxlab.evals.ajbench.databases import json_form, sqlite, sqlite_worker
from jaxlab.evals.ajbench.environments import states, stores
from jaxlab.evals.ajbench.sandbox.limits import DEFAULT
from jaxlab.evals.ajbench.sandbox.tools import Toolbox


def _digest_after(path, *statements):
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a, b AS (length(a)))")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return sqlite.digest(path)


def test_the_digest_is_that_of_the_content(tmp_path):
    path = tmp_path / "x.sqlite"
    rows = ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"]
    before = _digest_after(path, *rows)
    assert before == _digest_after(path, *reversed(rows))
    assert before == _digest_after(
        path, *rows, "INSERT INTO t VALUES (3)", "DELETE FROM t WHERE a=3"
    )
    others = [
        rows[:1],
        [*rows, rows[1]],
        [*rows, "UPDATE t SET a = 2.0 WHERE a = 2"],
        [*rows, "UPDATE t SET a = '2' WHERE a = 2"],
        [*rows, "UPDATE t SET a = x'32' WHERE a = 2"],
        [*rows, "UPDATE t SET a = NULL WHERE a = 2"],
        [*rows, "CREATE INDEX i ON t (a)"],
        ["INSERT INTO t VALUES ('a' || char(0) || 'b')"],
        ["INSERT INTO t VALUES ('a' || char(0) || 'c')"],
        ["INSERT INTO t VALUES (CAST(x'ff41' AS TEXT))"],
        ["INSERT INTO t VALUES (CAST(x'fe41' AS TEXT))"],
    ]
    assert len({before, *(_digest_after(path, *other) for other in others)}) == len(others) + 1


def test_the_digest_reads_whatever_there_is(tmp_path):
    """Names with signs, texts that are no UTF-8, tables of other kinds, views of nothing."""
    path = tmp_path / "x.sqlite"
    name = '"we\'ird ""x"'
    made = [
        f'CREATE TABLE {name} ("a ""b" TEXT)',
        "CREATE TABLE w (a PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE q (a INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE VIEW v AS SELECT * FROM nowhere",
    ]
    before = _digest_after(path, *made)
    for table in (name, "w", "q"):
        assert _digest_after(path, *made, f"INSERT INTO {table} VALUES (1)") != before


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["id", "name", "id", "id"], ["id", "name", "id_2", "id_3"]),
        (["id", "id", "id_2", "id_2"], ["id", "id_3", "id_2", "id_2_2"]),
        (["", ""], ["", "_2"]),
        ([], []),
    ],
)
def test_columns_of_one_name_keep_their_values(columns, names):
    assert json_form.names(columns) == names


def test_rows_are_json_whatever_is_in_them():
    def refuse(constant):
        raise AssertionError(constant)

    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE person (id INTEGER, name TEXT, pet INTEGER)")
    connection.execute("CREATE TABLE pet (id INTEGER, name TEXT)")
    connection.execute("INSERT INTO person VALUES (1, 'Ann', 7)")
    connection.execute("INSERT INTO pet VALUES (7, 'Rex')")
    for query, wanted in (
        (
            "SELECT * FROM person JOIN pet ON pet = pet.id",
            {"id": 1, "name": "Ann", "pet": 7, "id_2": 7, "name_2": "Rex"},
        ),
        (
            "SELECT 9e999 AS a, -9e999 AS b, x'00ff' AS c, NULL AS d, 0.1 AS e, 1e300 AS f",
            {"a": "Infinity", "b": "-Infinity", "c": r"\x00ff", "d": None, "e": 0.1, "f": 1e300},
        ),
    ):
        cursor = connection.execute(query)
        columns = [entry[0] for entry in cursor.description]
        text = sqlite_worker.rows_as_json(columns, cursor, DEFAULT)
        assert json.loads(text, parse_constant=refuse) == [wanted]
    connection.close()


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("1.10", "1.10"),
        ("-7", "-7"),
        ("1e+300", "1e+300"),
        ("0.12345678901234567890", '"0.12345678901234567890"'),
        ("9007199254740993.5", '"9007199254740993.5"'),
        ("1" + "0" * 400, f'"1{"0" * 400}"'),
        ("NaN", '"NaN"'),
        ("-Infinity", '"-Infinity"'),
        ("1_0", '"1_0"'),
    ],
)
def test_numbers_are_json_where_a_double_holds_them(text, literal):
    assert json_form.number(text) == literal


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_is_copied_with_its_log(tmp_path, mode):
    """A program that has not ended has its last rows beside the file."""
    source, target = tmp_path / "in.db", tmp_path / "of" / "x.sqlite"
    connection = sqlite3.connect(source)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    target.parent.mkdir()
    states.sqlite_file(source, target)
    store = stores.SQLite(target)
    before = store.digest()
    reply = Toolbox(store.tools(True)).call("execute_sql", {"sql": "SELECT * FROM t"})
    assert reply.text == '[{"a": 1}]'
    assert store.digest() == before
    store.close()
    connection.close()
    # A judge that reads leaves nothing beside it either.
    assert list(target.parent.iterdir()) == [target]


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "a.sqlite").write_text("no database")
    with pytest.raises(ValueError, match=r"a\.sqlite: file is not a database"):
        states.sqlite_file(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
