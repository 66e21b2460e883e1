"""The other side of `benchmarks/decoding.py`: transformers' generate. Imports nothing of jaxlab."""

import argparse
import json
import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
import turns


def main() -> None:
    """Load the model and answer the prompts at each request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", help="JSON: prompts, new_tokens")
    parser.add_argument("--load", required=True, help="HuggingFace directory of the model")
    arguments = parser.parse_args()
    work = json.loads(arguments.work)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.load).float().eval()
    prompts = torch.tensor(work["prompts"])

    def run(samples: int, temperature: float, tokens: bool) -> dict[str, Any]:
        # Only one of the two kinds of sampling takes a temperature.
        choice = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            out = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=work["new_tokens"],
                num_return_sequences=samples,
                eos_token_id=None,
                pad_token_id=0,
                **(choice if temperature else {"do_sample": False}),
            )
        return {"tokens": out[:, prompts.shape[1] :].tolist()} if tokens else {}

    torch.manual_seed(0)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    turns.serve(run, versions | {"torch threads": str(torch.get_num_threads())})


if __name__ == "__main__":
    main()
