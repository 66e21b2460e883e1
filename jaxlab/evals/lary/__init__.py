"""LARY (Nie et al. 2026, arXiv 2604.11689): what a latent action tells of the action."""
