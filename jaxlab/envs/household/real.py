"""The real engine: ALFWorld's games by TextWorld and Fast Downward (extra `agents`)."""

import contextlib
import copy
import functools
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from jaxlab.envs.household.files import Game, Rules
from jaxlab.envs.household.pddl import GameError
from jaxlab.envs.household.wording import with_task
from jaxlab.envs.protocol import Step

# Each engine has a copy of the planner's library, which cannot be unloaded safely: used again.
_IDLE: list[Any] = []
MISSING = "household games by the real engine need ALFWorld: pip install 'jaxlab[agents]'"


@contextlib.contextmanager
def _arguments_kept() -> Iterator[None]:
    """Fast Downward's translator overwrites sys.argv with arguments of its own."""
    kept = sys.argv[:]
    try:
        yield
    finally:
        sys.argv[:] = kept


def rules() -> Rules:
    """The domain and the grammar of the installed ALFWorld.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    info = _alfworld().info
    with open(info.ALFRED_PDDL_PATH) as domain, open(info.ALFRED_TWL2_PATH) as grammar:
        return Rules(domain.read(), grammar.read())


def _alfworld() -> Any:
    try:
        import alfworld.info
        import textworld  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{MISSING} ({error})") from None
    return alfworld


@functools.cache
def remember() -> None:
    """Have TextWorld keep what it computes again and again, for this process.

    A game is translated for the planner when it is loaded and at every reset, and the same few
    rules are parsed at every step. All of them are pure functions of their texts; what callers
    change of the results is copied.
    """
    import fast_downward
    from textworld.envs.pddl import textgen
    from textworld.logic import Rule

    fast_downward.pddl2sas = functools.lru_cache(maxsize=8)(fast_downward.pddl2sas)
    parsed = functools.lru_cache(maxsize=4096)(textgen._parse_and_convert)
    textgen._parse_and_convert = lambda *args, **kwargs: copy.deepcopy(parsed(*args, **kwargs))
    Rule.parse_conjunctive_query = functools.lru_cache(maxsize=4096)(Rule.parse_conjunctive_query)


class RealHousehold:
    """A game played by ALFWorld's own engine, with names numbered without shuffling.

    Its steps are slow (docs/household.md): for evaluation, and to check our engine against.
    """

    def __init__(self, game: Game, max_steps: int | None = 50) -> None:
        """Load the game.

        Raises:
            ModuleNotFoundError: if ALFWorld is not installed.
            GameError: if its goal is out of reach, which the engine finds out.
        """
        _alfworld()
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs import PddlEnv

        remember()
        self.game, self.max_steps = game, max_steps
        known = game.rules or rules()
        if _IDLE:
            self._inner = _IDLE.pop()
        else:
            self._inner = PddlEnv(textworld.EnvInfos(admissible_commands=True))
        weakref.finalize(self, _IDLE.append, self._inner)
        self._env = AlfredDemangler(self._inner, shuffle=False)
        data = {
            "pddl_domain": known.domain,
            "grammar": with_task(known.grammar, game.task),
            "pddl_problem": game.problem,
        }
        try:
            with _arguments_kept():
                self._env.load(data)
        except KeyError as error:
            # The translator writes a task of one dummy variable where the goal is out of reach.
            if error.args == ("val1",):
                raise GameError(
                    f"{game.id}: field 'pddl_problem': no plan reaches its goal"
                ) from None
            raise
        self._steps: int | None = None

    def reset(self) -> Step:
        """Begin the game anew; the text ends with the task."""
        with _arguments_kept():
            state = self._env.reset()
        self._steps = 0
        return Step(state["feedback"], admissible=tuple(state["admissible_commands"]))

    def step(self, action: str, /) -> Step:
        """Act with one command. One that is not admissible does nothing, and says so.

        Raises:
            RuntimeError: if the episode is over or has not begun.
        """
        if self._steps is None:
            raise RuntimeError("the episode is over, or was never begun: call reset() first")
        self._steps += 1
        state, reward, won = self._env.step(action.strip())
        done = bool(won) or self._steps == self.max_steps
        if done:
            self._steps = None
        return Step(state["feedback"], float(reward), done, tuple(state["admissible_commands"]))

    def plan(self) -> tuple[str, ...]:
        """Commands of the planner that win from here; none where it finds no plan."""
        return tuple(self._inner._pddl_state.replan(self._inner._entity_infos))
