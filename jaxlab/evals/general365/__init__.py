"""General365 (arXiv 2604.11778): everyday reasoning in eight categories, seeds and variants."""
