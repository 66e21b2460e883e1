"""Directories of families with experts: config.json, refusals, tensors; no PyTorch."""

import dataclasses
import filecmp
import json
import logging
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlab.interop import families, hf
from jaxlab.interop.names import flatten
from jaxlab.models import presets
from jaxlab.models.sizes import Sizes
from jaxlab.nn.attention import Attention
from jaxlab.nn.mla import MLA
from jaxlab.nn.moe import MoE
from jaxlab.nn.rope import Rope
from jaxlab.nn.routing import Router
from tests.interop.directories import random_params

# The config.json files of released models, shortened by token ids.
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
    "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
    "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
    "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "aux_loss_alpha": 0.001, "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu",
    "hidden_size": 7168, "initializer_range": 0.02, "intermediate_size": 18432,
    "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "pretraining_tp": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "seq_aux": True, "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": True,
    "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
GLM_4_7_FLASH = {
    "architectures": ["Glm4MoeLiteForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10240,
    "max_position_embeddings": 202752, "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536, "topk_method": "noaux_tc", "norm_topk_prob": True,
    "num_attention_heads": 20, "n_group": 1, "topk_group": 1, "n_routed_experts": 64,
    "n_shared_experts": 1, "routed_scaling_factor": 1.8, "num_experts_per_tok": 4,
    "first_k_dense_replace": 1, "num_hidden_layers": 47, "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 1000000, "tie_word_embeddings": False,
    "dtype": "bfloat16", "q_lora_rank": 768, "kv_lora_rank": 512, "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64, "v_head_dim": 256, "vocab_size": 154880,
}  # fmt: skip
RELEASED = {"qwen3_moe": QWEN3_30B_A3B, "deepseek_v3": DEEPSEEK_V3, "glm4_moe_lite": GLM_4_7_FLASH}

_SHAPE = {"vocab_size": 24, "hidden_size": 8, "intermediate_size": 12, "num_layers": 3}
_MLA = MLA(num_heads=2, latent_dim=6, nope_dim=4, rope_dim=2, value_dim=3, query_rank=5)
_ROUTER = Router(4, 2, score="sigmoid", correction=True, groups=2, top_groups=1, scale=2.5)
SMALL = {
    "qwen3_moe": Sizes(
        **_SHAPE, num_heads=2, num_kv_heads=1, head_dim=4, qk_norm=True, tie_embeddings=True,
        moe=MoE(6, Router(4, 2)), first_dense=1,
    ),
    "deepseek_v3": Sizes(**_SHAPE, mla=_MLA, moe=MoE(6, _ROUTER, 12), first_dense=2),
    "glm4_moe_lite": Sizes(
        **_SHAPE, mla=dataclasses.replace(_MLA, interleaved=False, query_rank=None, bias=True),
        moe=MoE(6, dataclasses.replace(_ROUTER, groups=1), 6), norm_eps=1e-5, first_dense=1,
    ),
}  # fmt: skip


def small(family):
    return dataclasses.replace(SMALL[family].decoder(), family=family)


class TestConfigs:
    def test_released_models(self):
        qwen, deepseek, glm = (families.read(data) for data in RELEASED.values())
        ((times, (layer,)),) = qwen.stacks
        assert times == 48
        assert layer.mixer == Attention(32, 4, 128, Rope(theta=1e6), qk_norm=True)
        assert layer.mlp == MoE(768, Router(128, 8))
        (dense, _), (routed, (layer,)) = deepseek.stacks
        assert (dense, routed) == (3, 58)
        assert layer.mlp.router == Router(
            256, 8, score="sigmoid", correction=True, groups=8, top_groups=4, scale=2.5
        )
        assert layer.mixer.rope.mscale_all_dim == 1.0
        assert layer.mixer.interleaved
        (dense, (first,)), (routed, (layer,)) = glm.stacks
        assert (dense, routed) == (1, 46)
        assert first.mlp.intermediate_size == 10240
        assert layer.mlp.shared_size == 1536
        assert layer.mixer.scale == 1 / 16
        assert glm.norm_eps == 1e-5
        assert layer.mixer.latent_eps == 1e-6
        assert [one.family for one in (qwen, deepseek, glm)] == list(RELEASED)

    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("qwen3-30b-a3b", "qwen3_moe"),
            ("deepseek-v3", "deepseek_v3"),
            ("glm-4.7-flash", "glm4_moe_lite"),
        ],
    )
    def test_presets_are_the_released_models(self, name, family):
        released = families.read(RELEASED[family])
        assert dataclasses.replace(presets.decoder(name), family=family) == released

    @pytest.mark.parametrize("family", RELEASED)
    def test_what_is_written_is_read_as_the_same(self, family):
        config = families.read(RELEASED[family])
        data = families.FAMILIES[family].to_json(config)
        assert families.read(data) == config
        assert families.FAMILIES[family].to_json(families.read(data)) == data
        # In both generations' keys.
        assert data["rope_theta"] == data["rope_parameters"]["rope_theta"]

    def test_dense_layers_of_qwen3_moe(self):
        def kinds(**changes):
            data = QWEN3_30B_A3B | {"num_hidden_layers": 6} | changes
            return "".join(layer.mlp.name[0] for layer in families.read(data).layers)

        assert kinds(mlp_only_layers=[0, 4]) == "smmmsm"
        assert kinds(decoder_sparse_step=2) == "smsmsm"
        assert kinds(decoder_sparse_step=3, mlp_only_layers=[5]) == "ssmsss"

    def test_mlp_layer_types_are_read(self):
        types = ["dense", "sparse", "dense", "sparse"]
        data = GLM_4_7_FLASH | {"num_hidden_layers": 4, "mlp_layer_types": types}
        del data["first_k_dense_replace"]
        config = families.read(data)
        assert [layer.mlp.name for layer in config.layers] == ["swiglu", "moe"] * 2
        assert families.FAMILIES["glm4_moe_lite"].to_json(config)["mlp_layer_types"] == types
        with pytest.raises(
            hf.CheckpointFormatError, match="deepseek_v3 has no such model: none wi"
        ):
            families.FAMILIES["deepseek_v3"].to_json(config)

    @pytest.mark.parametrize(
        ("family", "changes", "message"),
        [
            ("qwen3_moe", {"num_experts_per_tok": 129}, "num_experts_per_tok 129 is above num_ex"),
            ("deepseek_v3", {"n_group": 7}, "n_routed_experts 256 is no multiple of n_group 7"),
            ("deepseek_v3", {"topk_group": 9}, "topk_group 9 of n_group 8"),
            ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported"),
            ("deepseek_v3", {"topk_method": "greedy"}, "topk_method 'greedy' is not supported"),
            ("deepseek_v3", {"router_jitter_noise": 0.1}, "router_jitter_noise 0.1 is not known"),
            ("glm4_moe_lite", {"num_key_value_heads": 4}, "num_key_value_heads 4 .* supported: 20"),
            ("glm4_moe_lite", {"first_k_dense_replace": 2}, "first_k_dense_replace 2 is not"),
            ("glm4_moe_lite", {"mlp_layer_types": ["sparse"]}, "mlp_layer_types .* for 47 layers"),
            ("glm4_moe_lite", {"kv_lora_rank": 0}, "kv_lora_rank is 0: expected"),
            ("glm4_moe_lite", {"head_dim": 128}, "head_dim 128 is not supported; supported: 64"),
            ("glm4_moe_lite", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
            ("glm4_moe_lite", {"n_routed_experts": None}, "n_routed_experts is null: expected"),
            (
                "deepseek_v3",
                {"rope_scaling": {"type": "yarn", "factor": 4.0, "wavelength": 3}},
                "rope_scaling.wavelength 3 is not supported",
            ),
            (
                "deepseek_v3",
                {"rope_scaling": {"type": "linear", "factor": 4.0, "mscale_all_dim": 1.0}},
                "rope_scaling.mscale_all_dim 1.0 .* none for rope_type linear",
            ),
            (
                "qwen3_moe",
                {"quantization_config": {"quant_method": "awq", "bits": 4}},
                "quantization_config.quant_method 'awq' is not supported",
            ),
            (
                "qwen3_moe",
                {"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}},
                "quantization_config.fmt 'e5m2' is not supported",
            ),
            ("qwen3_moe", {"layer_types": ["sliding_attention"] * 48}, "layer_types .* full_att"),
            ("qwen3_moe", {"num_local_experts": 64}, "num_local_experts 64 .* num_experts, 128"),
        ],
    )
    def test_refusals_name_the_key(self, family, changes, message):
        with pytest.raises(hf.CheckpointFormatError, match=message) as error:
            families.read(RELEASED[family] | changes)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith("config.json")

    def test_missing_keys_are_named(self):
        data = {key: x for key, x in DEEPSEEK_V3.items() if key not in ("n_group", "kv_lora_rank")}
        with pytest.raises(hf.CheckpointFormatError, match="missing kv_lora_rank, n_group"):
            families.read(data)


@pytest.mark.parametrize("family", SMALL)
def test_saved_loaded_and_saved_again_to_the_same_bits(family, tmp_path):
    config = small(family)
    params = random_params(config)
    hf.save(tmp_path / "a", config, params, eos_token_id=3)
    again, loaded = hf.load(tmp_path / "a")
    assert again == config
    assert again.family == family
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(flatten(loaded)[path], leaf, err_msg=path)
    hf.save(tmp_path / "b", again, loaded, like=tmp_path / "a")
    for name in ("config.json", "model.safetensors"):
        assert filecmp.cmp(tmp_path / "a" / name, tmp_path / "b" / name, shallow=False)
    # Stacked layers: every stack of routed layers is one leaf [layers, experts, in, out].
    scanned, stacked = hf.load(tmp_path / "a", scan_layers=True)
    kernel = stacked["stack_1"]["layer_0"]["mlp"]["experts"]["gate"]["kernel"]
    assert kernel.shape == (3 - SMALL[family].first_dense, 4, 8, 6)
    hf.save(tmp_path / "c", scanned, stacked, like=tmp_path / "a")
    assert filecmp.cmp(tmp_path / "a/model.safetensors", tmp_path / "c/model.safetensors", False)


def test_loading_holds_the_params_and_one_layers_experts(tmp_path):
    sizes = dataclasses.replace(
        SMALL["qwen3_moe"], hidden_size=128, num_layers=6, first_dense=0, moe=MoE(64, Router(16, 2))
    )
    config = sizes.decoder()
    params = random_params(config)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    layer = sum(leaf.nbytes for leaf in jax.tree.leaves(params["layer_0"]["mlp"]["experts"]))
    assert total > 6 * layer
    hf.save(tmp_path, config, params)
    hf.load(tmp_path)
    tracemalloc.start()
    loaded = hf.load(tmp_path)
    # Parameters count where the device took the host's memory over, and not where it copied.
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - kept < layer
    jax.tree.map(np.testing.assert_array_equal, loaded[1], params)


def test_names_and_orientation(tmp_path):
    config = small("deepseek_v3")
    params = random_params(config)
    hf.save(tmp_path / "a", config, params)
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    mlp = params["layer_2"]["mlp"]
    np.testing.assert_array_equal(
        tensors["model.layers.2.mlp.experts.3.down_proj.weight"],
        mlp["experts"]["down"]["kernel"][3].T,
    )
    np.testing.assert_array_equal(
        tensors["model.layers.2.mlp.gate.e_score_correction_bias"], mlp["router"]["correction_bias"]
    )
    assert tensors["model.layers.2.mlp.gate.weight"].shape == (4, 8)
    assert tensors["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"].shape == (6 + 2, 8)
    # 3 layers of 9 of attention and norms, 2 dense, 1 with 4 experts, a shared one and a router.
    assert len(tensors) == 3 * 9 + 2 * 3 + (4 * 3 + 3 + 2) + 3


def test_corrections_stay_float32(tmp_path):
    config = small("deepseek_v3")
    hf.save(tmp_path / "a", config, random_params(config), dtype="bfloat16")
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    wide = [name for name, x in tensors.items() if x.dtype == np.float32]
    assert wide == ["model.layers.2.mlp.gate.e_score_correction_bias"]
    config, params = hf.load(tmp_path / "a", dtype=None)
    assert config.param_dtype == "bfloat16"
    assert params["layer_2"]["mlp"]["router"]["correction_bias"].dtype == np.float32


def test_a_model_from_scratch_finds_its_family(tmp_path):
    for family, expected in (
        ("qwen3_moe", "qwen3_moe"),
        ("deepseek_v3", "deepseek_v3"),
        # Both have it; what was never read is the first of them.
        ("glm4_moe_lite", "deepseek_v3"),
    ):
        config = SMALL[family].decoder()
        assert families.of_config(config).name == expected
        assert families.of_config(config, "glm4_moe_lite").name == "glm4_moe_lite"
    odd = dataclasses.replace(SMALL["deepseek_v3"], moe=MoE(6, Router(4, 2), 6)).decoder()
    with pytest.raises(hf.CheckpointFormatError, match="no HuggingFace family has this model: qwe"):
        families.of_config(odd)
    with pytest.raises(hf.CheckpointFormatError, match="family 'glm5' is not one of llama"):
        families.of_config(odd, "glm5")


BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 3]}


class TestFiles:
    @pytest.fixture
    def saved(self, tmp_path):
        config = small("deepseek_v3")
        hf.save(tmp_path / "a", config, random_params(config), eos_token_id=3)
        return tmp_path / "a"

    def _change(self, path, tensors=None, **keys):
        data = json.loads((path / "config.json").read_text()) | keys
        (path / "config.json").write_text(json.dumps(data))
        if tensors is not None:
            save_file(tensors, path / "model.safetensors")

    def test_experts_that_are_not_there(self, saved):
        tensors = load_file(saved / "model.safetensors")
        del tensors["model.layers.2.mlp.experts.3.up_proj.weight"]
        self._change(saved, tensors)
        with pytest.raises(
            hf.CheckpointFormatError, match=r"missing model.layers.2.mlp.experts.3.up_proj.weight"
        ):
            hf.load(saved)
        self._change(saved, n_routed_experts=2, n_group=1, num_local_experts=2)
        with pytest.raises(
            hf.CheckpointFormatError, match=r"unexpected model.layers.2.mlp.experts"
        ):
            hf.load(saved)
        # An index that names an expert which its file lacks.
        tensors["model.layers.2.mlp.experts.3.up_proj.weight"] = np.zeros((6, 8), np.float32)
        self._change(saved, n_routed_experts=4, n_group=2, num_local_experts=4)
        (saved / "model.safetensors").unlink()
        weight_map = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
        del tensors["model.layers.2.mlp.experts.3.up_proj.weight"]
        save_file(tensors, saved / "model-00001-of-00001.safetensors")
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(
            hf.CheckpointFormatError, match=r"index.json names tensors .*experts.3.up_proj.weight"
        ):
            hf.load(saved)

    def test_next_token_layers_are_left_out_and_counted(self, saved, caplog):
        tensors = load_file(saved / "model.safetensors")
        more = {name.replace("layers.2.", "layers.3."): x for name, x in tensors.items()}
        extra = {name: x for name, x in more.items() if "layers.3." in name}
        extra["model.layers.3.eh_proj.weight"] = np.zeros((8, 16), np.float32)
        expected = hf.load(saved)[1]
        self._change(saved, tensors | extra, num_nextn_predict_layers=1)
        with caplog.at_level(logging.INFO):
            config, params = hf.load(saved)
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert f"{len(extra)} tensors left out: model.layers.3." in caplog.text
        # Written again, nobody looks for them.
        hf.save(saved.parent / "b", config, params, like=saved)
        data = json.loads((saved.parent / "b" / "config.json").read_text())
        assert data["num_nextn_predict_layers"] == 0
        assert data["eos_token_id"] == 3
        self._change(saved, num_nextn_predict_layers=0)
        with pytest.raises(hf.CheckpointFormatError, match=r"unexpected model.layers.3."):
            hf.load(saved)

    def _quantise(self, path):
        """The projections in blocks of 4 x 3, as the file has them, and their values."""
        tensors, values = load_file(path / "model.safetensors"), {}
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            tensor = tensors[name]
            high, wide = (-(-n // size) for n, size in zip(tensor.shape, (4, 3), strict=True))
            scale = np.empty((high, wide), np.float32)
            packed = np.empty(tensor.shape, ml_dtypes.float8_e4m3fn)
            back = np.empty_like(tensor)
            for i in range(high):
                for j in range(wide):
                    block = np.s_[4 * i : 4 * i + 4, 3 * j : 3 * j + 3]
                    scale[i, j] = np.abs(tensor[block]).max() / 448
                    packed[block] = (tensor[block] / scale[i, j]).astype(packed.dtype)
                    back[block] = packed[block].astype(np.float32) * scale[i, j]
            tensors[name], tensors[f"{name}_scale_inv"], values[name] = packed, scale, back
        return tensors, values

    def test_fp8_is_dequantised_block_by_block(self, saved):
        tensors, values = self._quantise(saved)
        self._change(saved, tensors, quantization_config=BLOCKS)
        config, params = hf.load(saved)
        kernel = params["layer_2"]["mlp"]["experts"]["gate"]["kernel"]
        for e in range(4):
            expected = values[f"model.layers.2.mlp.experts.{e}.gate_proj.weight"].T
            np.testing.assert_array_equal(kernel[e], expected)
        np.testing.assert_array_equal(
            params["layer_0"]["mixer"]["query_expand"]["kernel"],
            values["model.layers.0.self_attn.q_b_proj.weight"].T,
        )
        hf.save(saved.parent / "b", config, params, like=saved)
        assert "quantization_config" not in json.loads(
            (saved.parent / "b" / "config.json").read_text()
        )

    def test_fp8_files_that_are_damaged(self, saved):
        tensors, _ = self._quantise(saved)
        name = "model.layers.2.mlp.experts.1.up_proj.weight"
        scale = tensors.pop(f"{name}_scale_inv")
        self._change(saved, tensors, quantization_config=BLOCKS)
        with pytest.raises(hf.CheckpointFormatError, match=f"missing {name}_scale_inv"):
            hf.load(saved)
        self._change(saved, tensors | {f"{name}_scale_inv": scale[:1]})
        with pytest.raises(
            hf.CheckpointFormatError, match=rf"{name}_scale_inv: expected shape \[2, 3\]"
        ):
            hf.load(saved)
        # Without the key that says how, nothing is guessed.
        self._change(saved, tensors, quantization_config=None)
        with pytest.raises(hf.CheckpointFormatError, match=r"unexpected .*_scale_inv"):
            hf.load(saved)
