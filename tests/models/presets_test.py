"""Named sizes: their parameter counts, overrides and refusals."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxlab.models import presets
from jaxlab.models.decoder import Decoder


def parameter_count(config):
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # The released weights, a tied table counted once.
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("qwen2.5-0.5b", 494_032_768),
        ("llama-3.2-1b", 1_235_814_400),
        # The released weights: 30.5 and 671 billion, without layers that predict further tokens.
        ("qwen3-30b-a3b", 30_532_122_624),
        ("deepseek-v3", 671_026_419_200),
        # By hand: two tables and the last norm; attention (queries through 768, latents and their
        # expansion, output) with four norms; the dense layer; experts, router and correction.
        (
            "glm-4.7-flash",
            2 * 154_880 * 2048
            + 2048
            + 47
            * (
                (2048 + 20 * 256) * 768
                + 2048 * (512 + 64)
                + 512 * 20 * (192 + 256)
                + 20 * 256 * 2048
                + (768 + 512 + 2 * 2048)
            )
            + 3 * 2048 * 10_240
            + 46 * (65 * 3 * 2048 * 1536 + 64 * 2048 + 64),
        ),
        # By hand: table 256 * 32, two layers of attention 32 * (32 + 2 * 16 + 32), MLP 3 * 32 * 64,
        # norms 2 * 32 + 2 * 8, and the last norm.
        ("tiny", 8192 + 2 * (3072 + 6144 + 80) + 32),
        # By hand, a layer without mlp and its norm: query, key, value, output; three convolutions
        # of 4; the decay through 16 channels, A_log 2, dt_bias 32; the erase gate; the output gate
        # through 16 with its bias; the heads' norm; the norm before. Then attention.
        (
            "fg2-tiny",
            8192
            + 3 * (4 * 1024 + 3 * 4 * 32 + 2 * 512 + 2 + 32 + 1024 + 2 * 512 + 32 + 16 + 32)
            + (4 * 1024 + 32)
            + 4 * (6144 + 32)
            + 32,
        ),
        # The same sums with d = 1024 or 2048, 18 layers of the one and 6 of the other kind.
        ("fg2-gdn-340m", 32_769_024 + 18 * 5_781_640 + 6 * 4_194_304 + 24 * 8_652_800),
        ("fg2-gdn-1.3b", 65_538_048 + 18 * 22_048_912 + 6 * 16_777_216 + 24 * 34_607_104),
        # 8 numbers per token instead of 1024 for the erase gate.
        ("kda-340m", 32_769_024 + 18 * 4_741_256 + 6 * 4_194_304 + 24 * 8_652_800),
        # Keys of 3 x 256, values of 3 x 512: 6 d^2 and little more.
        ("gdn-340m", 32_769_024 + 18 * (6 * 2**20 + 18_950) + 6 * 4_194_304 + 24 * 8_652_800),
    ],
)
def test_parameter_counts(name, count):
    assert parameter_count(presets.decoder(name, scan_layers=True)) == count


def test_overrides():
    sizes = presets.sizes("qwen3-0.6b", dtype="bfloat16", num_layers=3)
    assert (sizes.dtype, sizes.num_layers, sizes.hidden_size) == ("bfloat16", 3, 1024)
    # head_dim 8 = 32 / 4 is derived, Qwen3's 128 is not.
    assert presets.sizes("tiny", hidden_size=64).head_dim == 16
    assert presets.sizes("tiny", hidden_size=64, head_dim=8).head_dim == 8
    assert presets.sizes("qwen3-0.6b", hidden_size=64).head_dim == 128


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match=r"no decoder preset 'qwen3-06b'; nearest: qwen3-0\.6b"):
        presets.decoder("qwen3-06b")
    with pytest.raises(ValueError, match=r"known: qwen3-0\.6b, .* small"):
        presets.decoder("zzz")
    with pytest.raises(ValueError, match="no field 'hiden_size'; nearest: hidden_size"):
        presets.decoder("tiny", hiden_size=3)
