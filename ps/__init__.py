"""The parameter server: one process per shard admits, applies and publishes."""
