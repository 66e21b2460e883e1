"""Published systems for distillation, attention, agents and evaluation in JAX and Flax."""

__version__ = "0.1.0"
