"""Our engine: ALFWorld's games without ALFWorld."""

from jaxlab.envs.household.files import Game
from jaxlab.envs.household.play import NOTHING, State
from jaxlab.envs.household.world import World
from jaxlab.envs.protocol import Step


class Household:
    """A game played by our own rules, with the texts of the real engine.

    Attributes:
        game: what is played.
        max_steps: after so many commands an episode ends without reward; None: it does not.
    """

    def __init__(self, game: Game, max_steps: int | None = 50) -> None:
        """Raises: GameError: if the game is not one of ALFWorld's."""
        self.game, self.max_steps = game, max_steps
        self.world: World = game.world()
        self.state: State | None = None
        self._steps = 0
        self._admissible: tuple[str, ...] = ()

    def reset(self) -> Step:
        """Begin the game anew; the text ends with the task."""
        self.state = State(self.world)
        self._steps = 0
        self._admissible = self.state.admissible()
        return Step(self.state.intro(), admissible=self._admissible)

    def step(self, action: str, /) -> Step:
        """Act with one command. One that is not admissible does nothing, and says so.

        Raises:
            RuntimeError: if the episode is over or has not begun.
        """
        state = self.state
        if state is None:
            raise RuntimeError("the episode is over, or was never begun: call reset() first")
        self._steps += 1
        command = action.strip()
        if command in self._admissible:
            text = state.act(command)
            self._admissible = state.admissible()
        else:
            text = NOTHING
        won = state.won()
        done = won or self._steps == self.max_steps
        if done:
            self.state = None
        return Step(text, float(won), done, self._admissible)
