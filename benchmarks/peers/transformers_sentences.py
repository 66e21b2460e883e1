"""The other side of `benchmarks/sentence_encoder.py`: transformers, batched by length."""

import argparse
import json
import os
import pathlib
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
import turns

# sentence-transformers' batch, and all-MiniLM-L6-v2's length.
BATCH, LENGTH = 32, 256


def main() -> None:
    """Embed the texts at each request, the longest first, as sentence-transformers does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=pathlib.Path, help="JSON: a list of texts")
    parser.add_argument("--load", required=True, help="HuggingFace directory of the encoder")
    arguments = parser.parse_args()
    texts = json.loads(arguments.texts.read_text())
    model = transformers.BertModel.from_pretrained(arguments.load).float().eval()
    tokenizer = transformers.BertTokenizerFast(vocab=f"{arguments.load}/vocab.txt")
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def run(save: str | None = None) -> dict[str, Any]:
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for first in range(0, len(order), BATCH):
            members = order[first : first + BATCH]
            asked = [texts[i] for i in members]
            batch = tokenizer(
                asked, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None]
                mean = (hidden * mask).sum(1) / mask.sum(1)
                rows[members] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        if save:
            np.save(save, rows)
        return {}

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    turns.serve(run, versions | {"torch threads": str(torch.get_num_threads())})


if __name__ == "__main__":
    main()
