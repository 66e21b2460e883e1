import asyncio

import pytest

pytest.importorskip("mcp")

from jaxlab.agents import heavy
from jaxlab.agents.heavy import Heavy


def call(generate, **arguments):
    """The tool's result and what progress it reported, over the protocol."""
    from mcp import Client

    from jaxlab.agents import heavy_server

    async def think(question, options, progress):
        return await heavy.think(question, generate, options, progress=progress)

    made = heavy_server.server(think, Heavy(width=4, samples=2, rounds=2, retries=0))
    told = []

    async def noted(progress, total, message):
        told.append(message)

    async def run():
        async with Client(made) as client:
            (tool,) = (await client.list_tools()).tools
            assert tool.name == "think_harder"
            assert tool.input_schema["required"] == ["question"]
            return await client.call_tool("think_harder", arguments, progress_callback=noted)

    return asyncio.run(run()), told


async def sure(prompt, *, samples, seed, stage):
    return ["It is \\boxed{42}."] * samples


async def dead(prompt, *, samples, seed, stage):
    raise ConnectionError("no route")


def test_the_tool_answers_with_what_happened():
    result, told = call(sure, question="What?", width=3, rounds=1)
    assert not result.is_error
    content = result.structured_content
    assert content["answer"] == "42"
    assert content["text"] == "It is \\boxed{42}."
    assert (content["thinkers"], content["answer_from"]) == (3, "deliberation")
    assert told == ["think 3/3", "deliberate 2/2"]


@pytest.mark.parametrize(
    ("generate", "arguments", "message"),
    [
        (sure, {"question": "What?", "width": 5}, "width must be from 1 to 4, not 5"),
        (sure, {"question": " "}, "the question is empty"),
        (dead, {"question": "What?"}, "no text came: ConnectionError: no route"),
        (sure, {}, "question"),
    ],
)
def test_errors_of_the_tool_name_their_cause(generate, arguments, message):
    result, _ = call(generate, **arguments)
    assert result.is_error
    assert message in result.content[0].text
