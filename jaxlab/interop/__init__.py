"""HuggingFace directories in and out: weights, tokenizer, parity checks."""
