"""Run by fla_test with an interpreter that has torch, transformers and flash-linear-attention.

    python fla_script.py build DIR CASES     models of the package with random weights, in DIR/NAME:
                                             a checkpoint, its names.json, and logits.npz
    python fla_script.py read DIR            DIR/NAME/ours as the package reads it: again.npz
    python fla_script.py own DIR             DIR/NAME, directories with our own code, by that code
                                             as it is and with the package's kernel: own.npz

CASES is a JSON object, name -> {class, config, dtype}. The package's layers run on Triton kernels,
which want a GPU. On a CPU each kernel that they call is replaced here by the package's own naive
form of it in PyTorch or, where it has none, by PyTorch's operation; the rest of the forward pass is
the package's.
"""

import inspect
import json
import pathlib
import sys

import fla.layers.attn
import fla.layers.gated_deltanet
import fla.layers.kda
import fla.ops.kda
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from fla.modules import FusedRMSNormGated, RMSNorm, RotaryEmbedding, ShortConvolution
from fla.modules.mlp import GatedMLP
from fla.modules.norm.layernorm import rms_norm_ref
from fla.modules.rotary.ops import rotary_embedding_ref
from fla.ops.gated_delta_rule.gate import naive_gdn_gate
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.kda.gate import naive_kda_gate, naive_kda_lowerbound_gate
from fla.ops.kda.naive import naive_recurrent_kda


def l2norm(x):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def beta_of(beta, allow_neg_eigval):
    return torch.sigmoid(beta.float()) * (2 if allow_neg_eigval else 1)


def check_options(initial_state, state_v_first, output_final_state, **options):
    """What the naive forms are to do before the rule; there is no state to lay out."""
    kinds = ("use_qk_l2norm_in_kernel", "use_gate_in_kernel", "use_beta_sigmoid_in_kernel")
    assert all(options[kind] for kind in kinds)
    assert initial_state is None


def kda(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, lower_bound=None, **options):
    check_options(**options)
    if lower_bound is None:
        g = naive_kda_gate(g, A_log, dt_bias)
    else:
        g = naive_kda_lowerbound_gate(g, A_log, dt_bias, lower_bound)
    return naive_recurrent_kda(
        l2norm(q.float()), l2norm(k.float()), v, g, beta_of(beta, allow_neg_eigval)
    )


def gated_delta_rule(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, **options):
    check_options(**options)
    groups = v.shape[2] // q.shape[2]
    q, k = (l2norm(x.float()).repeat_interleave(groups, 2) for x in (q, k))
    g = naive_gdn_gate(g, A_log, dt_bias)
    return naive_recurrent_gated_delta_rule(q, k, v, beta_of(beta, allow_neg_eigval), g)


def causal_conv1d(x, weight, bias=None, activation=None, **options):
    """Depthwise, [B, T, C] and weights [C, W] or [C, 1, W]."""
    weight = weight.reshape(weight.shape[0], 1, -1)
    x = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    y = F.conv1d(x, weight, bias, groups=weight.shape[0]).transpose(1, 2)
    return (F.silu(y) if activation in ("silu", "swish") else y), None


def short_convolution(self, x, **options):
    return causal_conv1d(x, self.weight, self.bias, self.activation)


def rms_norm(self, x, residual=None, prenorm=False, **options):
    return rms_norm_ref(x, self.weight, self.bias, residual, self.eps, prenorm, upcast=True)


def rms_norm_gated(self, x, g, **options):
    activation = {"swish": F.silu, "silu": F.silu, "sigmoid": torch.sigmoid}[self.activation]
    y = rms_norm_ref(x.float(), self.weight, self.bias, eps=self.eps, upcast=True)
    return (y * activation(g.float())).to(x.dtype)


def rotary(self, q, k, seqlen_offset=0, max_seqlen=None, **options):
    self._update_cos_sin_cache(max_seqlen or q.shape[1], device=q.device, dtype=q.dtype)
    cos, sin = self._cos_cached[: q.shape[1]], self._sin_cached[: q.shape[1]]
    return tuple(rotary_embedding_ref(x, cos, sin, self.interleaved) for x in (q, k))


def flash_attn(q, k, v, causal, window_size):
    assert (causal, window_size) == (True, (-1, -1))
    groups = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def swiglu_mlp(self, x, **options):
    assert self.hidden_act == "swish"
    return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def replace_kernels():
    fla.layers.kda.chunk_kda = fla.layers.kda.fused_recurrent_kda = kda
    fla.layers.gated_deltanet.chunk_gated_delta_rule = gated_delta_rule
    fla.layers.gated_deltanet.fused_recurrent_gated_delta_rule = gated_delta_rule
    fla.layers.gated_deltanet.causal_conv1d = causal_conv1d
    fla.layers.attn.flash_attn_func = flash_attn
    ShortConvolution.forward = short_convolution
    RMSNorm.forward = rms_norm
    FusedRMSNormGated.forward = rms_norm_gated
    RotaryEmbedding.forward = rotary
    GatedMLP.forward = swiglu_mlp


def logits(model, tokens):
    with torch.no_grad():
        return model.eval().float()(torch.from_numpy(tokens).long()).logits.numpy()


def build(out, cases):
    for name, case in cases.items():
        torch.manual_seed(0)
        config = getattr(fla.models, f"{case['class']}Config")(**case["config"])
        model = getattr(fla.models, f"{case['class']}ForCausalLM")(config)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                parameter.normal_(0.0, 0.4)
                if "norm" in path:
                    parameter.add_(1.0)
        model = model.to(getattr(torch, case.get("dtype", "float32")))
        folder = out / name
        model.save_pretrained(folder)
        shapes = {path: list(x.shape) for path, x in model.state_dict().items()}
        (folder / "names.json").write_text(json.dumps(shapes))
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 70)).astype(np.int32)
        np.savez(folder / "logits.npz", tokens=tokens, logits=logits(model, tokens))
    (out / "versions.json").write_text(
        json.dumps({m.__name__: m.__version__ for m in (fla, torch, transformers)})
    )


def read(out):
    for folder in sorted(path for path in out.iterdir() if (path / "ours").is_dir()):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder / "ours", dtype=torch.float32, output_loading_info=True
        )
        assert not any(info[kind] for kind in info), info
        tokens = np.load(folder / "logits.npz")["tokens"]
        np.savez(folder / "again.npz", logits=logits(model, tokens), name=type(model).__name__)


def own(out):
    """The code of our own directories, with what it would hand to the package's kernel."""
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=True
        )
        code = sys.modules[type(model).__module__]
        assert code.chunk_kda is fla.ops.kda.chunk_kda
        signature = inspect.signature(fla.ops.kda.chunk_kda)
        tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 70))
        plain = logits(model, tokens)
        calls = []

        def kernel(*, use_qk_l2norm_in_kernel, signature=signature, calls=calls, **arguments):
            assert not use_qk_l2norm_in_kernel
            bound = signature.bind(use_qk_l2norm_in_kernel=False, **arguments)
            bound.apply_defaults()
            off = ("use_gate_in_kernel", "use_beta_sigmoid_in_kernel", "state_v_first")
            assert not any(bound.arguments[name] for name in off)
            calls.append(arguments["q"].shape)
            return naive_recurrent_kda(**arguments)

        code.chunk_kda = kernel
        code.GatedDelta.runs_on_fla = lambda self, x: True
        by_kernel = logits(model, tokens)
        assert calls
        np.savez(folder / "own.npz", tokens=tokens, plain=plain, kernel=by_kernel)


def main():
    command, out = sys.argv[1], pathlib.Path(sys.argv[2])
    replace_kernels()
    torch.set_num_threads(1)
    if command == "build":
        build(out, json.loads(sys.argv[3]))
    else:
        {"read": read, "own": own}[command](out)


if __name__ == "__main__":
    main()
