"""Skill1 on ALFWorld as the paper trains it: Qwen2.5-7B-Instruct, 16 games x 16 episodes a step.

Paper (2605.06130, appendix C): learning rate 1e-6, KL 0.01 (k3), lambdas 0.3, K = 5, alpha 0.05,
50 steps a game, prompts of 16,384 and replies of 2,048 tokens, 100 to 150 steps on eight H800,
97.5 % of the games. Not run here at that size.

    python -m jaxlab.train --config=configs/skill1_alfworld.py --workdir=runs/skill1_alfworld \\
        --config.model.path=MODEL --config.data.train=GAMES/train \\
        --config.data.test=GAMES/valid_seen --config.skills.encoder.path=all-MiniLM-L6-v2

MODEL is a HuggingFace directory, GAMES what alfworld-download fetches; without folders games are
generated in AI2-THOR's rooms, and the panel of 240 is played; without an encoder descriptions are
compared by hashed words. The fast engine plays all games; data.engine=textworld has ALFWorld
itself play. The released trainer's settings are
credit.mode=released, rollout.samples=8, loss.agg=token_mean, credit.reduction=turns and a library
of `skill_options.RELEASED`; a prompt then shows rank 1 alone at evaluation too, where that trainer
shows all candidates.

Variants: "tiny" (a random model of one layer in Qwen2's form, made-up rooms and two steps, for
tests; give a tokenizer with --config.tokenizer).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """The run; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/skill1_alfworld.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = common.skill1(tiny, tasks=16)
    config.data = ConfigDict({"name": "household", "engine": "fast"})
    config.data.rooms = "made_up" if tiny else "alfworld"
    config.data.update({"max_steps": 2 if tiny else 50, "panel": 2 if tiny else 240})
    for name in ("train", "test"):
        config.data[name] = placeholder(str)
    if tiny:
        config.data.sizes = {"receptacles": 4, "things": 4, "copies": 1}
    return config
