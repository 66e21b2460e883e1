"""flash-linear-attention's directories: config.json, names, refusals, and the package's numbers.

The last need an interpreter with that package (0.6.0), torch and transformers: it breaks
transformers' CPU fallbacks, so not this one. JAXLAB_FLA_PYTHON names it:

    python -m venv fla && fla/bin/pip install torch==2.13.0 flash-linear-attention==0.6.0
    JAXLAB_FLA_PYTHON=fla/bin/python python -m pytest tests/interop/fla_test.py
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxlab.exporting import MAX_DIFFERENCE
from jaxlab.interop import families, hf, safetensors_io, torch_check
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.nn.delta_config import RULES, DeltaConfig
from jaxlab.nn.rope import Rope
from tests.interop.directories import assert_same, contents, random_params

SCRIPT = pathlib.Path(__file__).with_name("fla_script.py")
FLA_PYTHON = "JAXLAB_FLA_PYTHON"

# What KDAConfig() and GatedDeltaNetConfig() of version 0.6.0 write, without what transformers adds.
KDA = {
    "allow_neg_eigval": False,
    "architectures": ["KDAForCausalLM"],
    "attn": None,
    "attn_mode": "chunk",
    "attnres_block_size": None,
    "bos_token_id": 1,
    "conv_size": 4,
    "eos_token_id": 2,
    "expand_v": 1.0,
    "fuse_cross_entropy": True,
    "fuse_norm": True,
    "fuse_swiglu": True,
    "head_dim": 128,
    "hidden_act": "swish",
    "hidden_ratio": 4,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": None,
    "lower_bound": None,
    "max_position_embeddings": 2048,
    "model_type": "kda",
    "norm_eps": 1e-06,
    "num_heads": 16,
    "num_hidden_layers": 24,
    "num_v_heads": None,
    "pad_token_id": None,
    "safe_gate": False,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_l2warp": False,
    "use_short_conv": True,
    "vocab_size": 32000,
}
_OF_KDA_ALONE = ("safe_gate", "lower_bound")
GDN = {key: value for key, value in KDA.items() if key not in _OF_KDA_ALONE} | {
    "architectures": ["GatedDeltaNetForCausalLM"],
    "expand_v": 2.0,
    "fuse_linear_cross_entropy": False,
    "head_dim": 256,
    "model_type": "gated_deltanet",
    "num_heads": 6,
    "num_hidden_layers": 21,
    "output_gate_activation": "swish",
    "use_gate": True,
}
ATTN = {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": True, "rope_theta": 5000.0}
SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "head_dim": 4,
    "num_heads": 2,
    "max_position_embeddings": 128,
    # Where a head's output is nearly 0, the norm behind the rule magnifies rounding by up to
    # 1 / sqrt(eps).
    "norm_eps": 1e-3,
}

# The state dict of a layer of each kind in version 0.6.0, with SMALL, ATTN and the options below:
# 4 value heads of 6 channels.
GROUPED = {"num_v_heads": 4, "expand_v": 1.5, "attn": ATTN}
OF_BOTH = {
    "attn_norm.weight": (16,),
    "attn.A_log": (4,),
    "attn.q_proj.weight": (8, 16),
    "attn.k_proj.weight": (8, 16),
    "attn.v_proj.weight": (24, 16),
    "attn.q_conv1d.weight": (8, 1, 4),
    "attn.k_conv1d.weight": (8, 1, 4),
    "attn.v_conv1d.weight": (24, 1, 4),
    "attn.b_proj.weight": (4, 16),
    "attn.o_norm.weight": (6,),
    "attn.o_proj.weight": (16, 24),
    "mlp_norm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}
LAYER_0 = {
    "kda": OF_BOTH
    | {
        "attn.dt_bias": (16,),
        "attn.f_proj.0.weight": (6, 16),
        "attn.f_proj.1.weight": (16, 6),
        "attn.g_proj.0.weight": (6, 16),
        "attn.g_proj.1.weight": (24, 6),
        "attn.g_proj.1.bias": (24,),
    },
    "gated_deltanet": OF_BOTH
    | {"attn.dt_bias": (4,), "attn.a_proj.weight": (4, 16), "attn.g_proj.weight": (24, 16)},
}
LAYER_1 = {
    "attn_norm.weight": (16,),
    "attn.q_proj.weight": (16, 16),
    "attn.q_proj.bias": (16,),
    "attn.k_proj.weight": (8, 16),
    "attn.k_proj.bias": (8,),
    "attn.v_proj.weight": (8, 16),
    "attn.v_proj.bias": (8,),
    "attn.o_proj.weight": (16, 16),
    "mlp_norm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}
OUTSIDE = {
    "model.embeddings.weight": (48, 16),
    "model.norm.weight": (16,),
    "lm_head.weight": (48, 16),
}

# Models of both families in which each option that the decoder has is off its default once.
CASES = {
    "kda": ("kda", {}),
    "kda_safe_grouped_tied": (
        "kda",
        {
            "num_v_heads": 4,
            "expand_v": 0.5,
            "safe_gate": True,
            "lower_bound": -5.0,
            "allow_neg_eigval": True,
            "tie_word_embeddings": True,
        },
    ),
    "kda_without_conv": ("kda", {"use_short_conv": False, "fuse_norm": False, "norm_eps": 1e-2}),
    "kda_hybrid": ("kda", GROUPED | {"conv_size": 3}),
    "gdn": ("gated_deltanet", {"expand_v": 1.0}),
    "gdn_without_gate": ("gated_deltanet", {"num_v_heads": 4, "use_gate": False}),
    "gdn_sigmoid_tied": (
        "gated_deltanet",
        {
            "output_gate_activation": "sigmoid",
            "allow_neg_eigval": True,
            "tie_word_embeddings": True,
            "use_short_conv": False,
        },
    ),
    "gdn_hybrid": (
        "gated_deltanet",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "attn": [ATTN, ATTN | {"layers": [3]}],
        },
    ),
}
CLASSES = {"kda": "KDA", "gated_deltanet": "GatedDeltaNet"}


def read(path, data):
    (path / "config.json").write_text(json.dumps(data))
    return Sizes.of(hf.read_config(path))


def small(family, **changes):
    return {"model_type": family} | SMALL | changes


@functools.cache
def model(name):
    """One of CASES as a decoder in which no parameter is trivially zero or one."""
    family, changes = CASES[name]
    config = families.from_json(small(family, **changes)).decoder()
    return family, config, random_params(config)


class TestConfig:
    @pytest.mark.parametrize("data", [KDA, {"model_type": "kda"}])
    def test_defaults_of_kda(self, data, tmp_path):
        assert read(tmp_path, data) == Sizes(
            vocab_size=32_000,
            hidden_size=2048,
            # 2/3 of four times the width is 5461.3; the next multiple of 256:
            intermediate_size=5632,
            num_layers=24,
            pattern=("delta",),
            delta=DeltaConfig(rule="kda", head_dim=128, num_heads=16),
            norm_eps=1e-6,
            max_position=2048,
        )

    @pytest.mark.parametrize("data", [GDN, {"model_type": "gated_deltanet"}])
    def test_defaults_of_gated_deltanet(self, data, tmp_path):
        config = read(tmp_path, data)
        assert config.num_layers == 21
        assert config.delta == DeltaConfig(rule="gdn", head_dim=256, num_heads=6, expand_value=2.0)
        assert (config.intermediate_size, config.norm_eps) == (5632, 1e-6)

    @pytest.mark.parametrize("data", [KDA, GDN])
    def test_what_is_written_is_what_the_package_writes(self, data, tmp_path):
        config = read(tmp_path, data)
        written = families.to_json(config, data["model_type"])
        resolved = {"intermediate_size": 5632, "num_v_heads": data["num_heads"]}
        assert written == {key: (data | resolved)[key] for key in written}
        unwritten = {"attn_mode", "hidden_ratio", "attnres_block_size", "initializer_range"}
        unwritten |= {"use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}
        rest = data.keys() - written.keys()
        assert {key for key in rest if not key.startswith(("fuse_", "use_l2warp"))} == unwritten

    @pytest.mark.parametrize("name", CASES)
    def test_nothing_is_lost(self, name, tmp_path):
        family, config, _ = model(name)
        config = Sizes.of(config)
        data = families.to_json(config, family)
        assert read(tmp_path, data).delta.resolved(16) == config.delta.resolved(16)
        assert dataclasses.replace(read(tmp_path, data), delta=config.delta) == config

    def test_a_hybrid(self, tmp_path):
        config = read(tmp_path, small("kda", num_hidden_layers=4, attn=ATTN | {"layers": [1, 3]}))
        assert config.pattern == ("delta", "attention")
        assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 4)
        assert (config.qkv_bias, config.rope) == (True, Rope(5000.0))
        attn = {"layers": [3], "num_heads": 2}
        config = read(tmp_path, small("kda", num_hidden_layers=4, attn=attn))
        assert config.pattern == ("delta", "delta", "delta", "attention")
        assert (config.num_kv_heads, config.qkv_bias, config.rope) == (2, False, Rope(10_000.0))

    @pytest.mark.parametrize("key", ["fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "use_cache"])
    def test_how_it_is_run_does_not_matter(self, key, tmp_path):
        assert read(tmp_path, KDA | {key: False}) == read(tmp_path, KDA)

    @pytest.mark.parametrize(
        ("data", "changes", "message"),
        [
            (KDA, {"attnres_block_size": 4}, "attnres_block_size 4 .* supported: null"),
            (KDA, {"safe_gate": True}, "lower_bound None .* where safe_gate is true"),
            (KDA, {"lower_bound": -5}, "safe_gate False .* lower_bound is given, here -5"),
            (KDA, {"safe_gate": True, "lower_bound": -9}, "lower_bound -9 .* from -5 up to 0"),
            (KDA, {"safe_gate": True, "lower_bound": 0}, "lower_bound 0 .* from -5 up to 0"),
            (KDA, {"hidden_act": "powlu"}, "hidden_act 'powlu'"),
            (KDA, {"expand_v": 0.3}, "expand_v 0.3 .* whole numbers times head_dim 128"),
            (KDA, {"num_v_heads": 24}, "num_v_heads 24 .* multiples of num_heads 16"),
            (KDA, {"num_heads": None}, "missing num_heads"),
            (KDA, {"head_dim": 0}, "config.json: head_dim is 0: expected a whole number from 1"),
            (KDA, {"head_dim": "wide"}, "config.json: head_dim is 'wide'"),
            (GDN, {"output_gate_activation": "relu"}, "output_gate_activation 'relu'"),
            (GDN, {"attn": 3}, r"attn 3 .* null, \{layers, num_heads"),
            (GDN, {"attn": {"layers": [1]}}, "missing attn.num_heads"),
            (GDN, {"attn": ATTN | {"layers": [21]}}, r"attn.layers \[21\] .* below 21"),
            (GDN, {"attn": ATTN | {"layers": [1, 1]}}, r"attn.layers \[1, 1\]"),
            (GDN, {"attn": ATTN | {"layers": list(range(21))}}, "attn.layers .* another kind"),
            (GDN, {"attn": ATTN | {"window_size": 512}}, "attn.window_size 512 .* null"),
            (GDN, {"attn": ATTN | {"qk_norm": True}}, "attn.qk_norm True"),
            (GDN, {"attn": ATTN | {"num_heads": 3}}, "attn.num_heads 3 .* divisors of 2048"),
            (GDN, {"attn": ATTN | {"num_kv_heads": 3}}, "num_kv_heads 3"),
            (
                GDN,
                {"attn": [ATTN, ATTN | {"layers": [2], "num_kv_heads": 4}]},
                "attn .* the same attention in all of its layers",
            ),
            (GDN, {"quantization_config": {"bits": 4}}, "quantization_config"),
            (GDN, {"architectures": ["KDAForCausalLM"]}, "supported .*GatedDeltaNetForCausalLM"),
            (GDN, {"norm_eps": None}, "missing norm_eps"),
        ],
    )
    def test_refusals_name_key_and_value(self, data, changes, message, tmp_path):
        with pytest.raises(hf.CheckpointFormatError, match=message) as error:
            read(tmp_path, data | changes)
        assert "\n" not in str(error.value)


class TestFamily:
    """Which layout a model with delta layers is written in."""

    def test_our_own_unless_another_is_asked_for(self, tmp_path):
        family, config, params = model("kda_hybrid")
        own = hf.save(tmp_path / "own", config, params)
        assert json.loads((own / "config.json").read_text())["model_type"] == "fg2_gdn"
        theirs = hf.save(tmp_path / "theirs", config, params, family=family, eos_token_id=7)
        data = json.loads((theirs / "config.json").read_text())
        assert (data["model_type"], data["architectures"]) == ("kda", ["KDAForCausalLM"])
        assert not list(theirs.glob("*.py"))
        assert {n: x.tobytes() for n, x in load_file(own / "model.safetensors").items()} == {
            n: x.tobytes() for n, x in load_file(theirs / "model.safetensors").items()
        }

        followed = hf.save(tmp_path / "followed", config, params, like=theirs)
        assert contents(followed) == contents(theirs)
        # Out of it again: token ids go along, the rest of another family's keys does not.
        (theirs / "config.json").write_text(json.dumps(data | {"attn_mode": "chunk"}))
        back = hf.save(tmp_path / "back", config, params, like=theirs, family="fg2_gdn")
        assert json.loads((back / "config.json").read_text()) == json.loads(
            (own / "config.json").read_text()
        ) | {"eos_token_id": 7}

    def test_other_keys_of_the_same_family_are_carried_over(self, tmp_path):
        family, config, params = model("gdn")
        out = hf.save(tmp_path / "out", config, params, family=family)
        data = json.loads((out / "config.json").read_text())
        others = {"attn_mode": "chunk", "fuse_norm": False, "hidden_ratio": 3, "vocab_size": 7}
        (out / "config.json").write_text(json.dumps(data | others | {"use_gate": False}))
        again = hf.save(tmp_path / "again", config, params, like=out)
        del others["vocab_size"]
        assert json.loads((again / "config.json").read_text()) == data | others

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("family", ["kda", "gated_deltanet"])
    def test_a_rule_belongs_to_one_of_them_or_none(self, rule, family):
        config = presets.sizes("fg2-tiny", delta=DeltaConfig(rule=rule, head_dim=16))
        if {"kda": "kda", "gdn": "gated_deltanet"}.get(rule) == family:
            assert families.to_json(config, family)["model_type"] == family
        else:
            message = f"{family} has no such model: none with delta.* family='fg2_gdn' has all"
            with pytest.raises(hf.CheckpointFormatError, match=message):
                families.to_json(config, family)

    def test_the_switches_make_the_rule_and_not_its_name(self):
        delta = DeltaConfig(rule="fg2", erase="head", head_dim=16)
        data = families.to_json(presets.sizes("fg2-tiny", delta=delta), "kda")
        assert families.from_json(data).delta == DeltaConfig(
            "kda", head_dim=16, num_heads=2, num_value_heads=2
        )

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"qk_norm": True}, "none with qk_norm=True"),
            ({"output_bias": True}, "none with output_bias=True"),
            ({"mlp_bias": True}, "none with mlp_bias=True"),
            ({"rope": None}, "none with rope=None"),
            ({"rope": Rope(1e4, "yarn", 4.0, 64)}, "none with rope="),
            ({"intermediate_size": 0}, "intermediate_size is 0"),
            ({"head_dim": 4}, "none with head_dim=4"),
            ({"num_heads": 3, "num_kv_heads": 1, "head_dim": 8}, "attn.num_heads 3"),
            (
                {"delta": DeltaConfig("kda", 16, decay_rank=0, erase_rank=0)},
                "none with delta.decay_rank=0",
            ),
            ({"delta": DeltaConfig("kda", 16, decay_lower_bound=-7.0)}, "lower_bound -7.0"),
        ],
    )
    def test_parts_that_kda_has_not(self, parts, message):
        config = presets.sizes("fg2-tiny", **{"delta": DeltaConfig("kda", 16)} | parts)
        with pytest.raises(hf.CheckpointFormatError, match=f"kda has no such model: .*{message}"):
            families.to_json(config, "kda")

    def test_what_attention_layers_would_have_does_not_matter_without_them(self):
        delta = DeltaConfig("kda", 16)
        parts = {"pattern": ("delta",), "num_heads": 5, "head_dim": 3, "rope": None}
        data = families.to_json(presets.sizes("fg2-tiny", delta=delta, **parts), "kda")
        assert data["attn"] is None

    def test_a_model_without_delta_layers(self, tmp_path):
        with pytest.raises(hf.CheckpointFormatError, match="kda has no such model: none without"):
            hf.save(tmp_path / "out", presets.decoder("tiny"), {}, family="kda")


class TestFiles:
    @pytest.mark.parametrize("family", LAYER_0)
    def test_names_and_shapes_are_those_of_the_package(self, family, tmp_path):
        name = {"kda": "kda_hybrid", "gated_deltanet": "gdn_hybrid"}[family]
        config = dataclasses.replace(
            families.from_json(small(family, **GROUPED)),
            num_layers=2,
            pattern=("delta", "attention"),
        )
        params = {k: v for k, v in model(name)[2].items() if k not in ("layer_2", "layer_3")}
        if family == "kda":
            delta = dataclasses.replace(config.delta, conv_size=3)
            config = dataclasses.replace(config, delta=delta)
        out = hf.save(tmp_path / "out", config.decoder(), params, family=family)
        taps = config.delta.conv_size
        expected = OUTSIDE | {
            f"model.layers.{i}.{key}": (*shape[:2], taps) if "conv1d" in key else shape
            for i, layer in enumerate((LAYER_0[family], LAYER_1))
            for key, shape in layer.items()
        }
        found = {key: x.shape for key, x in load_file(out / "model.safetensors").items()}
        assert found == expected

    @pytest.mark.parametrize("name", CASES)
    def test_round_trip_is_identical_to_the_byte(self, name, tmp_path):
        family, config, params = model(name)
        out = hf.save(tmp_path / "out", config, params, family=family, eos_token_id=3)
        loaded_config, loaded = hf.load(out)
        assert_same(loaded, params)
        again = hf.save(tmp_path / "again", loaded_config, loaded, like=out)
        assert contents(again) == contents(out)
        stacked = hf.load(out, scan_layers=True)
        assert contents(hf.save(tmp_path / "again", *stacked, like=out)) == contents(out)

    def test_bfloat16_keeps_the_decays(self, tmp_path):
        family, config, params = model("kda")
        out = hf.save(tmp_path / "out", config, params, family=family, dtype="bfloat16")
        stored = safetensors_io.read_header(out / "model.safetensors")
        wide = {name.rpartition(".")[2] for name, x in stored.items() if x.dtype == "F32"}
        assert wide == {"A_log", "dt_bias"}
        loaded = hf.load(out, dtype=None)
        assert contents(hf.save(tmp_path / "again", *loaded, like=out)) == contents(out)


@pytest.mark.interop
@pytest.mark.parametrize("name", CASES)
def test_the_tensors_run_in_pytorch(name, tmp_path):
    """By the code of fg2_gdn directories: it computes the package's layers on any device."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    family, config, params = model(name)
    out = hf.save(tmp_path / "out", config, params, family=family)
    before = contents(out)
    prompts = np.random.default_rng(1).integers(0, 48, (2, 40)).tolist()
    report = torch_check.compare(out, config, params, prompts, max_difference=MAX_DIFFERENCE)
    assert report["passed"]
    assert report["model_type"] == "fg2_gdn"
    after = contents(out)
    assert json.loads(after.pop("parity.json")) == report
    assert after == before
    other = jax.tree.map(lambda x: x, params)
    other["layer_0"]["mixer"]["erase"]["kernel"] = -params["layer_0"]["mixer"]["erase"]["kernel"]
    assert not torch_check.compare(out, config, other, prompts, max_difference=1e-3)["passed"]


@pytest.fixture(scope="module")
def fla():
    """Runs the script with the other interpreter."""
    python = os.environ.get(FLA_PYTHON)
    if not python:
        pytest.skip(f"{FLA_PYTHON} names no interpreter with flash-linear-attention")

    def run(*arguments):
        done = subprocess.run(
            [python, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run


@pytest.fixture(scope="module")
def built(fla, tmp_path_factory):
    """Their checkpoints, and ours beside them, which they have read again."""
    out = tmp_path_factory.mktemp("fla")
    cases = {
        name: {"class": CLASSES[family], "config": SMALL | changes}
        for name, (family, changes) in CASES.items()
    }
    cases["kda_bfloat16"] = cases["kda"] | {"dtype": "bfloat16"}
    fla("build", out, json.dumps(cases))
    for name in cases:
        hf.save(out / name / "ours", *hf.load(out / name), like=out / name)
    fla("read", out)
    print((out / "versions.json").read_text())
    return out


class TestPackage:
    """Against models that flash-linear-attention constructs, saves and runs."""

    @pytest.mark.parametrize("name", CASES)
    def test_logits(self, name, built):
        config, params = hf.load(built / name)
        theirs = np.load(built / name / "logits.npz")
        ours = np.asarray(jax.jit(Decoder(config).apply)({"params": params}, theirs["tokens"]))
        assert np.abs(ours).max() > 1
        difference = np.abs(ours - theirs["logits"])
        print(f"{name}: largest {difference.max():.1e}, mean {difference.mean():.1e}")
        assert difference.max() < MAX_DIFFERENCE

    @pytest.mark.parametrize("name", [*CASES, "kda_bfloat16"])
    def test_they_read_ours_as_the_same_model(self, name, built):
        again, theirs = np.load(built / name / "again.npz"), np.load(built / name / "logits.npz")
        assert (
            f"{again['name']}"
            == json.loads((built / name / "config.json").read_text())["architectures"][0]
        )
        np.testing.assert_array_equal(again["logits"], theirs["logits"])

    @pytest.mark.parametrize("name", [*CASES, "kda_bfloat16"])
    def test_tensors_and_config_come_back(self, name, built, tmp_path):
        ours, theirs = built / name / "ours", built / name
        stored = load_file(ours / "model.safetensors")
        original = load_file(theirs / "model.safetensors")
        assert stored.keys() == original.keys()
        for key, value in original.items():
            np.testing.assert_array_equal(np.float32(stored[key]), np.float32(value), key)
        shapes = json.loads((theirs / "names.json").read_text())
        assert {key: list(x.shape) for key, x in stored.items()}.items() <= shapes.items()
        before = json.loads((theirs / "config.json").read_text())
        after = json.loads((ours / "config.json").read_text())
        changed = {key for key in before if after.get(key) != before[key]}
        # What was left to a default is written out; two lists of layers become one.
        assert changed <= {"num_v_heads", "dtype"} | ({"attn"} if name == "gdn_hybrid" else set())
        again = hf.save(tmp_path / "again", *hf.load(ours), like=ours)
        assert contents(again) == contents(ours)

    def test_the_facts_above(self, built):
        """Names and shapes that the other tests hold are those of this version."""
        names = json.loads((built / "gdn_hybrid" / "names.json").read_text())
        for i, layer in enumerate((LAYER_0["gated_deltanet"], LAYER_1)):
            prefix = f"model.layers.{i}."
            own = {k.removeprefix(prefix): tuple(v) for k, v in names.items() if prefix in k}
            assert own == layer
        names = json.loads((built / "kda_hybrid" / "names.json").read_text())
        assert {k for k in names if "layers.0." in k} == {
            f"model.layers.0.{key}" for key in LAYER_0["kda"]
        }

    def test_the_code_of_our_own_directories_beside_the_package(self, fla, tmp_path):
        """Plain PyTorch on a CPU; and its kernel's naive form, given what the kernel would be."""
        configs = {
            rule: presets.decoder(
                "fg2-tiny", delta=DeltaConfig(rule=rule, head_dim=8), norm_eps=1e-3
            )
            for rule in ("gdn", "kda", "fg2", "fg2_plus")
        }
        params = {}
        for rule, config in configs.items():
            tokens = jnp.zeros((1, 1), jnp.int32)
            params[rule] = jax.jit(Decoder(config).init)(jax.random.key(0), tokens)["params"]
            hf.save(tmp_path / rule, config, params[rule])
        fla("own", tmp_path)
        for rule, config in configs.items():
            theirs = np.load(tmp_path / rule / "own.npz")
            ours = np.asarray(Decoder(config).apply({"params": params[rule]}, theirs["tokens"]))
            for path in ("plain", "kernel"):
                assert np.abs(theirs[path] - ours).max() < MAX_DIFFERENCE, (rule, path)
