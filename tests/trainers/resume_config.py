"""A distillation run of seconds, for resume_test.py. Variant "hosts": of several processes."""

from ml_collections import ConfigDict

from configs import common

STEPS = 12


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict({"trainer": "distill", "seed": 3})
    config.student = _model(16)
    config.teacher = _model(32)
    config.data = {"task": "modsum", "options": {"modulus": 6, "addends": 2}, "max_prompt": 16}
    config.loss = {"name": "aopd", "guide": {"top_k": 4}}
    # As many as in a batch of the evaluation: one program samples for both.
    config.rollout = {"prompts": 4, "samples": 2, "max_new_tokens": 7, "temperature": 1.0}
    config.train = common.train(STEPS, log_every=1, eval_every=5, checkpoint_every=4)
    # AdamW turns a gradient near zero into its sign. With a larger eps rounding stays rounding.
    config.optim = common.optim(1e-2, schedule="cosine", eps=1e-3)
    config.eval = {"prompts": 5, "samples": 2, "max_new_tokens": 7, "batch": 4}
    config.mesh = common.mesh()
    if variant == "hosts":
        config.mesh.multihost = "env"
    return config


def _model(width: int) -> ConfigDict:
    return common.model(
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        qk_norm=True,
        max_position=32,
    )
