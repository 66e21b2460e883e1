"""Which examples a step sees, where they come from, and how they become arrays. No jax."""
