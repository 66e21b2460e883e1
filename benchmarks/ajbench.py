"""Text judges against judges with tools, all scripted: does looking at the state pay?

    python benchmarks/ajbench.py --tasks=200 --plot=docs/ajbench_turns.png

Prints the tables of benchmarks/results/ and draws the turn curve. Nothing in it is a language
model. PostgreSQL is the system's, or that of the package pgserver.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from jaxlab.evals.ajbench import metrics, reproduction, scripted
from jaxlab.evals.ajbench.environments import environment, workspace
from jaxlab.evals.tables import Cell, Table

BUDGETS = (1, 2, 4, 8, 16)
TEXT = ("T0 claim", "T1 errors", "T2 calls")
KINDS = (*reproduction.TRUTHS, *reproduction.LIES)


class Verdict(NamedTuple):
    """What a judge said of a trajectory."""

    judge: str
    store: str
    kind: str
    label: bool
    verdict: bool


def main() -> None:
    """Make, replay, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    verdicts: list[Verdict] = []
    changed = 0
    with workspace.run_folder() as folder:
        run = environment.Run(folder)
        for number in range(arguments.tasks):
            task = reproduction.task(number, arguments.seed)
            goal = _digest_of_goal(task, run)
            # The number of the triple decides the kinds, so that all stores meet all of them.
            group = number // len(reproduction.STORES)
            for kind in (
                reproduction.TRUTHS[group % len(reproduction.TRUTHS)],
                reproduction.LIES[group % len(reproduction.LIES)],
            ):
                place = _folder(folder, f"{task.id}-{kind}".replace(" ", "_"))
                store = _open(task, place, task.initial, run)
                try:
                    unit = reproduction.unit(task, kind, store, goal)
                    before = store.digest()
                    found = [
                        scripted.claims(unit),
                        scripted.errors(unit),
                        scripted.calls(unit, task),
                        *(scripted.tools(task, store, turns, arguments.seed) for turns in BUDGETS),
                    ]
                    changed += store.digest() != before
                finally:
                    store.close()
                for judge, verdict in zip(_judges(), found, strict=True):
                    verdicts.append(Verdict(judge, task.store, kind, unit.label, verdict))
    units = len(verdicts) // len(_judges())
    right = sum(verdict.label for verdict in verdicts if verdict.judge == TEXT[0])
    note = f"{units} trajectories, {right} right; states changed by judging: {changed}."
    tables = [
        Table("Judges", [_scores(judge, verdicts) for judge in _judges()], note),
        Table("F1 by store", [_stores(judge, verdicts) for judge in _judges()]),
        Table("Wrong verdicts by kind of trajectory", [_missed(j, verdicts) for j in _judges()]),
    ]
    for table in tables:
        print("\n".join(table.markdown()))
    if arguments.plot is not None:
        _plot(verdicts, arguments.plot)


def _judges() -> list[str]:
    return [*TEXT, *(f"A1, {turns} turns" for turns in BUDGETS)]


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def _open(
    task: reproduction.Task, folder: Path, values: tuple[int, ...], run: environment.Run
) -> environment.Environment:
    server = run.server() if task.store == "DS-Postgres" else None
    return reproduction.open_store(task, folder, values, server)


def _digest_of_goal(task: reproduction.Task, run: environment.Run) -> str:
    store = _open(task, _folder(run.folder, f"{task.id}-goal"), task.goal, run)
    try:
        return store.digest()
    finally:
        store.close()


def _scores(judge: str, verdicts: list[Verdict]) -> dict[str, Cell]:
    counts = _confusion(judge, verdicts)
    by_store = [_confusion(judge, verdicts, store).f1 for store in reproduction.STORES]
    return {
        "judge": judge,
        "macro F1": sum(by_store) / len(by_store),
        "balanced accuracy": counts.balanced_accuracy,
        "MCC": counts.mcc,
        "recall of right": counts.recall_right,
        "recall of wrong": counts.recall_wrong,
    }


def _stores(judge: str, verdicts: list[Verdict]) -> dict[str, Cell]:
    found = {store: _confusion(judge, verdicts, store).f1 for store in reproduction.STORES}
    return {"judge": judge, **found}


def _missed(judge: str, verdicts: list[Verdict]) -> dict[str, Cell]:
    missed = Counter(v.kind for v in verdicts if v.judge == judge and v.label != v.verdict)
    return {"judge": judge, **{kind: missed[kind] for kind in KINDS}}


def _confusion(judge: str, verdicts: list[Verdict], store: str | None = None) -> metrics.Confusion:
    pairs = [
        (label, found) for j, s, _, label, found in verdicts if j == judge and store in (s, None)
    ]
    return metrics.confusion([label for label, _ in pairs], [found for _, found in pairs])


def _plot(verdicts: list[Verdict], path: Path) -> None:
    figure = Figure(figsize=(5.5, 3.4))
    axis = figure.subplots()
    scores = {row["judge"]: row["macro F1"] for row in (_scores(j, verdicts) for j in _judges())}
    curve = [scores[f"A1, {turns} turns"] for turns in BUDGETS]
    axis.plot(BUDGETS, curve, "o-", label="A1: tools")
    for judge, style in zip(TEXT, (":", "-.", "--"), strict=True):
        axis.axhline(scores[judge], linestyle=style, color="0.4", label=f"{judge} (text)")
    axis.set_xscale("log", base=2)
    axis.set_xticks(BUDGETS, [str(turns) for turns in BUDGETS])
    axis.set(xlabel="turns", ylabel="macro F1", ylim=(0.4, 1.02))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
