"""The rotary part of config.json, in the spellings of transformers 4 and 5.

transformers 5 writes one object, `rope_parameters`, with `rope_theta` inside. Older files have
`rope_theta` at the top and the rest in `rope_scaling`, whose rule is called `rope_type` or `type`.
"""

from collections.abc import Mapping
from typing import Any

from jaxlab import json_file
from jaxlab.json_file import NULL, OBJECT, POSITIVE, TEXT, CheckpointFormatError, Kind
from jaxlab.nn.rope import Rope

KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")

# Of config.json, where partial_rotary_factor may stand on either level.
_TOP = {
    "rope_parameters": OBJECT | NULL,
    "rope_scaling": OBJECT | NULL,
    "rope_theta": POSITIVE,
    "original_max_position_embeddings": json_file.SIZE | NULL,
    "partial_rotary_factor": POSITIVE | NULL,
}
_INSIDE: dict[str, Kind] = {
    "rope_type": TEXT,
    "type": TEXT,
    "rope_theta": POSITIVE,
    "partial_rotary_factor": POSITIVE | NULL,
    "original_max_position_embeddings": json_file.SIZE | NULL,
    "factor": POSITIVE | NULL,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "attention_factor": POSITIVE | NULL,
    "mscale": json_file.number(-1) | NULL,
    "mscale_all_dim": json_file.number(-1) | NULL,
    "truncate": json_file.BOOL,
}

# config.json key -> Rope field, for the keys that a rule reads beside rope_theta.
_ORIGINAL = {"original_max_position_embeddings": "original_max_position"}
_RULES: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    }
    | _ORIGINAL,
    "yarn": {
        "factor": "factor",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
        "truncate": "truncate",
    }
    | _ORIGINAL,
}
_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
}


def check_known(data: Mapping[str, Any]) -> None:
    """Check that the rotary part has no key that nobody here reads.

    Raises:
        CheckpointFormatError: naming the first that it has.
    """
    for spelling in ("rope_parameters", "rope_scaling"):
        values = data.get(spelling)
        if not isinstance(values, dict):
            continue
        unknown = sorted(values.keys() - _INSIDE.keys())
        if unknown:
            raise CheckpointFormatError(
                f"config.json: {spelling}.{unknown[0]} {values[unknown[0]]!r} is not supported; "
                f"supported: {', '.join(_INSIDE)}"
            )


def read(data: Mapping[str, Any]) -> Rope:
    """Rotary frequencies of a config.json; where both spellings are there, as transformers 5 reads.

    Raises:
        CheckpointFormatError: a rule other than default, linear, llama3 and yarn; a key that the
            rule needs is missing; or frequencies on a part of the head only.
    """
    json_file.check(data, _TOP, "config.json")
    spelling = "rope_scaling" if data.get("rope_scaling") else "rope_parameters"
    values = dict(data.get(spelling) or {})
    json_file.check(values, _INSIDE, f"config.json: {spelling}")
    thetas = (data.get("rope_theta"), values.get("rope_theta"))
    if spelling in data and spelling == "rope_parameters" and thetas == (None, None):
        raise CheckpointFormatError(
            "config.json: rope_parameters has no rope_theta, nor is there one beside it"
        )
    if spelling == "rope_scaling" and not values.keys() & {"rope_type", "type"}:
        raise CheckpointFormatError("config.json: rope_scaling has no rope_type")
    rule = values.get("rope_type", values.get("type", "default"))
    if rule not in _RULES:
        raise CheckpointFormatError(
            f"config.json: rope_type {rule!r} is not supported; supported: {', '.join(_RULES)}"
        )
    for where in (values, data):
        if where.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise CheckpointFormatError(
                f"config.json: partial_rotary_factor {where['partial_rotary_factor']} is not "
                "supported; supported: 1.0, rotation of whole heads"
            )
    missing = [key for key in _REQUIRED[rule] if values.get(key) is None]
    if missing:
        raise CheckpointFormatError(
            f"config.json: rope_type {rule!r} needs {', '.join(missing)} beside it"
        )
    theta = values.get("rope_theta")
    if theta is None:
        theta = data.get("rope_theta")
    fields: dict[str, Any] = {} if theta is None else {"theta": float(theta)}
    if "original_max_position_embeddings" in _RULES[rule]:
        original = data.get("original_max_position_embeddings")
        original = original or values.get("original_max_position_embeddings")
        values["original_max_position_embeddings"] = original or data["max_position_embeddings"]
    if rule == "yarn" and values.get("factor") is None:
        original = values["original_max_position_embeddings"]
        values["factor"] = data["max_position_embeddings"] / original
    for key, field in _RULES[rule].items():
        if values.get(key) is not None:
            whole = isinstance(values[key], bool) or field == "original_max_position"
            fields[field] = values[key] if whole else float(values[key])
    return Rope(rule=rule, **fields)


def write(rope: Rope) -> dict[str, Any]:
    """The keys of config.json for these frequencies, in both spellings.

    transformers 4 does not read `rope_parameters`: without the older keys it would fall back on
    its default frequencies and say nothing.
    """
    values: dict[str, Any] = {"rope_type": rope.rule}
    for key, field in _RULES[rope.rule].items():
        if getattr(rope, field) is not None:
            values[key] = getattr(rope, field)
    return {
        "rope_parameters": values | {"rope_theta": rope.theta},
        "rope_scaling": None if rope.rule == "default" else values,
        "rope_theta": rope.theta,
    }
