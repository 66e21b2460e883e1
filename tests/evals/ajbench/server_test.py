"""The tools over MCP, as a client of the protocol sees them."""

import sqlite3
import sys

import pytest

pytest.importorskip("mcp")

import anyio
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.memory import create_client_server_memory_streams

from jaxlab.evals.ajbench import server
from jaxlab.evals.ajbench.databases import postgres, sqlite
from jaxlab.evals.ajbench.sandbox.limits import Limits


def _session(arguments, talk):
    """What `talk(session)` gives, over a server with these arguments in this process."""
    options = server.parser().parse_args(list(map(str, arguments)))

    async def run(tools):
        made = server.make(tools, Limits())
        async with (
            create_client_server_memory_streams() as (ours, theirs),
            anyio.create_task_group() as group,
        ):
            group.start_soon(made.run, *theirs, made.create_initialization_options())
            async with ClientSession(*ours) as session:
                await session.initialize()
                found = await talk(session)
            group.cancel_scope.cancel()
        return found

    with server.opened(options, Limits()) as tools:
        return anyio.run(run, tools)


def _process(arguments, talk):
    """The same over a server in a process of its own."""

    async def run():
        command = ["-m", "jaxlab.evals.ajbench.server", *map(str, arguments)]
        parameters = StdioServerParameters(
            command=sys.executable, args=command, env={"PYTHONPATH": ":".join(sys.path)}
        )
        async with (
            stdio_client(parameters) as (reader, writer),
            ClientSession(reader, writer) as session,
        ):
            await session.initialize()
            return await talk(session)

    return anyio.run(run)


async def _call(session, name, **arguments):
    result = await session.call_tool(name, arguments)
    return result.is_error, result.content[0].text


def test_files(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("1\n2\n")
    (root / "out").symlink_to("/etc")

    async def talk(session):
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert "write_file" not in tools
        schema = tools["read_text_file"].input_schema
        assert schema["required"] == ["path"]
        assert schema["properties"]["head"]["type"] == "integer"
        return [
            await _call(session, "read_text_file", path="/data/work/a.txt", head=1),
            await _call(session, "read_text_file", path="out/passwd"),
            await _call(session, "write_file", path="a.txt", content="x"),
        ]

    read, out, write = _process(["--files", root, "--name", "/data/work"], talk)
    assert read == (False, "1")
    assert out[0]
    assert "Not a directory" in out[1]
    assert write[0]
    assert (root / "a.txt").read_text() == "1\n2\n"


def test_files_with_writing(tmp_path):
    async def talk(session):
        return await _call(session, "write_file", path="b.txt", content="x")

    assert _session(["--files", tmp_path, "--write"], talk) == (False, "wrote b.txt")
    assert (tmp_path / "b.txt").read_text() == "x"


def test_sqlite(tmp_path):
    path = tmp_path / "d.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.commit()
    connection.close()
    before = sqlite.digest(path)

    async def talk(session):
        return [
            await _call(session, "execute_sql", sql=sql)
            for sql in ("SELECT count(*) AS n FROM t", "DELETE FROM t", "ATTACH 'x' AS x")
        ]

    count, *refused = _session(["--sqlite", path], talk)
    assert count == (False, '[{"n": 0}]')
    assert all(failed for failed, _ in refused)
    assert sqlite.digest(path) == before


def test_postgres(unchanged):
    before = postgres.digest(unchanged.conninfo("reader"))

    async def talk(session):
        return [
            await _call(session, "execute_sql", sql=sql)
            for sql in ("SELECT count(*) AS n FROM t", "SELECT writes()", "COPY t TO PROGRAM 'id'")
        ]

    count, *refused = _session(["--postgres", unchanged.url("reader")], talk)
    assert count == (False, '[{"n": 2}]')
    assert all(failed for failed, _ in refused)
    assert postgres.digest(unchanged.conninfo("reader")) == before


def test_a_superuser_is_refused(unchanged, capsys, monkeypatch):
    role = f"host={unchanged.home} user=jaxlab_admin dbname={unchanged.database}"
    monkeypatch.setattr(sys, "argv", ["server", "--postgres", role])
    with pytest.raises(SystemExit) as left:
        server.main()
    assert left.value.code == 2
    assert "is superuser" in capsys.readouterr().err
