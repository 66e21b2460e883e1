"""Checkpoint directories without PyTorch: contents, refusals, damage, and what is left behind."""

import dataclasses
import json
import os
import pathlib
import socket
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlab.interop import hf, safetensors_io
from jaxlab.interop.names import flatten
from jaxlab.models import presets
from jaxlab.models.decoder import abstract_params
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan
from jaxlab.nn.delta_config import DeltaConfig
from jaxlab.nn.rope import Rope
from tests.interop.directories import assert_same, contents

HOSTS_SCRIPT = pathlib.Path(__file__).with_name("hf_hosts_script.py")

# The config.json files of released models.
LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
QWEN_2_5_HALF_B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN_3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": [151645, 151643],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}


@pytest.fixture(scope="module")
def model():
    """A Qwen2-shaped decoder, untied, with no parameter zero."""
    config = presets.decoder("tiny", qk_norm=False, qkv_bias=True, tie_embeddings=False)
    return config, random_params(config)


def random_params(config):
    shapes = abstract_params(config)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture
def saved(model, tmp_path):
    return hf.save(tmp_path / "model", *model)


def rewrite(path, **changes):
    """Change tensors of a saved model; None removes one."""
    file = path / "model.safetensors"
    tensors = load_file(file) | changes
    save_file({name: x for name, x in tensors.items() if x is not None}, file)


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write_config(path, data):
    (path / "config.json").write_text(json.dumps(data))


class TestConfig:
    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("llama-3.2-1b", LLAMA_3_2_1B),
            ("qwen2.5-0.5b", QWEN_2_5_HALF_B),
            ("qwen3-0.6b", QWEN_3_0_6B),
        ],
    )
    def test_published_files_are_the_presets(self, name, data, tmp_path):
        write_config(tmp_path, data)
        assert hf.read_config(tmp_path) == presets.decoder(name)

    def test_how_tables_began_is_no_part_of_the_model(self):
        """No config.json has it, and a checkpoint brings its own tables."""
        tiny = presets.sizes("tiny")
        kda = {"pattern": ("delta",), "delta": DeltaConfig("kda", num_heads=2, head_dim=4)}
        kda = dataclasses.replace(tiny, **kda, rope=None, qk_norm=False)
        for sizes, family in ((tiny, None), (kda, None), (kda, "kda")):
            begun = dataclasses.replace(sizes, embedding_std=0.2)
            expected = hf.families.to_json(sizes, family)
            assert hf.families.to_json(begun, family) == expected

    @pytest.mark.parametrize(
        "name", [n for n, c in presets.DECODERS.items() if c.delta is None and c.moe is None]
    )
    def test_round_trip_through_both_spellings(self, name, tmp_path):
        config = presets.decoder(name)
        data = hf.families.to_json(presets.sizes(name))
        write_config(tmp_path, data)
        assert hf.read_config(tmp_path) == config
        for spelling in (("rope_parameters",), ("rope_scaling", "rope_theta")):
            write_config(tmp_path, {key: data[key] for key in data if key not in spelling})
            assert hf.read_config(tmp_path) == config

    @pytest.mark.parametrize(
        ("changes", "rope"),
        [
            # As Qwen2.5's model card asks for contexts above 32,768.
            (
                {
                    "rope_scaling": {
                        "factor": 4.0,
                        "original_max_position_embeddings": 32768,
                        "type": "yarn",
                    }
                },
                Rope(1e6, "yarn", 4.0, 32768),
            ),
            # No factor: the ratio of the two lengths.
            (
                {
                    "rope_scaling": {
                        "rope_type": "yarn",
                        "original_max_position_embeddings": 8192,
                        "truncate": False,
                        "beta_fast": 16,
                    }
                },
                Rope(1e6, "yarn", 4.0, 8192, beta_fast=16.0, truncate=False),
            ),
            ({"rope_scaling": {"type": "linear", "factor": 2}}, Rope(1e6, "linear", 2.0)),
            (
                {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
                Rope(5e4),
            ),
            (
                {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e4, "factor": 2.0}},
                Rope(5e4, "yarn", 2.0, 32768),
            ),
        ],
    )
    def test_rope(self, changes, rope, tmp_path):
        write_config(tmp_path, QWEN_2_5_HALF_B | changes)
        assert Sizes.of(hf.read_config(tmp_path)).rope == rope

    def test_defaults_of_old_llama_files(self, tmp_path):
        """Llama 1 has neither key-value heads nor head_dim nor rope_theta in its file."""
        absent = ("num_key_value_heads", "rope_scaling", "rope_theta", "head_dim", "mlp_bias")
        data = {key: LLAMA_3_2_1B[key] for key in LLAMA_3_2_1B if key not in absent}
        write_config(tmp_path, data | {"head_dim": None})
        config = Sizes.of(hf.read_config(tmp_path))
        assert (config.num_kv_heads, config.head_dim, config.rope) == (32, 64, Rope(10_000.0))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"use_sliding_window": True}, "use_sliding_window True .* supported: false"),
            ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
            (
                {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
                "rope_type 'dynamic' .* supported: default, linear, llama3, yarn",
            ),
            ({"rope_scaling": {"type": "longrope"}}, "rope_type 'longrope'"),
            ({"rope_scaling": {"type": "linear"}}, "needs factor"),
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
            ({"hidden_act": "gelu"}, "hidden_act 'gelu' .* supported: silu"),
            ({"quantization_config": {"bits": 4}}, "quantization_config"),
            (
                {"model_type": "mamba"},
                "model_type 'mamba' .* supported: llama, qwen2, qwen3, fg2_gdn, kda, gated",
            ),
            ({"model_type": None}, "model_type None"),
            ({"architectures": ["Qwen2ForSequenceClassification"]}, "supported .*Qwen2ForCausalLM"),
            ({"is_encoder_decoder": True}, "is_encoder_decoder"),
            ({"hidden_size": None}, "missing hidden_size"),
            (
                {"num_key_value_heads": 3},
                "num_attention_heads 14 is no multiple of num_key",
            ),
        ],
    )
    def test_refusals_name_key_and_value(self, changes, message, tmp_path):
        write_config(tmp_path, QWEN_2_5_HALF_B | changes)
        with pytest.raises(hf.CheckpointFormatError, match=message) as error:
            hf.read_config(tmp_path)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "parts",
        [
            {"qk_norm": False, "output_bias": True},
            {"qk_norm": True, "mlp_bias": True},
            {"qk_norm": True, "qkv_bias": True},
            {"qk_norm": False, "qkv_bias": True, "mlp_bias": True},
            {"qk_norm": False, "hidden_size": 36, "num_heads": 8, "head_dim": 8},
        ],
    )
    def test_models_that_no_family_has(self, parts):
        with pytest.raises(hf.CheckpointFormatError, match="no HuggingFace family has this model"):
            hf.families.to_json(presets.sizes("tiny", **parts))

    @pytest.mark.parametrize(
        ("name", "parts", "message"),
        [
            ("tiny", {"intermediate_size": 0}, "written has intermediate_size=0$"),
            ("tiny", {"rope": None}, "written has rope=None$"),
        ],
    )
    def test_parts_that_no_family_has_are_named(self, name, parts, message):
        with pytest.raises(hf.CheckpointFormatError, match=message):
            hf.families.to_json(presets.sizes(name, **parts))

    @pytest.mark.parametrize("text", ["{", "[]", "\xff"])
    def test_unreadable(self, text, tmp_path):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(hf.CheckpointFormatError, match=r"config\.json"):
            hf.read_config(tmp_path)

    def test_absent(self, tmp_path):
        with pytest.raises(hf.CheckpointFormatError, match=r"config\.json: no such file"):
            hf.read_config(tmp_path)
        with pytest.raises(hf.CheckpointFormatError, match="no such directory; download"):
            hf.load("Qwen/Qwen3-0.6B")


class TestTensors:
    def test_names_and_orientation(self, model, saved):
        _, params = model
        tensors = load_file(saved / "model.safetensors")
        assert len(tensors) == 2 * (7 + 3 + 2) + 3
        kernel = params["layer_1"]["mlp"]["gate"]["kernel"]
        np.testing.assert_array_equal(tensors["model.layers.1.mlp.gate_proj.weight"], kernel.T)
        bias = params["layer_0"]["mixer"]["key"]["bias"]
        np.testing.assert_array_equal(tensors["model.layers.0.self_attn.k_proj.bias"], bias)
        table = params["unembed"]["embedding"]
        np.testing.assert_array_equal(tensors["lm_head.weight"], table)

    def test_round_trip_is_identical_to_the_byte(self, model, saved, tmp_path):
        config, params = hf.load(saved)
        assert config == model[0]
        assert_same(params, model[1])
        assert contents(hf.save(tmp_path / "again", config, params)) == contents(saved)

    def test_shards_round_trip(self, model, saved, tmp_path):
        config, params = model
        limit = 20_000
        out = hf.save(tmp_path / "shards", config, params, max_shard_bytes=limit)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        files = sorted(out.glob("*.safetensors"))
        count = len(files)
        assert count > 2
        assert [f.name for f in files] == [
            f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)
        ]
        sizes = {name: x.nbytes for f in files for name, x in load_file(f).items()}
        assert index["metadata"]["total_size"] == sum(sizes.values())
        assert index["weight_map"].keys() == sizes.keys()
        for file in files:
            tensors = load_file(file)
            assert len(tensors) == 1 or sum(x.nbytes for x in tensors.values()) <= limit
        loaded = hf.load(out)
        assert_same(loaded[1], params)
        again = hf.save(tmp_path / "again", *loaded, max_shard_bytes=limit)
        assert contents(again) == contents(out)

    def test_stacked_layers_load_and_save_as_the_same_files(self, model, saved, tmp_path):
        config, params = hf.load(saved, scan_layers=True)
        expected_config, expected = rescan(*model)
        assert config == expected_config
        assert_same(params, expected)
        assert contents(hf.save(tmp_path / "again", config, params)) == contents(saved)

    def test_dtypes(self, model, saved, tmp_path):
        out = hf.save(tmp_path / "bf16", *model, dtype="bfloat16")
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model[1])
        config, params = hf.load(out, dtype=None)
        assert config.param_dtype == "bfloat16"
        assert_same(params, rounded)
        assert contents(hf.save(tmp_path / "again", config, params)) == contents(out)
        assert_same(hf.load(out)[1], jax.tree.map(lambda x: x.astype(jnp.float32), rounded))
        config, params = hf.load(saved, dtype="bfloat16", compute_dtype="bfloat16", remat=True)
        assert (config.dtype, config.param_dtype, config.remat) == ("bfloat16", "bfloat16", True)
        assert_same(params, rounded)

    def test_mixed_dtypes_stay_aligned(self, model, tmp_path):
        """A file of both dtypes has the wider first, as safetensors itself writes it."""
        config, params = model
        params = params | {"embed": {"embedding": params["embed"]["embedding"].astype("bfloat16")}}
        out = hf.save(tmp_path / "mixed", config, params)
        stored = safetensors_io.read_header(out / "model.safetensors")
        assert all(x.offset % safetensors_io.DTYPES[x.dtype].itemsize == 0 for x in stored.values())
        assert load_file(out / "model.safetensors")["lm_head.weight"].dtype == np.float32
        with pytest.raises(hf.CheckpointFormatError, match="BF16 and F32: give dtype"):
            hf.load(out, dtype=None)
        assert_same(hf.load(out)[1], jax.tree.map(lambda x: x.astype(jnp.float32), params))

    def test_float16_files(self, model, saved):
        table = np.asarray(model[1]["embed"]["embedding"]).astype(np.float16)
        rewrite(saved, **{"model.embed_tokens.weight": table})
        embedding = hf.load(saved)[1]["embed"]["embedding"]
        np.testing.assert_array_equal(embedding, table.astype(np.float32))

    def test_each_parameter_goes_where_it_is_told(self, saved):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
        asked = {}

        def place(path, shape):
            asked[path] = shape
            return sharding if path.startswith("embed/") else None

        _, params = hf.load(saved, sharding=place)
        assert asked == {path: leaf.shape for path, leaf in flatten(params).items()}
        assert params["embed"]["embedding"].sharding.memory_kind == "pinned_host"
        assert params["final_norm"]["scale"].sharding.memory_kind != "pinned_host"

    def test_host_memory(self, tmp_path):
        """Saving holds one tensor; loading holds one beside the params."""
        config = presets.decoder("tiny", hidden_size=128, intermediate_size=512, num_layers=6)
        params = random_params(config)
        largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
        total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        assert total > 12 * largest

        def peak(function):
            tracemalloc.start()
            function()
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return size

        hf.save(tmp_path, config, params)
        # Twice: a transposed copy on its way.
        assert peak(lambda: hf.save(tmp_path, config, params)) < 3 * largest
        hf.load(tmp_path)
        assert peak(lambda: hf.load(tmp_path)) < total + 3 * largest


class TestDamage:
    def test_missing_extra_and_misshapen_tensors_in_one_line(self, saved):
        norm = np.ones(31, np.float32)
        rewrite(
            saved,
            **{
                "model.norm.weight": norm,
                "model.layers.0.mlp.up_proj.weight": None,
                "model.layers.0.self_attn.q_norm.weight": norm,
            },
        )
        with pytest.raises(hf.CheckpointFormatError) as error:
            hf.load(saved)
        message = str(error.value)
        assert "missing model.layers.0.mlp.up_proj.weight [64, 32]" in message
        assert "unexpected model.layers.0.self_attn.q_norm.weight [31]" in message
        assert "model.norm.weight: expected shape [32], found [31]" in message
        assert "\n" not in message

    def test_long_lists_are_cut(self, saved):
        edit_config(saved, num_hidden_layers=9)
        with pytest.raises(hf.CheckpointFormatError, match="and 79 more"):
            hf.load(saved)

    @pytest.mark.parametrize("keep", [0, 5, 100, -1])
    def test_truncated_file(self, saved, keep):
        file = saved / "model.safetensors"
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(hf.CheckpointFormatError, match=r"model\.safetensors: truncated"):
            hf.load(saved)

    def test_header_that_is_none(self, saved):
        (saved / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"none" + b" " * 99)
        with pytest.raises(hf.CheckpointFormatError, match="no valid safetensors header"):
            hf.load(saved)

    def test_shards(self, model, tmp_path):
        out = hf.save(tmp_path / "shards", *model, max_shard_bytes=20_000)
        second = sorted(out.glob("model-*"))[1]
        whole = second.read_bytes()
        second.write_bytes(whole[:-7])
        with pytest.raises(hf.CheckpointFormatError, match=f"{second.name}: truncated"):
            hf.load(out)
        second.unlink()
        with pytest.raises(hf.CheckpointFormatError, match=f"missing: {second.name}"):
            hf.load(out)
        second.write_bytes(whole)
        index = out / "model.safetensors.index.json"
        data = json.loads(index.read_text())
        data["weight_map"]["model.extra.weight"] = second.name
        index.write_text(json.dumps(data))
        with pytest.raises(hf.CheckpointFormatError, match=r"lack: model\.extra\.weight"):
            hf.load(out)
        index.write_text("{}")
        with pytest.raises(hf.CheckpointFormatError, match="no weight_map"):
            hf.load(out)
        index.unlink()
        with pytest.raises(hf.CheckpointFormatError, match=r"neither model\.safetensors nor"):
            hf.load(out)

    def test_dtypes_that_are_not_numbers_of_a_model(self, saved):
        rewrite(saved, **{"model.norm.weight": np.ones(32, np.int8)})
        with pytest.raises(hf.CheckpointFormatError, match="dtype I8 is not supported"):
            hf.load(saved)

    def test_old_buffers_are_ignored(self, model, saved):
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        rewrite(saved, **{name: np.ones(4, np.float32)})
        assert_same(hf.load(saved)[1], model[1])

    def test_tied_embeddings_beside_lm_head(self, saved):
        tensors = load_file(saved / "model.safetensors")
        edit_config(saved, tie_word_embeddings=True)
        with pytest.raises(hf.CheckpointFormatError, match="tie_word_embeddings is true, but"):
            hf.load(saved)
        rewrite(saved, **{"lm_head.weight": tensors["model.embed_tokens.weight"]})
        config, params = hf.load(saved)
        assert config.tie_embeddings
        assert "unembed" not in params

    def test_params_of_another_config(self, model, tmp_path):
        config, params = model
        other = dataclasses.replace(Sizes.of(config), num_layers=3, intermediate_size=65).decoder()
        with pytest.raises(hf.CheckpointFormatError) as error:
            hf.save(tmp_path / "out", other, params)
        assert "missing layer_2/mixer/key/bias" in str(error.value)
        with pytest.raises(hf.CheckpointFormatError, match="unexpected unembed/embedding"):
            hf.save(tmp_path / "out", dataclasses.replace(config, tie_embeddings=True), params)
        assert not (tmp_path / "out").exists()


class TestDirectory:
    def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(
        self, model, saved, tmp_path, monkeypatch
    ):
        before = contents(saved)
        with pytest.raises(hf.CheckpointFormatError, match="no tokenizer files"):
            hf.save(saved, *model, tokenizer_from=tmp_path)
        write, calls = safetensors_io.write, []

        def second_file_fails(*args):
            calls.append(args)
            if len(calls) == 2:
                raise OSError("no space left on device")
            write(*args)

        monkeypatch.setattr(safetensors_io, "write", second_file_fails)
        with pytest.raises(OSError, match="no space left"):
            hf.save(saved, *model, max_shard_bytes=20_000)
        assert contents(saved) == before
        assert [file.name for file in tmp_path.iterdir()] == ["model"]

    def test_a_checkpoint_is_replaced_and_other_directories_are_not(self, model, saved, tmp_path):
        (saved / "tokenizer.json").write_text("{}")
        hf.save(saved, *model)
        assert not (saved / "tokenizer.json").exists()
        (saved / "thesis.tex").write_text("x")
        with pytest.raises(FileExistsError, match=r"thesis\.tex.*overwrite=True"):
            hf.save(saved, *model)
        hf.save(saved, *model, overwrite=True)
        assert not (saved / "thesis.tex").exists()
        (tmp_path / "empty").mkdir()
        hf.save(tmp_path / "empty", *model)
        (tmp_path / "file").touch()
        with pytest.raises(FileExistsError, match="is a file"):
            hf.save(tmp_path / "file", *model, overwrite=True)
        weights_only = tmp_path / "weights"
        weights_only.mkdir()
        (weights_only / "model.safetensors").touch()
        with pytest.raises(FileExistsError, match="weights"):
            hf.save(weights_only, *model)

    def test_like_carries_over_what_the_model_does_not_determine(self, model, saved, tmp_path):
        edit_config(
            saved,
            eos_token_id=[7, 9],
            pad_token_id=1,
            initializer_range=0.05,
            sliding_window=4096,
            use_sliding_window=False,
            hidden_size=1,
            rope_theta=1.0,
            layer_types=["full_attention"],
        )
        (saved / "generation_config.json").write_text('{"temperature": 0.6}')
        out = hf.save(tmp_path / "out", *model, like=saved, pad_token_id=2)
        data = json.loads((out / "config.json").read_text())
        assert data["eos_token_id"] == [7, 9]
        assert data["pad_token_id"] == 2
        assert data["initializer_range"] == 0.05
        assert data["hidden_size"] == 32
        assert "layer_types" not in data
        assert hf.read_config(out) == model[0]
        assert (out / "generation_config.json").read_text() == '{"temperature": 0.6}'
        with pytest.raises(hf.CheckpointFormatError, match=r"is a qwen2 checkpoint .* qwen3"):
            hf.save(tmp_path / "out", presets.decoder("tiny"), {}, like=saved)

    def test_tokenizer_files(self, model, tmp_path):
        source = tmp_path / "tokenizer"
        source.mkdir()
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "notes"):
            (source / name).write_text(name)
        out = hf.save(tmp_path / "out", *model, tokenizer_from=source)
        names = {"config.json", "model.safetensors"}
        names |= {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
        assert {file.name for file in out.iterdir()} == names


def test_two_hosts_load_onto_one_mesh_and_save_the_same_files(forks, saved, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    env = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    out = tmp_path / "out"
    hosts = [
        forks.start(HOSTS_SCRIPT, number, address, saved, out, cwd=tmp_path, **env)
        for number in range(2)
    ]
    ends = [host.wait() for host in hosts]
    errors = "\n".join(end.stderr[-2000:] for end in ends)
    assert [end.returncode for end in ends] == [0, 0], errors
    assert contents(out) == contents(saved)


def test_writer_refuses_what_it_was_not_promised(tmp_path):
    spec = {"a": (np.dtype(np.float32), (2,))}
    with pytest.raises(ValueError, match="promised"):
        safetensors_io.write(tmp_path / "x", spec, [np.zeros(3, np.float32)])


def test_reader_agrees_with_the_safetensors_package(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(3, 5)).astype(ml_dtypes.bfloat16),
        "b": rng.normal(size=(7,)).astype(np.float32),
        "c": rng.normal(size=(2, 1, 3)).astype(np.float16),
    }
    save_file(tensors, tmp_path / "theirs")
    stored = safetensors_io.read_header(tmp_path / "theirs")
    for name, expected in tensors.items():
        np.testing.assert_array_equal(stored[name].open(), expected)
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    specs = {name: (x.dtype, x.shape) for name, x in ordered.items()}
    safetensors_io.write(tmp_path / "ours", specs, ordered.values())
    for name, actual in load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(actual, tensors[name])


def test_layers_of_two_kinds_of_attention_have_no_family(tmp_path):
    (stack,) = presets.decoder("tiny").stacks
    other = presets.decoder("tiny", num_kv_heads=1).stacks
    config = dataclasses.replace(presets.decoder("tiny"), stacks=(stack, *other))
    with pytest.raises(hf.CheckpointFormatError, match="the layers have 2 kinds of attention"):
        hf.save(tmp_path / "out", config, random_params(config))
