"""Text of an agent's run for people: transcripts, its best skills, and counts of programs."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from jaxlab.agents.skill1 import Played
from jaxlab.agents.skill_options import Entry
from jaxlab.rollouts.turns import Turn
from jaxlab.rollouts.worlds import Told

_LONGEST = 1500
_compiled = 0


def _count(event: str, duration_secs: float, **more: str | int) -> None:
    global _compiled
    del duration_secs, more
    _compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def compiled() -> int:
    """Programs that XLA was asked for in this process since this module was imported."""
    return _compiled


def transcript(game: Told, split: str, played: Played, turns: Sequence[Turn]) -> dict[str, Any]:
    """A row of samples.jsonl: the episode with all that was asked and answered."""
    return {
        "game": game.id,
        "split": split,
        "task": game.task,
        "reward": played.reward,
        "query": played.query,
        "selected": None
        if played.selected is None
        else played.candidates[played.selected].entry.skill.strategy,
        "turns": [
            {
                "phase": turn.asked.phase,
                "prompt": turn.asked.prompt[:_LONGEST],
                "reply": turn.reply[:_LONGEST],
            }
            for turn in turns
        ],
    }


def notes(entries: Sequence[Entry], rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the three skills that are worth most, and one episode, won with a skill if any."""
    lines = []
    best = sorted(entries, key=lambda e: -e.utility * math.log(e.selections + 1))[:3]
    if best:
        lines += ["Three skills of the library:", ""]
        lines += ["| skill | when | utility | selected |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(e.skill.strategy)} | {_cell(e.skill.description)} | {e.utility:.3f} | "
            f"{e.selections} |"
            for e in best
        ]
        lines.append("")
    if rows:
        row = max(rows, key=lambda r: (r["reward"], r["selected"] is not None))
        end = "won" if row["reward"] == 1 else "lost"
        lines += [f"One episode of the panel ({row['split']}, {end}): {row['task']}", "", "```"]
        for turn in row["turns"]:
            lines += [
                f"[{turn['phase']}] {_line(turn['prompt'])}",
                f"    -> {_line(turn['reply'])}",
            ]
        lines += ["```", ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")[:200]
