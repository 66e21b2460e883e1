"""Grading: from the text of a completion to a verdict, and the rows of files; no jax."""
