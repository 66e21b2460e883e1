"""Write a small random Qwen3 checkpoint with transformers, and a tokenizer trained on jsonl rows.

    python benchmarks/make_small_qwen3.py --rows=train.jsonl --out=DIR --hidden=128 --layers=4

Two calls with other sizes and the same rows give a student and a teacher of one tokenizer: what
the GSM8K numbers of docs/measured.md start from. Needs the torch extra.
"""

import argparse
import json
import pathlib

import torch
import transformers

from jaxlab.text.tokenizer import train_bpe


def main() -> None:
    """Write the directory that the command line describes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="jsonl {question, answer}")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()]
    texts = [text for row in rows for text in (row["question"], row["answer"])]
    tokenizer = train_bpe(texts, args.vocab)
    torch.manual_seed(args.seed)
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=args.hidden,
        intermediate_size=3 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads // 2,
        head_dim=args.hidden // args.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        bos_token_id=None,
    )
    model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(args.out)
    tokenizer.save(args.out)
    print(f"{args.out}: {model.num_parameters():,} parameters, {tokenizer.vocab_size} tokens")


if __name__ == "__main__":
    main()
