"""Sampled decoding of a small student: jaxlab beside transformers' generate.

    python benchmarks/decoding.py [--vocab 512 32768] [--repeats 7] [--json results.json]

Both sides hold the same weights (Qwen3 architecture, float32), read the same prompts and sample at
temperature 1 without stop tokens. First both decode greedily; if a single token differs nothing is
timed. Then the two take turns, so that a change of the machine's load falls on both, and the
medians are reported. jaxlab's time includes log-probabilities, which transformers' does not.
Where torch or transformers is missing, jaxlab is timed alone and the report says so.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.models.decoder import Decoder, DecoderConfig, Params
from jaxlab.sampling import SamplingConfig, generate

PEER_PACKAGES = ("torch", "transformers")


def main() -> int:
    """Run the benchmark; exit code 1 means that parity failed."""
    flags = parse_flags()
    print(f"{chip()}; load average {os.getloadavg()[0]:.2f}; {versions()}")
    missing = [name for name in PEER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"transformers' generate is skipped: {' and '.join(missing)} not installed")
    results, failed = [], False
    for vocab in flags.vocab:
        result = compare(vocab, flags, with_peer=not missing)
        results.append(result)
        failed |= result["parity"] is False
        print(describe(result))
    if flags.json:
        report = {"machine": machine(), "versions": versions(), "results": results}
        flags.json.write_text(json.dumps(report, indent=2) + "\n")
        print(f"wrote {flags.json}")
    return int(failed)


def parse_flags() -> argparse.Namespace:
    """Sizes of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab", type=int, nargs="+", default=[512, 32_768])
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each side")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prompt-length", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8, help="completions per prompt")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results")
    return parser.parse_args()


def compare(vocab: int, flags: argparse.Namespace, with_peer: bool) -> dict[str, Any]:
    """Parity, then times of both sides at one vocabulary size."""
    config = student(vocab)
    model = Decoder(config)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    prompts = np.random.default_rng(0).integers(0, vocab, (flags.prompts, flags.prompt_length))

    def ours(seed: int, samples: int, temperature: float) -> np.ndarray:
        sampling = SamplingConfig(flags.new_tokens, temperature, num_samples=samples)
        lengths = np.full(len(prompts), prompts.shape[1])
        out = generate(model, params, prompts, lengths, jax.random.key(seed), sampling)
        return np.asarray(jax.block_until_ready(out).tokens)

    sides: dict[str, Callable[[int, int, float], np.ndarray]] = {"jaxlab": ours}
    result: dict[str, Any] = {"vocab": vocab, "parity": None, "tokens_per_second": {}}
    if with_peer:
        sides["transformers"] = peer(config, params, prompts, flags.new_tokens)
        same = ours(0, 1, 0.0) == sides["transformers"](0, 1, 0.0)
        result["parity"] = bool(same.all())
        if not result["parity"]:
            result["greedy_tokens_equal"] = float(same.mean())
            return result
    seconds = alternate(sides, flags.samples, flags.repeats)
    tokens = flags.prompts * flags.samples * flags.new_tokens
    result["seconds"] = seconds
    result["tokens_per_second"] = {
        name: tokens / statistics.median(times) for name, times in seconds.items()
    }
    return result


def student(vocab: int) -> DecoderConfig:
    """Hidden size 128, four layers, four heads: a student of the distillation experiments."""
    return DecoderConfig(
        vocab_size=vocab,
        hidden_size=128,
        intermediate_size=512,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        qk_norm=True,
    )


def peer(
    config: DecoderConfig, params: Params, prompts: np.ndarray, new_tokens: int
) -> Callable[[int, int, float], np.ndarray]:
    """The same model in transformers: (seed, samples, temperature) -> tokens [rows, N]."""
    import torch
    import transformers

    model = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim or config.hidden_size // config.num_heads,
            max_position_embeddings=config.max_position,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    ).eval()
    model.load_state_dict(torch_state(params))
    tokens = torch.from_numpy(prompts)

    def run(seed: int, samples: int, temperature: float) -> np.ndarray:
        torch.manual_seed(seed)
        choice = {"do_sample": True, "temperature": temperature, "top_k": 0}
        with torch.inference_mode():
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new_tokens,
                num_return_sequences=samples,
                **(choice if temperature else {"do_sample": False}),
            )
        return out[:, tokens.shape[1] :].numpy()

    return run


def torch_state(params: Params) -> dict[str, Any]:
    """Parameters under the names and in the layout of transformers' Qwen3."""
    import torch

    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    names |= {"query_norm": "q_norm", "key_norm": "k_norm", "mixer": "self_attn"}
    names |= {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    names |= {"mixer_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    names |= {"embed": "embed_tokens", "final_norm": "norm", "unembed": "lm_head"}
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *parts, kind = [entry.key for entry in path]
        parts = [names.get(part, part).replace("layer_", "layers.") for part in parts]
        root = [] if parts == ["lm_head"] else ["model"]
        value = np.array(leaf).T if kind == "kernel" else np.array(leaf)
        state[".".join([*root, *parts, "weight"])] = torch.from_numpy(value.copy())
    return state


def alternate(
    sides: dict[str, Callable[[int, int, float], np.ndarray]], samples: int, repeats: int
) -> dict[str, list[float]]:
    """Wall-clock seconds of each side's repeats, taken in turns after one unrecorded run each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(0, samples, 1.0)
    for seed in range(1, repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run(seed, samples, 1.0)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def describe(result: dict[str, Any]) -> str:
    """One line for people."""
    head = f"vocabulary {result['vocab']:>6}: "
    if result["parity"] is False:
        return head + (
            f"not timed: only {result['greedy_tokens_equal']:.2%} of the greedy tokens equal "
            "transformers'"
        )
    speeds = result["tokens_per_second"]
    parts = [f"{name} {speed:,.0f} tokens/s" for name, speed in speeds.items()]
    if len(speeds) == 2:
        parts.append(f"ratio {speeds['jaxlab'] / speeds['transformers']:.2f}")
    return head + ", ".join(parts)


def machine() -> dict[str, Any]:
    """Chip, cores and threads."""
    info: dict[str, Any] = {"chip": chip(), "cores": os.cpu_count()}
    info["usable_cores"] = len(os.sched_getaffinity(0))  # what XLA's thread pool takes
    if "torch" in sys.modules:
        info["torch_threads"] = sys.modules["torch"].get_num_threads()
    return info


def chip() -> str:
    """The accelerator's name, or the CPU's."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} ({os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """Versions of what is measured."""
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    names = ("jax", "jaxlib", "flax", *PEER_PACKAGES)
    return {name: installed[name] for name in names if name in installed}


if __name__ == "__main__":
    sys.exit(main())
