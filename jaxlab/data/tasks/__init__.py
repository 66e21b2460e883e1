"""Tasks with a verifiable answer: text in, text out, a reward for each text. No jax."""
