"""Household tasks: a model plays ALFWorld's games, without a library of skills or with one."""
