"""Runs of one benchmark side by side, with paired tests."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlab import config as config_lib
from jaxlab.evals import metrics, results
from jaxlab.evals.ajbench import metrics as ajbench_metrics
from jaxlab.evals.tables import Table


def write(workdir: Path, runs: Sequence[Path]) -> list[Table]:
    """Compare every run with the first, and write compare.md and compare.json in `workdir`.

    Rows are paired by their ids and the tests are clustered as the rows are; p-values are adjusted
    for their number (Holm). Only rows that all runs have are used. Runs of AJ-Bench are compared by
    macro F1 besides.

    Raises:
        FileNotFoundError, ValueError: a directory holds no benchmark's samples.
        ValueError: fewer than two runs, one of them twice, runs of different benchmarks, or without
            a row in common.
    """
    if len(runs) < 2:
        raise ValueError("--compare needs two work directories or more")
    for run in runs:
        _check_folder(run)
    places = [run.resolve() for run in runs]
    twice = [str(run) for i, run in enumerate(runs) if places[i] in places[:i]]
    if twice:
        raise ValueError(f"--compare names {twice[0]} twice: a run does not differ from itself")
    _check_benchmarks(runs)
    found = {str(run): results.read(run / "samples.jsonl") for run in runs}
    tables = [compare(found)]
    if all("subdomain" in result.meta for run in found.values() for result in run):
        tables.append(ajbench_metrics.comparison(found))
    workdir.mkdir(parents=True, exist_ok=True)
    content = {"tables": [table.to_json() for table in tables]}
    (workdir / "compare.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = [line for table in tables for line in table.markdown()]
    (workdir / "compare.md").write_text("\n".join(lines), encoding="utf-8")
    return tables


def compare(runs: dict[str, list[results.Result]]) -> Table:
    """The first table of `write`, from results by name; the first is the baseline.

    Raises:
        ValueError: no row is in all of them, or rows of one id have different references.
    """
    _check_references(runs)
    scores: dict[str, dict[str, float]] = {}
    clusters: dict[str, str] = {}
    for name, found in runs.items():
        ids, means, labels = results.row_means(found)
        scores[name] = dict(zip(ids, means.tolist(), strict=True))
        clusters |= dict(zip(ids, labels, strict=True))
    common = sorted(set.intersection(*(set(run) for run in scores.values())))
    if not common:
        raise ValueError(f"no row is in all of {', '.join(runs)}: are they of one benchmark?")
    labels = [clusters[row] for row in common]
    values = {name: np.array([run[row] for row in common]) for name, run in scores.items()}
    (baseline, first), *others = values.items()
    tests = [metrics.paired_test(first, other, labels) for _, other in others]
    adjusted = metrics.holm([test.p_value for test in tests])
    rows: list[dict] = [{"run": baseline, "accuracy": metrics.cluster_bootstrap(first, labels)}]
    for (name, other), test, p_value in zip(others, tests, adjusted, strict=True):
        rows.append(
            {
                "run": name,
                "accuracy": metrics.cluster_bootstrap(other, labels),
                "difference": test.difference,
                "better": test.better,
                "worse": test.worse,
                "p": test.p_value,
                "p (Holm)": p_value,
            }
        )
    left_out = len(set().union(*scores.values())) - len(common)
    note = (
        f"{len(common)} rows that all runs have in {len(set(labels))} clusters; {left_out} others "
        "left out. Differences are to the first run; p by flipping the signs of clusters, "
        "two-sided."
    )
    return Table("Comparison", rows, note)


def _check_folder(run: Path) -> None:
    """Check that the folder holds what an evaluation writes."""
    if not run.is_dir():
        beside = run.parent.iterdir() if run.parent.is_dir() else ()
        folders = {path.name: path for path in beside if (path / "samples.jsonl").exists()}
        near = config_lib.nearest(run.name, folders)
        cure = f"did you mean {folders[near]}?" if near else "name work directories of evaluations"
        raise FileNotFoundError(f"--compare: there is no folder {run}; {cure}")
    if not (run / "samples.jsonl").is_file():
        raise FileNotFoundError(
            f"--compare: {run} holds no samples.jsonl, which an evaluation writes when it ends"
        )


def _check_benchmarks(runs: Sequence[Path]) -> None:
    """Refuse runs whose configs name different benchmarks, unless their rows are the same."""
    known = {}
    for run in runs:
        try:
            config, report = (
                json.loads((run / name).read_text(encoding="utf-8"))
                for name in ("config.json", "report.json")
            )
            known[run] = Path(config["benchmark"]["name"]).stem, report["facts"].get("panel")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # samples alone can be compared too
    for run, (name, panel) in known.items():
        first, (other, rows) = next(iter(known.items()))
        if name != other and (panel is None or panel != rows):
            raise ValueError(f"{first} is a run of {other}, and {run} one of {name}")


def _check_references(runs: dict[str, list[results.Result]]) -> None:
    """Refuse rows that have the same id and are not the same."""
    seen: dict[str, tuple[str, str]] = {}
    for name, found in runs.items():
        for result in found:
            other, target = seen.setdefault(result.id, (name, result.target))
            if target != result.target:
                raise ValueError(
                    f"{other} and {name} are runs of different rows: the answer to {result.id!r} "
                    f"is {target!r:.40} in the one and {result.target!r:.40} in the other"
                )
