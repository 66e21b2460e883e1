"""An MCP server whose one tool thinks in parallel and deliberates, for any agent harness."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from jaxlab.agents.heavy import Heavy, Progress, Result

# Thinks about a question, and calls the last argument with what happens on the way.
Think = Callable[[str, Heavy, Callable[[Progress], None]], Awaitable[Result]]

ABOUT = (
    "Think hard about one question that has a definite answer: several independent attempts in "
    "parallel, then a critical reading of all of them. Slow and costly: use it where one attempt "
    "is likely to fail. The question must be complete; nothing else of the conversation is seen."
)


def server(think: Think, options: Heavy) -> MCPServer:
    """The server; its tool `think_harder` may set width, samples and rounds.

    Args:
        think: what answers; its ValueErrors, and that no text came, are errors of the tool.
        options: defaults and upper limits of these three, and all else.
    """
    made = MCPServer("jaxlab-heavy", version=metadata.version("jaxlab"))

    @made.tool(name="think_harder", description=ABOUT)
    async def think_harder(
        question: str,
        ctx: Context,
        width: int = options.width,
        samples: int = options.samples,
        rounds: int = options.rounds,
    ) -> dict[str, Any]:
        asked: dict[str, Any] = {"width": width, "samples": samples, "rounds": rounds}
        for name, value in asked.items():
            most = getattr(options, name)
            if not 1 <= value <= most:
                raise ToolError(f"{name} must be from 1 to {most}, not {value}")
        chosen = dataclasses.replace(options, **asked, pool=None)
        told: list[Progress] = []
        tasks = set()

        def tell(one: Progress) -> None:
            told.append(one)
            line = f"{one.stage} {one.done}/{one.wanted}"
            task = asyncio.ensure_future(ctx.report_progress(len(told), message=line))
            tasks.add(task)

        try:
            result = await think(question, chosen, tell)
        except ValueError as error:
            raise ToolError(str(error)) from error
        await asyncio.gather(*tasks, return_exceptions=True)  # whoever hears no progress, need not
        errors = [one.error for one in told if one.error]
        if result.manifest["answer_from"] == "none":
            raise ToolError(f"no text came: {errors[-1] if errors else 'all were empty'}")
        return {
            "answer": result.answer,
            "text": str(result.text),
            "answer_from": result.manifest["answer_from"],
            "thinkers": len(result.thinkers),
            "distinct_answers": result.manifest["distinct_answers"],
            "tokens": result.manifest["tokens"],
            "errors": errors,
        }

    return made
