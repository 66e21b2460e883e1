"""Problems in the eight categories, in the public schema, with exact answers.

Every answer comes from two routes that share no code, an exact method and an exhaustive search that
also proves it unique. A seed has three variants: "reskin" (other names and things), "constraint"
(one constraint changed, so that the answer changes) and "distractor" (a true sentence more that has
nothing to do with the question). These problems are ours and not the benchmark's own.
"""

import json
import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlab.evals.general365.families import FAMILIES
from jaxlab.evals.general365.families.skins import SKINS
from jaxlab.evals.general365.families.types import Family, Skin
from jaxlab.evals.general365.rows import SEED

VARIANTS = (SEED, "reskin", "constraint", "distractor")
# Beyond it, exhaustive search no longer ends within seconds.
HARDEST = 10
# Draws of parameters, and changes of each, before a family counts as used up.
_DRAWS, _CHANGES = 2000, 40


def generate(seeds: int, difficulty: int = 2, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of `seeds` seed problems with their variants; the families take turns.

    No problem comes twice, under other names neither. A family that has no new one left, which
    happens first after some hundreds of seeds at difficulty 1, is passed over from there on.

    Args:
        seeds: how many; four rows come of each.
        difficulty: from 1 to `HARDEST`; sizes grow with it.
        seed: the rows are a pure function of all three.

    Raises:
        ValueError: a count below 1, a difficulty above `HARDEST`, or more seeds than it has.
    """
    check(seeds, difficulty)
    turns: deque[tuple[Family, set]] = deque((family, set()) for family in FAMILIES)
    i = 0
    while i < seeds:
        if not turns:
            raise ValueError(
                f"difficulty {difficulty} has {i} seed problems and not {seeds}: ask for fewer, or "
                "for harder ones"
            )
        family, used = turns.popleft()
        rng = random.Random(f"{seed}/{family.name}/{i}/{difficulty}")
        pair = _drawn(family, rng, difficulty, used)
        if pair is not None:
            used.update(pair)
            yield from _family_rows(family, rng, pair, f"{family.name}-{i:04d}")
            turns.append((family, used))
            i += 1


def check(seeds: int, difficulty: int) -> None:
    """ValueError where a count is out of range."""
    if seeds < 1 or not 1 <= difficulty <= HARDEST:
        raise ValueError(
            f"seeds >= 1 and 1 <= difficulty <= {HARDEST} are needed, got {seeds}, {difficulty}"
        )


def write(path: str | Path, seeds: int, difficulty: int = 2, seed: int = 0) -> int:
    """Write the rows of `generate` as .jsonl; returns their number."""
    lines = [json.dumps(row) + "\n" for row in generate(seeds, difficulty, seed)]
    Path(path).write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _family_rows(
    family: Family, rng: random.Random, pair: tuple[Any, Any], seed_id: str
) -> Iterator[dict[str, Any]]:
    skin, other = rng.sample(SKINS, 2)
    problem, changed = pair
    problems = {SEED: problem, "reskin": problem, "constraint": changed, "distractor": problem}
    for k, variant in enumerate(VARIANTS):
        dress = other if variant == "reskin" else skin
        answer = _proved(family, problems[variant], dress)
        if answer is None:
            raise RuntimeError(f"{family.name}: no answer under other names, for {problem}")
        story, question = family.tell(problems[variant], dress)
        # The aside speaks of another place, lest it add to the story.
        parts = [story, other.aside, question] if variant == "distractor" else [story, question]
        yield {
            "id": f"{seed_id}-{k}",
            "question": " ".join(parts),
            "answer": answer,
            "answer_type": family.answer_type,
            "float_round": "0",
            "category": list(family.categories),
            "seed_id": seed_id,
            "variant": variant,
        }


def _drawn(
    family: Family, rng: random.Random, difficulty: int, used: set
) -> tuple[Any, Any] | None:
    """New parameters with a unique answer, and changed ones with another; None if none is left."""
    for _ in range(_DRAWS):
        problem = family.draw(rng, difficulty)
        answer = None if problem in used else family.solve(problem, SKINS[0])
        if answer is None:
            continue
        for _ in range(_CHANGES):
            changed = family.change(rng, problem)
            if changed not in used and family.solve(changed, SKINS[0]) not in (None, answer):
                return problem, changed
    return None


def _proved(family: Family, problem: Any, skin: Skin) -> str | None:
    """The answer on which both routes agree; None where it is not unique."""
    answer, found = family.solve(problem, skin), family.search(problem, skin)
    if answer != found:
        raise RuntimeError(f"{family.name}: {answer} by method, {found} by search, for {problem}")
    return answer
