"""A small set in the layout of the official repository, with its initial states."""

import json

from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject

# Sub-domains whose states need no server.
LOCAL = ("DS-FileSystem", "DS-SQLite")
INSIDE = "/home/agent/backup_7/papers"
CLAIM = "Everything is done and checked."


def messages(instruction, calls):
    """A chat in OpenAI's style; calls are (name, arguments, result)."""
    found = [{"role": "user", "content": instruction}]
    for number, (name, arguments, result) in enumerate(calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": f"c{number}", "type": "function", "function": function}
        found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        found.append({"role": "tool", "tool_call_id": f"c{number}", "content": result})
    return [*found, {"role": "assistant", "content": CLAIM}]


def _file_calls(done):
    edit = {
        "path": f"{INSIDE}/archive/notes.md",
        "edits": [{"oldText": "  draft two\nlast", "newText": "final two\nlast"}],
        "dryRun": False,
    }
    calls = [
        ("list_allowed_directories", {}, f"Allowed directories:\n{INSIDE}"),
        ("read_text_file", {"path": f"{INSIDE}/notes.txt", "head": 2}, "draft one\n"),
        ("read_multiple_files", {"paths": [f"{INSIDE}/notes.txt"]}, "..."),
        ("create_directory", {"path": f"{INSIDE}/archive"}, "Successfully created"),
        (
            "move_file",
            {"source": f"{INSIDE}/notes.txt", "destination": f"{INSIDE}/archive/notes.md"},
            "Successfully moved",
        ),
        ("edit_file", edit, "diff"),
        ("read_text_file", {"path": "/etc/passwd"}, "Error: Access denied - outside"),
    ]
    return calls if done else [*calls[:5], calls[6]]


def _sql(statement):
    return "execute_sql", {"sql": statement}, "No results"


def _postgres_calls(done):
    raise_prices = "UPDATE items SET price = price * 2 WHERE kind = 'tea'"
    return [
        ("list_schemas", {}, "[]"),
        ("list_objects", {"schema_name": "public"}, "[]"),
        ("get_object_details", {"schema_name": "public", "object_name": "items"}, "{}"),
        ("analyze_db_health", {"health_type": "index"}, "fine"),
        ("execute_sql", {"sql": "SELECT nothing FROM items"}, "Error: column does not exist"),
        _sql(raise_prices if done else raise_prices.replace("tea", "Tea")),
        _sql("CREATE VIEW dear AS SELECT name FROM items WHERE price > 5"),
        _sql(
            "CREATE ROLE clerk; GRANT CONNECT ON DATABASE shop_7 TO clerk;"
            "GRANT SELECT ON items TO clerk; SET ROLE clerk; SELECT name FROM items; RESET ROLE"
        ),
    ]


def _sqlite_calls(done):
    # The recorded server let a COMMIT without BEGIN pass.
    return [_sql(f"INSERT INTO ledger VALUES ({3 if done else 4}, 30)"), _sql("COMMIT")]


TASKS = {
    "filesystem/papers/move_notes": ("Move and correct the notes.", _file_calls),
    "postgres/shop/raise_prices": ("Double the price of tea; add a view.", _postgres_calls),
    "sqlite/books/add_entry": ("Add 30 as entry 3.", _sqlite_calls),
}


def write(folder, kinds=("filesystem", "postgres", "sqlite"), left_out=()):
    """Makes `folder`/src and `folder`/states; two trajectories of each task, one of them right.

    Those in `left_out`, as TASK/LABEL, are not made.
    """
    for task, (instruction, calls) in TASKS.items():
        if task.partition("/")[0] not in kinds:
            continue
        for label, done in (("success", True), ("fail", False)):
            if f"{task}/{label}" in left_out:
                continue
            home = folder / "src" / "DS" / task / label / "agent_run1"
            home.mkdir(parents=True)
            (home / "messages.json").write_text(json.dumps(messages(instruction, calls(done))))
    papers = folder / "states" / "filesystem" / "papers"
    (papers / "old").mkdir(parents=True)
    (papers / "notes.txt").write_text("draft one\n    draft two\nlast\n")
    (papers / "old" / "a.txt").write_text("a")
    (folder / "states" / "postgres").mkdir()
    (folder / "states" / "postgres" / "shop.sql").write_text(
        "CREATE TABLE items (name text, kind text, price int);\n"
        "INSERT INTO items VALUES ('oolong', 'tea', 4), ('rye', 'bread', 3);\n"
    )
    (folder / "states" / "sqlite").mkdir()
    (folder / "states" / "sqlite" / "books.sql").write_text(
        "CREATE TABLE ledger (id INTEGER PRIMARY KEY, value INTEGER);\n"
        "INSERT INTO ledger VALUES (1, 10), (2, 20);\n"
    )
    return folder


def run(tmp_path, subdomains=LOCAL, samples=1, batch=8, **options):
    """A config over the trees of `write`, which are made where there are none."""
    options = {"states": str(tmp_path / "states"), "subdomains": subdomains} | options
    if not (tmp_path / "src").exists():
        write(tmp_path)
    return Run(
        Subject(name="scripted"),
        Benchmark("ajbench", str(tmp_path / "src"), samples, None, options),
        Sampling(batch=batch),
    )
