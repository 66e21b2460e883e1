"""Distillation and reinforcement methods, one file per method or close kin; `METHODS` in names."""
