"""A run's past, out of its checkpoints and journals: what moved the weights, and again."""
