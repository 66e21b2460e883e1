"""What several operations share: launching kernels, batching, checks."""
