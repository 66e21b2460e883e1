"""What agents do around a model: text in, text out, no jax."""
