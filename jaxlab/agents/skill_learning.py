"""What a skill library does with the outcomes of a step: utilities, admission, eviction.

Everything here happens within one transaction, which the library begins and ends.
"""

import collections
import math
import sqlite3
from collections.abc import Sequence

import numpy as np

from jaxlab.agents.skill_encoders import Encoder
from jaxlab.agents.skill_options import Entry, Episode, Library, Skill

COUNTS = (
    *("updated", "selected", "unknown"),
    *("unparsed", "empty", "refused", "cut", "merged", "admitted", "evicted"),
)


class Learning:
    """One step's learning."""

    def __init__(
        self, transaction: sqlite3.Connection, encoder: Encoder, options: Library, step: int
    ) -> None:
        self.transaction, self.encoder, self.options = transaction, encoder, options
        self.step = step
        self.utility: dict[int, float] = dict(
            transaction.execute("select id, utility from skills").fetchall()
        )
        self.counts = collections.Counter(dict.fromkeys(COUNTS, 0))
        # Where each episode's skill went: the id of the new one, or of the one that it repeats.
        self.written: list[int | None] = []

    def learn(self, episodes: Sequence[Episode]) -> dict[str, int]:
        """Utilities in the episodes' order, then new skills, then eviction (Algorithm 1)."""
        before = dict(self.utility)
        for episode in episodes:
            self._move(episode)
        for episode in episodes:
            found = [before[i] for i in episode.retrieved if i in before]
            self.written.append(self._admit(episode, max(found, default=0.0)))
        self._evict()
        return dict(self.counts)

    def _move(self, episode: Episode) -> None:
        moved = episode.retrieved
        if self.options.update == "selected":
            moved = () if episode.selected is None else (episode.selected,)
        for skill in dict.fromkeys(moved):
            if skill in self.utility:
                self._average(skill, episode.reward)
                self.counts["updated"] += 1
            else:
                self.counts["unknown"] += 1
        if episode.selected in self.utility:
            self.transaction.execute(
                "update skills set selections = selections + 1, used = ? where id = ?",
                (self.step, episode.selected),
            )
            self.counts["selected"] += 1
        elif episode.selected is not None and episode.selected not in moved:
            self.counts["unknown"] += 1

    def _average(self, skill: int, reward: float) -> None:
        """U <- (1 - alpha) U + alpha r (eq 5)."""
        alpha = self.options.alpha
        self.utility[skill] = (1 - alpha) * self.utility[skill] + alpha * reward
        self.transaction.execute(
            "update skills set utility = ?, updates = updates + 1, used = ? where id = ?",
            (self.utility[skill], self.step, skill),
        )

    def _admit(self, episode: Episode, baseline: float) -> int | None:
        skill, options, counts = episode.skill, self.options, self.counts
        if skill is None:
            counts["unparsed"] += 1
            return None
        texts = [_clean(text) for text in (skill.strategy, skill.description, skill.task)]
        if not texts[0] or not texts[1]:
            counts["empty"] += 1
            return None
        kept = {
            "success": episode.reward == 1,
            "always": True,
            "gain": episode.reward > baseline,
        }[options.admit]
        if not kept:
            counts["refused"] += 1
            return None
        counts["cut"] += any(len(text) > options.longest for text in texts)
        skill = Skill(*(text[: options.longest] for text in texts))
        embedding = self.encoder([skill.description])[0].astype(np.float32)
        twin = self._twin(skill, embedding)
        if twin is not None:
            self._average(twin, episode.reward)
            counts["merged"] += 1
            return twin
        if options.evict == "none" and self._size() >= options.capacity:
            counts["refused"] += 1
            return None
        group = episode.reward if episode.group_mean is None else episode.group_mean
        utility = {"half": 0.5, "outcome": episode.reward, "group": group}[options.initial]
        entry = Entry(0, skill, utility, 0, 0, self.step, self.step, episode.reward == 1)
        number = insert(self.transaction, entry, embedding.tobytes())
        self.utility[number] = utility
        counts["admitted"] += 1
        return number

    def _twin(self, skill: Skill, embedding: np.ndarray) -> int | None:
        """The id of the skill that this one repeats; of several the oldest."""
        if self.options.dedupe == "none":
            return None
        rows = self.transaction.execute(
            "select id, description, embedding from skills where strategy = ? order by id",
            (skill.strategy,),
        )
        for number, description, blob in rows:
            if self.options.dedupe == "exact":
                same = description == skill.description
            else:
                same = float(np.frombuffer(blob, np.float32) @ embedding) > self.options.same
            if same:
                return int(number)
        return None

    def _size(self) -> int:
        return int(self.transaction.execute("select count(*) from skills").fetchone()[0])

    def _evict(self) -> None:
        surplus = self._size() - self.options.capacity
        if surplus <= 0:
            return
        rows = self.transaction.execute(
            "select id, utility, selections, updates, created, used from skills"
        ).fetchall()
        ranked = []
        for number, utility, selections, updates, created, used in rows:
            n = selections if self.options.counts == "selections" else updates + 1
            young = created > self.step - self.options.grace
            ranked.append((young, self._worth(utility, n, used, number), number))
        gone = [(number,) for _, _, number in sorted(ranked)[:surplus]]
        self.transaction.executemany("delete from skills where id = ?", gone)
        self.counts["evicted"] += len(gone)

    def _worth(self, utility: float, n: int, used: int, number: int) -> float:
        if self.options.evict == "u_log_n":
            # ln 0: what was never tried goes first, as the paper's formula has it.
            return utility * math.log(n) if n else -math.inf
        if self.options.evict == "u_log_n1":
            return utility * math.log(n + 1)
        # Of a library that was larger before, and evicts none, the newest go.
        return float(used) if self.options.evict == "least_recent" else -float(number)


def insert(transaction: sqlite3.Connection, entry: Entry, embedding: bytes) -> int:
    """Add a row; its id is new and is returned."""
    skill = entry.skill
    done = transaction.execute(
        "insert into skills (strategy, description, task, utility, selections, updates, created, "
        "used, success, embedding) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(skill.strategy, skill.description, skill.task, entry.utility),
            *(entry.selections, entry.updates, entry.created, entry.used, entry.success),
            embedding,
        ),
    )
    return int(done.lastrowid or 0)


def _clean(text: str) -> str:
    """Text that SQLite and a terminal take: no lone surrogates, no control characters."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text).strip()
