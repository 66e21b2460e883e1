"""AOPD beside OPD, GKD and others on the order-free modular sum, from one and the same student.

Task: "3 7 10 =" is answered in any order of the addends with running sums, "x2 7 x1 10 x3 9 # 9";
6 orders are right, so distinct correct orders among 16 samples measure diversity.

Stages: a teacher (d = 64, 900 supervised steps), a weak student (d = 32, 375 steps: it knows the
format, not the arithmetic), then one distillation run for each method and seed. AOPD's guided
branch has the released code's scale (no 1/K); aopd_1_over_k is the paper's Eq. 7.

    python -m jaxlab.train --config=configs/aopd_modsum.py --workdir=runs/modsum
    make demo                                       # the :demo variant, one seed, three methods

Variants: "" (8 methods, 3 seeds, weak start), "strong" (the same from a student that is right about
four times of ten, at a quarter of the learning rate), "demo" (3 methods, 1 seed, 800 steps instead
of 400), "tiny" (two steps of each, for tests).
"""

from ml_collections import ConfigDict

from configs import common

METHODS = {
    "opd": {"name": "opd"},
    "aopd": {"name": "aopd", "guide": {"top_k": 6, "divide_by_k": False}},
    "gkd": {"name": "gkd", "beta": 0.5},
    "gkd_fkl": {"name": "gkd", "beta": 0.0},
    "aopd_1_over_k": {"name": "aopd", "guide": {"top_k": 6}},
    "aopd_masked": {"name": "aopd", "negative_branch": "mask"},
    "full_reverse_kl": {"name": "full_reverse_kl"},
    "grpo": {"name": "grpo"},
}
VARIANTS = ("", "strong", "demo", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/aopd_modsum.py has the variants strong, demo and tiny, not {variant!r}"
        )
    tiny, strong = variant == "tiny", variant == "strong"
    short = variant in ("demo", "tiny")
    config = ConfigDict({"title": "On-policy distillation on the modular sum", "stages": {}})
    config.stages.teacher = sft(32 if tiny else 64, 2 if tiny else 900, tiny)
    # It learns the arithmetic within a hundred steps, which come sooner or later by processor.
    start = (2000, tiny, 0.42) if strong else (2 if tiny else 375, tiny)
    config.stages.student = sft(32, *start)
    for seed in range(1 if short else 3):
        for name in list(METHODS)[: 3 if short else None]:
            stage = distill(METHODS[name], seed, tiny, 800 if variant == "demo" else 400)
            if strong:
                stage.optim.learning_rate = 5e-4
            config.stages[name if short else f"{name}_{seed}"] = stage
    config.export = {"aopd" if short else "aopd_0": "aopd_student"}
    return config


def sft(width: int, steps: int, tiny: bool, accuracy: float | None = None) -> ConfigDict:
    """A supervised run of a decoder of this width, to an accuracy or for all of `steps`."""
    config = base(tiny)
    config.trainer = "sft"
    config.model = common.model(
        hidden_size=width,
        intermediate_size=4 * width,
        num_layers=1 if tiny else 2,
        num_heads=4,
        num_kv_heads=4,
        qk_norm=True,
        # 17 positions: the usual base of 10,000 would leave three quarters of a head of 8 still.
        rope={"theta": 100.0},
        max_position=32,
    )
    config.batch_size = 128
    config.max_length = 16
    config.train = common.train(steps, eval_every=steps, checkpoint_every=steps)
    if accuracy is not None and not tiny:
        config.train.eval_every = 25
        config.train.until = {"metric": "avg@16", "at_least": accuracy}
    config.optim = common.optim(4e-3)
    return config


def distill(loss: dict, seed: int, tiny: bool, steps: int) -> ConfigDict:
    """A distillation run from the weak student."""
    config = base(tiny)
    steps = 2 if tiny else steps
    config.trainer = "distill"
    config.seed = seed
    config.student = common.model()
    config.student.path = "@student"
    config.teacher = common.model()
    config.teacher.path = "@teacher"
    config.loss = loss
    config.rollout = ConfigDict(
        {
            # Tiny runs sample as their evaluations do, so that one program does both.
            "prompts": 4 if tiny else 16,
            "samples": 2 if tiny else 8,
            "max_new_tokens": 10,
            "temperature": 1.0,
        }
    )
    config.train = common.train(
        steps, eval_every=max(steps // 8, 1), checkpoint_every=max(steps // 2, 1)
    )
    config.optim = common.optim(2e-3)
    return config


def base(tiny: bool) -> ConfigDict:
    """What the stages share."""
    config = ConfigDict({"seed": 0})
    config.data = ConfigDict(
        {"task": "modsum", "options": {"modulus": 11, "addends": 3}, "max_prompt": 16}
    )
    config.eval = ConfigDict(
        {"prompts": 4 if tiny else 96, "samples": 2 if tiny else 16, "max_new_tokens": 10}
    )
    config.mesh = common.mesh()
    return config
