"""A contender of `benchmarks/heavy_cost.py`: the heavy workflow over transformers' generate."""

import argparse
from typing import Any

import torch
import transformers as theirs
from heavy_work import main


def generating(options: argparse.Namespace, tokenizer: Any) -> Any:
    """transformers' generate with num_return_sequences, which repeats the prompt."""
    model = theirs.AutoModelForCausalLM.from_pretrained(options.folder).float().eval()
    lengths: list[int] = []

    async def generate(prompt: str, *, samples: int, seed: int, stage: str) -> list[str]:
        ids = torch.tensor([tokenizer.encode_prompt(prompt)])
        torch.manual_seed(seed)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=options.tokens,
                num_return_sequences=samples,
                do_sample=True,
                top_k=0,
                eos_token_id=None,
                pad_token_id=0,
            )
        new = out[:, ids.shape[1] :].tolist()
        lengths.append(samples * ids.shape[1])
        return tokenizer.decode_batch(new)

    return generate, None, lambda: sum(lengths)


if __name__ == "__main__":
    main({"transformers": generating}, ("torch", "transformers"))
