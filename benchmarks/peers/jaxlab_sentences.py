"""One side of `benchmarks/sentence_encoder.py`: jaxlab's sentence encoder."""

import argparse
import importlib.metadata
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import numpy as np
import turns

from jaxlab.interop import sentence_encoder


def main() -> None:
    """Embed the texts at each request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=pathlib.Path, help="JSON: a list of texts")
    parser.add_argument("--load", required=True, help="HuggingFace directory of the encoder")
    arguments = parser.parse_args()
    texts = json.loads(arguments.texts.read_text())
    encoder = sentence_encoder.load(arguments.load)

    def run(save: str | None = None) -> dict[str, Any]:
        rows = encoder(texts)
        if save:
            np.save(save, rows)
        return {}

    turns.serve(run, {"jax": importlib.metadata.version("jax")})


if __name__ == "__main__":
    main()
