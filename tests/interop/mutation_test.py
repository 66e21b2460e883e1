"""Every key of the JSON files of a model and a tokenizer, with every kind of wrong value.

What is read afterwards is what it was before, or the one error that names file and key.
"""

import copy
import json
import math

import numpy as np
import pytest
from tokenizers import processors

from jaxlab import json_file
from jaxlab.interop import directory, hf, safetensors_io
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models import presets
from jaxlab.text import tokenizer
from tests.interop.directories import random_params
from tests.interop.fla_test import ATTN, GDN, KDA
from tests.interop.hf_test import LLAMA_3_2_1B, QWEN_2_5_HALF_B, QWEN_3_0_6B
from tests.interop.routed_test import DEEPSEEK_V3, GLM_4_7_FLASH, QWEN3_30B_A3B

WRONG = [
    None,
    True,
    False,
    0,
    -1,
    16.5,
    10**400,
    math.nan,
    "",
    "16",
    "\ud800",
    [],
    [-1],
    ["\ud800"],
    {},
    {"a": None},
    {"content": 3},
    json.loads("[" * 200 + "]" * 200),
]

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
YARN |= {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.7}
YARN |= {"truncate": False, "attention_factor": 1.5}
CONFIGS = {
    "llama": LLAMA_3_2_1B,
    "qwen2": QWEN_2_5_HALF_B | {"layer_types": ["full_attention"] * 24},
    "qwen3": QWEN_3_0_6B | {"rope_scaling": YARN},
    "parameters": QWEN_3_0_6B | {"rope_parameters": YARN | {"rope_theta": 5e4}},
    "fg2_gdn": hf.families.to_json(presets.sizes("fg2-tiny")),
    "kda": KDA | {"safe_gate": True, "lower_bound": -4.0},
    "qwen3_moe": QWEN3_30B_A3B,
    "deepseek_v3": DEEPSEEK_V3,
    "glm4_moe_lite": GLM_4_7_FLASH,
    "gated_deltanet": GDN | {"attn": ATTN, "use_short_conv": False, "num_v_heads": 12},
}
del CONFIGS["parameters"]["rope_scaling"], CONFIGS["parameters"]["rope_theta"]

# Where null, and what is as empty, stands for a choice of its own.
MAY_BE_NULL = {
    *("rope_scaling", "head_dim", "num_key_value_heads", "attention_factor", "mscale"),
    *("mscale_all_dim", "factor", "original_max_position_embeddings", "attn", "num_kv_heads"),
    *("intermediate_size", "lower_bound", "num_v_heads", "architectures", "layer_types"),
    *("decay_lower_bound", "num_heads", "num_value_heads", "delta", "form", "decay", "erase"),
    *("write", "output_gate", "decay_rank", "output_gate_rank", "eos_token", "bos_token"),
    *("eos_token_id", "pad_token_id", "text_config", "chat_template", "pad_token"),
    *("layers", "q_lora_rank"),
}

# Where one of the values is no wrong one.
OTHER_CHOICES = {
    **dict.fromkeys(("conv_size", "decay_rank", "erase_rank", "write_rank"), (0,)),
    "intermediate_size": (0,),
    "first_k_dense_replace": (0,),
    **dict.fromkeys(("output_gate_rank", "mscale", "mscale_all_dim"), (0,)),
    **dict.fromkeys(("eos_token_id", "pad_token_id"), (0,)),
    **dict.fromkeys(("rope_theta", "hidden_ratio", "factor", "beta_fast", "beta_slow"), (16.5,)),
    **dict.fromkeys(("chat_template", "template"), ("", "16")),
    **dict.fromkeys(("lower_bound", "decay_lower_bound"), (-1,)),
    # The error has our name of it.
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), (0,)),
}


def _places(value, path=()):
    """The path of every member of a JSON value."""
    members = value.items() if isinstance(value, dict) else ()
    for key, inner in members:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _changed(data, path, value):
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


def _is_another_choice(path, old, new):
    """Whether the new value is one that its key may have, so that another model is meant."""
    if path[-1] in MAY_BE_NULL and not new and new is not False and type(new) is not int:
        return True
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool)
    if isinstance(old, float) and new == 16.5:
        return True
    return new in OTHER_CHOICES.get(path[-1], ())


def _get(data, path):
    for key in path:
        data = data[key]
    return data


def _unlike(read, expected, file, path):
    """What is wrong with how a file is read, or None."""
    try:
        found = read()
    except CheckpointFormatError as error:
        message = str(error)
        named = file in message and any(part in message for part in path)
        return None if named and "\n" not in message else f"unnamed: {message[:300]}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return None if found == expected else f"another: {found}"


@pytest.mark.parametrize("family", CONFIGS)
def test_config_json(tmp_path, family):
    file, data = tmp_path / "config.json", CONFIGS[family]

    def read():
        return hf.read_config(tmp_path)

    file.write_text(json.dumps(data))
    expected, faults = read(), {}
    for path in _places(data):
        for value in WRONG:
            if _is_another_choice(path, _get(data, path), value):
                continue
            file.write_text(json.dumps(_changed(data, path, value)))
            fault = _unlike(read, expected, str(file), path)
            if fault is not None:
                faults[".".join(path), repr(value)[:40]] = fault
    assert not faults


# Of a small model in several files, and of a tokenizer in as many as it can have.
GENERATION = {"eos_token_id": [0, 5], "pad_token_id": 7, "temperature": 0.6}
MODEL = {"eos_token_id": 6, "text_config": {"eos_token_id": 5}}
TOKENIZER = {
    "eos_token": {"content": "<|endoftext|>", "lstrip": False},
    "bos_token": "<s>",
    "pad_token": None,
    "chat_template": [{"name": "default", "template": "{{ bos_token }}"}],
    "added_tokens_decoder": {"1": {"content": "<s>", "special": True, "lstrip": False}},
    "model_max_length": 1e30,
}
FILES = {
    "generation_config.json": GENERATION,
    "config.json": MODEL,
    "tokenizer_config.json": TOKENIZER,
    "special_tokens_map.json": {"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<s>"},
}


@pytest.fixture
def tokens(tmp_path):
    """A directory of a tokenizer with all of its files."""
    made = tokenizer.train_bpe(["a b c"], 258, special_tokens=("<s>",))
    backend = made.backend
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    for name, data in FILES.items():
        (tmp_path / name).write_text(json.dumps(data))
    return tmp_path


def _tokens(path):
    read = tokenizer.load(path)
    fields = (read.eos_ids, read.bos_id, read.pad_id, read.special_tokens, read.vocab_size)
    return *fields, read.chat_template, read.encode_prompt("a b c")


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_tokenizer(tokens, name):
    expected, faults = _tokens(tokens), {}
    file = tokens / name
    for path in _places(FILES[name]):
        for value in WRONG:
            if _is_another_choice(path, _get(FILES[name], path), value):
                continue
            file.write_text(json.dumps(_changed(FILES[name], path, value)))
            fault = _unlike(lambda: _tokens(tokens), expected, name, path)
            if fault is not None:
                faults[".".join(path), repr(value)[:40]] = fault
    assert not faults


def test_tokenizer_json(tokens):
    """Another tokenizer may be meant, but nothing else than the one error is raised."""
    file, faults = tokens / "tokenizer.json", {}
    data = json.loads(file.read_text())
    data["model"]["vocab"] = dict(list(data["model"]["vocab"].items())[:4])
    data["model"]["vocab"] |= {" ": 4, "a": 5, "b": 6, "c": 7}
    places = [path for path in _places(data) if path[:2] != ("model", "vocab")]
    for path in [*places, ("model", "vocab"), ("model", "vocab", "a")]:
        for value in WRONG:
            file.write_text(json.dumps(_changed(data, path, value)))
            try:
                _tokens(tokens)
            except ValueError as error:
                if "tokenizer" not in str(error) or "\n" in str(error):
                    faults[".".join(path), repr(value)[:40]] = str(error)
            except BaseException as error:
                faults[".".join(path), repr(value)[:40]] = repr(error)
    assert not faults


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    config = presets.decoder("tiny")
    out = tmp_path_factory.mktemp("model") / "model"
    return hf.save(out, config, random_params(config), max_shard_bytes=50_000)


def test_the_index(sharded):
    file = sharded / directory.INDEX
    original = file.read_text()
    data, faults = json.loads(original), {}
    expected = directory.tensors(sharded)
    first = next(iter(data["weight_map"]))
    paths = [("weight_map",), ("weight_map", first), ("metadata",), ("metadata", "total_size")]
    for path in paths:
        for value in [*WRONG, "../config.json", "/etc/passwd", "config.json", "model\0"]:
            file.write_text(json.dumps(_changed(data, path, value)))
            fault = _unlike(lambda: directory.tensors(sharded), expected, directory.INDEX, path)
            if fault is not None:
                faults[".".join(path), repr(value)[:40]] = fault
    file.write_text(original)
    assert not faults


def _damaged(text):
    yield from (text[:n] for n in range(0, len(text), max(1, len(text) // 12)))
    yield from (text.decode().encode("utf-16"), b"\xff" + text, b"null", b"[]", b"\0" * 9)
    yield b"[" * 100_000
    yield b'{"a":' * 100_000
    yield b'{"model_type": "llama", ' + text.lstrip()[1:]
    yield (
        text.rstrip()[:-1]
        + b', "hidden_size": 3, "hidden_size": 4, "pad_token_id": 1, "pad_token_id": 2}'
    )
    yield b'{"a": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize("name", [*FILES, "tokenizer.json"])
def test_damaged_files(tokens, name):
    expected, faults = _tokens(tokens), {}
    text = (tokens / name).read_bytes()
    for damaged in _damaged(text):
        (tokens / name).write_bytes(damaged)
        fault = _unlike(lambda: _tokens(tokens), expected, name, (name,))
        if fault is not None:
            faults[damaged[:40]] = fault
    assert not faults
    if name != "tokenizer.json":
        (tokens / name).write_bytes(b"\xef\xbb\xbf" + text)
        assert _tokens(tokens) == expected


def _header(file, **changes):
    """The file with a header of which some entries of the first tensor are others."""
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    for key, value in changes.items():
        header[name][key] = value
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def test_headers_that_lie(tmp_path):
    file = tmp_path / "model.safetensors"
    values = {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    specs = {name: (value.dtype, value.shape) for name, value in values.items()}
    safetensors_io.write(file, specs, values.values())
    good = file.read_bytes()
    lies = [{key: value} for key in ("dtype", "shape", "data_offsets") for value in WRONG]
    lies += [
        {"dtype": "F64"},
        {"dtype": "F16"},
        {"shape": [2, 4]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3]},
        {"shape": [True, 6]},
        {"shape": [10**18, 10**18]},
        {"data_offsets": [-8, 16]},
        {"data_offsets": [24, 0]},
        {"data_offsets": [16, 40]},
        {"data_offsets": [40, 64]},
        {"data_offsets": [0, 24, 24]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 10**30]},
        {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
    ]
    for lie in lies:
        file.write_bytes(_header(file, **lie))
        with pytest.raises(CheckpointFormatError, match=r"model\.safetensors: ") as error:
            [stored.open() for stored in safetensors_io.read_header(file).values()]
        assert "\n" not in str(error.value)
        file.write_bytes(good)
    assert json_file.show(True) == "true"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 7, b"\0" * 8, b"\xff" * 8 + b"{}"),
        *((2).to_bytes(8, "little") + text for text in (b"[]", b"nu", b"{", b"{}rest")),
    ],
)
def test_files_that_are_no_safetensors(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointFormatError, match=r"model\.safetensors: "):
        safetensors_io.read_header(file)
