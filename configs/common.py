"""What the configs share."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

Rules = tuple[tuple[str, tuple], ...]


def with_stacked(rules: Rules) -> Rules:
    """The rules, preceded by their likes for layers that `scan_layers` stacks on a leading axis."""
    stacked = ((f"^stack_.*{pattern}", (None, *spec)) for pattern, spec in rules if spec)
    return (*stacked, *rules)


# Parameters split over the "data" axis and gathered when used (ZeRO-3 style); over "model" the
# heads of attention and gated-delta layers and the feed-forward width; over "expert" the experts of
# routed layers. Axes that the mesh lacks count as one device.
SHARDED = with_stacked(
    (
        (r"experts/(gate|up)/kernel$", ("expert", "data", "model")),
        (r"experts/down/kernel$", ("expert", "model", "data")),
        (r"(query|key|value|gate|up|erase|write|project|expand)/kernel$", ("data", "model")),
        (r"(output|down)/kernel$", ("model", "data")),
        (r"reduce/kernel$", ("data",)),
        (r"embedding$", ("model", "data")),
        (r".*", ()),
    )
)
# For decoding: split over "model" and "expert" alone, so that no step waits for parameters.
DECODING = with_stacked(
    (
        (r"experts/(gate|up)/kernel$", ("expert", None, "model")),
        (r"experts/down/kernel$", ("expert", "model", None)),
        (r"(query|key|value|gate|up|erase|write|project|expand)/kernel$", (None, "model")),
        (r"(output|down)/kernel$", ("model", None)),
        (r"embedding$", ("model", None)),
        (r".*", ()),
    )
)
REPLICATED = ((r".*", ()),)


def model(**sizes: object) -> ConfigDict:
    """A model from scratch with these sizes; `path` or `preset` may come by command line."""
    return ConfigDict({"path": placeholder(str), "preset": placeholder(str), "sizes": sizes})


def train(steps: int, **more: object) -> ConfigDict:
    """Length and logging."""
    return ConfigDict({"steps": steps} | more)


def optim(learning_rate: float, **more: object) -> ConfigDict:
    """AdamW; weight decay and clipping are the papers' where `more` does not say."""
    return ConfigDict({"learning_rate": learning_rate} | more)


def mesh() -> ConfigDict:
    """All devices along one data axis; parameters on each of them."""
    return ConfigDict(
        {
            "shape": {"data": -1},
            "rules": REPLICATED,
            "decode_rules": REPLICATED,
            "multihost": "none",
            "decode_devices": placeholder(int),
        }
    )


def tiny_model() -> ConfigDict:
    """A random decoder of one layer, for tests."""
    return model(
        hidden_size=16,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        qk_norm=True,
        max_position=1024,
    )


def gsm8k(max_prompt: int) -> ConfigDict:
    """GSM8K from two jsonl files of {question, answer}."""
    return ConfigDict({"task": "gsm8k", "max_prompt": max_prompt})


def evaluation(tiny: bool, small: bool) -> ConfigDict:
    """Sampled evaluation on test rows: the papers' sampler settings."""
    return ConfigDict(
        {
            "prompts": 2 if tiny else 128 if small else 256,
            "samples": 2 if tiny else 4,
            "max_new_tokens": 8 if tiny else 192 if small else 1024,
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
            "batch": 2 if tiny else 64,
            "prompt_multiple": 64,
            "save_samples": 8,
        }
    )


def benchmark(name: str, samples: int, limit: int | None, **options: object) -> ConfigDict:
    """A benchmark whose rows come from a file that the command line names."""
    config = ConfigDict({"name": name, "path": placeholder(str), "samples": samples})
    config.limit = placeholder(int)
    config.limit = limit
    config.options = ConfigDict(options)
    config.max_parse_failures = 1.0
    return config


def fields(*names: str) -> ConfigDict:
    """What rows call these fields, where it is none of the usual names: fields.id=problem_id."""
    return ConfigDict({name: placeholder(str) for name in names})


def answers(max_new_tokens: int, batch: int, temperature: float = 0.6) -> ConfigDict:
    """How a benchmark's answers are drawn: the papers' sampler settings."""
    return ConfigDict(
        {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": 20,
            "top_p": 0.95,
            "stop": (),
            "batch": batch,
            "padding": "full",
            "prompt_multiple": 128,
            "tokenizer": placeholder(str),
            "chat": placeholder(bool),
        }
    )


def subject() -> ConfigDict:
    """The model that a benchmark asks: a directory, or the name of any model of inspect_ai."""
    return ConfigDict({"path": placeholder(str), "name": placeholder(str)})


def library() -> ConfigDict:
    """A library of skills that is scored again, and what it is searched by."""
    return ConfigDict(
        {
            "path": placeholder(str),
            "encoder": {"path": placeholder(str), "reembed": False},
        }
    )
