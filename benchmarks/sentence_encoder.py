"""Embeddings a second of all-MiniLM-L6-v2's shape with random weights: jaxlab beside transformers.

    python benchmarks/sentence_encoder.py [--texts=1024] [--repeats=5]

Both embed the same texts, of 3 to 300 words with a median of about 20, which is what skills'
descriptions and instructions have. If two vectors differ by more than 1e-4, nothing is timed. Each
side is a process of its own with all cores, and they take turns (`peers/turns.py`).
"""

import argparse
import contextlib
import json
import pathlib
import random
import sys
import tempfile

import numpy as np
import safetensors.numpy
from peers import turns

PEERS = pathlib.Path(__file__).resolve().parent / "peers"
SIDES = {"jaxlab": "jaxlab_sentences.py", "transformers": "transformers_sentences.py"}
WIDTH, HIDDEN, LAYERS, VOCABULARY, POSITIONS = 384, 1536, 6, 30_522, 512
TOLERANCE = 1e-4


def main() -> int:
    """Run the benchmark; exit code 1 means that the vectors differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="undisturbed turns of each side")
    options = parser.parse_args()
    print("  ".join(f"{key} {value}" for key, value in turns.machine().items()))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        at = pathlib.Path(folder)
        words = write(at)
        (at / "texts.json").write_text(json.dumps(texts(words, options.texts)))
        sides, rows = {}, {}
        for name, program in SIDES.items():
            command = [sys.executable, str(PEERS / program), str(at / "texts.json")]
            sides[name] = stack.enter_context(turns.Contender(name, [*command, f"--load={at}"]))
            sides[name].ask(save=str(at / f"{name}.npy"))
            rows[name] = np.load(at / f"{name}.npy")
        difference = np.abs(rows["jaxlab"] - rows["transformers"]).max()
        print(f"largest difference of a number {difference:.1e}")
        if not difference <= TOLERANCE:
            return 1
        found = turns.alternate({name: s.ask for name, s in sides.items()}, options.repeats)
    for name, each in found.items():
        short = turns.summary(each)
        seconds = short.seconds
        rate = f"{options.texts / seconds:,.0f} texts/s" if seconds else "no figure"
        cpu = sorted(turn.cpu_seconds for turn in each)[len(each) // 2]
        print(f"{name:<14}{rate}; {short}; {options.texts / cpu:,.0f} texts per CPU second")
    times = turns.ratio(found["transformers"], found["jaxlab"])
    print(f"jaxlab {times:.2f}x transformers" if times else "no undisturbed round")
    return 0


def texts(words: list[str], count: int) -> list[str]:
    """Texts whose lengths are log-normal."""
    rng = random.Random(0)
    lengths = [min(max(int(rng.lognormvariate(3, 0.8)), 3), 300) for _ in range(count)]
    return [" ".join(rng.choices(words, k=length)) for length in lengths]


def write(at: pathlib.Path) -> list[str]:
    """A directory of the encoder with random weights; returns its words."""
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}."
        dense = {
            **{f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")},
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (HIDDEN, WIDTH),
            "output.dense": (WIDTH, HIDDEN),
        }
        for name, shape in dense.items():
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = shape, shape[:1]
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    tensors = {n: rng.normal(scale=0.05, size=s).astype(np.float32) for n, s in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        tensors[f"{name}.bias"] = np.zeros(WIDTH, np.float32)
    safetensors.numpy.save_file(tensors, at / "model.safetensors", {"format": "pt"})
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 12,
        "intermediate_size": HIDDEN,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
    }
    (at / "config.json").write_text(json.dumps(config))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{i}" for i in range(VOCABULARY - len(special))]
    (at / "vocab.txt").write_text("\n".join([*special, *words]) + "\n")
    return words


if __name__ == "__main__":
    sys.exit(main())
