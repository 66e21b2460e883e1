"""Gated-delta models as HuggingFace directories: names, bytes, refusals, and PyTorch's numbers."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxlab.exporting import MAX_DIFFERENCE
from jaxlab.interop import directory, hf, safetensors_io, torch_check
from jaxlab.models import presets
from jaxlab.models.decoder import Decoder
from jaxlab.models.sizes import Sizes
from jaxlab.models.stacking import rescan
from jaxlab.nn.delta_config import RULES, DeltaConfig
from jaxlab.nn.rope import Rope
from jaxlab.sampling.config import SamplingConfig
from jaxlab.sampling.decode import generate
from tests.interop.directories import assert_same, contents, random_params

# Differences of float32 logits of size 1 to 10. The largest is what an export must keep to.
LARGEST, MEAN = MAX_DIFFERENCE, 5e-6

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "max_position": 128,
    # Where a head's output is nearly 0, the norm behind the rule magnifies rounding by up to
    # 1 / sqrt(eps).
    "norm_eps": 1e-3,
}
HYBRID = ("delta", "attention")
LINEAR = {"pattern": ("delta",), "num_heads": 0, "num_kv_heads": 0, "head_dim": None}


def delta(rule, **options):
    return DeltaConfig(**{"rule": rule, "head_dim": 4, "num_heads": 2} | options)


# Every rule in a hybrid; then each switch of the delta layers, and the decoder's, off its default.
CASES = {rule: {"pattern": HYBRID, "delta": delta(rule)} for rule in RULES} | {
    "linear": LINEAR | {"delta": DeltaConfig(rule="fg2", head_dim=4)},
    "linear_without_mlp": LINEAR | {"delta": delta("fg2"), "intermediate_size": 0, "rope": None},
    "grouped": {
        "pattern": HYBRID,
        "delta": delta("fg2_plus", num_value_heads=4, expand_value=1.5),
        "tie_embeddings": True,
    },
    "grouped_gdn": LINEAR
    | {"delta": delta("gdn", num_heads=1, num_value_heads=2, expand_value=2.0)},
    "low_rank": LINEAR
    | {
        "delta": delta(
            "fg2_plus", decay_rank=3, erase_rank=2, write_rank=1, output_gate_rank=5
        )
    },
    "full_rank": {
        "pattern": ("attention", "delta"),
        "delta": delta("fg2", decay_rank=0, output_gate_rank=0, decay_lower_bound=-5.0),
        "rope": None,
    },
    "negative_fg2_plus": LINEAR | {"delta": delta("fg2_plus", negative_eigenvalues=True)},
    "negative_gdn2": LINEAR | {"delta": delta("gdn2", negative_eigenvalues=True)},
    "one_gate_gdn2": LINEAR
    | {
        "delta": delta(
            "gdn2", decay="head", erase="head", write="same", output_gate="swish",
            output_gate_rank=2, negative_eigenvalues=True,
        )
    },
    "no_conv": LINEAR | {"delta": delta("fg2", conv_size=0)},
    "wide_conv": LINEAR | {"delta": delta("delta_net", conv_size=9)},
    "biases": {
        "pattern": HYBRID,
        "delta": delta("kda"),
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "qk_norm": True,
        "norm_eps": 1e-6,
        "rope": Rope(1e4, "yarn", 4.0, 64),
    },
    "llama3": {
        "pattern": ("delta", "attention", "attention"),
        "num_layers": 6,
        "delta": delta("left"),
        "rope": Rope(5e4, "llama3", factor=8.0, original_max_position=16),
    },
}  # fmt: skip


@functools.cache
def model(name):
    """A decoder in which no parameter is trivially zero or one."""
    config = sizes(name).decoder()
    return config, random_params(config)


def sizes(name, **more):
    named = dataclasses.replace(presets.sizes("fg2-tiny"), tie_embeddings=False)
    return dataclasses.replace(named, **SIZES | CASES[name] | more)


class TestConfig:
    @pytest.mark.parametrize("name", CASES)
    def test_nothing_is_lost(self, name, tmp_path):
        config = Sizes.of(model(name)[0])
        data = hf.families.to_json(config)
        (tmp_path / "config.json").write_text(json.dumps(data))
        back = Sizes.of(hf.read_config(tmp_path))
        assert hf.families.to_json(back) == data
        assert back.delta.resolved(16) == config.delta.resolved(16)
        assert dataclasses.replace(back, delta=config.delta) == config

    @pytest.mark.parametrize("name", [n for n, c in presets.DECODERS.items() if c.delta])
    def test_presets_come_back_as_they_are_written(self, name, tmp_path):
        config = presets.sizes(name)
        (tmp_path / "config.json").write_text(json.dumps(hf.families.to_json(config)))
        assert hf.read_config(tmp_path) == config.decoder()

    def test_a_pattern_comes_back_as_its_shortest_period(self, tmp_path):
        config = sizes("fg2", num_layers=4, pattern=HYBRID * 2)
        (tmp_path / "config.json").write_text(json.dumps(hf.families.to_json(config)))
        assert hf.read_config(tmp_path) == dataclasses.replace(config, pattern=HYBRID).decoder()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"delta": None}, "missing delta"),
            ({"layer_types": None, "hidden_size": None}, "missing hidden_size, layer_types"),
            ({"layer_types": ["linear_attention"]}, "names 1 layers, num_hidden_layers is 2"),
            ({"layer_types": []}, "names 0 layers, num_hidden_layers is 2"),
            (
                {"layer_types": ["linear_attention", "sliding_attention"]},
                r"layer_types \['sliding_attention'\] .* supported: linear_attention, full",
            ),
            ({"layer_types": ["full_attention"] * 2}, "the pattern .* has no delta layers"),
            ({"delta": {"rule": "fg2", "heads": 3}}, "delta 'heads' is not supported"),
            ({"delta": "fg2"}, "delta 'fg2' is not supported"),
            ({"delta": {"rule": "mamba"}}, "delta.rule: .*mamba"),
            ({"delta": {"rule": "fg2", "head_dim": "four"}}, r"config\.json: delta\.head_dim: "),
            ({"delta": {"rule": "fg2", "head_dim": 4, "num_heads": 0}}, "must be at least 1"),
            ({"delta": {"rule": "fg2", "head_dim": 5}}, "no multiple of delta.head_dim 5"),
            ({"num_key_value_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
            ({"hidden_act": "gelu"}, "hidden_act 'gelu' .* supported: silu"),
            ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ],
    )
    def test_refusals_name_key_and_value(self, changes, message, tmp_path):
        data = hf.families.to_json(sizes("fg2")) | changes
        (tmp_path / "config.json").write_text(json.dumps(data))
        with pytest.raises(hf.CheckpointFormatError, match=message) as error:
            hf.read_config(tmp_path)
        assert "\n" not in str(error.value)


class TestFiles:
    def test_names_shapes_and_orientation(self, tmp_path):
        """fla's names, and the two projections of FG2-GDN+."""
        params = model("fg2_plus")[1]
        tensors = load_file(hf.save(tmp_path / "out", *model("fg2_plus")) / "model.safetensors")
        prefix = "model.layers.0.attn."
        own = {name.removeprefix(prefix): x.shape for name, x in tensors.items() if prefix in name}
        projections = dict.fromkeys(("q_proj", "k_proj", "v_proj", "b_proj", "w_proj"), (8, 16))
        assert own == {f"{name}.weight": shape for name, shape in projections.items()} | {
            "q_conv1d.weight": (8, 1, 4),
            "k_conv1d.weight": (8, 1, 4),
            "v_conv1d.weight": (8, 1, 4),
            "f_proj.0.weight": (4, 16),
            "f_proj.1.weight": (8, 4),
            "A_log": (2,),
            "dt_bias": (8,),
            "g_proj.0.weight": (4, 16),
            "g_proj.1.weight": (8, 4),
            "g_proj.1.bias": (8,),
            "o_norm.weight": (4,),
            "o_proj.weight": (16, 8),
        }
        assert {name for name in tensors if ".attn." not in name and ".1." not in name} == {
            "model.embeddings.weight",
            "model.layers.0.attn_norm.weight",
            "model.layers.0.mlp_norm.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
        }
        mixer = params["layer_0"]["mixer"]
        np.testing.assert_array_equal(tensors[f"{prefix}w_proj.weight"], mixer["write"]["kernel"].T)
        # The last of PyTorch's four taps is the token's own, as the last of ours is.
        weight = tensors[f"{prefix}k_conv1d.weight"]
        np.testing.assert_array_equal(weight[5, 0], mixer["key_conv"]["taps"][:, 5])

    def test_a_decay_per_head_has_the_name_it_has_in_gdn(self, tmp_path):
        tensors = load_file(hf.save(tmp_path / "out", *model("gdn")) / "model.safetensors")
        assert tensors["model.layers.0.attn.a_proj.weight"].shape == (2, 16)
        assert tensors["model.layers.0.attn.g_proj.weight"].shape == (8, 16)
        assert not any("f_proj" in name for name in tensors)

    @pytest.mark.parametrize("name", CASES)
    def test_round_trip_is_identical_to_the_byte(self, name, tmp_path):
        config, params = model(name)
        out = hf.save(tmp_path / "out", config, params, eos_token_id=3)
        loaded_config, loaded = hf.load(out)
        assert Sizes.of(loaded_config).delta.resolved(16) == Sizes.of(config).delta.resolved(16)
        assert_same(loaded, params)
        again = hf.save(tmp_path / "again", loaded_config, loaded, like=out)
        assert contents(again) == contents(out)
        hf.save(out, loaded_config, loaded)

    @pytest.mark.parametrize("name", ["fg2", "llama3", "linear"])
    def test_stacked_layers(self, name, tmp_path):
        out = hf.save(tmp_path / "out", *model(name))
        config, params = hf.load(out, scan_layers=True)
        expected_config, expected = rescan(*model(name))
        assert config.stacks == expected_config.stacks
        assert_same(params, expected)
        assert contents(hf.save(tmp_path / "again", config, params)) == contents(out)

    def test_decays_stay_float32(self, tmp_path):
        config, params = model("fg2")
        out = hf.save(tmp_path / "bf16", config, params, dtype="bfloat16")
        assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
        stored = safetensors_io.read_header(out / "model.safetensors")
        wide = {name.rpartition(".")[2] for name, x in stored.items() if x.dtype == "F32"}
        assert wide == {"A_log", "dt_bias"}
        config, loaded = hf.load(out, dtype=None)
        assert config.param_dtype == "bfloat16"
        np.testing.assert_array_equal(
            loaded["layer_0"]["mixer"]["decay"]["dt_bias"],
            params["layer_0"]["mixer"]["decay"]["dt_bias"],
        )
        shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), int))
        dtypes = [jax.tree.map(lambda x: x.dtype, tree) for tree in (loaded, shapes["params"])]
        assert dtypes[0] == dtypes[1]
        assert contents(hf.save(tmp_path / "again", config, loaded)) == contents(out)

    def test_an_untied_unembedding_is_found_out(self, tmp_path):
        out = hf.save(tmp_path / "out", *model("grouped"))
        tensors = load_file(out / "model.safetensors")
        other = tensors["model.embeddings.weight"] + 1
        save_file(tensors | {"lm_head.weight": other}, out / "model.safetensors")
        with pytest.raises(hf.CheckpointFormatError, match=r"differs from model\.embeddings"):
            hf.load(out)

    def test_misshapen_tensors(self, tmp_path):
        out = hf.save(tmp_path / "out", *model("fg2"))
        tensors = load_file(out / "model.safetensors")
        name = "model.layers.0.attn.q_conv1d.weight"
        save_file(tensors | {name: tensors[name][:, 0]}, out / "model.safetensors")
        with pytest.raises(
            hf.CheckpointFormatError,
            match=r"q_conv1d.weight: expected shape \[8, 1, 4\], found \[8, 4\]",
        ):
            hf.load(out)

    def test_the_code_goes_along_and_other_code_is_told_from_it(self, tmp_path):
        out = hf.save(tmp_path / "out", *model("fg2"))
        files = {"configuration_fg2_gdn.py", "modeling_fg2_gdn.py"}
        assert {file.name for file in out.glob("*.py")} == files
        auto_map = json.loads((out / "config.json").read_text())["auto_map"]
        for entry in auto_map.values():
            module, _, name = entry.partition(".")
            assert f"class {name}(" in (out / f"{module}.py").read_text()
        assert directory.carries_our_code(out)
        with (out / "modeling_fg2_gdn.py").open("a") as file:
            file.write("\n")
        assert not directory.carries_our_code(out)
        hf.save(out, *model("fg2"))
        assert directory.carries_our_code(out)
        (out / "other.py").write_text("")
        assert not directory.carries_our_code(out)
        with pytest.raises(FileExistsError, match=r"other\.py"):
            hf.save(out, *model("fg2"))


@pytest.fixture
def torch():
    found = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    found.set_num_threads(1)
    return found


def read(path, **options):
    import transformers

    options = {"trust_remote_code": True} | options
    return transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()


def prompts(config, length=40):
    return np.random.default_rng(1).integers(0, config.vocab_size, (2, length)).astype(np.int32)


@pytest.mark.interop
class TestTorch:
    @pytest.mark.parametrize("name", CASES)
    def test_logits_and_greedy_completions(self, name, torch, tmp_path):
        config, params = model(name)
        out = hf.save(tmp_path / "out", config, params)
        theirs = read(out)
        assert {n: tuple(x.shape) for n, x in theirs.state_dict().items()} == {
            n: x.shape for n, x in load_file(out / "model.safetensors").items()
        } | ({"lm_head.weight": (48, 16)} if config.tie_embeddings else {})
        tokens = prompts(config)
        expected = np.asarray(jax.jit(Decoder(config).apply)({"params": params}, tokens))
        with torch.no_grad():
            actual = theirs(torch.from_numpy(tokens).long()).logits.numpy()
        assert np.abs(expected).max() > 1
        difference = np.abs(actual - expected)
        print(f"{name}: largest {difference.max():.1e}, mean {difference.mean():.1e}")
        assert difference.max() < LARGEST
        assert difference.mean() < MEAN

        prompt = tokens[:, :7]
        greedy = SamplingConfig(temperature=0.0, max_new_tokens=12)
        ours = generate(Decoder(config), params, prompt, np.full(2, 7), jax.random.key(0), greedy)
        for use_cache in (True, False):
            completed = theirs.generate(
                torch.from_numpy(prompt).long(),
                # Else transformers takes every token 0 for padding.
                attention_mask=torch.ones(2, 7),
                max_new_tokens=12,
                do_sample=False,
                use_cache=use_cache,
                pad_token_id=0,
            )
            np.testing.assert_array_equal(completed[:, 7:].numpy(), ours.tokens)

    @pytest.mark.parametrize("name", ["fg2_plus", "biases", "no_conv"])
    def test_padding_on_the_left_changes_nothing(self, name, torch, tmp_path):
        theirs = read(hf.save(tmp_path / "out", *model(name)))
        tokens = torch.from_numpy(prompts(model(name)[0], 9)).long()
        mask = torch.ones_like(tokens)
        mask[1, :4] = 0
        with torch.no_grad():
            padded = theirs(tokens, attention_mask=mask).logits[1, 4:]
            alone = theirs(tokens[1:, 4:]).logits[0]
        assert (padded - alone).abs().max() < 1e-5
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        both = theirs.generate(tokens, attention_mask=mask, **options)
        one = theirs.generate(tokens[1:, 4:], attention_mask=mask[1:, 4:], **options)
        assert torch.equal(both[1, 9:], one[0, 5:])

    def test_beams_carry_their_caches(self, torch, tmp_path):
        theirs = read(hf.save(tmp_path / "out", *model("fg2")))
        tokens = torch.from_numpy(prompts(model("fg2")[0], 5)).long()
        options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(tokens)
        cached = theirs.generate(tokens, use_cache=True, **options)
        assert torch.equal(cached, theirs.generate(tokens, use_cache=False, **options))

    @pytest.mark.parametrize("name", ["delta_net", "gdn", "kda", "fg2", "fg2_plus", "grouped"])
    def test_the_kernel_of_fla_is_given_the_same_rule(self, name, torch, tmp_path, monkeypatch):
        """Kimi Delta Attention of the arguments that its kernel gets, whole and token by token."""
        theirs = read(hf.save(tmp_path / "out", *model(name)))
        code = sys.modules[type(theirs).__module__]
        # It is not installed here, and would not run on a CPU.
        assert code.chunk_kda is None
        tokens = torch.from_numpy(prompts(model(name)[0], 9)).long()
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(tokens)
        with torch.no_grad():
            plain, completed = theirs(tokens).logits, theirs.generate(tokens, **options)
        calls = []

        def chunk_kda(q, k, v, g, beta, scale, initial_state, output_final_state, **rest):
            assert rest == {"use_qk_l2norm_in_kernel": False}
            assert output_final_state
            assert {x.dtype for x in (q, k, v, g, beta)} == {torch.float32}
            assert g.shape == k.shape
            assert g.max() <= 0
            calls.append(q.shape[1])
            state, outputs = initial_state, []
            for t in range(q.shape[1]):
                state = g[:, t].exp()[..., None] * state
                error = beta[:, t, :, None] * (v[:, t] - (k[:, t, :, :, None] * state).sum(-2))
                state = state + k[:, t, :, :, None] * error[:, :, None]
                outputs.append(scale * (q[:, t, :, :, None] * state).sum(-2))
            return torch.stack(outputs, 1), state

        monkeypatch.setattr(code, "chunk_kda", chunk_kda)
        monkeypatch.setattr(code.GatedDelta, "runs_on_fla", lambda self, x: True)
        with torch.no_grad():
            assert (theirs(tokens).logits - plain).abs().max() < 1e-4
            assert torch.equal(theirs.generate(tokens, **options), completed)
        layers = sizes(name).num_layers // len(sizes(name).pattern)
        assert calls == [9] * 2 * layers + [1] * 5 * layers

    def test_the_kernel_of_fla_is_for_gpus_and_symmetric_rules(self, torch, tmp_path, monkeypatch):
        layer = read(hf.save(tmp_path / "out", *model("fg2"))).model.layers[0].attn
        code = sys.modules[type(layer).__module__]

        class OnGpu:
            is_cuda = True

        assert not layer.runs_on_fla(OnGpu)
        monkeypatch.setattr(code, "chunk_kda", print)
        assert layer.runs_on_fla(OnGpu)
        assert not layer.runs_on_fla(torch.zeros(1))
        for form in ("left", "gdn2"):
            layer.config["form"] = form
            assert not layer.runs_on_fla(OnGpu)

    def test_it_can_be_trained_and_saved_there(self, torch, tmp_path):
        """A loss, gradients in every parameter, and a directory that is read here again."""
        config, params = model("fg2")
        theirs = read(hf.save(tmp_path / "out", config, params))
        tokens = torch.from_numpy(prompts(config, 8)).long()
        loss = theirs(tokens, labels=tokens).loss
        logits = Decoder(config).apply({"params": params}, tokens.numpy())
        logprobs = jax.nn.log_softmax(logits[:, :-1])
        expected = -jnp.take_along_axis(logprobs, tokens.numpy()[:, 1:, None], axis=-1).mean()
        assert abs(loss.item() - float(expected)) < 1e-5
        loss.backward()
        for name, parameter in theirs.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        theirs.save_pretrained(tmp_path / "theirs")
        back_config, back = hf.load(tmp_path / "theirs")
        assert Sizes.of(back_config).delta.resolved(16) == Sizes.of(config).delta.resolved(16)
        assert_same(back, params)

    def test_bfloat16(self, torch, tmp_path):
        config, params = model("fg2")
        out = hf.save(tmp_path / "out", config, params, dtype="bfloat16")
        theirs = read(out, dtype="auto")
        dtypes = {name: x.dtype for name, x in theirs.named_parameters()}
        wide = {name.rpartition(".")[2] for name, t in dtypes.items() if t == torch.float32}
        assert wide == {"A_log", "dt_bias"}
        tokens = prompts(config)
        config, params = hf.load(out, compute_dtype="bfloat16")
        expected = np.asarray(Decoder(config).apply({"params": params}, tokens))
        with torch.no_grad():
            actual = theirs(torch.from_numpy(tokens).long()).logits.numpy()
        # 8 bits of mantissa over two layers; a lost gate or norm gives a difference near 1.
        error = np.sqrt(np.mean((actual - expected) ** 2) / np.mean(expected**2))
        assert 1e-4 < error < 0.05

    def test_the_report_is_written_for_our_code_alone(self, torch, tmp_path):
        config, params = model("fg2")
        out = hf.save(tmp_path / "out", config, params)
        report = torch_check.compare(out, config, params, [[1, 2, 3], [4]], max_difference=2e-4)
        assert report["passed"]
        assert json.loads((out / "parity.json").read_text()) == report
        with (out / "modeling_fg2_gdn.py").open("a") as file:
            file.write("raise SystemExit\n")
        with pytest.raises(ValueError, match="trust_remote_code"):
            torch_check.compare(out, config, params, [[1]], max_difference=2e-4)
