"""CONTRIBUTING's recipes are carried out: their code is taken from the page."""

import dataclasses
import pathlib
import re
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.config import ConfigError
from jaxlab.data import settings
from jaxlab.data.tasks import names
from jaxlab.interop import families, hf
from jaxlab.json_file import CheckpointFormatError
from jaxlab.models.decoder import Decoder, DecoderConfig
from jaxlab.nn import mlp
from jaxlab.nn.attention import Attention
from jaxlab.nn.layers import Layer
from jaxlab.nn.mlp import SwiGLU
from jaxlab.nn.rope import Rope
from jaxlab.sampling.caches import Dense

PAGE = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def module(monkeypatch, title, number=0):
    """The code of a recipe's block, as a module."""
    recipe = PAGE[PAGE.index(f"## How to add {title}") :]
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", recipe, re.DOTALL | re.MULTILINE)
    made = types.ModuleType(f"recipe_{number}")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(textwrap.dedent(blocks[number][1]), vars(made))
    return made


def test_a_task(monkeypatch):
    reverse = module(monkeypatch, "a task").Reverse
    task = reverse(digits=2)
    example = task.example(3, "test")
    assert example == task.example(3, "test")
    assert re.fullmatch(r"\d \d =", example.prompt)
    assert example.target == example.prompt[2] + " " + example.prompt[0]
    texts = [example.target, example.target + " 1", ""]
    assert [grade.reward for grade in task.grade_batch([example] * 3, texts)] == [1.0, 0.0, 0.0]
    monkeypatch.setitem(names.TASKS, "reverse", names.PromptTask(reverse))
    data = settings.Data(task="reverse", options={"digits": 2}, num_train=50)
    assert settings.task(data) == dataclasses.replace(task, train_size=50)
    with pytest.raises(ConfigError, match=r"data\.options\.digit.*digits"):
        settings.Data(task="reverse", options={"digit": 2})


def test_a_mixer(monkeypatch):
    layer = Layer(module(monkeypatch, "a mixer").Shift(), SwiGLU(8))
    decoder = Decoder(DecoderConfig(vocab_size=11, hidden_size=4, stacks=((1, (layer,)),)))
    tokens = jax.random.randint(jax.random.key(0), (1, 7), 0, 11)
    # Two rows of one row's tokens; the second is of one token, behind padding that it must not see.
    padded = jnp.stack([tokens[0, :4], jnp.pad(tokens[0, :1], (3, 0), constant_values=5)])
    more = jnp.stack([tokens[0, 4:6], tokens[0, 1:3]])

    @jax.jit
    def both_ways():
        params = decoder.init(jax.random.key(1), tokens)["params"]
        variables = {"params": jax.tree.map(lambda x: x + 0.1, params)}
        lengths = jnp.array([4, 1])
        hidden, cache = decoder.apply(variables, padded, lengths, Dense(8), method="prefill")
        extended, _ = decoder.apply(variables, more, cache, method="extend")
        last = jnp.concatenate([hidden, extended[:, -1]])
        parts = decoder.apply(variables, last, method="logits")
        return decoder.apply(variables, tokens), parts

    whole, parts = both_ways()
    np.testing.assert_allclose(parts, whole[0, np.array([3, 0, 5, 2])], rtol=1e-5, atol=1e-6)


def arcee(monkeypatch):
    """The family and a config of it, whose parameters are the seed's."""
    part = module(monkeypatch, "a model family").SquaredReLU
    monkeypatch.setattr(mlp, "SquaredReLU", part, raising=False)
    family = module(monkeypatch, "a model family", 1).ARCEE
    monkeypatch.setitem(families.FAMILIES, "arcee", family)
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=8, rope=Rope())
    stacks = ((2, (Layer(attention, part(48)),)),)
    return DecoderConfig(vocab_size=96, hidden_size=32, stacks=stacks, norm_eps=1e-5)


def test_a_model_family(monkeypatch, tmp_path):
    config = arcee(monkeypatch)
    tokens = jnp.arange(6)[None]
    params = jax.jit(Decoder(config).init)(jax.random.key(0), tokens)["params"]
    hf.save(tmp_path / "out", config, params)
    found, again = hf.load(tmp_path / "out")
    assert (found, found.family) == (config, "arcee")
    jax.tree.map(np.testing.assert_array_equal, again, params)
    hf.save(tmp_path / "twice", found, again)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    other = dataclasses.replace(config, stacks=((1, (Layer(config.layers[0].mixer, None),)),))
    with pytest.raises(CheckpointFormatError, match="arcee has no such model: none of attention"):
        hf.save(tmp_path / "other", other, params, family="arcee")


@pytest.mark.interop
def test_a_model_family_in_transformers(monkeypatch, tmp_path):
    import torch
    import transformers

    config = arcee(monkeypatch)
    tokens = np.arange(40)[None] * 7 % 96
    params = jax.jit(Decoder(config).init)(jax.random.key(0), tokens)["params"]
    hf.save(tmp_path / "out", config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "ArceeForCausalLM"
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    ours = Decoder(config).apply({"params": params}, tokens)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
