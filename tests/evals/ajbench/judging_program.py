"""`python -m jaxlab.evaluate` with a judge that looks, "looking/judge", over the tests' trees.

Every request is noted in the file that JAXLAB_TEST_ASKED names; at the number of them that is in
JAXLAB_TEST_ANSWERS, if there is one, the program kills itself.
"""

import json
import os
import pathlib
import signal

from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi

from jaxlab import doors, evaluate

FIND = {"Danube": "https://rivers.example/danube", "Rhine": "https://rivers.example/rhine?x=1"}
# Words of the task -> calls that look, and what the last one shows if the task was done.
LOOKS = {
    "Move and correct": ([("read_text_file", {"path": "archive/notes.md"})], "final two"),
    "Double the price": (
        [("execute_sql", {"sql": "SELECT name FROM items WHERE price = 8"})],
        "oolong",
    ),
    "Add 30 as": ([("execute_sql", {"sql": "SELECT id FROM ledger WHERE id = 3"})], "3"),
    "the word 'Results'": (
        [
            ("VIEW_TRAJECTORY_STEP", {"step": "1"}),
            ("read_paragraphs", {"path": "/home/user/report.docx", "first": "1", "last": "9"}),
        ],
        "bold, color #FF0000",
    ),
    "the sum of the sales": (
        [("read_cells", {"path": "sales.xlsx", "sheet": "Sales", "cells": "B5"})],
        "=SUM(B2:B4)",
    ),
    "Title the second slide": (
        [("read_slide", {"path": "talk.pptx", "slide": "2"})],
        "notes 'slow down'",
    ),
    "Save the name": (
        [("VIEW_TRAJECTORY_STEP", {"step": "2"}), ("find_in_page", {"text": "saved"})],
        "saved ada\n",
    ),
    **{
        f'"{river}", "km": 2850': ([("find", {"url": url, "text": "2850"})], "2850")
        for river, url in FIND.items()
    },
}
# Asked for first, in every sample: what a judge must not have.
FORBIDDEN = [("write_file", {"path": "x", "content": "x"}), ("set_cell", {}), ("CLICK", {})]


def reply(messages):
    """The next message of a judge that tries to write, looks, and says what it saw."""
    calls, wanted = next(look for words, look in LOOKS.items() if words in messages[1].text)
    orders = [*FORBIDDEN, *calls]
    done = [message for message in messages if message.role == "tool"]
    for message in done[: len(FORBIDDEN)]:
        assert message.error is not None, message.text
    for message in done[len(FORBIDDEN) :]:
        assert message.error is None, message.error
    if len(done) < len(orders):
        return ModelOutput.for_tool_call("judge", *orders[len(done)])
    return ModelOutput.from_content(
        "judge", f"Response: [{int(wanted in done[-1].text + chr(10))}]"
    )


@modelapi(name="looking")
class Looking(ModelAPI):
    """The judge as a model."""

    async def generate(self, input, tools, tool_choice, config):
        asked = pathlib.Path(os.environ["JAXLAB_TEST_ASKED"])
        with asked.open("a") as file:
            file.write(json.dumps([config.seed, input[-1].role]) + "\n")
        limit = int(os.environ.get("JAXLAB_TEST_ANSWERS", 0))
        if limit and len(asked.read_text().splitlines()) >= limit:
            os.kill(os.getpid(), signal.SIGKILL)
        output = reply(input)
        output.usage = ModelUsage(input_tokens=10, output_tokens=2, total_tokens=12)
        return output


doors.run(evaluate.main, required=["workdir"], positional=True)
