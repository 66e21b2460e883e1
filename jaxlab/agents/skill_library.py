"""A library of skills that lives beside a policy (Skill1, arXiv 2605.06130, sections 3.1 to 3.3).

    library = SkillLibrary("runs/agent", HashedProjection(), Library())
    candidates = library.retrieve(["where are mugs kept"])[0]
    library.learn(step, [Episode(reward=1.0, retrieved=(4, 7), selected=7, skill=skill)])

    python -m jaxlab.agents.skill_library show DIR       # a table
    python -m jaxlab.agents.skill_library export DIR     # DIR/skills/NAME/SKILL.md
    python -m jaxlab.agents.skill_library import DIR

A step's learning is one transaction. `snapshot` is what belongs into the run's checkpoint of that
step, `restore` brings it back.
"""

import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlab.agents.skill_encoders import Encoder, HashedProjection
from jaxlab.agents.skill_learning import Learning, insert
from jaxlab.agents.skill_options import (
    RELEASED,
    Candidate,
    Entry,
    Episode,
    Library,
    LibraryError,
    Skill,
)
from jaxlab.agents.skill_store import Store

__all__ = ["RELEASED", "Candidate", "Entry", "Episode", "Library", "LibraryError", "Skill"]
__all__ += ["SkillLibrary"]

_COLUMNS = "id, strategy, description, task, utility, selections, updates, created, used, success"


class SkillLibrary:
    """Skills in a file, searched in memory.

    Reading is free for any number of processes, which see a step of the writer's as soon as it
    is committed, whole.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: Encoder | None = None,
        options: Library | None = None,
        readonly: bool = False,
        reembed: bool = False,
    ) -> None:
        """Open a library, or begin an empty one.

        Args:
            path: its file, or the folder in which it is `skills.sqlite`.
            encoder: None: `HashedProjection()`.
            readonly: whether it is only searched, beside a process that writes it, or frozen.
            reembed: whether a library of another encoder gets vectors of this one, in the file, or
                where it is only read in memory; else it is refused.

        Raises:
            LibraryError: see `Store`.
        """
        self.encoder = encoder or HashedProjection()
        self.options = options or Library()
        # Of the last step that was learned: the id under which each episode's skill is kept.
        self.written: tuple[int | None, ...] = ()
        name, dimensions = self.encoder.name, self.encoder.dimensions
        self.store = Store(path, name, dimensions, readonly, reembed)
        try:
            if self.store.foreign and not readonly:
                self._reembed()
            self._load()
        except BaseException:
            self.store.close()
            raise

    def __enter__(self) -> "SkillLibrary":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        self._refresh()
        return len(self._entries)

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    def entries(self) -> list[Entry]:
        """All skills, in the order of their admission."""
        self._refresh()
        return list(self._entries)

    def retrieve(
        self, queries: Sequence[str], greedy: bool = False, top_k: int | None = None
    ) -> list[list[Candidate]]:
        """The best candidates of each query, best first; of equal ones the older first.

        Args:
            queries: any texts.
            greedy: leave out the bonus for seldom tried skills, as at evaluation.
            top_k: instead of the options'.

        Returns:
            For each query at most top_k candidates: fewer where the library or the similarity's
            floor has no more.

        Raises:
            LibraryError: if top_k is below 1.
        """
        self._refresh()
        if top_k is None:
            top_k = self.options.top_k
        if top_k < 1:
            raise LibraryError(f"top_k is {top_k}; it must be at least 1")
        count = min(top_k, len(self._entries))
        if not queries or not count:
            return [[] for _ in queries]
        options = self.options
        cosine = self.encoder(list(queries)) @ self._embeddings.T
        weight = np.float32(options.similarity_weight)
        value = self._utility + (0.0 if greedy else options.ucb) * self._bonus()
        score = cosine * weight
        score += ((1 - weight) * value).astype(np.float32)
        if options.floor is not None:
            score[cosine < options.floor] = -np.inf
        found: list[list[Candidate]] = [[] for _ in queries]
        rows, columns = np.divmod(np.flatnonzero(score >= _least(score, count)), score.shape[1])
        # By query, then by score; the sort is stable and columns rise, so ties go to the older.
        order = np.lexsort((-score[rows, columns], rows))
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if len(found[row]) < count and score[row, column] > -np.inf:
                similarity, total = float(cosine[row, column]), float(score[row, column])
                found[row].append(Candidate(self._entries[column], similarity, total))
        return found

    def learn(self, step: int, episodes: Sequence[Episode]) -> dict[str, int]:
        """Take in the outcomes of one step: utilities in the episodes' order, then new skills.

        The step's rewards are to be computed before, from the utilities at retrieval (the paper's
        Algorithm 1).

        Returns:
            How many skills were `updated`, `selected`, `admitted`, `merged` into equal ones,
            `evicted`, `refused` (by `admit`, or a full library), `empty`, `cut`, how many episodes
            were `unparsed`, and how many ids were `unknown`, because they were evicted before.

        Raises:
            LibraryError: if a reward or a group's mean is not between 0 and 1, or the library is
                only read; then nothing was learned.
        """
        for i, episode in enumerate(episodes):
            for name in ("reward", "group_mean"):
                value = getattr(episode, name)
                if value is not None and not 0 <= value <= 1:
                    raise LibraryError(
                        f"{self.store.path}: episode {i} of step {step}: field {name!r} is "
                        f"{value}, not between 0 and 1"
                    )
        with self.store.transaction() as transaction:
            learning = Learning(transaction, self.encoder, self.options, step)
            counts = learning.learn(episodes)
        self.written = tuple(learning.written)
        self._load()
        return counts

    def _bonus(self) -> np.ndarray:
        """sqrt(ln N / n) with N the sum of all n; a skill that was never tried counts as once."""
        n = np.maximum(self._tried, 1)
        return np.sqrt(np.log(n.sum()) / n)

    def _refresh(self) -> None:
        if self.store.version() != self._version:
            self._load()

    def _load(self) -> None:
        self._version = self.store.version()
        try:
            rows = self.store.connection.execute(
                f"select {_COLUMNS}, embedding from skills order by id"
            ).fetchall()
            self._entries = [_entry(row[:-1]) for row in rows]
            if not self.store.foreign:
                flat = np.frombuffer(b"".join(row[-1] for row in rows), np.float32)
                self._embeddings = flat.reshape(len(rows), self.encoder.dimensions)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise LibraryError(f"{self.store.path}: table 'skills' is damaged: {error}") from None
        if self.store.foreign:
            self._embeddings = self.encoder([entry.skill.description for entry in self._entries])
        self._utility = np.array([entry.utility for entry in self._entries])
        updates = self.options.counts == "updates"
        tried = [e.updates + 1 if updates else e.selections for e in self._entries]
        self._tried = np.array(tried, np.float64)

    def _reembed(self) -> None:
        """Replace all vectors in the file by this encoder's, in one transaction."""
        with self.store.transaction() as transaction:
            rows = transaction.execute("select id, description from skills").fetchall()
            vectors = self.encoder([description for _, description in rows]).astype(np.float32)
            transaction.executemany(
                "update skills set embedding = ? where id = ?",
                [(vector.tobytes(), i) for vector, (i, _) in zip(vectors, rows, strict=True)],
            )
            about = {"encoder": self.encoder.name, "dimensions": self.encoder.dimensions}
            for key, value in about.items():
                transaction.execute("update about set value = ? where key = ?", (str(value), key))
        self.store.foreign = False

    def snapshot(self) -> bytes:
        """The library as it is, for the checkpoint of the step."""
        memory = sqlite3.connect(":memory:")
        with memory:
            self.store.connection.backup(memory)
        # "Written with a write-ahead log", which a database in memory cannot have.
        data = bytearray(memory.serialize())
        data[18:20] = b"\x01\x01"
        return bytes(data)

    def restore(self, snapshot: bytes) -> None:
        """Become what was saved, in one transaction: skills that came later are gone.

        Raises:
            LibraryError: if it is no snapshot, or one of another encoder or schema.
        """
        memory = sqlite3.connect(":memory:")
        mine = self.store.path
        if not snapshot.startswith(b"SQLite format 3\x00"):
            raise LibraryError(f"{mine}: the snapshot is no skill library")
        try:
            memory.deserialize(snapshot)
            about = dict(memory.execute("select key, value from about"))
            rows = memory.execute(
                f"select {_COLUMNS}, embedding from skills order by id"
            ).fetchall()
            last = memory.execute("select seq from sqlite_sequence where name='skills'").fetchone()
        except sqlite3.Error as error:
            raise LibraryError(f"{mine}: the snapshot is no skill library: {error}") from None
        here = dict(self.store.connection.execute("select key, value from about"))
        for key, value in here.items():
            if about.get(key) != value:
                raise LibraryError(
                    f"{mine}: the snapshot's field {key!r} is {about.get(key)!r}, not {value!r}"
                )
        marks = ", ".join("?" * (len(_COLUMNS.split(",")) + 1))
        with self.store.transaction() as transaction:
            transaction.execute("delete from skills")
            transaction.executemany(
                f"insert into skills ({_COLUMNS}, embedding) values ({marks})", rows
            )
            # The ids go on from where they were, so that a resumed run gives the same ones.
            transaction.execute("delete from sqlite_sequence where name = 'skills'")
            transaction.execute(
                "insert into sqlite_sequence values ('skills', ?)", (last[0] if last else 0,)
            )
        self._load()

    def clear(self) -> None:
        """Be empty, as a new library is."""
        with self.store.transaction() as transaction:
            transaction.execute("delete from skills")
            transaction.execute("delete from sqlite_sequence where name = 'skills'")
        self._load()

    def put(self, entries: Sequence[Entry]) -> int:
        """Add entries with their numbers, ids aside, as `import` does; equal ones are left out.

        Returns:
            How many were added.
        """
        have = {(entry.skill.strategy, entry.skill.description) for entry in self.entries()}
        new = [e for e in entries if (e.skill.strategy, e.skill.description) not in have]
        with self.store.transaction() as transaction:
            for e in new:
                vector = self.encoder([e.skill.description])[0].astype(np.float32).tobytes()
                insert(transaction, e, vector)
        self._load()
        return len(new)


def _least(score: np.ndarray, count: int) -> np.ndarray:
    """A bound [N, 1] that at least `count` and not many more of each row's scores reach.

    Of the blocks of a row, the `count` best have a greatest score each: so many reach the least of
    those. A pass over block maxima is cheaper than selecting among all scores.
    """
    size = score.shape[1]
    if size <= 32 * count:
        return np.partition(score, size - count, axis=1)[:, size - count, None]
    edges = np.arange(0, size, 32)
    best = np.maximum.reduceat(score, edges, axis=1)
    return np.partition(best, len(edges) - count, axis=1)[:, len(edges) - count, None]


def _entry(row: tuple[Any, ...]) -> Entry:
    number, strategy, description, task, utility, selections, updates, created, used, won = row
    skill = Skill(strategy, description, task)
    return Entry(number, skill, utility, selections, updates, created, used, bool(won))


if __name__ == "__main__":
    from jaxlab.agents import skill_files

    sys.exit(skill_files.main())
