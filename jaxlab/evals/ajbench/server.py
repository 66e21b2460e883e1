"""The confined tools over MCP, so that a judge elsewhere can use them.

    python -m jaxlab.evals.ajbench.server --files DIR [--name /data/work] [--write]
    python -m jaxlab.evals.ajbench.server --sqlite FILE [--write]
    python -m jaxlab.evals.ajbench.server --postgres DSN [--write]

Speaks on stdin and stdout. The role of the DSN must have no rights outside its database.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp.types import Tool as MCPTool

from jaxlab.evals.ajbench.databases import postgres, sql_tools, sqlite
from jaxlab.evals.ajbench.sandbox import file_tools, files
from jaxlab.evals.ajbench.sandbox.limits import Limits
from jaxlab.evals.ajbench.sandbox.tools import Tool, Toolbox

# With these a statement reaches files and programs of the server.
_FORBIDDEN = """
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper
UNION ALL SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN
('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
AND pg_catalog.pg_has_role(oid, 'MEMBER')
"""


def make(tools: Sequence[Tool], limits: Limits) -> Server[Any]:
    """A server with exactly these tools."""
    box = Toolbox(tools, limits)

    async def list_tools(context: Any, request: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                MCPTool(name=tool.name, description=tool.description, input_schema=tool.schema())
                for tool in box.tools.values()
            ]
        )

    async def call_tool(context: Any, request: CallToolRequestParams) -> CallToolResult:
        reply = await anyio.to_thread.run_sync(box.call, request.name, request.arguments or {})
        return CallToolResult(
            content=[TextContent(type="text", text=reply.text)], is_error=reply.failed
        )

    return Server(
        "jaxlab-ajbench",
        version=metadata.version("jaxlab"),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


@contextlib.contextmanager
def opened(options: argparse.Namespace, limits: Limits) -> Iterator[list[Tool]]:
    """The tools over what the options name.

    Raises:
        ValueError: the role of the DSN could leave its database.
    """
    read_only = not options.write
    with contextlib.ExitStack() as stack:
        if options.files is not None:
            tree = files.Tree(options.files, (options.name or "/",), limits)
            stack.callback(tree.close)
            writing = [] if read_only else file_tools.writing_files(tree)
            yield [*file_tools.reading_files(tree), *writing]
        elif options.sqlite is not None:
            # The user's folder may be one in which nothing can be written.
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            database = sqlite.Database(options.sqlite, read_only, limits, home / "child")
            stack.callback(database.close)
            yield sql_tools.querying_sqlite(database)
        else:
            with psycopg.connect(options.postgres) as connection:
                found = connection.execute(_FORBIDDEN).fetchall()
            if found:
                raise ValueError(
                    f"the role of --postgres is superuser or member of {found[0][0]}: its "
                    "statements would reach files and programs; name a role without such rights"
                )
            server = postgres.Database(options.postgres, read_only, limits)
            stack.callback(server.close)
            yield sql_tools.querying_postgres(server)


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--files", type=Path, help="a folder")
    what.add_argument("--sqlite", type=Path, help="a database file")
    what.add_argument("--postgres", help="conninfo or URL of a database")
    parser.add_argument("--name", help="absolute path under which the folder is known")
    parser.add_argument("--write", action="store_true", help="also serve what changes things")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="of a statement")
    return parser


def main() -> None:
    """Serve until stdin ends."""
    options = parser().parse_args()
    limits = Limits(seconds=options.seconds)
    try:
        with opened(options, limits) as tools:
            anyio.run(_serve, make(tools, limits))
    except (ValueError, OSError, psycopg.Error) as error:
        parser().exit(2, f"{error}\n")


async def _serve(server: Server[Any]) -> None:
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


if __name__ == "__main__":
    main()
