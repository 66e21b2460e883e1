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


def gsm8k_distillation(tiny: bool, small: bool, loss: dict[str, object]) -> ConfigDict:
    """On-policy distillation on GSM8K between two directories, with the sizes of AOPD's run."""
    steps = 2 if tiny else 300
    config = ConfigDict({"trainer": "distill", "seed": 0})
    config.student = tiny_model() if tiny else model()
    config.teacher = tiny_model() if tiny else model()
    config.data = gsm8k(max_prompt=400 if small else 512)
    config.loss = loss
    config.rollout = {
        "prompts": 2 if tiny else 16 if small else 64,
        "samples": 2 if tiny else 4,
        "max_new_tokens": 8 if tiny else 192 if small else 1024,
        "temperature": 1.0,
        "prompt_multiple": 64,
        "source": "student",
        "updates": 1,
    }
    config.teacher_temperature = 1.0
    config.train = train(
        steps,
        eval_every=max(steps // 6, 1),
        checkpoint_every=max(steps // 6, 1),
        microbatch=2 if tiny else 8 if small else 32,
    )
    config.optim = optim(1e-4 if small else 1e-5)
    config.eval = evaluation(tiny, small)
    config.mesh = mesh()
    if not small:
        config.mesh.rules = SHARDED
        config.mesh.decode_rules = DECODING
        config.student.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
        config.teacher.sizes = {"dtype": "bfloat16", "param_dtype": "bfloat16", "scan_layers": True}
    config.title = placeholder(str)
    return config


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


def skill1(tiny: bool, tasks: int) -> ConfigDict:
    """A run of Skill1 as the paper trains a model of 7B: all but the world, `config.data`."""
    steps = 2 if tiny else 150
    config = ConfigDict({"trainer": "agent", "seed": 0})
    config.model = tiny_model() if tiny else model()
    config.tokenizer = placeholder(str)
    if tiny:
        config.model.sizes.update({"qk_norm": False, "qkv_bias": True})
    config.loss = {"name": "grpo", "kl_weight": 0.01, "agg": "seq_mean_token_mean"}
    config.skills = {"library": {"top_k": 5, "alpha": 0.05, "capacity": 5000}}
    config.skills.encoder = {"path": placeholder(str)}
    config.credit = {"mode": "paper", "rank_weight": 0.3, "distil_weight": 0.3}
    config.credit.update({"invalid_penalty": 0.1})
    lengths = {"query": 4, "rank": 4, "act": 8, "distil": 8}
    config.rollout = {
        "tasks": 2 if tiny else tasks,
        "samples": 2 if tiny else 16,
        "words": "paper",
        "history": 2,
        "actions": "text",
        "chat": not tiny,
        "new_tokens": lengths if tiny else dict.fromkeys(lengths, 2048),
        "max_prompt": 256 if tiny else 16384,
        "prompt_multiple": 256 if tiny else 1024,
        "row_multiple": 4 if tiny else 64,
        "turn_multiple": 16 if tiny else 2048,
        "parts": 1 if tiny else 128,
        "response_multiple": 8 if tiny else 256,
    }
    config.eval = {"meter_every": 1 if tiny else 10, "save_episodes": 2 if tiny else 8}
    config.eval.temperature = None if tiny else 0.4
    config.train = train(steps, log_every=1, eval_every=max(steps // 15, 1))
    config.train.checkpoint_every = max(steps // 15, 1)
    config.optim = optim(1e-4 if tiny else 1e-6, weight_decay=0.0)
    config.mesh = mesh()
    if not tiny:
        config.mesh.rules = SHARDED
        config.mesh.decode_rules = DECODING
        config.model.sizes = {"dtype": "bfloat16", "remat": True, "scan_layers": True}
    config.title = placeholder(str)
    return config


def episodes(name: str, tiny: bool, max_steps: int, **options: object) -> ConfigDict:
    """An evaluation by episodes: the paper's, with the last two steps in the prompt, at T = 0.4."""
    config = ConfigDict({"seed": 0, "model": subject()})
    config.benchmark = benchmark(
        name,
        samples=1,
        limit=2 if tiny else None,
        max_steps=4 if tiny else max_steps,
        history=2,
        library="off",
        skills=placeholder(str),
        encoder=placeholder(str),
        reembed=False,
        top_k=5,
        similarity_weight=0.6,
        **options,
    )
    config.eval = answers(8 if tiny else 512, batch=2 if tiny else 64, temperature=0.4)
    config.library = library()
    config.mesh = {}
    return config
