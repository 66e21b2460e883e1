"""How a skill library selects, learns and forgets: the switches where paper and code differ."""

import dataclasses
from typing import Literal

from jaxlab import ranges


class LibraryError(ValueError):
    """An error of a skill library: its file, or what was handed to it, cannot be used.

    The message names file and field.
    """


@dataclasses.dataclass(frozen=True)
class Library:
    """Options of Skill1's library (arXiv 2605.06130). The defaults are the paper's.

    Attributes:
        top_k: candidates of a query.
        similarity_weight: w in  w cos(q, s) + (1 - w) (U(s) + ucb sqrt(ln N / n(s)))  (Table 6).
        ucb: scale of the bonus for seldom tried skills; 0: none. Never used at evaluation.
        floor: candidates less similar than this are left out; None: none are.
        alpha: of the moving average  U <- (1 - alpha) U + alpha r  (eq 5).
        initial: a new skill's utility: "half": 0.5; "outcome": its own episode's reward; "group":
            the mean reward of its group.
        update: whose utility an outcome moves: all "retrieved" candidates (eq 5) or the "selected".
        counts: n(s), of the bonus and of eviction: "selections", or "updates" plus one.
        admit: which new skills are kept: after "success" (r = 1), "always", or after a "gain"
            (r above the candidates' greatest utility).
        dedupe: what is one skill: "none": nothing; "exact": equal texts; "similar": equal
            strategies whose descriptions' cosine exceeds `same`. A second one only moves the
            utility of the first.
        same: see dedupe.
        capacity: skills that are kept.
        evict: who goes first: the least "u_log_n" or "u_log_n1" (U ln n, U ln(n + 1)), the
            "least_recent"-ly used, or "none": then new ones are turned away.
        grace: steps after its admission during which a skill is not evicted, if others can be.
        longest: characters of a strategy and of a description; what is longer is cut.
    """

    top_k: int = 5
    similarity_weight: float = 0.6
    ucb: float = 1.0
    floor: float | None = None
    alpha: float = 0.05
    initial: Literal["half", "outcome", "group"] = "half"
    update: Literal["retrieved", "selected"] = "retrieved"
    counts: Literal["selections", "updates"] = "selections"
    admit: Literal["success", "always", "gain"] = "success"
    dedupe: Literal["none", "exact", "similar"] = "none"
    same: float = 0.85
    capacity: int = 5000
    evict: Literal["u_log_n", "u_log_n1", "least_recent", "none"] = "u_log_n"
    grace: int = 0
    longest: int = 2000

    def __post_init__(self) -> None:
        try:
            ranges.check_choices(self)
            ranges.check(self, "floor", "same", least=-1, most=1)
        except ValueError as error:
            raise LibraryError(f"option {error}") from None
        for name, low, high in (
            ("top_k", 1, None),
            ("capacity", 1, None),
            ("similarity_weight", 0, 1),
            ("alpha", 0, 1),
            ("ucb", 0, None),
            ("grace", 0, None),
            ("longest", 1, None),
        ):
            value = getattr(self, name)
            if not value >= low or (high is not None and not value <= high):
                bound = f"at least {low}" if high is None else f"between {low} and {high}"
                raise LibraryError(f"option {name!r} is {value}; it must be {bound}")


# What the released trainer does, where it is not what the paper says (docs/household.md).
RELEASED = Library(
    top_k=3,
    similarity_weight=1.0,
    ucb=0.0,
    floor=0.4,
    counts="updates",
    dedupe="similar",
    evict="u_log_n1",
)


@dataclasses.dataclass(frozen=True)
class Skill:
    """What an episode leaves: what to do, and when.

    Attributes:
        strategy: put before the policy when the skill is selected.
        description: when it is useful; what queries are compared with.
        task: the task that it came from.
    """

    strategy: str
    description: str
    task: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A skill in the library.

    Attributes:
        id: never used twice.
        utility: U, a moving average of outcomes.
        selections: episodes into whose prompt it was put.
        updates: outcomes that moved its utility.
        created, used: steps of its admission and of its last update or selection.
        success: whether the episode that it came from succeeded.
    """

    id: int
    skill: Skill
    utility: float
    selections: int
    updates: int
    created: int
    used: int
    success: bool


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An entry that a query found, as it was then."""

    entry: Entry
    similarity: float
    score: float


@dataclasses.dataclass(frozen=True)
class Episode:
    """What a library learns from one episode.

    Attributes:
        reward: its outcome r, from 0 to 1.
        retrieved: ids of the candidates.
        selected: the id of the one that was used, None if none was.
        skill: what was distilled, None if it could not be parsed.
        group_mean: the mean reward of the episode's group, for `initial="group"`.
    """

    reward: float
    retrieved: tuple[int, ...] = ()
    selected: int | None = None
    skill: Skill | None = None
    group_mean: float | None = None
