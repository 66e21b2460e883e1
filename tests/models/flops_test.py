import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxlab.models import flops, presets
from jaxlab.models.decoder import Decoder
from jaxlab.nn.layers import Layer
from jaxlab.nn.mla import MLA
from jaxlab.nn.moe import MoE
from jaxlab.nn.routing import Router
from jaxlab.nn.sparse import BlockSparse


def shapes(config):
    model = Decoder(config)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def test_decoder_flops_by_hand():
    assert flops.decoder_flops(100) == 2 * 100
    # PaLM appendix B: 6 N + 12 L H Q T per trained token, here with L = 2, H Q = 8, T = 16.
    forward = flops.decoder_flops(100, attention_dim=2 * 8, context=16)
    assert 3 * forward == 600 + 12 * 2 * 8 * 16


@pytest.mark.parametrize("scan", [False, True])
def test_a_dense_decoder_by_hand(scan):
    config = presets.decoder("tiny", scan_layers=scan)
    # Two layers: query and output 32 x 32, key and value 32 x 16, SwiGLU 3 x 32 x 64, two norms of
    # 32 and two of heads of 8; the tied table of 256 x 32; the last norm.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32 + 2 * 8
    multiplied = 2 * layer + 256 * 32 + 32
    # Attention: 4 heads of 8 in two layers.
    expected = 2 * multiplied + 4 * 2 * 32 * 10
    assert flops.forward(config, shapes(config), 10) == expected


def test_an_untied_table_is_looked_up():
    tied, untied = (presets.decoder("tiny", tie_embeddings=x) for x in (True, False))
    assert flops.forward(tied, shapes(tied), 7) == flops.forward(untied, shapes(untied), 7)


def test_a_token_is_multiplied_with_its_own_experts():
    config = presets.decoder("tiny")
    ((repeat, (layer,)),) = config.stacks

    def routed(num_experts):
        mlp = MoE(intermediate_size=64, router=Router(num_experts=num_experts, top_k=2))
        stack = (repeat, (Layer(layer.mixer, mlp),))
        return dataclasses.replace(config, stacks=(stack,))

    few, many = (routed(n) for n in (4, 8))
    # Only the routers differ: 32 x 4 weights more in each of two layers.
    difference = flops.forward(many, shapes(many), 5) - flops.forward(few, shapes(few), 5)
    assert difference == 2 * 2 * 32 * 4


def test_attention_of_latents_and_of_blocks_by_hand():
    config = presets.decoder("tiny")
    ((_, (layer,)),) = config.stacks

    def attended(mixer, context):
        """FLOPs of the scores and values alone: what grows with the context, per layer."""
        one = dataclasses.replace(config, stacks=((1, (Layer(mixer, layer.mlp),)),))
        params = shapes(one)
        return flops.forward(one, params, context) - 2 * flops._multiplied(one, params)

    # Scores of 4 + 2 numbers and values of 3 in each of 5 heads, twice two for each key.
    mla = MLA(num_heads=5, latent_dim=8, nope_dim=4, rope_dim=2, value_dim=3)
    assert attended(mla, 10) == 2 * 5 * (4 + 2 + 3) * 10
    # Two blocks of four keys, of twenty; a context below the budget is seen whole.
    sparse = BlockSparse(num_heads=4, num_kv_heads=2, head_dim=8, block_size=4, budget=2)
    assert attended(sparse, 20) == pytest.approx(4 * 4 * 8 * 8)
    assert attended(sparse, 5) == 4 * 4 * 8 * 5
