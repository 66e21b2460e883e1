"""The environment of docs/environments.md, run from there."""

import asyncio
import pathlib
import re

from jaxlab.agents import skill1

SECTION = (pathlib.Path(__file__).parents[2] / "docs" / "environments.md").read_text()


def test_the_environment_of_the_page_is_short_and_runs():
    (program,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) <= 30
    names = {"__name__": "lift"}
    exec(program, names)
    assert names["lifts"].counts == {"steps": 6, "cut_actions": 0, "cut_texts": 0, "died": 0}
    assert names["seen"][2].text == "You are on floor 4."
    assert names["seen"][2].reward == 1.0

    async def generate(phase, prompt, choices):
        return "<action>up</action>" if "floor 3" in prompt else "<action>sing</action>"

    call = re.search(
        r"`jaxlab\.agents\.(skill1\.play)\(Lift\(3\), task, generate, library\)`", SECTION
    )
    assert call
    task = "go to floor 3"
    played = asyncio.run(skill1.play(names["Lift"](3), task, generate, None))
    assert (played.reward, played.actions) == (1.0, ("up", "up"))
