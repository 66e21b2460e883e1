"""AJ-Bench (arXiv 2604.18240): judges of trajectories, with and without access to what was done."""
