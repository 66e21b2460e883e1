"""Environments that agents act in: text in, text and reward out. No jax."""
