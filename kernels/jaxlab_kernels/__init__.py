"""Array operations with reference, XLA, TPU and GPU implementations. Depends on jax alone."""
