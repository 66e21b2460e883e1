"""Graders, metrics and benchmarks: plain functions from text to numbers."""
