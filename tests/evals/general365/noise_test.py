"""Solvers that err at a known rate, against the scores in closed form."""

import json
import math
import random
import re

import numpy as np
import pytest

pytest.importorskip("inspect_ai")

from jaxlab.evals import harness, results
from jaxlab.evals.general365 import generate, metrics, rows
from jaxlab.evals.results import Result
from jaxlab.evals.settings import Benchmark, Run, Sampling, Subject
from jaxlab.evals.tables import find
from jaxlab.grading.rows import sample_seed
from tests.evals import scripted

PROBLEMS = list(generate.generate(64, difficulty=1))
# How often an answer is right, by the first category of its problem.
SKILL = {category: 0.3 + 0.1 * i for i, category in enumerate(rows.CATEGORIES)}

WRONG = {"number": "-1", "text": "nobody", "single_choice": "Z", "multiple_choice": "Z"}


def _skill(raw):
    return SKILL[raw["category"][0]]


def _right(raw, sample, seed=0):
    """Drawn from row and sample alone, as the harness seeds a model."""
    return random.Random(sample_seed(seed, raw["id"], sample)).random() < _skill(raw)


def _noisy(samples):
    parse = rows.Parser()
    return [
        Result(row.id, j, _right(raw, j), None, "match", "rule", row.cluster, row.meta)
        for raw, row in ((raw, parse(raw)) for raw in PROBLEMS)
        for j in range(1, samples + 1)
    ]


def _worst(n, q, draws=4):
    """E[min of four means of n draws]: the sum over k of P(all four have more than k hits) / n."""
    pmf = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
    above = 1 - np.cumsum(pmf)
    return float(np.sum(above[:-1] ** draws) / n)


@pytest.mark.parametrize("n", [1, 20])
def test_scores_are_those_of_the_closed_form(n):
    tables = metrics.tables(_noisy(n))
    skill = np.array([_skill(raw) for raw in PROBLEMS])
    families = skill[::4]

    def near(found, expected, variance):
        # Four standard errors, of independent draws.
        return found.mean == pytest.approx(expected, abs=4 * math.sqrt(variance))

    accuracy = find(tables, "Scores").rows[0]["accuracy"]
    spread = skill * (1 - skill) / n
    assert near(accuracy, skill.mean(), spread.sum() / len(skill) ** 2)
    for row in find(tables, "By category").rows:
        chosen = [i for i, raw in enumerate(PROBLEMS) if row["category"] in raw["category"]]
        expected, variance = skill[chosen].mean(), spread[chosen].sum() / len(chosen) ** 2
        assert near(row["accuracy"], expected, variance), row["category"]
    (robust,) = find(tables, "Seeds and variants").rows
    each = 1 / len(families) ** 2
    by_family = families * (1 - families) / n
    assert near(robust["seeds"], families.mean(), each * by_family.sum())
    assert near(robust["variants"], families.mean(), each * by_family.sum() / 3)
    assert near(robust["gap"], 0.0, each * by_family.sum() * 4 / 3)
    # No share varies by more than 1/4, nor does the mean of n draws.
    assert near(robust["all of 4"], (families**4).mean(), each * len(families) / 4)
    worst = np.mean([_worst(n, q) for q in families])
    assert near(robust["worst of 4"], worst, each * len(families) / (4 * n))
    if n == 1:
        assert robust["all of 4"] == robust["worst of 4"]


def test_worst_of_four_by_hand():
    # One draw: all four hit. Two draws of q = 1/2: P(>0) = 3/4, P(>1) = 1/4.
    assert _worst(1, 0.3) == pytest.approx(0.3**4)
    assert _worst(2, 0.5) == pytest.approx((0.75**4 + 0.25**4) / 2)


def test_a_family_worked_by_hand():
    """Seeds 1, 0, 1, 0 and variants 1, 1/3, 2/3, 0: r = (2/3) / sqrt(1 * 5/9) = 2 / sqrt(5)."""
    grid = [[1, 1, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    found = _robust(grid)
    assert found["correlation"] == pytest.approx(2 / math.sqrt(5), abs=1e-12)
    assert (found["seeds"].mean, found["variants"].mean) == (0.5, pytest.approx(0.5))
    assert (found["all of 4"].mean, found["worst of 4"].mean) == (0.25, 0.25)
    assert _robust([[1, 0, 0, 0], [0, 1, 1, 1]])["correlation"] == pytest.approx(-1)
    assert _robust([[1, 0, 0, 0], [1, 1, 1, 1]])["correlation"] is None  # seeds do not vary
    assert _robust([[1, 0, 0, 0]])["correlation"] is None
    # Half of two completions right in the seed and in one variant: 1/2 * 1/2, and 1/2.
    twice = _robust([[0.5, 1, 1, 0.5]])
    assert (twice["all of 4"].mean, twice["worst of 4"].mean) == (0.25, 0.5)


def test_families_that_miss_rows_are_not_all_of_four():
    """A limit, or samples that failed: two right rows of a family are not four."""
    found = _robust([[1, 1], [1, 1, 1], [0, 1], [1, 0, 1, 1]])
    assert (found["families"], found["all of 4"].mean, found["worst of 4"].mean) == (4, 0.0, 0.0)
    assert found["gap"].mean == pytest.approx((0 + 0 - 1 + 1 / 3) / 4)


def _robust(grid):
    """Robustness of families whose rows have these shares of two completions right."""
    graded = [
        Result(
            f"{f}-{k}",
            sample,
            sample <= 2 * share,
            None,
            "match",
            "rule",
            str(f),
            {"seed_id": str(f), "variant": variant},
        )
        for f, family in enumerate(grid)
        for k, (share, variant) in enumerate(zip(family, generate.VARIANTS, strict=False))
        for sample in (1, 2)
    ]
    return metrics.robustness(graded)


def test_batch_and_order_change_no_byte_of_the_samples(tmp_path):
    """The noisy solver through the harness: prompts in, texts out, graded by the rule."""
    # What the rule decides without workers, whose start would be most of this test.
    problems = [raw for raw in PROBLEMS[-24:] if not re.search("[/[]", raw["answer"])]
    by_question = {raw["question"]: raw for raw in problems}

    def answer(prompt, seed):
        raw = by_question[prompt]
        right = random.Random(seed).random() < _skill(raw)
        return f"\\boxed{{{raw['answer'] if right else WRONG[raw['answer_type']]}}}"

    written = []
    for batch in (1, 5, 64):
        shuffled = random.Random(batch).sample(problems, len(problems))
        path = tmp_path / f"{batch}.jsonl"
        path.write_text("".join(json.dumps(raw) + "\n" for raw in shuffled))
        run = Run(
            Subject(name="scripted"),
            Benchmark("general365", str(path), samples=2, options={"grader": "rule"}),
            Sampling(batch=batch),
        )
        workdir = tmp_path / f"run{batch}"
        outcome = harness.evaluate(run, workdir, model=scripted.model(answer))
        written.append((workdir / "samples.jsonl").read_bytes())
        panel = json.loads((workdir / "report.json").read_text())["facts"]["panel"]
        written.append(panel.encode())
    assert written[:2] == written[2:4] == written[4:]
    wanted = {(raw["id"], j): _right(raw, j) for raw in problems for j in (1, 2)}
    graded = results.read(tmp_path / "run5" / "samples.jsonl")
    assert {(r.id, r.sample): r.correct for r in graded} == wanted
    assert outcome.scores["accuracy"] == np.mean(list(wanted.values()))
