"""What is reported of General365: micro accuracy, categories, and seeds against variants.

A row with several completions counts by their mean; intervals are clustered by seed, since a seed
and its variants are one problem in four dresses.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxlab.evals import metrics
from jaxlab.evals.general365.rows import CATEGORIES, SEED
from jaxlab.evals.results import Result, by_row
from jaxlab.evals.tables import Cell, Table


def tables(results: Sequence[Result]) -> list[Table]:
    """Overall, per category, per answer type, and seeds against variants."""
    found = [Table("Scores", [overall(results)], "Accuracy is the mean over rows.")]
    labels = {label for result in results for label in result.meta.get("categories", ())}
    order = [*(name for name in CATEGORIES if name in labels), *sorted(labels - set(CATEGORIES))]
    if labels:
        found.append(
            Table(
                "By category",
                [{"category": label, **_accuracy(results, _has(label))} for label in order],
                "A row counts in each of its categories.",
            )
        )
    types = sorted({str(result.meta["answer_type"]) for result in results})
    found.append(
        Table(
            "By answer type",
            [
                {"answer type": kind, **_accuracy(results, _is("answer_type", kind))}
                for kind in types
            ],
        )
    )
    robust = robustness(results)
    if robust is not None:
        found.append(Table("Seeds and variants", [robust]))
        variants = sorted({str(result.meta["variant"]) for result in results})
        found.append(
            Table(
                "By variant",
                [
                    {"variant": name, **_accuracy(results, _is("variant", name))}
                    for name in [v for v in (SEED,) if v in variants]
                    + [v for v in variants if v != SEED]
                ],
            )
        )
    return found


def overall(results: Sequence[Result]) -> dict[str, Cell]:
    """Micro accuracy and mean output tokens."""
    tokens = [result.output_tokens for result in results]
    return {**_accuracy(results), "output tokens": float(np.mean(tokens))}


def robustness(results: Sequence[Result]) -> dict[str, Cell] | None:
    """Seed and variant accuracy, their gap, and how often a whole family is right.

    All of four is the share of families whose rows are all right, in expectation over a drawn
    completion of each; worst of four the mean over families of their worst row's accuracy, both
    over the families that miss none of their rows. None where the rows do not tell seeds from
    variants.
    """
    if not all("variant" in result.meta and "seed_id" in result.meta for result in results):
        return None
    families: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        families.setdefault(result.meta["seed_id"], {}).setdefault(result.id, []).append(result)
    seeds, variants, rows = [], [], []
    for family in families.values():
        means = {
            row: (completions[0].meta["variant"] == SEED, _mean(completions))
            for row, completions in family.items()
        }
        seed = [mean for is_seed, mean in means.values() if is_seed]
        others = [mean for is_seed, mean in means.values() if not is_seed]
        if seed and others:
            seeds.append(float(np.mean(seed)))
            variants.append(float(np.mean(others)))
            rows.append([*seed, *others])
    if not seeds:
        return None
    most = max(map(len, rows))
    whole = np.array([means for means in rows if len(means) == most])
    gap = np.array(seeds) - np.array(variants)
    return {
        "families": len(seeds),
        "seeds": metrics.cluster_bootstrap(np.array(seeds)),
        "variants": metrics.cluster_bootstrap(np.array(variants)),
        "gap": metrics.cluster_bootstrap(gap),
        f"all of {most}": metrics.cluster_bootstrap(whole.prod(1)),
        f"worst of {most}": metrics.cluster_bootstrap(whole.min(1)),
        "correlation": _correlation(seeds, variants),
    }


def _accuracy(
    results: Sequence[Result], keep: Callable[[Result], bool] = lambda result: True
) -> Mapping[str, Cell]:
    groups = list(by_row([result for result in results if keep(result)]).values())
    means = np.array([_mean(group) for group in groups])
    clusters = [group[0].cluster for group in groups]
    return {"rows": len(groups), "accuracy": metrics.cluster_bootstrap(means, clusters)}


def _has(label: str) -> Callable[[Result], bool]:
    return lambda result: label in result.meta.get("categories", ())


def _is(name: str, value: str) -> Callable[[Result], bool]:
    return lambda result: result.meta[name] == value


def _mean(results: Sequence[Result]) -> float:
    return float(np.mean([result.correct for result in results]))


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's, None where one of them does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
