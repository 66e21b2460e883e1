"""AJ-Bench (arXiv 2604.18240) as an inspect_ai task: judges of trajectories.

inspect eval jaxlab/ajbench -T path=AJ-Bench/src/data -T states=STATES --model openai/gpt-5-mini
inspect eval jaxlab/ajbench -T path=AJ-Bench/src/data -T arm=text --model jaxlab/MODEL
"""

from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from jaxlab import config as config_lib
from jaxlab.evals import options as options_lib
from jaxlab.evals.ajbench import judges, rows, verdicts
from jaxlab.evals.ajbench import options as ajbench_options
from jaxlab.evals.ajbench.environments.subdomains import ENVIRONMENTS
from jaxlab.evals.ajbench.options import Options
from jaxlab.evals.options import Asked
from jaxlab.grading import answers


def trajectories(asked: Asked, options: Options) -> Task:
    """Judges of trajectories; `asked.samples` runs of each unit, averaged over runs.

    Args:
        asked: its path is a folder with Search, DS and GUI, such as src/data of the official
            repository.
        options: how a judge works, and on what.

    Raises:
        ValueError: a unit cannot be read, or lacks what its judge needs.
        FileNotFoundError: nothing of the layout is at the path.
    """
    if options.definitions is not None and not Path(options.definitions).is_dir():
        raise FileNotFoundError(f"definitions: there is no folder {options.definitions}")
    found = rows.read(
        asked.path,
        options.chosen_subdomains,
        options_lib.named(options.fields),
        options.definitions,
        options.bad_rows,
        options.labels,
    )
    panel = found.panel().subset(asked.limit)
    units = {unit.id: unit for unit in found.units}
    if options.arm == "agent":
        found_in = {units[row.id].subdomain for row in panel.rows}
        absent = found_in - ENVIRONMENTS.keys()
        if absent:
            raise ValueError(
                f"no environment for {min(absent)}: there are {', '.join(ENVIRONMENTS)}; name "
                "those in subdomains, or set arm=text"
            )
        searched = {name for name in found_in if name.startswith("Search-")}
        if options.web == "live" and searched - options.servers.keys():
            raise ValueError(
                f"web=live: name a server with a browser as servers.{min(searched)}, or give "
                "pages in states and set web=snapshot"
            )
        wanted = [units[row.id] for row in panel.rows]
        lacking = judges.missing(wanted, options)
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(wanted)} units lack what they need: {lacking[0]}"
            )
    dataset = MemoryDataset(
        [
            Sample(
                input=judges.messages(units[row.id], options),
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
        solver=judges.judge(units, options, asked.seed),
        epochs=asked.samples,
        time_limit=options.time_limit,
        token_limit=options.token_limit,
        metadata={"panel": panel.digest, "rejected": rejected},
    )


@scorer(metrics=[mean(), stderr(cluster="cluster")])
def ajbench_verdict(**options: Any) -> Scorer:
    """Whether the verdict is the label. F1 is in the report, which `jaxlab.evaluate` writes.

    The options are `ajbench.options.Grading`: they decide in the report; here a reply without a
    verdict is not right.
    """
    config_lib.build(ajbench_options.Grading, options, "ajbench_verdict")

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
