"""Text judges against judges with tools, all scripted: does looking at the state pay?

    python benchmarks/ajbench.py --tasks=200

Prints the tables of benchmarks/results/. Nothing in it is a language model.
"""

import argparse
from collections import Counter

from jaxlab.evals.ajbench import metrics, reproduction, scripted, workspace
from jaxlab.evals.tables import Table


def main() -> None:
    """Make, replay, judge, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budgets = (1, 2, 4, 8, 16)
    names = ["T0 claim", "T1 errors", "T2 calls", *(f"A1, {n} turns" for n in budgets)]
    labels: list[bool] = []
    verdicts: dict[str, list[bool]] = {name: [] for name in names}
    missed: dict[str, Counter[str]] = {name: Counter() for name in names}
    changed = 0
    with workspace.run_folder() as folder:
        for number in range(arguments.tasks):
            task = reproduction.task(number, arguments.seed)
            # The number of the pair decides the kinds, so that both stores meet all of them.
            pair = number // 2
            lie = reproduction.LIES[pair % len(reproduction.LIES)]
            truth = reproduction.TRUTHS[pair % len(reproduction.TRUTHS)]
            for kind in (truth, lie):
                place = folder / f"{task.id}-{kind}"
                place.mkdir()
                unit = reproduction.unit(task, kind, place)
                labels.append(unit.label)
                before = reproduction.digest(task, place / "state")
                found = [scripted.claims(unit), scripted.errors(unit), scripted.calls(unit, task)]
                found += [scripted.tools(task, place / "state", n) for n in budgets]
                changed += before != reproduction.digest(task, place / "state")
                for name, verdict in zip(names, found, strict=True):
                    verdicts[name].append(verdict)
                    missed[name][kind] += verdict != unit.label
    rows = []
    for name in names:
        counts = metrics.confusion(labels, verdicts[name])
        rows.append(
            {
                "judge": name,
                "F1": counts.f1,
                "balanced accuracy": counts.balanced_accuracy,
                "MCC": counts.mcc,
                "recall of right": counts.recall_right,
                "recall of wrong": counts.recall_wrong,
            }
        )
    note = f"{len(labels)} trajectories, {sum(labels)} right; states changed by judging: {changed}."
    print("\n".join(Table("Judges", rows, note).markdown()))
    kinds = [*reproduction.TRUTHS, *reproduction.LIES]
    errors = [{"judge": name, **{kind: missed[name][kind] for kind in kinds}} for name in names]
    print("\n".join(Table("Wrong verdicts by kind of trajectory", errors).markdown()))


if __name__ == "__main__":
    main()
