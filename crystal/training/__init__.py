"""A training run: settings, steps, checkpoints, log, several processes."""
