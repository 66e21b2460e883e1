"""Metrics, benchmarks and reports of what models answer."""
