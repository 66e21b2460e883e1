"""Text to token ids and back: the tokenizer of a HuggingFace directory, and its chat template."""
