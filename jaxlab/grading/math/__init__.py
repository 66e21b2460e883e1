"""Verifiable mathematics: its rows, prompts and grading."""
