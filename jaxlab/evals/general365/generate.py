"""Problems in the eight categories, in the public schema, with exact answers.

    python -m jaxlab.evals.general365.generate --out=rows.jsonl --seeds=180 --difficulty=2

With --format=tfds they become a dataset of tensorflow-datasets, see `dataset`.

Every answer comes from two routes that share no code, an exact method and an exhaustive search that
also proves it unique. A seed has three variants: "reskin" (other names and things), "constraint"
(one constraint changed, so that the answer changes) and "distractor" (a true sentence more that has
nothing to do with the question). These problems are ours and not the benchmark's own.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlab.evals.general365.families import FAMILIES
from jaxlab.evals.general365.families.skins import SKINS
from jaxlab.evals.general365.families.types import Family, Skin
from jaxlab.evals.general365.rows import SEED

VARIANTS = (SEED, "reskin", "constraint", "distractor")
# Draws of parameters, and changes of each, before a family counts as broken.
_DRAWS, _CHANGES = 2000, 40


def generate(seeds: int, difficulty: int = 2, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of `seeds` seed problems with their variants; the families take turns.

    Args:
        seeds: how many; four rows come of each.
        difficulty: from 1; sizes grow with it up to what exhaustive search can do.
        seed: the rows are a pure function of all three.

    Raises:
        ValueError: a count below 1.
    """
    check(seeds, difficulty)
    for i in range(seeds):
        family = FAMILIES[i % len(FAMILIES)]
        rng = random.Random(f"{seed}/{family.name}/{i}/{difficulty}")
        yield from _family_rows(family, rng, difficulty, f"{family.name}-{i:04d}")


def check(seeds: int, difficulty: int) -> None:
    """ValueError where a count is below 1."""
    if seeds < 1 or difficulty < 1:
        raise ValueError(f"seeds >= 1 and difficulty >= 1 are needed, got {seeds}, {difficulty}")


def write(path: str | Path, seeds: int, difficulty: int = 2, seed: int = 0) -> int:
    """Write the rows of `generate` as .jsonl; returns their number."""
    lines = [json.dumps(row) + "\n" for row in generate(seeds, difficulty, seed)]
    Path(path).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _family_rows(
    family: Family, rng: random.Random, difficulty: int, seed_id: str
) -> Iterator[dict[str, Any]]:
    skin, other = rng.sample(SKINS, 2)
    problem, changed = _drawn(family, rng, difficulty, skin)
    problems = {SEED: problem, "reskin": problem, "constraint": changed, "distractor": problem}
    for k, variant in enumerate(VARIANTS):
        dress = other if variant == "reskin" else skin
        story, question = family.tell(problems[variant], dress)
        # The aside speaks of another place, lest it add to the story.
        parts = [story, other.aside, question] if variant == "distractor" else [story, question]
        yield {
            "id": f"{seed_id}-{k}",
            "question": " ".join(parts),
            "answer": _proved(family, problems[variant], dress),
            "answer_type": family.answer_type,
            "float_round": "0",
            "category": list(family.categories),
            "seed_id": seed_id,
            "variant": variant,
        }


def _drawn(family: Family, rng: random.Random, difficulty: int, skin: Skin) -> tuple[Any, Any]:
    """Parameters with a unique answer, and changed ones with another unique answer."""
    for _ in range(_DRAWS):
        problem = family.draw(rng, difficulty)
        answer = _proved(family, problem, skin)
        if answer is None:
            continue
        for _ in range(_CHANGES):
            changed = family.change(rng, problem)
            if _proved(family, changed, skin) not in (None, answer):
                return problem, changed
    raise RuntimeError(f"{family.name}: no problem with a unique answer at difficulty {difficulty}")


def _proved(family: Family, problem: Any, skin: Skin) -> str | None:
    """The answer on which both routes agree; None where it is not unique."""
    answer, found = family.solve(problem, skin), family.search(problem, skin)
    if answer != found:
        raise RuntimeError(f"{family.name}: {answer} by method, {found} by search, for {problem}")
    return answer


def main() -> None:
    """Write a file of rows, or a dataset."""
    parser = argparse.ArgumentParser(description="Generate problems in General365's schema.")
    parser.add_argument("--out", required=True, help="the .jsonl file, or the folder, to write")
    parser.add_argument("--format", choices=("jsonl", "tfds"), default="jsonl")
    parser.add_argument("--seeds", type=int, default=180, help="seed problems; four rows of each")
    parser.add_argument("--difficulty", type=int, default=2, help="from 1")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    arguments = parser.parse_args()
    out, sizes = arguments.out, (arguments.seeds, arguments.difficulty, arguments.seed)
    try:
        if arguments.format == "tfds":
            from jaxlab.evals.general365 import dataset

            rows, out = dataset.write(out, *sizes)
        else:
            rows = write(out, *sizes)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"wrote {rows} rows to {out}")


if __name__ == "__main__":
    main()
