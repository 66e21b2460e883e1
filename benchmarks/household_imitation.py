"""How well a warm start imitates the script: probability of its replies, by phase and by command.

    python benchmarks/household_imitation.py --workdir=runs/skill1/warmup --games=40

The script plays games that training has not come to, and the newest checkpoint of the run reads
its prompts: teacher forcing, so that a phase that is not learnt shows within seconds. Most `go`
are drawn at random by the script, and cannot be foreseen; all other commands are determined.
"""

import argparse
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from jaxlab import config as config_lib
from jaxlab.agents import skill1_terse
from jaxlab.agents.skill1 import PHASES
from jaxlab.interop import models
from jaxlab.losses import chunked_vocab
from jaxlab.models.decoder import Decoder, unembedding
from jaxlab.rollouts.episodes import Speaker
from jaxlab.rollouts.policy import response_hidden
from jaxlab.rollouts.turns import Shape, experience
from jaxlab.rollouts.worlds import source
from jaxlab.runtime.mesh import make_mesh
from jaxlab.trainers.agent_play import Players
from jaxlab.trainers.agent_settings import Agent

# Games of training are numbered from 0.
_FIRST = 1 << 19


def measure(workdir: pathlib.Path, games: int) -> dict[str, tuple[int, float, float]]:
    """Phase or command -> replies, mean negative log-likelihood (nats), mean probability."""
    stored = config_lib.load_json(workdir / "config.json")
    stored["model"] = {"path": str(workdir), "preset": None, "sizes": {}}
    config = config_lib.build(Agent, stored)
    mesh, tokenizer = make_mesh(config.mesh.shape), skill1_terse.tokenizer()
    model = models.find(config.model, "model", vocab_size=tokenizer.vocab_size, seed=0)
    decoder, params = Decoder(model.config), model.load(mesh, config.mesh.rules)
    speaker = Speaker(decoder, tokenizer, config.rollout, mesh)
    worlds = source(config.data)
    players = Players(config, worlds, None, speaker)
    turns = []
    for number in range(_FIRST, _FIRST + games, 2):
        turns += players.demonstrate([worlds.train(number), worlds.train(number + 1)], number)[1]
    rollout = config.rollout
    shape = Shape(64, rollout.prompt_multiple, rollout.response_multiple)

    @jax.jit
    def read(found):
        hidden = response_hidden(decoder, params, found)
        logp, _ = chunked_vocab.token_logp(
            hidden,
            unembedding(params),
            found.response,
            vocab_size=tokenizer.vocab_size,
            choices=found.choices,
        )
        return (logp * found.mask).sum(1)

    kinds: dict[str, list[float]] = {}
    for begin in range(0, len(turns), 64):
        some = turns[begin : begin + 64]
        logps = np.asarray(read(experience(some, shape, tokenizer.pad_id, mesh).rollout))
        for turn, logp in zip(some, logps[: len(some)].tolist(), strict=True):
            kinds.setdefault(turn.asked.phase, []).append(logp)
            if turn.asked.phase == "act":
                kinds.setdefault(turn.reply.split()[0], []).append(logp)
    order = [*PHASES, *sorted(kinds.keys() - set(PHASES))]
    return {
        kind: (len(kinds[kind]), -float(np.mean(kinds[kind])), float(np.exp(kinds[kind]).mean()))
        for kind in order
        if kind in kinds
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--games", type=int, default=40)
    options = parser.parse_args(arguments)
    print("| reply | number | nats | probability |\n|---|---|---|---|")
    for kind, (count, nats, share) in measure(options.workdir, options.games).items():
        print(f"| {kind} | {count} | {nats:.2f} | {share:.2f} |")


if __name__ == "__main__":
    main()
