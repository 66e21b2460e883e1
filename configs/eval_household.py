"""Household games (ALFWorld, Shridhar et al. 2021): any model plays the panel, without training.

    python -m jaxlab.evaluate --config=configs/eval_household.py --workdir=runs/household \\
        --config.model.path=MODEL

The panel is 240 tasks, 20 of each family in rooms that training games are set in and 20 in others;
its digest is checked, and every answer has a seed of its own task. `benchmark.path` is "alfworld",
the panel in AI2-THOR's rooms (their inventories come with the extra `agents`, or from the folder
that JAXLAB_ALFWORLD_LAYOUTS names), "made_up", for which nothing is needed, or a folder of
game.tw-pddl files, ALFWorld's released archives among them. `engine=textworld` plays by ALFWorld
itself: the same texts, far slower (docs/household.md).

With a library of skills (Skill1) the policy writes a query, ranks what is found and acts with the
best; `benchmark.options.library` is "frozen", and the library at `skills` stays as it is, or
"growing", and it learns from every game, one after the other. The paper's evaluation is frozen:
temperature 0.4, 50 steps, the last two steps in the prompt. Its numbers (Skill1 97.5 % with
Qwen2.5-7B-Instruct trained on ALFWorld's own games) are of other games than these, and are no
target for this panel.

Any saved library is scored on the panel again, without training, and stays as it is:

    python -m jaxlab.evaluate --config=configs/eval_household.py --workdir=runs/replay \\
        --config.model.path=MODEL --config.library.path=runs/agent

`library.encoder.path` is the directory of the sentence encoder that it is searched by
(all-MiniLM-L6-v2 in the paper); a library of another encoder is refused, unless
`library.encoder.reembed` has it embedded again.

Variants: "made_up" (its rooms), "tiny" (two games of four steps, for tests).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "made_up", "tiny"):
        raise ValueError(
            f"configs/eval_household.py has the variants made_up and tiny, not {variant!r}"
        )
    tiny = variant == "tiny"
    config = common.episodes("household", tiny, max_steps=50, engine="fast")
    config.benchmark.path = "alfworld" if not variant else "made_up"
    return config
