"""SCOPE beside uniform and reversed weights, OPD, AOPD, GKD and GRPO on the modular sum.

The task is that of configs/aopd_modsum.py; the student starts strong (trained until it is
right about two times of three), since SCOPE learns from its own correct answers and needs some that
are no lucky guesses. From chance SCOPE collapsed: docs/distillation.md.

Stages: the teacher, the student, then one run for each method and seed.

    python -m jaxlab.train --config=configs/scope_modsum.py --workdir=runs/scope
    python -m jaxlab.train --config=configs/scope_modsum.py:demo --workdir=runs/scope_demo

Variants: "" (12 methods, 5 seeds), "weak" (SCOPE with and without the shrunk branch, beside OPD,
from the student of 375 steps), "demo" (SCOPE, uniform weights, OPD, GRPO; one seed), "tiny" (two
steps of each method, for tests).
"""

from ml_collections import ConfigDict

from configs import aopd_modsum

# A guess is right with probability 1/11.
CHANCE = 1 / 11

METHODS = {
    "scope": {"name": "scope"},
    "scope_uniform": {"name": "scope", "norm": "uniform"},
    "opd": {"name": "opd"},
    "grpo": {"name": "grpo"},
    "scope_student_reversed": {"name": "scope", "student_sign": -1},
    "scope_teacher_reversed": {"name": "scope", "teacher_sign": 1},
    "scope_released": {"name": "scope_released"},
    "scope_tau_half": {"name": "scope", "tau": 0.5},
    "scope_tau_two": {"name": "scope", "tau": 2.0},
    "aopd": {"name": "aopd", "guide": {"top_k": 6, "divide_by_k": False}},
    "gkd": {"name": "gkd", "beta": 0.5},
    "gkd_fkl": {"name": "gkd", "beta": 0.0},
}
WEAK = {
    "scope": {"name": "scope"},
    "scope_shrunk": {"name": "scope", "chance": CHANCE, "shrink": 1.0},
    "opd": {"name": "opd"},
}
VARIANTS = ("", "weak", "demo", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/scope_modsum.py has the variants weak, demo and tiny, not {variant!r}"
        )
    tiny, weak, short = variant == "tiny", variant == "weak", variant in ("demo", "tiny")
    methods = WEAK if weak else METHODS
    if short:
        methods = dict(list(METHODS.items())[:4])
    config = ConfigDict({"title": "SCOPE on the modular sum", "stages": {}})
    config.stages.teacher = aopd_modsum.sft(64, 2 if tiny else 900, tiny)
    start = (375, tiny) if weak else (2 if tiny else 2000, tiny, 0.6)
    config.stages.student = aopd_modsum.sft(32, *start)
    for seed in range(1 if short else 5):
        for name, loss in methods.items():
            stage = aopd_modsum.distill(loss, seed, tiny, 400)
            if not weak:
                stage.optim.learning_rate = 5e-4
            config.stages[name if short else f"{name}_{seed}"] = stage
    return config
