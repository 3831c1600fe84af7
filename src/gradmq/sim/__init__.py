"""The simulator: the production classes under seeded loss, delay and restarts."""
