"""Distillation of a dense teacher into latent attention and experts, on the modular sum.

The student has the layers of DeepSeek-V3 and GLM-4.7-Flash at toy size: a dense layer, then layers
of 8 experts, of which sigmoid scores choose 2, and a shared one. It is exported as deepseek_v3,
which transformers runs. Experts are used evenly where `train.balance_loss` says so: compare
router_load_max (the busiest expert over the mean) and router_unused of the two last stages.

Task and teacher are those of configs/aopd_modsum.py. Stages: the teacher, a student that knows the
format, then on-policy distillation with the balance loss and without.

    python -m jaxlab.train --config=configs/moe_modsum.py --workdir=runs/moe
    python -m jaxlab.train --config=configs/moe_modsum.py --workdir=runs/moe \\
        --config.stages.student.mesh.shape='{"data": 1, "expert": 2}'       # on two devices

Variants: "" (a CPU trains it in minutes), "tiny" (two steps of each stage, for tests).
"""

from ml_collections import ConfigDict

from configs import aopd_modsum, common


def get_config(variant: str = "") -> ConfigDict:
    """The study; see the module's docstring for the variants."""
    if variant not in ("", "tiny"):
        raise ValueError(f"configs/moe_modsum.py has the variants tiny, not {variant!r}")
    tiny = variant == "tiny"
    config = ConfigDict({"title": "Distillation into experts", "stages": {}})
    config.stages.teacher = aopd_modsum.sft(32 if tiny else 64, 2 if tiny else 900, tiny)
    config.stages.student = aopd_modsum.sft(32, 2 if tiny else 375, tiny)
    config.stages.student.model = experts(layers=2 if tiny else 3)
    config.stages.student.train.balance_loss = 0.01
    for name, weight in {"opd": 0.01, "opd_unbalanced": 0.0}.items():
        stage = aopd_modsum.distill({"name": "opd"}, 0, tiny, 400)
        stage.train.balance_loss = weight
        config.stages[name] = stage
    for stage in config.stages.values():
        stage.mesh.rules = common.SHARDED
        stage.mesh.decode_rules = common.DECODING
    config.export = {"opd": "opd_student"}
    return config


def experts(layers: int) -> ConfigDict:
    """A decoder of so many layers, the first dense, the others of 30 thousand parameters."""
    return common.model(
        hidden_size=32,
        intermediate_size=64,
        num_layers=layers,
        first_dense=1,
        mla={
            "num_heads": 4,
            "latent_dim": 16,
            "nope_dim": 8,
            "rope_dim": 8,
            "value_dim": 8,
            "query_rank": 24,
            "rope": {"theta": 100.0},
        },
        moe={
            "intermediate_size": 32,
            "router": {
                "num_experts": 8,
                "top_k": 2,
                "score": "sigmoid",
                "correction": True,
                "scale": 1.5,
            },
            "shared_size": 32,
        },
        max_position=32,
    )
