"""Training: optimizer, state, step, data parallelism and transfer to other classes."""
