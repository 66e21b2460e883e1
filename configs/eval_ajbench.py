"""AJ-Bench (arXiv 2604.18240): a model as judge of trajectories, with tools or by text alone.

    python -m jaxlab.evaluate --config=configs/eval_ajbench.py --workdir=runs/ajbench \\
        --config.model.name=openai/gpt-5-mini --config.benchmark.path=AJ-Bench/src/data \\
        --config.benchmark.options.states=STATES

STATES holds what the recorded agents began with, and the pages for judges of search answers; of GUI
units, the result files in their folders are judged (`states.py` and `gui.py` in
`jaxlab/evals/ajbench/environments/`). Every sample over PostgreSQL has a server of its own, without
a network: of the system's programs or those of the package pgserver (benchmark.options.postgres),
16 or newer. A dump that is not restored without errors fails its units, and the report says why. A
state or a program that is missing is named at the start.
Judges read, and their tools cannot write; the paper's could (benchmark.options.read_only=False).
Three runs of each unit as in the paper. Its turn cap and sampling are not published: 100 turns and
60 s of a tool call are MCPMark's, and the temperature is the provider's own there.

Variants: "text" (the arm without tools), "react" (tools called in writing, for models that have no
tool calls, such as ours), "tiny" (two units, for tests).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The evaluation; see the module's docstring for the variants."""
    if variant not in ("", "text", "react", "tiny"):
        raise ValueError(
            f"configs/eval_ajbench.py has the variants text, react and tiny, not {variant!r}"
        )
    tiny = variant == "tiny"
    config = ConfigDict({"seed": 0, "model": common.subject()})
    config.benchmark = common.benchmark(
        "ajbench",
        samples=1 if tiny else 3,
        limit=2 if tiny else None,
        arm="text" if variant == "text" else "agent",
        scaffold="react" if tiny or variant == "react" else "loop",
        max_turns=2 if tiny else 100,
        tool_timeout=60.0,
        time_limit=placeholder(int),
        token_limit=placeholder(int),
        read_only=True,
        replay="true",
        states=placeholder(str),
        labels=placeholder(str),
        definitions=placeholder(str),
        postgres="auto",
        tools=placeholder(tuple),
        servers=ConfigDict(),
        web="snapshot",
        observation="a11y",
        summariser=False,
        record_characters=4000,
        subdomains=(),
        fields=common.fields("id", "task", "query", "item", "response", "label"),
        on_parse_fail="wrong",
        bad_rows="error",
    )
    config.eval = common.answers(8 if tiny else 8192, batch=2 if tiny else 16)
    config.mesh = {}
    return config
