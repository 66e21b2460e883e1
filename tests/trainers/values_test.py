"""Numbers out of range end a run before anything is loaded: (config, override) -> the key named."""

import copy
import math

import pytest

from jaxlab import train
from jaxlab.config import ConfigError, build
from jaxlab.evals.settings import Run

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 2,
    "max_position": 32,
}
COMMON = {
    "data": {"task": "modsum", "options": {"modulus": 5, "addends": 2}, "max_prompt": 16},
    "train": {"steps": 4},
    "optim": {"learning_rate": 1e-3},
    "eval": {"prompts": 2, "samples": 1, "max_new_tokens": 4},
}
SFT = COMMON | {"trainer": "sft", "model": {"sizes": SIZES}, "batch_size": 4, "max_length": 16}
DISTILL = COMMON | {
    "trainer": "distill",
    "student": {"sizes": SIZES},
    "teacher": {"sizes": dict(SIZES)},  # of its own: copies keep what is shared
    "loss": {"name": "opd"},
    "rollout": {"prompts": 2, "samples": 2, "max_new_tokens": 4},
}
LM = {
    "trainer": "lm",
    "model": {"sizes": SIZES},
    "data": {"task": "mqar", "options": {"vocab_size": 32, "length": 16, "num_pairs": 2}},
    "train": {"steps": 4},
    "optim": {"learning_rate": 1e-3},
}
TEXT = LM | {"data": {"task": "text", "options": {"train": "absent.txt"}}}
NAN, INFINITE = math.nan, math.inf
HUGE = 2**80

# Section -> field -> values that are refused; the same for every trainer.
EVERYWHERE = {
    "": {"seed": (-1, 2**32, HUGE)},
    "train": {
        "steps": (0, -1, 2**31),
        "log_every": (0, -5, HUGE),
        "eval_every": (0, HUGE),
        "checkpoint_every": (0, HUGE),
        "keep_checkpoints": (0, HUGE),
        "microbatch": (0, -1, 3),
        "stop_after": (0, -1),
        "profile_start": (-1, 4, HUGE),
    },
    "optim": {
        "learning_rate": (0.0, -1e-3, NAN, INFINITE, 1e-50, 1e39),
        "clip_norm": (0.0, -1.0, NAN, INFINITE),
        "warmup_steps": (-1, 5, HUGE),
        "final_fraction": (-0.1, 1.1, NAN),
        "weight_decay": (-0.1, NAN, INFINITE),
        "b1": (-0.1, 1.0, NAN),
        "b2": (-0.1, 1.0, 0.9999999999, NAN),
        "eps": (0.0, -1e-8, 1e-50, NAN),
        "no_decay": (("(",),),
        "muon_matrices": (("[",),),
    },
    "mesh": {
        "shape": ({"data": 0}, {"data": -2}, {"data": -1, "model": -1}, {"model": 1}),
        "rules": ((("(", ()),),),
        "decode_rules": ((("[", ()),),),
    },
}
SIZED = {
    "hidden_size": (0, -8),
    "intermediate_size": (-1,),
    "num_layers": (0, -1),
    "num_heads": (0, 3),
    "head_dim": (0, 3),
    "max_position": (0,),
    "vocab_size": (0,),
    "norm_eps": (0.0, NAN),
    "rope": ({"theta": 0.0}, {"theta": NAN}, {"factor": -1.0}),
}
SAMPLED = {
    "prompts": (0,),
    "samples": (0, HUGE),
    "max_new_tokens": (0, -1),
    "temperature": (-1.0, NAN, INFINITE, 1e-30),
    "top_k": (0, -1),
    "top_p": (0.0, 1.5, NAN),
    "batch": (0,),
    "prompt_multiple": (0,),
    "save_samples": (-1,),
}
TASK = {
    "data": {"max_prompt": (0,), "num_train": (0, HUGE)},
    "data.options": {"modulus": (1,), "addends": (0,), "seed": (-1,), "test_size": (0,)},
    "eval": SAMPLED,
}
OWN = {
    "sft": TASK | {"": {"batch_size": (0, -1), "max_length": (0, 15)}, "model.sizes": SIZED},
    "distill": TASK
    | {
        "": {"teacher_temperature": (0.0, -1.0, NAN, INFINITE, 1e-50)},
        "student.sizes": SIZED,
        "teacher.sizes": SIZED,
        "rollout": {
            "prompts": (0,),
            "samples": (0,),
            "max_new_tokens": (0,),
            "temperature": (0.0, -1.0, NAN, INFINITE),
            "prompt_multiple": (0, -1),
            "response_multiple": (0,),
            "updates": (0, 3),
            "source": ("teacher",),
        },
    },
    "lm": {
        "": {"batch_size": (0,), "z_loss": (-1e-4, NAN, INFINITE)},
        "model.sizes": SIZED,
        "data": {"num_train": (0, HUGE), "mixture": ([{"weight": 0.0}], [{"weight": NAN}])},
        "data.options": {"power_a": (0.0, NAN), "seed": (-1, HUGE), "num_pairs": (0, 5)},
        "eval": {"examples": (0,), "batch": (0, -1)},
    },
    "text": {
        "data.options": {
            "held_out": (0.0, 1.0, -0.1, NAN),
            "length": (0,),
            "vocab_size": (0,),
        }
    },
}
CLIPS = {"clip_low": (0.0, -0.2, 1.5, NAN), "clip_high": (0.0, -0.2, NAN, INFINITE)}
POLICY_GRADIENT = CLIPS | {"dual_clip": (1.0, NAN), "adv_clip": (0.0, -1.0, NAN)}
MATCHING = {"beta": (-0.1, 1.1, NAN), "top_k": (0, -1)}
LOSSES = {
    "opd": POLICY_GRADIENT | {"opd_weight": (0.0, -1.0, NAN)},
    "gkd": MATCHING,
    "aopd": {"tau": (NAN, INFINITE)},
    "aopd.pg": POLICY_GRADIENT | {"opd_weight": (-1.0, INFINITE)},
    "aopd.guide": MATCHING | {"weight": (-1.0, NAN)},
    "grpo": CLIPS | {"dual_clip": (1.0, NAN), "kl_weight": (-1.0, NAN)},
}


def _cases():
    configs = {"sft": SFT, "distill": DISTILL, "lm": LM, "text": TEXT}
    for name, config in configs.items():
        for sections in (EVERYWHERE, OWN[name]) if name != "text" else (OWN[name],):
            for section, fields in sections.items():
                for field, values in fields.items():
                    for value in values:
                        yield name, config, section, field, value
    for loss, fields in LOSSES.items():
        name, _, part = loss.partition(".")
        config = DISTILL | {"loss": {"name": name}}
        for field, values in fields.items():
            for value in values:
                yield loss, config, f"loss.{part}".rstrip("."), field, value


CASES = list(_cases())


def _changed(config, section, field, value):
    config = copy.deepcopy(config)
    part = config
    for key in section.split(".") if section else ():
        part = part.setdefault(key, {})
    part[field] = value
    return config


@pytest.mark.parametrize(
    ("config", "section", "field", "value"),
    [case[1:] for case in CASES],
    ids=[f"{name}-{section}.{field}={value}" for name, _, section, field, value in CASES],
)
def test_a_value_out_of_range_is_refused_by_its_key(config, section, field, value):
    with pytest.raises(ConfigError) as refused:
        train.check(_changed(config, section, field, value), "run")
    message = str(refused.value)
    assert field in message
    assert (section.split(".")[0] or "config") in message
    assert "\n" not in message


@pytest.mark.parametrize("config", [SFT, DISTILL, LM, TEXT])
def test_the_configs_themselves_pass(config):
    train.check(config, "run")


@pytest.mark.parametrize(
    ("config", "section", "field", "value"),
    [
        (SFT, "", "seed", 2**32 - 1),
        (SFT, "", "max_length", 17),
        (SFT, "train", "profile_start", 0),
        (SFT, "optim", "warmup_steps", 4),
        (SFT, "optim", "clip_norm", None),
        (SFT, "optim", "weight_decay", 0.0),
        (SFT, "optim", "b1", 0.0),
        (SFT, "eval", "temperature", 0.0),
        (SFT, "eval", "top_p", 1.0),
        (SFT, "eval", "save_samples", 0),
        (SFT, "model.sizes", "intermediate_size", 0),
        (SFT, "model.sizes", "rope", None),
        (DISTILL, "rollout", "updates", 4),
        (DISTILL, "loss", "adv_clip", None),
        (DISTILL | {"loss": {"name": "aopd"}}, "loss", "tau", -1.0),
        (DISTILL | {"loss": {"name": "aopd"}}, "loss.guide", "weight", 0.0),
        (DISTILL | {"loss": {"name": "grpo"}}, "loss", "clip_low", 1.0),
        (DISTILL | {"loss": {"name": "gkd"}}, "rollout", "source", "teacher"),
        (DISTILL | {"loss": {"name": "cross_entropy"}}, "rollout", "source", "teacher"),
        (DISTILL, "rollout", "samples", 1),
        (LM, "data", "num_train", 2**40),
    ],
)
def test_the_ends_of_the_ranges_pass(config, section, field, value):
    train.check(_changed(config, section, field, value), "run")


def test_warmup_counts_updates():
    several = _changed(DISTILL, "rollout", "updates", 2)
    train.check(_changed(several, "optim", "warmup_steps", 8), "run")
    with pytest.raises(ConfigError, match=r"optim\.warmup_steps must be at most the 8 optimiser"):
        train.check(_changed(several, "optim", "warmup_steps", 9), "run")


@pytest.mark.parametrize("advantages", ["group", "centred", "leave_one_out"])
def test_a_group_of_one_has_no_advantages(advantages):
    config = DISTILL | {"loss": {"name": "grpo", "advantages": advantages}}
    train.check(config, "run")
    with pytest.raises(ConfigError, match=r"rollout\.samples: 1 completion .* at least 2"):
        train.check(_changed(config, "rollout", "samples", 1), "run")


@pytest.mark.parametrize("loss", ["opd", "aopd", "grpo"])
def test_a_policy_gradient_needs_the_students_completions(loss):
    config = _changed(DISTILL | {"loss": {"name": loss}}, "rollout", "source", "teacher")
    with pytest.raises(ConfigError, match=rf"rollout\.source: the policy gradient of {loss}"):
        train.check(config, "run")


def test_every_stage_is_checked_before_the_first_one_trains():
    stages = {"first": SFT, "second": _changed(DISTILL, "optim", "clip_norm", 0.0)}
    with pytest.raises(ConfigError, match=r"stages\.second\.optim: clip_norm must be above 0"):
        train.check({"stages": stages}, "run")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("", "seed", -1)]
    + [
        ("eval", field, value)
        for field, values in SAMPLED.items()
        if field not in ("prompts", "samples", "save_samples")
        for value in values
        if value != 1e-30
    ],
)
def test_settings_of_benchmarks(section, field, value):
    config = {"model": {}, "benchmark": {"name": "gsm8k"}}
    build(Run, config)
    with pytest.raises(ConfigError, match=field):
        build(Run, _changed(config, section, field, value))
