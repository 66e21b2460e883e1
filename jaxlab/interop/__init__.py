"""Checkpoints that PyTorch's transformers reads and writes."""
