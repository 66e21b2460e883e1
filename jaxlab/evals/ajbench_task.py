"""AJ-Bench (arXiv 2604.18240) as an inspect_ai task: judges of trajectories.

inspect eval jaxlab/ajbench -T path=AJ-Bench/src/data -T states=STATES --model openai/gpt-5-mini
inspect eval jaxlab/ajbench -T path=AJ-Bench/src/data -T arm=text --model jaxlab/MODEL
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState
from psycopg.conninfo import conninfo_to_dict

from jaxlab.evals import ajbench_judges, answers
from jaxlab.evals.ajbench import rows, verdicts
from jaxlab.evals.ajbench.databases import postgres_server
from jaxlab.evals.ajbench.databases.postgres_server import Source
from jaxlab.evals.ajbench.environments.environment import Replay, Web
from jaxlab.evals.ajbench.environments.gui import Observation
from jaxlab.evals.ajbench.environments.subdomains import ENVIRONMENTS
from jaxlab.evals.ajbench.metrics import OnParseFail
from jaxlab.evals.ajbench_judges import Arm, Options, Scaffold


@task
def ajbench(
    path: str,
    arm: Arm = "agent",
    scaffold: Scaffold = "loop",
    max_turns: int = 100,
    tool_timeout: float = 60.0,
    time_limit: int | None = None,
    token_limit: int | None = None,
    read_only: bool = True,
    replay: Replay | bool = "true",
    states: str | None = None,
    definitions: str | None = None,
    postgres: Source = "auto",
    dsn: str | None = None,
    tools: Sequence[str] | None = None,
    servers: Mapping[str, Mapping[str, Any]] | None = None,
    web: Web = "snapshot",
    observation: Observation = "a11y",
    summariser: bool = False,
    record_characters: int = 4000,
    subdomains: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    on_parse_fail: OnParseFail = "wrong",
    samples: int = 3,
    limit: int | None = None,
    seed: int = 0,
    bad_rows: rows.BadRows = "error",
    labels: str | None = None,
) -> Task:
    """Judges of trajectories; `samples` runs of each unit, averaged over runs.

    Args:
        path: folder with Search, DS and GUI, such as src/data of the official repository.
        arm: see `ajbench_judges.Options`, as for all options up to `record_characters` except
            the following.
        scaffold: see there.
        max_turns: see there.
        tool_timeout: see there.
        time_limit: seconds of a sample; a judge without a verdict by then has none.
        token_limit: tokens of a sample, likewise.
        read_only: see there.
        replay: see there.
        states: see there.
        definitions: folder of MCPMark's task definitions, from which instructions come.
        postgres: see there.
        dsn: see there; without a password, for arguments of a task are written down.
        tools: see there.
        servers: see there.
        web: see there.
        observation: see there.
        summariser: see there.
        record_characters: see there.
        subdomains: only these.
        fields: of the Search files; see `ajbench.rows.read`.
        on_parse_fail: whether a reply without a verdict counts as wrong or is left out; the paper
            does not say.
        samples: runs.
        limit: so many units, always the same ones.
        seed: as in `math`.
        bad_rows: as in `math`.
        labels: of Search rows, where they stand apart; see `ajbench.rows.read`.
    """
    shown = postgres_server.without_password(dsn or "")
    if conninfo_to_dict(dsn or "") != conninfo_to_dict(shown):
        raise ValueError(
            "a DSN with a password would stand in every log: give it in the environment as "
            f"{postgres_server.DSN}"
        )
    found = rows.read(path, tuple(subdomains), fields, definitions, bad_rows, labels)
    panel = found.panel().subset(limit)
    units = {unit.id: unit for unit in found.units}
    options = Options(
        arm,
        scaffold,
        max_turns,
        tool_timeout,
        read_only,
        # A command line's true is no string.
        cast(Replay, str(replay).lower()),
        states,
        postgres,
        dsn,
        tuple(tools) if tools is not None else None,
        servers or {},
        web,
        observation,
        summariser,
        record_characters,
        seed,
    )
    if arm == "agent":
        found_in = {units[row.id].subdomain for row in panel.rows}
        absent = found_in - ENVIRONMENTS.keys()
        if absent:
            raise ValueError(
                f"no environment for {min(absent)}: there are {', '.join(ENVIRONMENTS)}; name "
                "those in subdomains, or set arm=text"
            )
        searched = {name for name in found_in if name.startswith("Search-")}
        if web == "live" and searched - options.servers.keys():
            raise ValueError(
                f"web=live: name a server with a browser as servers.{min(searched)}, or give "
                "pages in states and set web=snapshot"
            )
        wanted = [units[row.id] for row in panel.rows]
        lacking = ajbench_judges.missing(wanted, options)
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(wanted)} units lack what they need: {lacking[0]}"
            )
    dataset = MemoryDataset(
        [
            Sample(
                input=ajbench_judges.messages(units[row.id], options),
                target=row.answer,
                id=row.id,
                metadata={**row.meta, "cluster": row.cluster},
            )
            for row in panel.rows
        ]
    )
    rejected = [f"{bad.where}: {bad.cause}" for bad in panel.rejected]
    return Task(
        dataset=dataset,
        solver=ajbench_judges.judge(units, options),
        scorer=ajbench_verdict(on_parse_fail),
        epochs=samples,
        time_limit=time_limit,
        token_limit=token_limit,
        metadata={"panel": panel.digest, "rejected": rejected},
    )


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def ajbench_verdict(on_parse_fail: OnParseFail = "wrong") -> Scorer:
    """Whether the verdict is the label. F1 is in the report, which `jaxlab.evaluate` writes.

    Args:
        on_parse_fail: decides in the report; here a reply without a verdict is not right.
    """
    del on_parse_fail

    async def score(state: TaskState, target: Target) -> Score:
        text = answers.without_thinking(state.output.completion)
        verdict = verdicts.parse(text)
        answer = None if verdict is None else str(int(verdict))
        reason = "no_verdict" if verdict is None else "match"
        if verdict is not None and answer != target.text:
            reason = "mismatch"
        return Score(
            value=float(answer == target.text),
            answer=answer,
            metadata={"reason": reason, "grader": "label"},
        )

    return score
